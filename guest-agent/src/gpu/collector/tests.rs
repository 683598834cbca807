//! Tests with a scripted collector on the other end of a socket pair: which answers are accepted and which end it.

use cocoon_protocol::bytes::{Blob, Hex};
use cocoon_protocol::gpu::DriverState;
use cocoon_protocol::gpu::collector::{Found, NvmlCall, NvmlFailure, PciAddress};

use super::*;
use crate::wait;

const NONCE: Hex32 = Hex([7; 32]);
/// Deadline of a request whose answer must not arrive.
const SOON: Duration = Duration::from_millis(200);
/// Deadline of a request whose answer must arrive.
const DEADLINE: Duration = Duration::from_secs(30);

fn gpu(bus: u8) -> Held {
    Held {
        pci: PciAddress {
            domain: 0,
            bus,
            device: 0,
        },
        device: 0x2330,
        vbios_version: "96.00.5E.00.01".into(),
        persistent: false,
    }
}

fn found(gpus: Vec<Held>) -> Found {
    Found::Gpus {
        driver_version: "580.65.06".into(),
        mode: Mode {
            confidential_computing: true,
            developer_mode: false,
            protected_pcie: false,
        },
        gpus,
    }
}

fn collected() -> CollectedGpu {
    CollectedGpu {
        report: Blob(vec![0x11]),
        chain: "-----BEGIN".into(),
        driver: DriverState {
            confidential_computing: true,
            developer_mode: false,
            protected_pcie: false,
            driver_version: "580.65.06".into(),
            vbios_version: "96.00.5E.00.01".into(),
        },
    }
}

fn framed(message: &FromCollector) -> Vec<u8> {
    frame::encode(message, MAX_FROM_COLLECTOR).unwrap()
}

/// Connects to a collector that sends the next of `answers` for each request. After the last one it closes if `closes`.
fn collector(
    answers: Vec<Vec<u8>>,
    closes: bool,
    patience: Duration,
) -> Result<Collector, CollectorError> {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    thread::spawn(move || {
        let mut decoder = Decoder::new(MAX_TO_COLLECTOR);
        let mut chunk = [0; 1024];
        let mut answers = answers.into_iter();
        loop {
            while let Some(_request) = decoder.next::<ToCollector>().unwrap() {
                match answers.next() {
                    // The agent may have closed its end.
                    Some(bytes) => drop(theirs.write_all(&bytes)),
                    None if closes => return,
                    None => {}
                }
            }
            match theirs.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => decoder.push(&chunk[..count]),
            }
        }
    });
    Collector::over(ours, patience)
}

fn attached(found: Found) -> Vec<u8> {
    let version = COLLECTOR_VERSION;
    framed(&FromCollector::Attached { version, found })
}

/// Connects to a collector with one GPU that answers the next request with `answer`.
fn next(answer: Vec<u8>) -> Collector {
    collector(vec![attached(found(vec![gpu(1)])), answer], true, DEADLINE).unwrap()
}

fn evidence(nonce: Hex32, gpus: Vec<Shown>) -> Vec<u8> {
    framed(&FromCollector::Evidence { nonce, gpus })
}

fn used(count: usize) -> Vec<u8> {
    let gpus = vec![GpuMetrics::default(); count];
    framed(&FromCollector::Metrics { gpus })
}

fn ready(state: ReadyState) -> Vec<u8> {
    framed(&FromCollector::Ready { state })
}

/// Waits until the collector's events are as expected.
fn happens(collector: &Collector, expected: Happened) {
    let events = collector.events();
    let happened = wait::until(DEADLINE, || (*events.borrow() == expected).then_some(()));
    assert!(happened.is_some(), "{:?}", *events.borrow());
}

#[test]
fn evidence_and_readiness_are_asked_for_one_after_the_other() {
    let gpus = || vec![Shown::Evidence(collected()), Shown::Evidence(collected())];
    let answers = vec![
        attached(found(vec![gpu(1), gpu(2)])),
        evidence(NONCE, gpus()),
        ready(ReadyState::Ready),
        used(2),
        ready(ReadyState::NotReady),
    ];
    let collector = collector(answers, false, DEADLINE).unwrap();
    assert_eq!(collector.driver_version(), "580.65.06");
    assert_eq!(collector.gpus(), [gpu(1), gpu(2)]);
    assert!(collector.mode().confidential_computing);
    assert_eq!(collector.collect(&NONCE), Ok(vec![collected(); 2]));
    assert_eq!(collector.set_ready(true), Ok(()));
    assert_eq!(collector.metrics(), Ok(vec![GpuMetrics::default(); 2]));
    assert_eq!(collector.set_ready(false), Ok(()));
    assert_eq!(*collector.events().borrow(), Happened::Nothing);
}

#[test]
fn what_cannot_be_held_has_a_reason() {
    let driver_version = || "550.54.14".to_owned();
    for (found, expected) in [
        (
            Found::NoDriver,
            "there is no driver of NVIDIA's, or its kernel module is not loaded",
        ),
        (
            Found::OldDriver {
                driver_version: driver_version(),
            },
            "the driver 550.54.14 knows nothing of confidential computing: build the image with one that NVIDIA released for it",
        ),
        (
            Found::NoGpu {
                driver_version: driver_version(),
            },
            "the driver 550.54.14 sees no GPU: pass one through to this VM",
        ),
        (
            Found::Failed(NvmlFailure {
                call: NvmlCall::Hold,
                code: 17,
            }),
            "the driver fails at Hold with code 17 of nvml.h",
        ),
    ] {
        let error = collector(vec![attached(found)], false, DEADLINE)
            .err()
            .unwrap();
        assert_eq!(error.to_string(), format!("no GPU can be held: {expected}"));
    }
}

#[test]
fn a_gpu_without_evidence_is_named_and_the_collector_lives_on() {
    let answers = vec![
        attached(found(vec![gpu(1), gpu(2)])),
        evidence(NONCE, vec![Shown::Evidence(collected()), Shown::Off]),
        evidence(
            NONCE,
            vec![
                Shown::Failed(NvmlFailure {
                    call: NvmlCall::Report,
                    code: 999,
                }),
                Shown::Lost,
            ],
        ),
        ready(ReadyState::Unsupported),
        ready(ReadyState::Failed(NvmlFailure {
            call: NvmlCall::SetReady,
            code: 4,
        })),
        ready(ReadyState::NotReady),
    ];
    let collector = collector(answers, false, DEADLINE).unwrap();
    let refused = |outcome: Result<(), SourceError>| outcome.unwrap_err().to_string();
    let off = "GPU 1 shows no evidence: confidential computing is off: the host turns it on (`cocoon-host gpu prepare`)";
    let last = SourceError::Final(off.to_owned());
    assert_eq!(collector.collect(&NONCE), Err(last));
    let text = "GPU 0 shows no evidence: the driver fails at Report with code 999 of nvml.h";
    let once = SourceError::Failed(text.to_owned());
    assert_eq!(collector.collect(&NONCE), Err(once));
    assert_eq!(
        refused(collector.set_ready(true)),
        "the GPUs are not ready: there is no such state: confidential computing is off: the host turns it on (`cocoon-host gpu prepare`)"
    );
    assert_eq!(
        refused(collector.set_ready(true)),
        "the GPUs are not ready: the driver fails at SetReady with code 4 of nvml.h"
    );
    assert_eq!(
        refused(collector.set_ready(true)),
        "the GPUs are not ready: the driver was told, and says that they are not: boot again; if that does not help, the host resets the GPU (`cocoon-host gpu prepare`)"
    );
    assert_eq!(*collector.events().borrow(), Happened::Nothing);
}

/// After each of these answers the collector is not asked again, and everything that relies on the GPUs is notified.
#[test]
fn whoever_lies_is_not_asked_again() {
    let broken = "the process that holds the GPUs broke its protocol";
    let two = vec![Shown::Evidence(collected()); 2];
    for (answer, expected) in [
        (
            evidence(Hex([8; 32]), vec![Shown::Evidence(collected())]),
            "the collector broke its protocol: its evidence is for another nonce or of other GPUs",
        ),
        (
            evidence(NONCE, two),
            "the collector broke its protocol: its evidence is for another nonce or of other GPUs",
        ),
        (
            ready(ReadyState::Ready),
            "the collector broke its protocol: it answers another question",
        ),
        (
            vec![0xff; 4],
            "the collector broke its protocol: frame of 4294967295 bytes exceeds the limit of 524288 bytes of this channel",
        ),
        (
            [&2_u32.to_be_bytes()[..], b"{}"].concat(),
            "the collector broke its protocol: frame is not a message of this channel (line 1, column 2)",
        ),
        (
            evidence(
                NONCE,
                vec![Shown::Evidence(CollectedGpu {
                    chain: String::new(),
                    ..collected()
                })],
            ),
            "the collector broke its protocol: no bytes of GPU certificates, where there must be some",
        ),
    ] {
        let collector = next(answer);
        assert_eq!(collector.collect(&NONCE).unwrap_err().to_string(), expected);
        let after = collector.collect(&NONCE).unwrap_err().to_string();
        assert_eq!(after, "the collector died", "after: {expected}");
        let events = collector.events();
        assert!(matches!(
            *events.borrow(),
            Happened::Nothing | Happened::Ended(_)
        ));
        // If the requesting thread notices the violation, it closes the socket, which the reader reports as a death. If the
        // reader notices it, the reader reports a violation.
        let ended = wait::until(DEADLINE, || {
            Some(*events.borrow()).filter(|happened| *happened != Happened::Nothing)
        });
        let ended = ended.unwrap();
        let died = Happened::Ended("the process that holds the GPUs died");
        assert!(
            [died, Happened::Ended(broken)].contains(&ended),
            "{ended:?}"
        );
    }
}

#[test]
fn whoever_tells_of_other_gpus_is_not_asked_again() {
    for (answer, expected) in [
        (
            used(2),
            "the collector broke its protocol: it tells of other GPUs",
        ),
        (
            ready(ReadyState::Ready),
            "the collector broke its protocol: it answers another question",
        ),
        (
            used(17),
            "the collector broke its protocol: 17 GPUs, where at most 16 are allowed",
        ),
    ] {
        let collector = next(answer);
        assert_eq!(collector.metrics().unwrap_err().to_string(), expected);
        let after = collector.metrics().unwrap_err().to_string();
        assert_eq!(after, "the collector died", "after: {expected}");
    }
}

#[test]
fn one_that_dies_or_says_nothing_is_told() {
    let dies = collector(vec![attached(found(vec![gpu(1)]))], true, DEADLINE).unwrap();
    assert_eq!(
        dies.collect(&NONCE).unwrap_err().to_string(),
        "the collector died"
    );
    happens(
        &dies,
        Happened::Ended("the process that holds the GPUs died"),
    );
    let silent = collector(Vec::new(), false, SOON).err().unwrap();
    assert_eq!(
        silent.to_string(),
        "the collector did not answer within 200ms"
    );
    // Two answers more than were requested.
    let twice = [
        ready(ReadyState::Ready),
        ready(ReadyState::Ready),
        ready(ReadyState::Ready),
    ]
    .concat();
    let eager = next(twice);
    assert_eq!(eager.set_ready(true), Ok(()));
    happens(
        &eager,
        Happened::Ended("the process that holds the GPUs broke its protocol"),
    );
}

#[test]
fn events_count_until_one_is_an_end() {
    let xid = FromCollector::Event(GpuEvent::Xid {
        gpu: Some(0),
        code: 31,
    });
    let lost = FromCollector::Event(GpuEvent::Lost { gpu: None });
    let answer = [framed(&xid), framed(&xid), ready(ReadyState::Ready)].concat();
    let later = [framed(&lost), framed(&xid), ready(ReadyState::NotReady)].concat();
    let answers = vec![attached(found(vec![gpu(1)])), answer, later];
    let collector = collector(answers, false, DEADLINE).unwrap();
    assert_eq!(collector.set_ready(true), Ok(()));
    happens(&collector, Happened::Something(2));
    assert_eq!(collector.set_ready(false), Ok(()));
    happens(
        &collector,
        Happened::Ended("a GPU fell off the bus or needs a reset"),
    );
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = Collector::start(Path::new("/nowhere/cocoon-gpu"))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "cannot start the collector /nowhere/cocoon-gpu"
    );
}
