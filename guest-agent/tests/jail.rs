//! Tests of the engine's jail, which is really entered: a small static program tries what a compromised engine would.
//!
//! They need root for namespaces, and a C linker for the static program; if either is missing, they say so. What an
//! engine with GPUs may do in addition is tested in `jail/gpus.rs`.

use std::fs::{self, Permissions};
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use cocoon_guest_agent::jail::{Cell, OUTER};
use cocoon_protocol::engine::{FromEngine, MAX_FROM_ENGINE, StartFailure, StartStep};
use cocoon_protocol::frame::Decoder;

#[path = "../../tests/src/absent.rs"]
mod absent;
#[path = "jail/gpus.rs"]
mod gpus;
#[path = "../../tests/src/skip.rs"]
mod skip;

/// Source of a program that reports on file descriptor 3 what it finds. The model identifier selects what it attempts.
/// It also needs threads to work.
const PROBE: &str = r#"
use std::io::Write;
use std::os::fd::FromRawFd;
fn main() {
    let mut agent = unsafe { std::fs::File::from_raw_fd(3) };
    let attempt = std::env::args().nth(4).unwrap();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let model = std::thread::spawn(|| std::fs::read_to_string("/model/weights").unwrap()).join().unwrap();
    let list = |folder: &str| {
        let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let mut env: Vec<(String, String)> = std::env::vars().collect();
    env.sort();
    let mut random = [0; 1];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").unwrap(), &mut random).unwrap();
    writeln!(agent, "args {args:?}").unwrap();
    writeln!(agent, "env {env:?}").unwrap();
    writeln!(agent, "model {model}").unwrap();
    writeln!(agent, "root {:?}", list("/")).unwrap();
    writeln!(agent, "devices {:?}", list("/dev")).unwrap();
    writeln!(agent, "pid {}", std::process::id()).unwrap();
    writeln!(agent, "write {:?}", std::fs::write("/x", "x").map_err(|e| e.raw_os_error())).unwrap();
    writeln!(agent, "socket {:?}", std::net::UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|e| e.raw_os_error())).unwrap();
    match attempt.as_str() {
        "fork" => drop(std::process::Command::new("/engine").spawn()),
        "link" => drop(std::fs::hard_link("/engine", "/y")),
        _ => {}
    }
    writeln!(agent, "end").unwrap();
}
"#;

/// Runs the probe in the jail; `None` if that is impossible here.
fn probe(attempt: &str) -> Option<(String, ExitStatus)> {
    let folder = tempfile::tempdir().unwrap();
    let (engine, model) = prepared(folder.path(), PROBE, &["-Ctarget-feature=+crt-static"])?;
    Some(jailed(&Cell {
        engine,
        model,
        model_id: attempt.into(),
        gpus: false,
        threads: 2,
    }))
}

/// Prepares the program and the model in `folder`; `None` if they cannot be run in a jail here.
fn prepared(folder: &Path, source: &str, options: &[&str]) -> Option<(PathBuf, PathBuf)> {
    let (file, programs, model) = (folder.join("p.rs"), folder.join("r"), folder.join("m"));
    fs::write(&file, source).unwrap();
    fs::create_dir(&model).unwrap();
    fs::create_dir(&programs).unwrap();
    fs::write(model.join("weights"), "of gold").unwrap();
    if !has_root_mount() {
        // Continuous integration may itself run in a chroot, so this is not a failure there either.
        absent::absent("the jail needs a root that is no chroot");
        return None;
    }
    let engine = programs.join("engine");
    if !is_root() || !compile(&file, &engine, options) {
        skip::skipped("the jail needs root, and a C library to link the program to");
        return None;
    }
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    Some((engine, model))
}

/// Runs the engine of `cell` in the jail. Returns what it reports, and how it ended.
fn jailed(cell: &Cell) -> (String, ExitStatus) {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    // Set if the agent was built elsewhere, as by `kernels/on-gpu`.
    let agent = std::env::var_os("COCOON_GUEST_AGENT");
    let mut jail =
        Command::new(agent.unwrap_or_else(|| env!("CARGO_BIN_EXE_cocoon-guest-agent").into()))
            .arg(OUTER)
            .args(cell.to_args())
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
    let mut told = String::new();
    ours.read_to_string(&mut told).unwrap();
    (told, jail.wait().unwrap())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

/// In a chroot the root is a plain folder, whose mounts cannot be made private, as the jail does first.
fn has_root_mount() -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts
        .lines()
        .any(|mount| mount.split(' ').nth(4) == Some("/"))
}

fn compile(source: &Path, target: &Path, options: &[&str]) -> bool {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let status = Command::new(rustc)
        .args(["--edition=2021", "-Cpanic=abort"])
        .args(options)
        .arg("-o")
        .args([target, source])
        .status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn the_engine_finds_its_model_and_nothing_else() {
    let Some((told, status)) = probe("none") else {
        return;
    };
    let expected = [
        r#"args ["--model-dir", "/model", "--model-id", "none", "--threads", "2"]"#,
        r#"env [("HOME", "/"), ("RAYON_NUM_THREADS", "2")]"#,
        "model of gold",
        r#"root ["dev", "engine", "model"]"#,
        r#"devices ["random", "urandom"]"#,
        "pid 1",
        "write Err(Some(30))",
        "socket Err(Some(38))",
        "end",
    ];
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_forbidden_call_kills() {
    // SIGSYS is signal 31, so the helper exits with 128 + 31.
    for attempt in ["fork", "link"] {
        let Some((told, status)) = probe(attempt) else {
            return;
        };
        assert_eq!(
            told.lines().last(),
            Some("socket Err(Some(38))"),
            "{attempt}"
        );
        assert_eq!(status.code(), Some(159), "{attempt}");
    }
}

#[test]
fn whoever_cannot_be_jailed_is_told_of_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let static_program = ["-Ctarget-feature=+crt-static"];
    let Some((engine, model)) = prepared(folder.path(), "fn main() {}", &static_program) else {
        return;
    };
    fs::remove_file(&engine).unwrap();
    let (told, status) = jailed(&Cell {
        engine,
        model,
        model_id: "none".into(),
        gpus: false,
        threads: 2,
    });
    let mut decoder = Decoder::new(MAX_FROM_ENGINE);
    decoder.push(told.as_bytes());
    let Some(FromEngine::Unable(failure)) = decoder.next().unwrap() else {
        panic!("{told:?}")
    };
    // The error is ENOENT, because the program was removed.
    let expected = StartFailure {
        step: StartStep::Jail,
        driver: None,
        system: Some(2),
    };
    assert_eq!((failure, status.code()), (expected, Some(2)));
}
