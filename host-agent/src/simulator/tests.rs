//! Tests that the simulator ends with its owner and that a connection never mixes up answers.

use super::*;

/// A killed simulator is gone as soon as its owner is dropped.
#[tokio::test]
async fn dropping_kills_and_reaps() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = child.id().unwrap();
    let simulator = Simulator {
        child,
        socket: PathBuf::new(),
    };
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    drop(simulator);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// A start is abandoned, for example, if no QEMU is found in the meantime.
#[tokio::test]
async fn a_start_that_is_given_up_leaves_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("slow");
    // Another process writes the script: a fork in a neighbouring test must not inherit the open file (ETXTBSY).
    let script = r##"printf '#!/bin/sh\necho $$ >&2\nexec sleep 1000\n' >"$0"; chmod +x "$0""##;
    let mut shell = std::process::Command::new("sh");
    let written = shell.args(["-c", script]).arg(&program).status().unwrap();
    assert!(written.success());

    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let notice = move |line: &str| told.send(line.to_owned()).unwrap();
    let pid = tokio::select! {
        started = Simulator::start(&program, Path::new("socket"), Path::new("roots"), notice) => {
            panic!("{:?}", started.err());
        }
        pid = heard.recv() => pid.unwrap(),
    };
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

/// Answers carry no numbers: after a late one, it would be unclear which request the next one answers.
#[tokio::test]
async fn after_a_late_answer_nothing_is_asked() {
    let (stream, mut simulator) = UnixStream::pair().unwrap();
    let mut connection = Connection {
        stream,
        decoder: Decoder::new(MAX_SIMULATOR_MESSAGE),
        asked: false,
    };
    let refused = SimulatorReply::Error {
        message: "no".into(),
    };
    let reply = frame::encode(&refused, MAX_SIMULATOR_MESSAGE).unwrap();
    let question = SimulatorRequest::GpuCollateral;
    simulator.write_all(&reply).await.unwrap();
    let answered = connection.ask(&question).await.unwrap();
    assert_eq!(answered, refused);
    let late = connection.ask_within(Duration::ZERO, &question).await;
    assert!(matches!(late, Err(SimulatorError::Late)), "{late:?}");
    simulator.write_all(&reply).await.unwrap();
    let next = connection.evidence(Hex64::ZERO).await;
    assert!(matches!(next, Err(SimulatorError::Unanswered)), "{next:?}");
}

#[test]
fn the_wait_for_an_end_has_an_end() {
    let mut child = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    await_end(pid, Duration::from_millis(10));
    assert_eq!(child.try_wait().unwrap(), None, "it lives on");
    child.kill().unwrap();
    // The wait does not reap a child that has ended.
    await_end(pid, Duration::from_secs(60));
    assert!(child.try_wait().unwrap().is_some());
}
