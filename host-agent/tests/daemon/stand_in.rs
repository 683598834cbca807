//! A supervisor without a VM. It reports what a real one would; the file `part` in its folder determines what that is.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cocoon_host_agent::lifecycle::{Ending, Stage};
use cocoon_host_agent::log::{Entry, FILE, Source};
use cocoon_host_agent::relay::DoorState;
use cocoon_host_agent::supervisor::{Launch, Order, Report, VERSION};
use cocoon_protocol::frame::{self, Decoder};
use tempfile::TempDir;

const LIMIT: usize = 256 * 1024;

/// Environment variable with the supervisor's arguments.
const ARGUMENTS: &str = "COCOON_STAND_IN";

/// Returns the program to start as a supervisor: a script that runs only the test that plays the supervisor. It passes the
/// arguments in the environment, because the test harness would take them for names of tests.
pub fn program() -> PathBuf {
    static SCRIPT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let made = SCRIPT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("supervisor");
        let own = std::env::current_exe().unwrap();
        let own = own.to_str().unwrap();
        let text = format!(
            "#!/bin/sh\n{ARGUMENTS}=\"$1 $2 $3 $4\" exec '{own}' --exact supervise --nocapture --test-threads 1\n"
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        (folder, path)
    });
    made.1.clone()
}

/// Plays the supervisor if this process was started as one; otherwise this is an ordinary run of the tests.
pub fn play() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let ["supervise", root, name, run] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let folder = Path::new(root).join("vms").join(name);
    let part = std::fs::read_to_string(folder.join("part")).unwrap();
    std::fs::write(folder.join("pid"), std::process::id().to_string()).unwrap();
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let line = Entry {
        time: 1.5,
        source: Source::Host,
        text: format!("run {run}"),
    };
    let line = serde_json::to_string(&line).unwrap() + "\n";
    std::fs::write(folder.join(FILE), line).unwrap();
    if part == "dies" {
        eprintln!("\u{1b}[31mno words of mine");
        std::process::abort();
    }
    let waits = Launch::read(&folder).is_some_and(|launch| launch.waits);
    let mut play = Play {
        machine: (part == "outlived").then(|| {
            let mut machine = std::process::Command::new("sleep");
            // The machine must not inherit the socket.
            machine.arg("600").stdin(std::process::Stdio::null());
            machine.spawn().unwrap().id()
        }),
        shuts: part == "shuts",
        run: run.parse().unwrap(),
        // Address to request evidence from. The tests' judges do not use it.
        guest: waits.then(|| "127.0.0.1:9".parse().unwrap()),
        door: match waits {
            true => DoorState::Shut,
            false => DoorState::Open,
        },
    };
    // Serves one daemon after the other. State stays between them.
    while let Ok((daemon, _)) = listener.accept() {
        if play.perform(&part, &daemon) {
            return;
        }
    }
}

/// State of the supervisor, independent of the connected daemon.
struct Play {
    /// Process of a machine that outlives its supervisor.
    machine: Option<u32>,
    /// Whether it closes its first connection, like that of a daemon that reads too slowly.
    shuts: bool,
    run: u64,
    guest: Option<SocketAddr>,
    door: DoorState,
}

impl Play {
    /// Serves one connection. Returns whether the play is over.
    fn perform(&mut self, part: &str, daemon: &UnixStream) -> bool {
        match part {
            "hangs" => self.tell(daemon, Stage::Preparing, None, None),
            // `fails` sends no separate report of its beginning.
            "refused" | "fails" => {
                let reason = "the image is incomplete".to_owned();
                let stage = match part {
                    "refused" => Stage::Preparing,
                    _ => Stage::Booting,
                };
                self.tell(daemon, stage, None, Some(Ending::Failed { reason }));
                return true;
            }
            "halts" => self.tell(daemon, Stage::Serving, Some("the guest panicked"), None),
            _ => {
                for stage in [Stage::Booting, Stage::Attesting, Stage::Serving] {
                    self.tell(daemon, stage, None, None);
                }
            }
        }
        if std::mem::take(&mut self.shuts) {
            return false;
        }
        let (mut decoder, mut buffer) = (Decoder::new(LIMIT), [0; 1024]);
        loop {
            match decoder.next::<Order>().unwrap() {
                Some(Order::Drain) if part != "deaf" => {
                    self.tell(daemon, Stage::Draining, None, Some(Ending::Stopped));
                    if part == "stays" {
                        daemon.shutdown(std::net::Shutdown::Both).unwrap();
                        // The process keeps its listening socket, too, until it is killed.
                        std::thread::park();
                    }
                    return true;
                }
                Some(Order::TakeOver(_)) => {
                    self.door = DoorState::Open;
                    self.tell(daemon, Stage::Serving, None, None);
                }
                Some(_) => {}
                None => match std::io::Read::read(&mut &*daemon, &mut buffer) {
                    Ok(0) | Err(_) => return false,
                    Ok(count) => decoder.push(&buffer[..count]),
                },
            }
        }
    }

    /// Sends a report to the daemon, which may be gone.
    fn tell(&self, daemon: &UnixStream, stage: Stage, halted: Option<&str>, ended: Option<Ending>) {
        let report = self.report(stage, halted, ended);
        let bytes = frame::encode(&report, LIMIT).unwrap();
        let _ = std::io::Write::write_all(&mut &*daemon, &bytes);
    }

    fn report(&self, stage: Stage, halted: Option<&str>, ended: Option<Ending>) -> Report {
        Report {
            version: VERSION,
            run: self.run,
            pid: std::process::id(),
            // Without a separate machine, its own process id: it dies with the supervisor, as a machine would.
            qemu_pid: Some(self.machine.unwrap_or_else(std::process::id)),
            stage,
            doing: "playing".to_owned(),
            endpoint: Some("127.0.0.1:8443".parse().unwrap()),
            guest: self.guest,
            door: self.door,
            not_taken: None,
            manifest_id: Some("00".repeat(32)),
            trust_root: None,
            steps: vec![],
            metrics: None,
            gpus: vec![],
            engine_restarts: 0,
            halted: halted.map(str::to_owned),
            ended,
        }
    }
}
