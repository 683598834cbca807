//! Round trips between encoder and parser, and the parser's error for each malformed field.

use proptest::prelude::*;
use sha2::{Digest, Sha384};

use super::{CcelError, EventLog, LoggedEvent, MAX_EVENTS, MAX_LOG, compare, encode};
use crate::tdx::event::{PredictedEvent, Provenance, Rtmr, event_type};

const HEADER: usize = 32 + 33;
/// Size of an event with `data` bytes of event data.
const fn size(data: usize) -> usize {
    12 + 2 + 48 + 4 + data
}

fn event(rtmr: Rtmr, data: &[u8]) -> LoggedEvent<'_> {
    LoggedEvent {
        rtmr,
        event_type: event_type::EFI_ACTION,
        digest: Sha384::digest(data).into(),
        data,
    }
}

fn two() -> Vec<u8> {
    encode([event(Rtmr::Rtmr0, b"first"), event(Rtmr::Rtmr2, b"second")]).unwrap()
}

fn with(at: usize, bytes: &[u8]) -> CcelError {
    let mut log = two();
    log[at..at + bytes.len()].copy_from_slice(bytes);
    EventLog::parse(&log).unwrap_err()
}

#[test]
fn what_is_written_is_read_with_any_padding() {
    for padding in [vec![], vec![0xff; 3], vec![0xff; 100], vec![0; 100]] {
        let log = [two(), padding].concat();
        let parsed = EventLog::parse(&log).unwrap();
        assert_eq!(parsed.events().len(), 2);
        assert_eq!(parsed.events()[1].rtmr, Rtmr::Rtmr2);
        assert_eq!(parsed.events()[1].hashed_data(), Some(&b"second"[..]));
        assert_ne!(parsed.replay()[0], [0; 48]);
        assert_eq!(parsed.replay()[1], [0; 48]);
    }
}

#[test]
fn cocoon_tdx_12() {
    let lie = LoggedEvent {
        data: b"SecureBoot is on",
        ..event(Rtmr::Rtmr0, b"SecureBoot is off")
    };
    let log = encode([lie]).unwrap();
    let parsed = EventLog::parse(&log).unwrap();
    assert_eq!(parsed.events()[0].hashed_data(), None);
    assert_eq!(parsed.events()[0].claimed_data(), b"SecureBoot is on");
}

/// The host chooses type and text, so neither may influence the comparison: only the digest decides.
#[test]
fn types_and_texts_decide_nothing() {
    let predicted = [PredictedEvent::of_data(
        Rtmr::Rtmr0,
        event_type::SEPARATOR,
        "separator",
        vec![0; 4],
    )];
    let matches = |logged: LoggedEvent<'_>| {
        let log = encode([logged]).unwrap();
        let log = EventLog::parse(&log).unwrap();
        compare(&log, &predicted, Rtmr::Rtmr0)[0].matches()
    };
    let true_one = LoggedEvent::from(&predicted[0]);
    assert!(matches(true_one));
    assert!(matches(LoggedEvent {
        event_type: event_type::EFI_ACTION,
        data: b"something else",
        ..true_one
    }));
    let mut digest = true_one.digest;
    digest[47] ^= 1;
    assert!(!matches(LoggedEvent { digest, ..true_one }));
}

#[test]
fn each_flaw_has_its_error() {
    let header = |field, offset| CcelError::Header { field, offset };
    assert_eq!(with(4, &[9]), header("the type of the first record", 4));
    assert_eq!(with(32, &[9]), header("the signature", 32));
    assert_eq!(with(56, &[2]), header("the number of algorithms", 56));
    assert_eq!(with(60, &[0xb]), header("the algorithm", 60));
    assert_eq!(with(62, &[32]), header("the digest size", 62));
    assert_eq!(
        with(HEADER, &[5]),
        CcelError::Register {
            position: 0,
            offset: HEADER,
            index: 5
        }
    );
    let second = HEADER + size(5);
    assert_eq!(
        with(second, &[0]),
        CcelError::Register {
            position: 1,
            offset: second,
            index: 0
        }
    );
    assert_eq!(
        with(second + 8, &[2]),
        CcelError::Digest {
            position: 1,
            offset: second,
            count: 2,
            algorithm: 0xc
        }
    );
    assert_eq!(
        with(second + 12, &[0xb]),
        CcelError::Digest {
            position: 1,
            offset: second,
            count: 1,
            algorithm: 0xb
        }
    );
    assert!(
        matches!(with(second + 62, &[7]), CcelError::Truncated(t) if t.offset == second + 66 && t.needed == 7)
    );
    let padded = [two(), vec![0xff; 8], vec![1]].concat();
    assert_eq!(
        EventLog::parse(&padded).unwrap_err(),
        CcelError::Padding {
            offset: two().len()
        }
    );
    let large = vec![0; MAX_LOG + 1];
    assert_eq!(
        EventLog::parse(&large).unwrap_err(),
        CcelError::TooLarge {
            length: MAX_LOG + 1
        }
    );
    let many = encode((0..=MAX_EVENTS).map(|_| event(Rtmr::Rtmr0, b""))).unwrap();
    assert_eq!(
        EventLog::parse(&many).unwrap_err(),
        CcelError::TooManyEvents
    );
}

#[test]
fn extra_missing_and_swapped_events_show_where() {
    let predicted: Vec<PredictedEvent> = [&b"a"[..], b"b", b"c"]
        .into_iter()
        .map(|data| PredictedEvent {
            rtmr: Rtmr::Rtmr1,
            event_type: event_type::EFI_ACTION,
            name: String::from_utf8(data.to_vec()).unwrap().into(),
            digest: Sha384::digest(data).into(),
            data: data.to_vec(),
            provenance: Provenance::Computed,
        })
        .collect();
    let wrong = |logged: &[&'static [u8]]| -> Vec<usize> {
        let log = encode(logged.iter().map(|data| event(Rtmr::Rtmr1, data))).unwrap();
        let log = EventLog::parse(&log).unwrap();
        let rows = compare(&log, &predicted, Rtmr::Rtmr1);
        rows.iter()
            .filter(|row| !row.matches())
            .map(|row| row.position)
            .collect()
    };
    assert_eq!(wrong(&[b"a", b"b", b"c"]), [0_usize; 0]);
    assert_eq!(wrong(&[b"a", b"b"]), [2]);
    assert_eq!(wrong(&[b"a", b"b", b"c", b"d"]), [3]);
    assert_eq!(wrong(&[b"b", b"a", b"c"]), [0, 1]);
    let log = encode([]).unwrap();
    assert!(compare(&EventLog::parse(&log).unwrap(), &predicted, Rtmr::Rtmr0).is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(change in any::<(prop::sample::Index, u8)>(), cut in any::<prop::sample::Index>()) {
        let mut log = two();
        let at = change.0.index(log.len());
        log[at] = change.1;
        log.truncate(cut.index(log.len() + 1));
        let _ = EventLog::parse(&log).map(|log| log.replay());
    }
}
