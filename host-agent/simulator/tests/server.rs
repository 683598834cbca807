//! The simulator's process and socket: what it answers, what it refuses, and when it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex64;
use cocoon_protocol::frame::{self, Decoder};
use cocoon_protocol::simulator::{MAX_SIMULATOR_MESSAGE, SimulatorReply, SimulatorRequest};

/// The simulator's process, killed when the test ends for any reason.
struct Simulator {
    child: Child,
    socket: PathBuf,
}

impl Simulator {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("simulator");
        let mut child = Command::new(env!("CARGO_BIN_EXE_cocoon-simulator"))
            .arg("--socket")
            .arg(&socket)
            .arg("--roots")
            .arg(folder.join("roots"))
            .arg("--until-stdin-closes")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "listening\n");
        Self { child, socket }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(stream: &mut UnixStream, bytes: &[u8]) -> SimulatorReply {
    stream.write_all(bytes).unwrap();
    let mut decoder = Decoder::new(MAX_SIMULATOR_MESSAGE);
    let mut buffer = [0; 65536];
    loop {
        if let Some(reply) = decoder.next().unwrap() {
            return reply;
        }
        let count = stream.read(&mut buffer).unwrap();
        assert_ne!(count, 0, "closed without an answer");
        decoder.push(&buffer[..count]);
    }
}

fn refusal(stream: &mut UnixStream, request: &SimulatorRequest) -> String {
    match ask(
        stream,
        &frame::encode(request, MAX_SIMULATOR_MESSAGE).unwrap(),
    ) {
        SimulatorReply::Error { message } => message,
        other => panic!("accepted: {other:?}"),
    }
}

fn launch(pid: u32) -> SimulatorRequest {
    SimulatorRequest::Launch {
        pid,
        tee: Tee::Tdx,
        snp_firmware: None,
        cpu_model: "EPYC-v4".into(),
        config: b"{}".to_vec().into(),
    }
}

#[test]
fn refusals_say_why_and_the_process_ends_with_its_parent() {
    let folder = tempfile::tempdir().unwrap();
    let mut simulator = Simulator::start(folder.path());
    let mut stream = UnixStream::connect(&simulator.socket).unwrap();
    let evidence = SimulatorRequest::Evidence {
        report_data: Hex64::ZERO,
    };
    assert_eq!(
        refusal(&mut stream, &evidence),
        "no VM was launched on this connection: launch before asking for evidence"
    );
    assert_eq!(
        refusal(&mut stream, &launch(std::process::id())),
        "the process is not qemu-system-x86_64"
    );

    let text = match ask(&mut stream, &u32::MAX.to_be_bytes()) {
        SimulatorReply::Error { message } => message,
        other => panic!("accepted: {other:?}"),
    };
    assert_eq!(
        text,
        "frame of 4294967295 bytes exceeds the limit of 65536 bytes of this channel"
    );
    assert_eq!(
        stream.read(&mut [0]).unwrap(),
        0,
        "a stream out of step is closed"
    );

    // A second simulator with the same socket.
    let other = Command::new(env!("CARGO_BIN_EXE_cocoon-simulator"))
        .args([
            "--socket".as_ref(),
            simulator.socket.as_os_str(),
            "--roots".as_ref(),
        ])
        .arg(folder.path().join("roots"))
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(2));
    let text = format!(
        "cocoon-simulator: {:?} exists and is in use; remove it or name another path\n",
        simulator.socket
    );
    assert_eq!(String::from_utf8(other.stderr).unwrap(), text);

    drop(simulator.child.stdin.take());
    assert!(simulator.child.wait().unwrap().success());
    assert!(!simulator.socket.exists(), "the socket is removed");
}

#[test]
fn rubbish_opened_by_qemu_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let simulator = Simulator::start(folder.path());
    let file = folder.path().join("rubbish");
    std::fs::write(&file, "rubbish").unwrap();
    // A process that looks like QEMU and waits until its standard input closes.
    let mut qemu = Command::new("sh")
        .args([
            "-c",
            "exec 5<\"$RUBBISH\" 6<\"$RUBBISH\"; echo ready; read -r end",
            "/bin/qemu-system-x86_64",
        ])
        .args([
            "-nodefaults",
            "-m",
            "1024M",
            "-smp",
            "1",
            "-bios",
            "/dev/fd/5",
            "-kernel",
            "/dev/fd/6",
            "-append",
            "a",
        ])
        .env("RUBBISH", &file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(qemu.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let mut stream = UnixStream::connect(&simulator.socket).unwrap();
    let text = refusal(&mut stream, &launch(qemu.id()));
    assert!(
        text.starts_with(
            "cannot measure the VM as TDX would: cannot predict MRTD from the firmware: "
        ),
        "{text}"
    );
    drop(qemu.stdin.take());
    qemu.wait().unwrap();
}

#[test]
fn print_roots_prints_all() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_cocoon-simulator"))
        .arg("--roots")
        .arg(folder.path().join("roots"))
        .arg("--print-roots")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("-----BEGIN CERTIFICATE-----").count(), 4);
    assert!(output.status.success());
}
