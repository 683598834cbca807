//! Tests that a build that is told to end kills the programs that it runs and removes its unfinished files.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use cocoon_inputs::{Digest, Entry, Kind, Lock, Request};

use crate::world::{World, program};

/// Longest time to wait for anything.
const DEADLINE: Duration = Duration::from_secs(120);
/// Stands in for cargo: starts a compiler that does not end with it, and writes the compiler's process ID to a file.
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

/// Number of scratch folders in the cache. Only a running build has some.
fn scratch(cache: &Path) -> usize {
    let all = fs::read_dir(cache).unwrap().flatten();
    let names = all.map(|entry| entry.file_name());
    names
        .filter(|name| name.as_encoded_bytes().starts_with(b"scratch-"))
        .count()
}

fn build(world: &World, model: &str) -> Command {
    let mut build = program();
    build
        .args(["build", "--variant", "cpu", "--not-before", "1000000"])
        .arg("--out")
        .arg(world.path("image"))
        .arg("--model")
        .arg(world.path(model))
        .arg("--source")
        .arg(world.path("source"))
        .arg("--cache")
        .arg(world.path("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    build
}

/// Sends `signal` to a build when `ready` returns a value. Returns the build's exit code and that value, after checking that
/// no file of the build is left.
fn ended<T>(
    world: &World,
    mut build: Child,
    signal: &str,
    mut ready: impl FnMut() -> Option<T>,
) -> (Option<i32>, T) {
    let seen = wait_for("the build does not come so far", || {
        if build.try_wait().unwrap().is_some() {
            let mut said = String::new();
            let stderr = build.stderr.take().unwrap();
            { stderr }.read_to_string(&mut said).unwrap();
            panic!("it ended before: {said}");
        }
        ready()
    });
    send(signal, &build);
    let output = build.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("error"), "{said}");
    assert_eq!(scratch(&world.path("cache")), 0);
    assert_eq!(fs::read_dir(world.path("image")).unwrap().count(), 0);
    (output.status.code(), seen)
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
        let path = format!("{}:{path}", world.path("bin").display());
        let build = build(&world, "tiny.gguf")
            .env("PATH", path)
            .spawn()
            .unwrap();
        let (ended, compiler) = ended(&world, build, signal, || {
            let compiler = format!("/proc/{}", fs::read_to_string(&told).ok()?.trim());
            assert!(Path::new(&compiler).exists());
            Some(compiler)
        });
        assert_eq!(ended, Some(code));
        wait_for("the compiler goes on", || {
            (!Path::new(&compiler).exists()).then_some(())
        });
    }
}

/// In a terminal, Ctrl-C reaches pip directly, unlike the background processes of a shell, but no other signal does.
#[test]
fn a_build_that_is_told_to_end_takes_pip_with_it() {
    let world = World::new();
    let told = world.path("bin/python3.pid");
    let pip = "#!/bin/sh\necho $$ >\"$0.new\"\nmv \"$0.new\" \"$0.pid\"\nexec sleep 1000\n";
    world.write("bin/python3", pip.as_bytes());
    fs::set_permissions(world.path("bin/python3"), Permissions::from_mode(0o755)).unwrap();
    lock_a_model(&world);
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", world.path("bin").display());
    // Without `--model`, so that the locked model is fetched.
    let given = build(&world, "tiny.gguf");
    let model = world.path("tiny.gguf");
    let arguments = given.get_args().filter(|a| *a != "--model" && *a != model);
    let mut build = program();
    build.args(arguments).stdin(Stdio::null());
    build.stdout(Stdio::null()).stderr(Stdio::piped());
    let build = build.env("PATH", path).spawn().unwrap();
    let (ended, pip) = ended(&world, build, "TERM", || {
        let pip = format!("/proc/{}", fs::read_to_string(&told).ok()?.trim());
        Path::new(&pip).exists().then_some(pip)
    });
    assert_eq!(ended, Some(143));
    wait_for("pip goes on", || (!Path::new(&pip).exists()).then_some(()));
}

/// Adds to the world's lock file a wheel that is not in its cache.
fn lock_a_model(world: &World) {
    let path = world.path("source/image/inputs.lock");
    let lock = Lock::parse(&fs::read_to_string(&path).unwrap()).unwrap();
    let (mut requests, mut inputs) = (lock.requests().to_vec(), lock.inputs().to_vec());
    requests.push(Request {
        group: "model".to_owned(),
        kind: Kind::Python,
        name: "model".to_owned(),
        version: Some("1".to_owned()),
        suites: vec![],
        ..requests[0].clone()
    });
    inputs.push(Entry {
        name: "model".to_owned(),
        architecture: "any".to_owned(),
        kind: Kind::Python,
        suite: None,
        path: "model-1.whl".to_owned(),
        sha256: Digest::of(b"a model"),
        groups: vec!["model".to_owned()],
        ..inputs[0].clone()
    });
    let releases = vec![lock.release("test").unwrap().clone()];
    let lock = Lock::new(requests, releases, inputs).unwrap();
    fs::write(&path, lock.render()).unwrap();
}

/// The build blocks while it reads an executable from a FIFO to which nobody writes.
#[test]
fn a_build_that_is_told_to_end_while_it_runs_nothing_leaves_nothing() {
    let world = World::new();
    let agent = world.path("binaries/agent");
    fs::remove_file(&agent).unwrap();
    let made = Command::new("mkfifo").arg(&agent).status().unwrap();
    assert!(made.success());
    let mut build = build(&world, "tiny.gguf");
    build.arg("--guest-binaries").arg(world.path("binaries"));
    let cache = world.path("cache");
    let (ended, ()) = ended(&world, build.spawn().unwrap(), "TERM", || {
        (scratch(&cache) > 0).then_some(())
    });
    assert_eq!(ended, Some(143));
}
