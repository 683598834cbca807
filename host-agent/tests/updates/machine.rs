//! A stand-in for QEMU and the guest in it: speaks the control protocols on both sides of a virtual machine, and serves lines
//! of text. The "kernel command line", and therefore the image, determines what it does.
//!
//! | command line | behaviour |
//! |---|---|
//! | `serves NAME` | boots, and answers each line with `NAME` and the line |
//! | `tells NAME` | as `serves`, and reports its counters every ten seconds, as guests do |
//! | `refused NAME` | as `serves`, but has the tests' judge refuse its evidence |
//! | `waits NAME` | as `serves`, but boots only when the file `go` is in its folder |
//! | `hangs PHASE` | sends nothing after the beginning of that phase; with `hello`, nothing at all |
//! | `fails PHASE` | reports that this phase failed |
//! | `lingers NAME` | serves, reports a failure once the file `fail` is in its folder, and ends once `go` is |

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use cocoon_protocol::binding::Tee;
use cocoon_protocol::control::{
    CONTROL_VERSION, GUEST_PORT, GuestMessage, HostMessage, MAX_GUEST_MESSAGE, MAX_HOST_MESSAGE,
    Metrics, Phase,
};
use cocoon_protocol::frame::{self, Decoder};
use serde_json::{Value, json};

/// Environment variable with the folder of the VM and the command line.
const ARGUMENTS: &str = "COCOON_STAND_IN_MACHINE";
/// How long an answer takes, so that some requests are always running.
const ANSWER: Duration = Duration::from_millis(10);
/// Interval between two reports of the counters.
const TOLD: Duration = Duration::from_secs(10);
/// Request whose answer takes long.
pub const SLOWLY: &str = "slowly";
/// How long the answer to [`SLOWLY`] takes.
const SLOW: Duration = Duration::from_millis(1500);

const PHASES: [Phase; 7] = [
    Phase::Platform,
    Phase::Configuration,
    Phase::Model,
    Phase::Keys,
    Phase::Evidence,
    Phase::Engine,
    Phase::Serving,
];

/// Name of the file in the VM's folder that lists the requests that the machine began, one per line.
pub const BEGUN: &str = "begun";

/// Writes the scripts that are started as QEMU and as the simulator, and returns their paths.
pub fn programs(folder: &Path) -> (PathBuf, PathBuf) {
    let own = std::env::current_exe().unwrap();
    let own = own.to_str().unwrap();
    // Without unsafe code, a program can adopt only its standard streams: here QMP and the control channel.
    let qemu = format!(
        r#"#!/bin/bash
if [ "$1" = --version ]; then echo 'QEMU emulator version 10.0.13 (stand-in)'; exit; fi
while [ $# -gt 0 ]; do
  case "$1 $2" in
    "-chardev socket,id=qmp0,fd="*) qmp=${{2##*fd=}} ;;
    "-chardev socket,id=control0,fd="*) control=${{2##*fd=}} ;;
    "-pidfile "*) pidfile=$2 ;;
    "-append "*) words=$2 ;;
  esac
  shift
done
echo $$ > "$pidfile"
export {ARGUMENTS}="${{pidfile%/*}} $words"
exec '{own}' --exact machine --nocapture --test-threads 1 0<&"$qmp" 1>/dev/null 2<&"$control"
"#
    );
    // The guest reports a TEE, so the host asks the simulator for nothing.
    let simulator = r#"#!/bin/bash
while [ $# -gt 0 ]; do [ "$1" = --socket ] && socket=$2; shift; done
exec python3 -c '
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
sys.stdin.read()
' "$socket"
"#;
    (
        script(folder, "qemu", &qemu),
        script(folder, "simulator", simulator),
    )
}

/// Writes a script in another process, because a fork in a concurrent test could inherit the open file (ETXTBSY).
fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    let mut writer = std::process::Command::new("sh")
        .args(["-c", "cat > \"$1\"", "sh"])
        .arg(&path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    writer
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(writer.wait().unwrap().success());
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// Plays QEMU if this process was started as one; otherwise this is an ordinary run of the tests.
pub fn play() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    let words: Vec<&str> = arguments.split(' ').collect();
    let [folder, part, word] = words[..] else {
        panic!("{arguments:?}")
    };
    let qmp = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().unwrap());
    let control = UnixStream::from(std::io::stderr().as_fd().try_clone_to_owned().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || monitor(&qmp, port));
    Guest {
        folder: folder.into(),
        part: part.to_owned(),
        word: word.to_owned(),
        control,
        service: Arc::new(Service {
            name: word.to_owned(),
            accepted: part != "refused",
            draining: AtomicBool::new(false),
            turns: Mutex::default(),
            begun: Path::new(folder).join(BEGUN),
            clients: Mutex::default(),
        }),
    }
    .live(listener);
    // Ends like a machine that powers off.
    std::process::exit(0);
}

/// Serves QMP as far as it is used, and ends the process with the connection.
fn monitor(qmp: &UnixStream, port: u16) {
    let say = |value: &Value| {
        let _ = (&mut &*qmp).write_all(format!("{value}\r\n").as_bytes());
    };
    let version = json!({ "major": 10, "minor": 0, "micro": 13 });
    say(&json!({ "QMP": { "version": { "qemu": version, "package": "" }, "capabilities": [] } }));
    for line in BufReader::new(qmp).lines() {
        let Ok(line) = line else { break };
        let command: Value = serde_json::from_str(&line).unwrap();
        let answer = match command["execute"].as_str().unwrap() {
            "query-status" => json!({ "running": true, "status": "running" }),
            "human-monitor-command" => json!(format!(
                "  TCP[HOST_FORWARD]  13  127.0.0.1 {port}  10.0.2.15  {GUEST_PORT}  0  0\r\n"
            )),
            "query-blockstats" | "query-cpus-fast" => json!([]),
            _ => json!({}),
        };
        say(&json!({ "return": answer, "id": command["id"] }));
        if command["execute"] == "quit" {
            break;
        }
    }
    std::process::exit(0);
}

struct Guest {
    folder: PathBuf,
    part: String,
    word: String,
    control: UnixStream,
    service: Arc<Service>,
}

impl Guest {
    fn live(self, listener: TcpListener) {
        if self.part == "hangs" && self.word == "hello" {
            return self.hang();
        }
        let tee = Some(Tee::Tdx);
        let version = CONTROL_VERSION;
        self.say(&GuestMessage::Hello { version, tee });
        let mut messages = Messages::new(&self.control);
        assert!(matches!(messages.next(), Some(HostMessage::Configure(_))));
        if self.part == "waits" {
            self.wait("go");
        }
        for (at_ms, phase) in PHASES.into_iter().enumerate() {
            let at_ms = at_ms as u64;
            self.say(&GuestMessage::Phase { phase, at_ms });
            if phase.name() == self.word {
                match self.part.as_str() {
                    "hangs" => return self.hang(),
                    "fails" => {
                        let reason = "as it was told".to_owned();
                        self.say(&GuestMessage::Failed { phase, reason });
                        return;
                    }
                    _ => {}
                }
            }
        }
        let service = Arc::clone(&self.service);
        let serving = thread::spawn(move || service.serve(&listener));
        let (port, at_ms) = (GUEST_PORT, 100);
        self.say(&GuestMessage::Serving { port, at_ms });
        match self.part.as_str() {
            "tells" => self.tell(),
            "lingers" => {
                self.wait("fail");
                let (phase, reason) = (Phase::Serving, "as it was told".to_owned());
                self.say(&GuestMessage::Failed { phase, reason });
                return self.wait("go");
            }
            _ => {}
        }
        while let Some(message) = messages.next() {
            if matches!(message, HostMessage::Drain) {
                self.service.drain();
                self.say(&GuestMessage::Drained);
                return;
            }
        }
        drop(serving);
    }

    /// Waits until this file is in the VM's folder.
    fn wait(&self, name: &str) {
        while !self.folder.join(name).exists() {
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn tell(&self) {
        let mut control = self.control.try_clone().unwrap();
        let message = GuestMessage::Metrics(Metrics::default());
        let bytes = frame::encode(&message, MAX_GUEST_MESSAGE).unwrap();
        // The thread ends with the process. A frame of this size is written in one piece.
        thread::spawn(move || {
            while control.write_all(&bytes).is_ok() {
                thread::sleep(TOLD);
            }
        });
    }

    fn hang(self) {
        // Waits until this process or its supervisor is killed.
        let mut rest = vec![];
        let _ = (&self.control).read_to_end(&mut rest);
    }

    fn say(&self, message: &GuestMessage) {
        let bytes = frame::encode(message, MAX_GUEST_MESSAGE).unwrap();
        // The supervisor that kills this process no longer reads.
        let _ = (&self.control).write_all(&bytes);
    }
}

/// Messages from the host.
struct Messages<'a> {
    control: &'a UnixStream,
    decoder: Decoder,
    waiting: VecDeque<HostMessage>,
}

impl<'a> Messages<'a> {
    fn new(control: &'a UnixStream) -> Self {
        Self {
            control,
            decoder: Decoder::new(MAX_HOST_MESSAGE),
            waiting: VecDeque::new(),
        }
    }

    fn next(&mut self) -> Option<HostMessage> {
        let mut buffer = [0; 4096];
        loop {
            while let Some(message) = self.decoder.next().unwrap() {
                self.waiting.push_back(message);
            }
            if let Some(message) = self.waiting.pop_front() {
                return Some(message);
            }
            match self.control.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
            }
        }
    }
}

/// Answers lines of text as a guest answers requests. Draining finishes running requests, and closes connections that carry
/// none.
struct Service {
    name: String,
    accepted: bool,
    draining: AtomicBool,
    turns: Mutex<Turns>,
    /// File that lists the requests that it began.
    begun: PathBuf,
    clients: Mutex<HashMap<u64, TcpStream>>,
}

/// Number of running requests, and whether new ones are refused.
#[derive(Default)]
struct Turns {
    busy: usize,
    closed: bool,
}

impl Service {
    /// Registers a request. Returns false if it will not be begun; the client then sees its connection close.
    fn begins(&self, line: &str) -> bool {
        let mut turns = self.turns.lock().unwrap();
        if turns.closed {
            return false;
        }
        turns.busy += 1;
        let mut file = std::fs::File::options();
        let mut file = file.append(true).create(true).open(&self.begun).unwrap();
        file.write_all(format!("{line}\n").as_bytes()).unwrap();
        true
    }

    fn serve(self: &Arc<Self>, listener: &TcpListener) {
        for number in 0.. {
            let Ok((client, _)) = listener.accept() else {
                return;
            };
            if let Ok(copy) = client.try_clone() {
                self.clients.lock().unwrap().insert(number, copy);
            }
            let service = Arc::clone(self);
            thread::spawn(move || {
                service.talk(&client);
                // The copy would keep the connection open, and with it the relay's.
                service.clients.lock().unwrap().remove(&number);
            });
        }
    }

    fn talk(&self, client: &TcpStream) {
        for line in BufReader::new(client).lines() {
            let Ok(line) = line else { return };
            if !self.begins(&line) {
                return;
            }
            let answer = match line.as_str() {
                "judge" if self.accepted => "accepted\n".to_owned(),
                "judge" => "refused\n".to_owned(),
                _ => {
                    thread::sleep(if line == SLOWLY { SLOW } else { ANSWER });
                    format!("{} {line}\n", self.name)
                }
            };
            let _ = (&mut &*client).write_all(answer.as_bytes());
            let last = self.draining.load(Ordering::SeqCst);
            if last {
                let _ = client.shutdown(Shutdown::Both);
            }
            self.turns.lock().unwrap().busy -= 1;
            if last {
                // Further lines may have arrived, but can no longer be answered.
                return;
            }
        }
    }

    /// Waits for running requests and then refuses new ones. New clients go elsewhere, since the host's listener has moved.
    fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        loop {
            let mut turns = self.turns.lock().unwrap();
            if turns.busy == 0 {
                turns.closed = true;
                break;
            }
            drop(turns);
            thread::sleep(Duration::from_millis(1));
        }
        for client in self.clients.lock().unwrap().values() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }
}
