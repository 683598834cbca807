//! Event logs of real boots: parsed completely, replayed to the values that other tools computed, and re-encoded.

use cocoon_measurements::{
    ccel::{EventLog, LoggedEvent, encode},
    tdx::event::Rtmr,
};

use crate::vector;

const LOGS: [(&str, usize, [&str; 3]); 2] = [
    (
        "ccel/dstack_ccel.bin",
        18,
        ["274c2344116db7c6", "bdcf4ee0f7fdfe7c", "0000000000000000"],
    ),
    (
        "ccel/trustee_CCEL_data_ovmf.bin",
        20,
        ["8566f998798db094", "775b9f6bfe99f8a3", "94eaf7a7bf398ed8"],
    ),
];

#[test]
fn replay_equals_the_known_registers() {
    for (path, count, registers) in LOGS {
        let Some(bytes) = vector(path) else { return };
        let log = EventLog::parse(&bytes).unwrap();
        assert_eq!(log.events().len(), count, "{path}");
        for (found, expected) in log.replay().iter().zip(registers) {
            assert!(
                hex::encode(found).starts_with(expected),
                "{path}: {}",
                hex::encode(found)
            );
        }
        assert_eq!(log.replay()[Rtmr::Rtmr3.index()], [0; 48]);
    }
}

#[test]
fn a_log_through_grub_with_secure_boot_is_read_to_its_end() {
    let Some(bytes) = vector("ccel/trustee_CCEL_data_grub.bin") else {
        return;
    };
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(log.events().len(), 37);
}

#[test]
fn encoding_what_was_parsed_gives_the_same_bytes() {
    for (path, ..) in LOGS {
        let Some(bytes) = vector(path) else { return };
        let log = EventLog::parse(&bytes).unwrap();
        let events = log.events().iter().map(|event| LoggedEvent {
            rtmr: event.rtmr,
            event_type: event.event_type,
            digest: event.digest,
            data: event.claimed_data(),
        });
        let encoded = encode(events).unwrap();
        // The first record's unused register index differs between firmware releases.
        assert_eq!(encoded[4..], bytes[4..encoded.len()], "{path}");
    }
}
