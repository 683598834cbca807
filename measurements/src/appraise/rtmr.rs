//! Checks of TDX's runtime registers: the event log by the quote, and RTMR0 event by event by the manifest's machine shapes.
//! Also explains differences in RTMR1 and RTMR2.
//!
//! A log is only the host's claim until it replays to the quoted registers. Events are matched by position and digest, never
//! by type or text.

use cocoon_protocol::{
    bytes::{Hex, Hex48},
    manifest::{Manifest, PlatformSource, ReferenceEvent, TdxPlatform},
};

use super::{
    cmdline,
    events::{Explained, explain},
};
use crate::{
    ccel::EventLog,
    roots::RootClass,
    tdx::{
        event::{self, Rtmr},
        rtmr::{Edk2, rtmr2},
    },
    verdict::{Check, chain},
};

/// Largest number of rows for single events: twice the number of events of any known boot.
const MAX_EVENT_ROWS: usize = 40;

/// The events of a log that replays to the quoted registers, by register.
pub(super) struct Replayed {
    digests: [Vec<Hex48>; 4],
    /// Data of the first event of RTMR2, if it hashes to the event's digest.
    command_line: Option<Vec<u8>>,
}

impl Replayed {
    fn events(&self, rtmr: Rtmr) -> &[Hex48] {
        &self.digests[rtmr.index()]
    }
}

/// Replays the log. Returns its row, and its events if it replays to the quoted registers.
pub(super) fn replay(log: &[u8], quoted: &[Hex48; 4], session: bool) -> (Check, Option<Replayed>) {
    const TITLE: &str = "event log replays to the registers";
    if log.is_empty() {
        let row = if session {
            Check::fail("tdx.event_log", TITLE, NO_LOG, LOG_ADVICE)
        } else {
            Check::note("tdx.event_log", TITLE, NO_LOG_IN_BOOT)
        };
        return (row, None);
    }
    let parsed = match EventLog::parse(log) {
        Ok(parsed) => parsed,
        Err(error) => {
            return (
                Check::fail("tdx.event_log", TITLE, chain(&error), LOG_ADVICE),
                None,
            );
        }
    };
    let registers = parsed.replay();
    for rtmr in Rtmr::ALL {
        let (found, expected) = (Hex(registers[rtmr.index()]), quoted[rtmr.index()]);
        if found != expected {
            let title = format!("{TITLE}: RTMR{}", rtmr.index());
            let row = Check::fail("tdx.event_log", title, LOG_LIES, LOG_ADVICE)
                .expected(expected)
                .found(found);
            return (row, None);
        }
    }
    let mut digests: [Vec<Hex48>; 4] = Default::default();
    for event in parsed.events() {
        digests[event.rtmr.index()].push(Hex(event.digest));
    }
    let mut loaded = parsed.events().iter();
    let command_line = loaded.find(|event| event.rtmr == Rtmr::Rtmr2);
    let command_line = command_line
        .and_then(|event| event.hashed_data())
        .map(<[u8]>::to_vec);
    let row = Check::pass(
        "tdx.event_log",
        TITLE,
        format!("{} events", parsed.events().len()),
    );
    let replayed = Replayed {
        digests,
        command_line,
    };
    (row, Some(replayed))
}

/// Checks RTMR0 by the machine shapes that count under `root`. Those of the simulator never count under a vendor's root.
pub(super) fn rtmr0(
    manifest: &Manifest,
    quoted: &Hex48,
    log: Option<&Replayed>,
    root: Option<RootClass>,
) -> Vec<Check> {
    const TITLE: &str = "RTMR0 (the machine)";
    let counts = |platform: &&TdxPlatform| {
        root != Some(RootClass::Vendor) || platform.source == PlatformSource::Computed
    };
    let platforms: Vec<&TdxPlatform> = manifest.tdx.platforms.iter().filter(counts).collect();
    if let Some(platform) = platforms
        .iter()
        .find(|platform| register(platform) == *quoted)
    {
        let found = format!(
            "{}: {} events as expected",
            platform.name,
            platform.rtmr0_events.len()
        );
        return vec![Check::pass("tdx.rtmr0", TITLE, found).expected(quoted)];
    }
    if platforms.is_empty() {
        let cause = if manifest.tdx.platforms.is_empty() {
            NO_PLATFORM
        } else {
            SIMULATED_ONLY
        };
        return vec![Check::fail("tdx.rtmr0", TITLE, cause, PLATFORM_ADVICE).found(quoted)];
    }
    let names: Vec<&str> = platforms
        .iter()
        .map(|platform| platform.name.as_str())
        .collect();
    let shapes = format!("one of: {}", names.join("; "));
    let Some(log) = log else {
        return vec![
            Check::fail("tdx.rtmr0", TITLE, NO_SHAPE_NO_LOG, PLATFORM_ADVICE)
                .expected(shapes)
                .found(quoted),
        ];
    };
    let found = log.events(Rtmr::Rtmr0);
    let agreeing = |platform: &&&TdxPlatform| {
        platform
            .rtmr0_events
            .iter()
            .zip(found)
            .filter(|(expected, found)| expected.digest == **found)
            .count()
    };
    // Never empty, see above. The nearest shape gives the best explanation.
    let Some(nearest) = platforms.iter().max_by_key(agreeing) else {
        return Vec::new();
    };
    let cause = format!(
        "{OTHER_MACHINE} {} of {} events agree with the nearest shape, {}; the rows below are held against it",
        agreeing(&nearest),
        nearest.rtmr0_events.len(),
        nearest.name
    );
    let mut rows = vec![
        Check::fail("tdx.rtmr0", TITLE, cause, PLATFORM_ADVICE)
            .expected(shapes)
            .found(quoted),
    ];
    rows.extend(event_rows(nearest, &platforms, found));
    rows
}

fn register(platform: &TdxPlatform) -> Hex48 {
    let digests = platform
        .rtmr0_events
        .iter()
        .map(|event| (Rtmr::Rtmr0, &event.digest.0));
    Hex(event::replay(digests)[Rtmr::Rtmr0.index()])
}

/// Returns one row for an inserted, missing or moved event, or else one for each place that differs.
fn event_rows(nearest: &TdxPlatform, all: &[&TdxPlatform], found: &[Hex48]) -> Vec<Check> {
    let expected = nearest.rtmr0_events.as_slice();
    let digests: Vec<Hex48> = expected.iter().map(|event| event.digest).collect();
    let Some(first) =
        (0..digests.len().max(found.len())).find(|at| digests.get(*at) != found.get(*at))
    else {
        return Vec::new();
    };
    let (rest, rest_found) = (
        &digests[first.min(digests.len())..],
        &found[first.min(found.len())..],
    );
    let row = |title: String, cause: String| {
        vec![Check::fail(
            "tdx.rtmr0.event",
            title,
            cause,
            PLATFORM_ADVICE,
        )]
    };
    if rest_found.get(1..) == Some(rest) {
        let title = format!("RTMR0 event {first}: one too many");
        return row(title, format!("{EXTRA_EVENT} {}", rest_found[0]));
    }
    if rest.get(1..) == Some(rest_found) {
        let title = format!("RTMR0 event {first}: missing");
        return row(title, format!("{MISSING_EVENT} {}", expected[first].name));
    }
    if sorted(&digests) == sorted(found) {
        let title = format!("RTMR0 event {first}: moved");
        return row(
            title,
            format!("{MOVED_EVENT} {} is expected here", expected[first].name),
        );
    }
    let differs = |at: &usize| digests.get(*at) != found.get(*at);
    let places = (first..digests.len().max(found.len())).filter(differs);
    places
        .take(MAX_EVENT_ROWS)
        .map(|at| event_row(at, expected.get(at), found.get(at), all))
        .collect()
}

fn event_row(
    at: usize,
    expected: Option<&ReferenceEvent>,
    found: Option<&Hex48>,
    shapes: &[&TdxPlatform],
) -> Check {
    let name = expected.map_or("nothing more", |event| event.name.as_str());
    let mut explained = expected.map_or_else(
        || Explained {
            cause: EXTRA_EVENT.to_owned(),
            advice: PLATFORM_ADVICE,
        },
        |event| explain(&event.name),
    );
    // If another shape has this digest in the same place, the machine's difference is known.
    let other = shapes.iter().find_map(|shape| {
        let event = shape.rtmr0_events.get(at)?;
        (Some(&event.digest) == found).then_some((shape, event))
    });
    if let Some((shape, event)) = other {
        let same = format!("; what was measured is that of the shape {}: ", shape.name);
        explained.cause.push_str(&same);
        explained.cause.push_str(&event.name);
    }
    let show =
        |digest: Option<&Hex48>| digest.map_or_else(|| "no event".to_owned(), Hex48::to_string);
    Check::fail(
        "tdx.rtmr0.event",
        format!("RTMR0 event {at}: {name}"),
        explained.cause,
        explained.advice,
    )
    .expected(show(expected.map(|event| &event.digest)))
    .found(show(found))
}

fn sorted(digests: &[Hex48]) -> Vec<Hex48> {
    let mut digests = digests.to_vec();
    digests.sort_unstable();
    digests
}

/// Explains a different RTMR1, from the log if there is one.
pub(super) fn why_rtmr1(log: Option<&Replayed>) -> &'static str {
    let Some(log) = log else {
        return OTHER_KERNEL_OR_STEPS;
    };
    // The events after the kernel's own are the same for every kernel.
    let steps: [&[u8]; 4] = [
        b"Calling EFI Application from Boot Option",
        &[0; 4],
        b"Exit Boot Services Invocation",
        b"Exit Boot Services Returned with Success",
    ];
    let steps = steps.map(Hex48::sha384);
    match log.events(Rtmr::Rtmr1) {
        [_, rest @ ..] if rest == steps => OTHER_KERNEL,
        _ => OTHER_BOOT_STEPS,
    }
}

/// Explains a different RTMR2. Its first event is the command line's, whose expected digest follows from the manifest.
pub(super) fn why_rtmr2(manifest: &Manifest, log: Option<&Replayed>) -> String {
    let Some(log) = log else {
        return CMDLINE_OR_INITRD.to_owned();
    };
    let command_line = |edk2| {
        rtmr2(&manifest.cmdline, Some(&[]), edk2)
            .first()
            .map(|event| Hex(event.digest))
    };
    let cause = match log.events(Rtmr::Rtmr2) {
        [first, _] if command_line(Edk2::Stable202508) == Some(*first) => OTHER_INITRD,
        [first, _] if command_line(Edk2::Stable202505) == Some(*first) => OLD_FIRMWARE_CMDLINE,
        [first, _] => {
            let logged = log.command_line.as_deref();
            if let Some(words) = cmdline::difference(&manifest.cmdline, first, logged) {
                return format!("{OTHER_CMDLINE_SHOWN} {words}");
            }
            OTHER_CMDLINE
        }
        _ => OTHER_RTMR2_EVENTS,
    };
    cause.to_owned()
}

const NO_LOG: &str = "the document of a session must carry the event log, and this one has none";
const NO_LOG_IN_BOOT: &str = "boot documents carry no event log; a session's document does";
const LOG_LIES: &str = "the event log is not the one of this guest: replayed, it gives another register than the quote";
const LOG_ADVICE: &str =
    "connect again; if it stays so, the operator has to update the host's and guest's software";
const NO_PLATFORM: &str = "the manifest names no machine shape for TDX";
const SIMULATED_ONLY: &str = "the manifest names machine shapes of the simulator only, and these never count on real hardware";
pub(super) const PLATFORM_ADVICE: &str = "use a manifest whose signers measured this machine shape, or ask the operator to start the VM with a shape that the manifest names";
const NO_SHAPE_NO_LOG: &str = "another machine shape than the manifest's; without an event log it cannot be told which part differs";
const OTHER_MACHINE: &str = "another machine than the manifest's shapes:";
const EXTRA_EVENT: &str = "the firmware measured something that no shape of the manifest has:";
const MISSING_EVENT: &str = "the firmware did not measure what the manifest's shape has here:";
const MOVED_EVENT: &str = "the same events in another order (another firmware release):";
const OTHER_KERNEL_OR_STEPS: &str = "another kernel than the manifest's vmlinuz, or another firmware release starts it; without an event log it cannot be told which";
const OTHER_KERNEL: &str = "another kernel than the manifest's vmlinuz was started, or QEMU before 10.0 (or edk2 before stable202502) started it with a changed setup header";
const OTHER_BOOT_STEPS: &str = "the firmware went other steps to start the kernel than a direct boot has: another firmware release, or a boot loader between";
const CMDLINE_OR_INITRD: &str = "another kernel command line or another initrd than the manifest's; without an event log it cannot be told which";
const OTHER_INITRD: &str =
    "wrong initrd: the kernel command line is the manifest's, the initrd is not";
const OLD_FIRMWARE_CMDLINE: &str = "the firmware completes the command line as edk2 before stable202508 does: an older firmware than the manifest's";
const OTHER_CMDLINE: &str = "edited command line: the kernel was started with another one than the manifest's; only its digest is measured, so the difference itself cannot be shown";
const OTHER_CMDLINE_SHOWN: &str = "edited command line: the kernel was started with another one than the manifest's; words missing (-) and added (+):";
const OTHER_RTMR2_EVENTS: &str =
    "the kernel did not measure just a command line and an initrd: another kernel, or no initrd";
