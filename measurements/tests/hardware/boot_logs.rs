//! Predicts whole boots of real machines, event by event. Digests of unpublished artefacts are taken from the log.

use cocoon_measurements::{
    ccel::{EventLog, compare},
    tdx::{
        DirectBoot,
        boot_variables::BootApplications,
        event::{Provenance, Rtmr, event_type, replay},
        mrtd::PageOrder,
        predict,
        rtmr::Edk2,
        rtmr0::{GivenDigest, Machine, PlatformDigests, SecureBoot},
    },
};

use crate::{
    dstack::{Layout, ovmf_layout, smallest_pe},
    unhex, vector,
};

/// SHA-384 of `OVMF_VARS_4M.fd`, as Debian ships it.
const STORE: &str = "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790";

struct Boot {
    log: &'static str,
    layout: Layout,
    memory: u64,
    edk2: Edk2,
    /// Whether command line and initrd were measured.
    loads: bool,
}

const BOOTS: [Boot; 2] = [
    Boot {
        log: "ccel/trustee_CCEL_data_ovmf.bin",
        layout: Layout::Classic,
        memory: 2 << 30,
        edk2: Edk2::Stable202408,
        loads: true,
    },
    Boot {
        log: "ccel/dstack_ccel.bin",
        layout: Layout::Stable202502,
        memory: 1 << 30,
        edk2: Edk2::Stable202502,
        loads: false,
    },
];

/// Returns whether an event hashes data that nobody published.
fn unknown(name: &str) -> bool {
    [
        "variable store (CFV)",
        "ACPI loader",
        "ACPI RSDP",
        "ACPI tables",
        "kernel (Authenticode SHA-384)",
        "kernel command line",
        "initrd",
    ]
    .contains(&name)
}

#[test]
fn every_event_is_where_and_what_was_predicted() {
    for boot in &BOOTS {
        let Some(bytes) = vector(boot.log) else {
            return;
        };
        let log = EventLog::parse(&bytes).unwrap();
        let acpi: Vec<[u8; 48]> = log
            .events()
            .iter()
            .filter(|event| event.event_type == event_type::PLATFORM_CONFIG_FLAGS)
            .map(|event| event.digest)
            .collect();
        let given = |index: usize| GivenDigest {
            digest: acpi[index],
            provenance: Provenance::Computed,
        };
        let machine = Machine {
            edk2: boot.edk2,
            secure_boot: SecureBoot::NotBuilt,
            boot_applications: BootApplications::UiApp,
            platform: PlatformDigests {
                acpi_loader: given(0),
                acpi_rsdp: given(1),
                acpi_tables: given(2),
                smbios: given(2), // not measured by this firmware
            },
            ..Machine::simulated(boot.memory)
        };
        let (firmware, kernel) = (ovmf_layout(boot.layout), smallest_pe());
        let artefacts = DirectBoot {
            firmware: &firmware,
            kernel: &kernel,
            initrd: Some(b""),
            command_line: "",
        };
        let mut predicted = predict(&artefacts, &machine, PageOrder::SinglePass)
            .unwrap()
            .events;
        if !boot.loads {
            predicted.retain(|event| event.rtmr != Rtmr::Rtmr2);
        }
        // The order is that of the log, with registers interleaved.
        assert_eq!(predicted.len(), log.events().len(), "{}", boot.log);
        let mut unpredicted = 0;
        for (event, logged) in predicted.iter_mut().zip(log.events()) {
            let place = format!("{}: {} at {:#x}", boot.log, event.name, logged.offset);
            assert_eq!(event.rtmr, logged.rtmr, "{place}");
            assert_eq!(event.event_type, logged.event_type, "{place}");
            if unknown(&event.name) {
                event.digest = logged.digest;
                unpredicted += 1;
            }
            assert_eq!(
                hex::encode(event.digest),
                hex::encode(logged.digest),
                "{place}"
            );
        }
        assert_eq!(unpredicted, if boot.loads { 7 } else { 5 });
        assert_eq!(hex::encode(predicted[1].digest), STORE);
        for rtmr in Rtmr::ALL {
            assert!(
                compare(&log, &predicted, rtmr)
                    .iter()
                    .all(|row| row.matches())
            );
        }
        let registers = replay(predicted.iter().map(|event| (event.rtmr, &event.digest)));
        assert_eq!(registers, log.replay());
    }
}

/// A quote from a machine of the same configuration with another kernel has exactly the log's RTMR0.
#[test]
fn the_register_of_the_platform_is_the_quotes() {
    let (Some(quote), Some(log)) = (
        vector("tdx/dcapqvl_quote-from-tappd.hex"),
        vector("ccel/dstack_ccel.bin"),
    ) else {
        return;
    };
    let quote = unhex(&quote);
    let replayed = EventLog::parse(&log).unwrap().replay();
    assert_eq!(hex::encode(replayed[0]), hex::encode(&quote[376..424]));
    assert_ne!(replayed[1][..], quote[424..472]);
}

/// Firmware of another release measures the same boot differently, and the comparison finds each differing register.
#[test]
fn another_release_is_told_from_the_log() {
    let Some(bytes) = vector("ccel/trustee_CCEL_data_ovmf.bin") else {
        return;
    };
    let log = EventLog::parse(&bytes).unwrap();
    let (firmware, kernel) = (ovmf_layout(Layout::Classic), smallest_pe());
    let artefacts = DirectBoot {
        firmware: &firmware,
        kernel: &kernel,
        initrd: Some(b""),
        command_line: "",
    };
    let rows = |edk2, rtmr| {
        let machine = Machine {
            edk2,
            secure_boot: SecureBoot::NotBuilt,
            boot_applications: BootApplications::UiApp,
            ..Machine::simulated(2 << 30)
        };
        let events = predict(&artefacts, &machine, PageOrder::SinglePass)
            .unwrap()
            .events;
        let rows = compare(&log, &events, rtmr);
        (rows.len(), rows.iter().filter(|row| row.matches()).count())
    };
    // All match but the store and three ACPI tables; under the newer release, the separator at the end is missing too.
    assert_eq!(rows(Edk2::Stable202408, Rtmr::Rtmr0), (14, 10));
    assert_eq!(rows(Edk2::Stable202411, Rtmr::Rtmr0), (14, 9));
    // All match but the kernel; under the newer release, the separator shifts the rest.
    assert_eq!(rows(Edk2::Stable202408, Rtmr::Rtmr1), (4, 3));
    assert_eq!(rows(Edk2::Stable202411, Rtmr::Rtmr1), (5, 1));
}
