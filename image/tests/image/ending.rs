//! A build that is told to end takes with it what it runs.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::{World, program};

/// Of anything that is waited for.
const DEADLINE: Duration = Duration::from_secs(120);
/// What stands in for cargo: a program with a compiler that goes on without it, and whose number lies beside it.
const CARGO: &str =
    "#!/bin/sh\nsleep 1000 &\necho $! >\"$0.new\"\nmv \"$0.new\" \"$0.compiler\"\nwait\n";

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::yield_now();
    }
}

fn send(signal: &str, child: &Child) {
    let kill = format!("kill -{signal} {}", child.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
}

/// Names in a folder that only a running build has there.
fn scratch(cache: &Path) -> usize {
    let all = fs::read_dir(cache).unwrap().flatten();
    let names = all.map(|entry| entry.file_name());
    names
        .filter(|name| name.as_encoded_bytes().starts_with(b"scratch-"))
        .count()
}

#[test]
fn a_build_that_is_told_to_end_takes_its_compilers_with_it() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let world = World::new();
        let told = world.path("bin/cargo.compiler");
        world.write("source/Cargo.toml", b"[workspace]\nmembers = [\"image\"]\n");
        world.write("source/Cargo.lock", b"");
        world.write("source/rust-toolchain.toml", b"");
        world.write("bin/cargo", CARGO.as_bytes());
        fs::set_permissions(world.path("bin/cargo"), Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        let mut build = program()
            .args([
                "build",
                "--variant",
                "cpu",
                "--not-before",
                "1000000",
                "--out",
            ])
            .arg(world.path("image"))
            .arg("--model")
            .arg(world.path("tiny.gguf"))
            .arg("--source")
            .arg(world.path("source"))
            .arg("--cache")
            .arg(world.path("cache"))
            .env("PATH", format!("{}:{path}", world.path("bin").display()))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let compiler = wait_for("cargo is not called", || {
            if build.try_wait().unwrap().is_some() {
                let mut said = String::new();
                build
                    .stderr
                    .take()
                    .unwrap()
                    .read_to_string(&mut said)
                    .unwrap();
                panic!("ended before cargo was called: {said}");
            }
            fs::read_to_string(&told).ok()
        });
        let compiler = format!("/proc/{}", compiler.trim());
        assert!(Path::new(&compiler).exists());

        send(signal, &build);
        let output = build.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains("error"), "{said}");
        assert_eq!(scratch(&world.path("cache")), 0);
        assert_eq!(fs::read_dir(world.path("image")).unwrap().count(), 0);
        wait_for("the compiler goes on", || {
            (!Path::new(&compiler).exists()).then_some(())
        });
    }
}
