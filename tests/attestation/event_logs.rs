//! The CC event log comes from the host. It is used only if it replays to the quoted registers, and then only the order
//! and the digests of its events matter.

use cocoon_measurements::ccel::{EventLog, LoggedEvent, encode};
use cocoon_measurements::tdx::event::{Rtmr, event_type, replay};
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Tee;

use crate::machine::{Machine, accepted, refused};

const LIES: &str = "the event log is not the one of this guest: replayed, it gives another register than the quote";

/// An owned copy of an event in a log.
#[derive(Clone)]
struct Event {
    rtmr: Rtmr,
    kind: u32,
    digest: [u8; 48],
    data: Vec<u8>,
}

fn events(log: &[u8]) -> Vec<Event> {
    let parsed = EventLog::parse(log).unwrap();
    let owned = parsed.events().iter().map(|event| Event {
        rtmr: event.rtmr,
        kind: event.event_type,
        digest: event.digest,
        data: event.claimed_data().to_vec(),
    });
    owned.collect()
}

fn log_of(events: &[Event]) -> Vec<u8> {
    encode(events.iter().map(|event| LoggedEvent {
        rtmr: event.rtmr,
        event_type: event.kind,
        digest: event.digest,
        data: &event.data,
    }))
    .unwrap()
}

/// Returns the verdict on a good VM whose host presents an edited log.
fn shown(edit: impl FnOnce(&mut Vec<Event>)) -> Verdict {
    let mut vm = Machine::good(Tee::Tdx);
    let mut list = events(vm.event_log());
    edit(&mut list);
    *vm.event_log() = log_of(&list);
    vm.verdict()
}

/// Returns the verdict on a VM that really measured the edited events, so that its registers and its log agree.
fn measured(edit: impl FnOnce(&mut Vec<Event>)) -> Verdict {
    let mut vm = Machine::good(Tee::Tdx);
    let mut list = events(vm.event_log());
    edit(&mut list);
    vm.td().rtmr = replay(list.iter().map(|event| (event.rtmr, &event.digest)));
    *vm.event_log() = log_of(&list);
    vm.verdict()
}

fn extra(rtmr: Rtmr) -> Event {
    Event {
        rtmr,
        kind: event_type::EFI_ACTION,
        digest: [0xee; 48],
        data: b"Calling EFI Application from Boot Option".to_vec(),
    }
}

#[test]
fn lies_are_found_in_every_register() {
    let log = Machine::good(Tee::Tdx).event_log().clone();
    let list = events(&log);
    // One edited digest at a time, in each position.
    for at in 0..list.len() {
        refused(
            &shown(|events| events[at].digest[7] ^= 1),
            &[("tdx.event_log", LIES)],
        );
    }
    for rtmr in Rtmr::ALL {
        let verdict = shown(|events| events.push(extra(rtmr)));
        refused(&verdict, &[("tdx.event_log", LIES)]);
        let row = verdict.failures().next().unwrap();
        assert_eq!(
            row.title,
            format!("event log replays to the registers: RTMR{}", rtmr.index())
        );
    }
}

#[test]
fn reordered_and_shortened() {
    refused(
        &shown(|events| events.swap(0, 1)),
        &[("tdx.event_log", LIES)],
    );
    refused(
        &shown(|events| events.reverse()),
        &[("tdx.event_log", LIES)],
    );
    refused(
        &shown(|events| _ = events.pop()),
        &[("tdx.event_log", LIES)],
    );
    refused(
        &shown(|events| _ = events.remove(0)),
        &[("tdx.event_log", LIES)],
    );
    refused(&shown(Vec::clear), &[("tdx.event_log", LIES)]);
    // Events of different registers may be in any order, because only the order within a register is measured.
    accepted(&shown(|events| events.sort_by_key(|event| event.rtmr)));
}

#[test]
fn an_event_moved_to_another_register() {
    refused(
        &shown(|events| events[0].rtmr = Rtmr::Rtmr3),
        &[("tdx.event_log", LIES)],
    );
}

/// The host can write any event types and data, so they affect no verdict.
#[test]
fn types_and_texts_decide_nothing() {
    accepted(&shown(|events| {
        for event in events {
            event.kind = event_type::EFI_ACTION;
            event.data = b"anything".to_vec();
        }
    }));
    // A no-action record extends no register, so it is ignored.
    accepted(&shown(|events| {
        events.insert(
            3,
            Event {
                kind: event_type::NO_ACTION,
                ..extra(Rtmr::Rtmr0)
            },
        );
    }));
}

/// Truncated within an event, the log does not parse; truncated between two events, it does not replay.
#[test]
fn truncated_anywhere() {
    let log = Machine::good(Tee::Tdx).event_log().clone();
    for length in (1..log.len()).step_by(41) {
        let mut vm = Machine::good(Tee::Tdx);
        vm.event_log().truncate(length);
        let verdict = vm.verdict();
        let [row] = verdict.failures().collect::<Vec<_>>()[..] else {
            panic!("cut at {length}: {verdict:#?}")
        };
        assert_eq!(row.id, "tdx.event_log");
        let cause = row.cause.as_deref().unwrap();
        assert!(
            cause == LIES || cause.contains(" is truncated: "),
            "cut at {length}: {cause}"
        );
    }
    let mut vm = Machine::good(Tee::Tdx);
    vm.event_log().clear();
    refused(
        &vm.verdict(),
        &[(
            "tdx.event_log",
            "the document of a session must carry the event log, and this one has none",
        )],
    );
}

#[test]
fn padding_and_what_hides_in_it() {
    let mut vm = Machine::good(Tee::Tdx);
    let end = vm.event_log().len();
    vm.event_log().extend([0xff; 4096]);
    accepted(&vm.verdict());
    vm.event_log()[end + 2000] = 1;
    refused(
        &vm.verdict(),
        &[(
            "tdx.event_log",
            &format!("CC event log: the padding that begins at offset {end:#x} is not uniform"),
        )],
    );
}

#[test]
fn oversized() {
    let mut vm = Machine::good(Tee::Tdx);
    vm.event_log().resize((1 << 20) + 1, 0xff);
    refused(
        &vm.verdict(),
        &[(
            "tdx.event_log",
            "CC event log has 1048577 bytes, more than 1048576",
        )],
    );
}

/// Extra code that measured itself is refused in the row of the register that it extended.
#[test]
fn honest_extras_are_refused_by_register() {
    const RTMR3: &str = "something measured itself into RTMR3, which this image never uses: other code ran in the guest";
    refused(
        &measured(|events| events.push(extra(Rtmr::Rtmr3))),
        &[("tdx.rtmr3", RTMR3)],
    );
    refused(
        &measured(|events| events.push(extra(Rtmr::Rtmr2))),
        &[(
            "tdx.rtmr2",
            "the kernel did not measure just a command line and an initrd: another kernel, or no initrd",
        )],
    );
    refused(
        &measured(|events| events.push(extra(Rtmr::Rtmr1))),
        &[(
            "tdx.rtmr1",
            "the firmware went other steps to start the kernel than a direct boot has: another firmware release, or a boot \
             loader between",
        )],
    );
}

/// The firmware measured one event more, one less, or in another order: a row names the position.
#[test]
fn honest_changes_of_the_machine_are_named_by_place() {
    type Edit = fn(&mut Vec<Event>);
    let cases: [(Edit, &str, &str); 3] = [
        (
            |events| events.insert(4, extra(Rtmr::Rtmr0)),
            "RTMR0 event 4: one too many",
            "the firmware measured something that no shape of the manifest has: ",
        ),
        (
            |events| _ = events.remove(1),
            "RTMR0 event 1: missing",
            "the firmware did not measure what the manifest's shape has here: variable store (CFV)",
        ),
        (
            |events| events.swap(2, 3),
            "RTMR0 event 2: moved",
            "the same events in another order (another firmware release): QEMU setting BootMenu is expected here",
        ),
    ];
    for (edit, title, cause) in cases {
        let verdict = measured(edit);
        let [register, event] = verdict.failures().collect::<Vec<_>>()[..] else {
            panic!("{:#?}", verdict.failures().collect::<Vec<_>>())
        };
        assert_eq!((register.id, event.id), ("tdx.rtmr0", "tdx.rtmr0.event"));
        assert_eq!(event.title, title);
        assert!(
            event
                .cause
                .as_deref()
                .is_some_and(|text| text.starts_with(cause)),
            "{event:#?}"
        );
        assert_eq!(verdict.authorizes(), None);
    }
}
