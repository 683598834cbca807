//! The real daemon with real supervisors, as far as they get without an image.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use cocoon_host_agent::daemon::api::Entry;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;

fn command(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon-host"));
    command.args(arguments).env("COCOON_STATE", root);
    command
}

fn run(root: &Path, arguments: &[&str]) -> Output {
    command(root, arguments).output().unwrap()
}

/// Writes a file for one appliance whose image is an empty folder, with `more` in its table. Returns its path.
fn file(folder: &Path, more: &str) -> String {
    let path = folder.join("host.toml");
    let text = format!(
        "version = 1\nstatus.listen = \"off\"\nhost.state = {:?}\nhost.memory_reserve = \"1M\"\n[[appliance]]\nname = \"first\"\nimage = {folder:?}\n\
         memory = \"256M\"\nvcpus = 1\ntee = \"simulated-tdx\"\nlisten = \"127.0.0.1:0\"\n{more}\n",
        folder.join("state")
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// A daemon that is killed when the test ends, even if it fails.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_empty_image_is_given_up_and_the_daemon_ends_when_asked() {
    let folder = tempfile::Builder::new()
        .prefix("cocoon-")
        .tempdir()
        .unwrap();
    let root = folder.path().join("state");
    let file = file(folder.path(), "restart.policy = \"never\"");
    let arguments = ["serve", "--json", "--config", &file];
    let mut daemon = command(&root, &arguments);
    let mut daemon = Serving(daemon.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(daemon.0.stdout.take().unwrap()).lines();
    let entries = lines.map(|line| serde_json::from_str::<Entry>(&line.unwrap()).unwrap());
    let mut states = vec![];
    for entry in entries {
        states.push(entry.state);
        if states.last().is_some_and(|state| state == "failed") {
            break;
        }
    }
    assert_eq!(states, ["preparing", "failed"]);
    let list = run(&root, &["ps", "--json"]);
    let list: Value = serde_json::from_slice(&list.stdout).unwrap();
    let life = &list[0]["appliance"]["life"];
    assert_eq!(life["state"]["name"], "failed");
    let reason = life["last_failure"].as_str().unwrap();
    assert!(
        reason.starts_with("the image is incomplete: cannot read "),
        "{reason}"
    );

    let second = run(&root, &["serve", "--config", &file]);
    assert_eq!(second.status.code(), Some(2));
    let error = String::from_utf8(second.stderr).unwrap();
    assert!(
        error.contains("another daemon keeps its state in "),
        "{error}"
    );

    let pid = Pid::from_raw(i32::try_from(daemon.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(daemon.0.wait().unwrap().code(), Some(0));
    assert!(!root.join("host.sock").exists());
    assert_eq!(
        String::from_utf8(run(&root, &["ps"]).stdout)
            .unwrap()
            .lines()
            .count(),
        2
    );
}

/// From the exit code the service manager knows whether to start the next daemon, which it must not do after a halt.
#[test]
fn a_daemon_that_leaves_its_appliances_says_so_by_its_exit_code() {
    for (signal, code) in [(Signal::SIGHUP, 129), (Signal::SIGTERM, 0)] {
        let folder = tempfile::Builder::new()
            .prefix("cocoon-")
            .tempdir()
            .unwrap();
        let root = folder.path().join("state");
        let file = file(folder.path(), "autostart = false");
        let mut daemon = Serving(
            command(&root, &["serve", "--config", &file])
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        // Once the daemon answers, it handles its signals.
        while !run(&root, &["show", "first"]).status.success() {
            assert_eq!(daemon.0.try_wait().unwrap(), None, "it has ended");
        }
        let pid = Pid::from_raw(i32::try_from(daemon.0.id()).unwrap());
        kill(pid, signal).unwrap();
        assert_eq!(daemon.0.wait().unwrap().code(), Some(code), "{signal}");
    }
}

/// A reload may follow a start at once. systemd takes a death by SIGHUP for a wanted end, so the daemon handles it early.
#[test]
fn a_daemon_that_is_to_leave_while_it_reads_its_file_says_so_too() {
    let folder = tempfile::Builder::new()
        .prefix("cocoon-")
        .tempdir()
        .unwrap();
    let root = folder.path().join("state");
    let text = std::fs::read(file(folder.path(), "autostart = false")).unwrap();
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let arguments = ["serve", "--config", pipe.to_str().unwrap()];
    let mut daemon = command(&root, &arguments);
    let mut daemon = Serving(daemon.stderr(Stdio::null()).spawn().unwrap());
    // Opening the pipe for writing waits until the daemon reads it.
    let mut writer = File::options().write(true).open(&pipe).unwrap();
    let pid = Pid::from_raw(i32::try_from(daemon.0.id()).unwrap());
    kill(pid, Signal::SIGHUP).unwrap();
    // If the daemon has ended already, nobody reads the pipe.
    let _ = writer.write_all(&text);
    drop(writer);
    assert_eq!(daemon.0.wait().unwrap().code(), Some(129));
}

#[test]
fn a_broken_file_starts_nothing() {
    let folder = tempfile::Builder::new()
        .prefix("cocoon-")
        .tempdir()
        .unwrap();
    let root = folder.path().join("state");
    let file = file(folder.path(), "gpus = 1");
    let served = run(&root, &["serve", "--config", &file]);
    assert_eq!(served.status.code(), Some(1), "{served:?}");
    let error = String::from_utf8(served.stderr).unwrap();
    assert!(
        error.starts_with(&format!("{file}:12:1: appliance.gpus: unknown key; ")),
        "{error}"
    );
    assert!(!root.exists());
}
