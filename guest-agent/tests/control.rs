//! Tests of a hostile host on the control channel: each kind of misbehaviour has its own error.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cocoon_guest_agent::control::{Control, ControlError};
use cocoon_protocol::bytes::{Blob, Hex, Hex32, Hex64};
use cocoon_protocol::control::{
    Configure, GuestMessage, HostMessage, MAX_GUEST_MESSAGE, MAX_HOST_MESSAGE, Phase,
};
use cocoon_protocol::document::Evidence;
use cocoon_protocol::frame::{self, Decoder};
use cocoon_simulator::nvidia::GpuSimulator;

const DEADLINE: Duration = Duration::from_secs(60);
const NONCE: Hex32 = Hex([7; 32]);

fn pair() -> (Control, UnixStream) {
    let (ours, host) = UnixStream::pair().unwrap();
    host.set_read_timeout(Some(DEADLINE)).unwrap();
    let control = Control::start(ours.try_clone().unwrap(), ours);
    control.enter(Phase::Configuration);
    (control, host)
}

fn send(host: &mut UnixStream, message: &HostMessage) {
    host.write_all(&frame::encode(message, MAX_HOST_MESSAGE).unwrap())
        .unwrap();
}

fn receive(host: &mut UnixStream) -> GuestMessage {
    let mut decoder = Decoder::new(MAX_GUEST_MESSAGE);
    let mut byte = [0];
    loop {
        host.read_exact(&mut byte).unwrap();
        decoder.push(&byte);
        if let Some(message) = decoder.next().unwrap() {
            return message;
        }
    }
}

fn configure() -> Configure {
    Configure {
        version: 1,
        address: "10.0.2.15/24".into(),
        config: Blob::default(),
        manifest_id: Hex32::ZERO,
        simulate: None,
        collateral: None,
    }
}

/// An error with its cause, as the console shows it.
fn chain(error: &ControlError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[test]
fn garbage_too_much_and_nothing_are_told_apart() {
    for (bytes, expected) in [
        (
            b"\0\0\0\x06rubble".to_vec(),
            "the host broke the control protocol: frame is not a message of this channel (line 1, column 1)",
        ),
        (
            b"\0\0\0\x12{\"type\":\"shutdown\"".to_vec(),
            "the host broke the control protocol: frame is not a message of this channel (line 1, column 18)",
        ),
        (
            b"\xff\xff\xff\xff".to_vec(),
            "the host broke the control protocol: frame of 4294967295 bytes exceeds the limit of 6291456 bytes of this channel",
        ),
        (
            b"\0\0\0\x06ru".to_vec(),
            "the host closed the control channel in the middle of a message",
        ),
        (Vec::new(), "the host closed the control channel"),
    ] {
        let (control, mut host) = pair();
        host.write_all(&bytes).unwrap();
        drop(host);
        assert_eq!(chain(&control.configure(DEADLINE).unwrap_err()), expected);
    }
    let (control, _host) = pair();
    let error = control.configure(Duration::from_millis(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the host sent no configuration within 0 s"
    );
}

#[test]
fn a_message_out_of_place_is_refused() {
    let (control, mut host) = pair();
    send(&mut host, &HostMessage::Configure(configure()));
    assert_eq!(control.configure(DEADLINE).unwrap(), configure());
    send(&mut host, &HostMessage::Configure(configure()));
    let error = control.configure(DEADLINE).unwrap_err();
    assert_eq!(
        chain(&error),
        "the host broke the control protocol: message `configure` has no place in phase configuration"
    );
}

#[test]
fn evidence_without_a_question_is_refused_in_a_tee() {
    let (control, mut host) = pair();
    control.enter(Phase::Serving);
    send(
        &mut host,
        &HostMessage::Evidence {
            id: 1,
            result: Err("x".into()),
        },
    );
    let error = control.configure(DEADLINE).unwrap_err();
    assert_eq!(
        chain(&error),
        "the host broke the control protocol: message `evidence` has no place in phase serving"
    );
}

#[test]
fn simulated_evidence_is_asked_for_and_answered() {
    let (control, mut host) = pair();
    control.allow_simulated_evidence();
    control.enter(Phase::Evidence);
    let evidence = Evidence::Tdx {
        quote: Blob(vec![1]),
        event_log: Blob::default(),
    };
    let answers = [Ok(evidence.clone()), Err("canary".to_owned())];
    let simulator = std::thread::spawn(move || {
        for answer in answers {
            let GuestMessage::EvidenceRequest { id, .. } = receive(&mut host) else {
                panic!("another message")
            };
            send(&mut host, &HostMessage::Evidence { id, result: answer });
        }
        host
    });
    assert_eq!(
        control.simulated_evidence(&Hex64::ZERO, DEADLINE).unwrap(),
        evidence
    );
    let refused = control
        .simulated_evidence(&Hex64::ZERO, DEADLINE)
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the host has no simulated evidence: is its simulator running?"
    );
    let _host = simulator.join().unwrap();
    let silent = control
        .simulated_evidence(&Hex64::ZERO, Duration::from_millis(1))
        .unwrap_err();
    assert_eq!(silent.to_string(), "the host sent no evidence within 0 s");
}

#[test]
fn simulated_gpus_are_asked_for_and_answered_within_bounds() {
    let (control, mut host) = pair();
    control.allow_simulated_evidence();
    control.enter(Phase::Evidence);
    let gpus = GpuSimulator::new("control", &["1001".to_owned()]).unwrap();
    let expected = gpus.collect(&NONCE).unwrap();
    let mut long = expected.clone();
    long[0].driver.driver_version = "9".repeat(65);
    let answers = [Ok(expected.clone()), Err("canary".to_owned()), Ok(long)];
    let simulator = std::thread::spawn(move || {
        for result in answers {
            let GuestMessage::GpuEvidenceRequest { id, nonce } = receive(&mut host) else {
                panic!("another message")
            };
            assert_eq!(nonce, NONCE);
            send(&mut host, &HostMessage::GpuEvidence { id, result });
        }
        host
    });
    assert_eq!(control.simulated_gpus(&NONCE, DEADLINE).unwrap(), expected);
    let refused = control.simulated_gpus(&NONCE, DEADLINE).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the host has no simulated evidence of GPUs: is its simulator running?"
    );
    let broken = control.simulated_gpus(&NONCE, DEADLINE).unwrap_err();
    assert_eq!(
        chain(&broken),
        "the host broke the control protocol: 65 characters of the driver's version, where at most 64 are allowed"
    );
    drop(simulator.join().unwrap());
    // In a TEE the guest does not ask for simulated evidence, and the host may not send any.
    let (control, mut host) = pair();
    control.enter(Phase::Serving);
    let result = Ok(expected);
    send(&mut host, &HostMessage::GpuEvidence { id: 1, result });
    let error = control.configure(DEADLINE).unwrap_err();
    assert_eq!(
        chain(&error),
        "the host broke the control protocol: message `gpu-evidence` has no place in phase serving"
    );
}

#[test]
fn a_host_that_does_not_read_holds_nothing_up() {
    let (control, _host) = pair();
    let report = || control.send(GuestMessage::Progress { done: 1, total: 2 });
    // The socket's buffer and the outbox take some messages; then further ones are refused at once.
    let error = (0..1_000_000)
        .find_map(|_| report().err())
        .expect("the outbox is bounded");
    assert_eq!(
        error.to_string(),
        "the host does not read the control channel: 256 messages are waiting"
    );
}
