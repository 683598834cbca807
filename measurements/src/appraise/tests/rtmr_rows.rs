//! Registers of a boot that differs from the manifest's, explained from its event log.

use cocoon_protocol::{bytes::Hex48, manifest::PlatformSource};

use super::{
    tdx_boot::{Boot, NAMES, after, boot, claims, one, reference, rows},
    *,
};
use crate::{roots::RootClass, tdx::rtmr::Edk2};

#[test]
fn cocoon_tdx_2() {
    let kernel = Boot {
        kernel: Hex48::sha384(b"other"),
        ..boot()
    };
    assert_eq!(
        one(&after(&kernel)),
        (
            "tdx.rtmr1",
            "another kernel than the manifest's vmlinuz was started, or QEMU before 10.0 (or edk2 before stable202502) started \
             it with a changed setup header"
                .to_owned()
        )
    );
    let cmdline = Boot {
        cmdline: "console=ttyS0 quiet debug".into(),
        ..boot()
    };
    assert_eq!(
        one(&after(&cmdline)),
        (
            "tdx.rtmr2",
            "edited command line: the kernel was started with another one than the manifest's; words missing (-) and added \
             (+): +debug"
                .to_owned()
        )
    );
    let unlikely = Boot {
        cmdline: "root=/dev/other".into(),
        ..boot()
    };
    assert_eq!(
        one(&after(&unlikely)),
        (
            "tdx.rtmr2",
            "edited command line: the kernel was started with another one than the manifest's; only its digest is \
             measured, so the difference itself cannot be shown"
                .to_owned()
        )
    );
    let initrd = Boot {
        initrd: b"other".to_vec(),
        ..boot()
    };
    assert_eq!(
        one(&after(&initrd)),
        (
            "tdx.rtmr2",
            "wrong initrd: the kernel command line is the manifest's, the initrd is not".to_owned()
        )
    );
    let firmware = Boot {
        edk2: Edk2::Stable202505,
        ..boot()
    };
    assert_eq!(
        one(&after(&firmware)),
        (
            "tdx.rtmr2",
            "the firmware completes the command line as edk2 before stable202508 does: an older firmware than the \
             manifest's"
                .to_owned()
        )
    );
}

#[test]
fn cocoon_tdx_3() {
    let explained = [
        "the VM has another amount of memory than the manifest's shape; this event hashes the RAM ranges that QEMU hands to \
         the firmware",
        "the firmware's variable store was changed: secure-boot keys or settings that the image does not have; this event \
         hashes the firmware file's variable store, byte for byte",
        "QEMU was given another boot order: a device with a bootindex, or no -kernel; this event hashes QEMU's list of boot \
         devices",
        "the firmware's variable store was changed: secure-boot keys or settings that the image does not have; this event \
         hashes one secure-boot variable as the firmware reads it",
        "QEMU generated other ACPI tables, which hold code that the guest runs: another QEMU version, machine type, vCPU \
         count, memory size or device list, or a GPU whose BARs move the PCI window; this event hashes ACPI tables as QEMU \
         generated them",
        "QEMU generated other SMBIOS tables: another QEMU version, vCPU count or memory size, or -smbios was given; this \
         event hashes the SMBIOS tables without serial numbers",
        "the firmware has other boot options: another firmware build, or a bootable device was added; this event hashes one \
         of the firmware's boot options",
    ];
    for (at, expected) in explained.into_iter().enumerate() {
        let mut other = boot();
        other.rtmr0[at] = Hex([0xee; 48]);
        let checks = after(&other);
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| check.outcome == Outcome::Fail)
            .collect();
        let [register, event] = failed[..] else {
            panic!("{failed:#?}")
        };
        assert_eq!((register.id, event.id), ("tdx.rtmr0", "tdx.rtmr0.event"));
        assert_eq!(event.title, format!("RTMR0 event {at}: {}", NAMES[at]));
        assert_eq!(event.cause.as_deref(), Some(expected));
        assert_eq!(event.expected, Some(boot().rtmr0[at].to_string()));
        assert_eq!(event.found, Some(other.rtmr0[at].to_string()));
    }
}

/// If an event has the digest of another shape's event in the same place, the cause names that shape.
#[test]
fn a_mixture_of_shapes_is_told() {
    let mut manifest = Manifest::clone(&reference(PlatformSource::Computed));
    let mut second = manifest.tdx.platforms[0].clone();
    second.name = "8 GiB, two GPUs".into();
    for (at, event) in second.rtmr0_events.iter_mut().enumerate() {
        event.digest = Hex([0xd0 + u8::try_from(at).unwrap(); 48]);
    }
    manifest.tdx.platforms.push(second);
    let mut other = boot();
    other.rtmr0[4] = Hex([0xd4; 48]);
    let checks = rows(
        &claims(&other, RootClass::Vendor),
        &other.log(),
        &trusted(&manifest),
    );
    let event = checks
        .iter()
        .find(|check| check.id == "tdx.rtmr0.event")
        .unwrap();
    assert!(
        event
            .cause
            .as_deref()
            .unwrap()
            .ends_with("; what was measured is that of the shape 8 GiB, two GPUs: ACPI tables"),
        "{event:#?}"
    );
}

/// An inserted, missing or moved event is named once, as such, at the right place.
#[test]
fn cocoon_tdx_4() {
    let edits: [(Edit<Vec<Hex48>>, &str, &str); 4] = [
        (
            |events| events.insert(3, Hex([0xee; 48])),
            "RTMR0 event 3: one too many",
            "the firmware measured something that no shape of the manifest has: ",
        ),
        (
            |events| events.push(Hex([0xee; 48])),
            "RTMR0 event 7: one too many",
            "the firmware measured something that no shape of the manifest has: ",
        ),
        (
            |events| _ = events.remove(4),
            "RTMR0 event 4: missing",
            "the firmware did not measure what the manifest's shape has here: ACPI tables",
        ),
        (
            |events| events.swap(2, 5),
            "RTMR0 event 2: moved",
            "the same events in another order (another firmware release): QEMU setting bootorder is expected here",
        ),
    ];
    for (edit, title, cause) in edits {
        let mut other = boot();
        edit(&mut other.rtmr0);
        let checks = after(&other);
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| check.outcome == Outcome::Fail)
            .collect();
        let [register, event] = failed[..] else {
            panic!("{failed:#?}")
        };
        assert_eq!((register.id, event.id), ("tdx.rtmr0", "tdx.rtmr0.event"));
        assert_eq!(event.title, title);
        assert!(
            event.cause.as_ref().unwrap().starts_with(cause),
            "{event:#?}"
        );
    }
}

/// A log that does not replay is refused, whatever its content. A session's document must have a log.
#[test]
fn cocoon_tdx_5() {
    let claims = claims(&boot(), RootClass::Vendor);
    let manifest = reference(PlatformSource::Computed);
    let mut other = boot();
    other.rtmr0[0] = Hex([0xee; 48]);
    let lie = "the event log is not the one of this guest: replayed, it gives another register than the quote";
    let checks = rows(&claims, &other.log(), &manifest);
    assert_eq!(one(&checks), ("tdx.event_log", lie.to_owned()));
    let row = checks
        .iter()
        .find(|check| check.id == "tdx.event_log")
        .unwrap();
    assert_eq!(row.title, "event log replays to the registers: RTMR0");
    assert_eq!(
        one(&rows(&claims, &Blob::default(), &manifest)),
        (
            "tdx.event_log",
            "the document of a session must carry the event log, and this one has none".to_owned()
        )
    );
    let rubbish = Blob(vec![1; 40]);
    assert_eq!(
        one(&rows(&claims, &rubbish, &manifest)),
        (
            "tdx.event_log",
            "CC event log: the type of the first record at offset 0x4 is not that of a log with SHA-384 digests alone".to_owned()
        )
    );
    // Without a log that replays, the cause cannot say what differs.
    let moved =
        super::super::rtmr::rtmr0(&manifest, &Hex([0xee; 48]), None, Some(RootClass::Vendor));
    assert_eq!(
        one(&moved).1,
        "another machine shape than the manifest's; without an event log it cannot be told which part differs"
    );
}

#[test]
fn cocoon_verdict_5() {
    let simulated = reference(PlatformSource::Simulator);
    let rows_under = |root| rows(&claims(&boot(), root), &boot().log(), &simulated);
    no_failure(&rows_under(RootClass::Development));
    assert_eq!(
        one(&rows_under(RootClass::Vendor)),
        (
            "tdx.rtmr0",
            "the manifest names machine shapes of the simulator only, and these never count on real hardware".to_owned()
        )
    );
}
