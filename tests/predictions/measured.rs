//! Compares RTMR0 to RTMR2 with OVMF: every event that firmware and kernel measure in a real boot must be the predicted one.
//!
//! The firmware measures into a TPM here. Events that exist only in a trust domain are left out: the hand-off block,
//! the variable store as a whole, and QEMU's settings, whose values are still checked where the guest can read them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use cocoon_measurements::ccel::{EventLog, LoggedEvent, compare, encode};
use cocoon_measurements::tdx::boot_variables::BootApplications;
use cocoon_measurements::tdx::event::{PredictedEvent, Rtmr, event_type};
use cocoon_measurements::tdx::mrtd::PageOrder;
use cocoon_measurements::tdx::rtmr::Edk2;
use cocoon_measurements::tdx::rtmr0::{
    FwCfg, Machine, PlatformDigests, PlatformTables, SecureBoot,
};
use cocoon_measurements::tdx::setup_header::{self, KernelForm, Loading};
use cocoon_measurements::tdx::smbios::ProcessorId;
use cocoon_measurements::tdx::{DirectBoot, predict};
use sha2::{Digest as _, Sha384};

use crate::artefacts::Artefacts;
use crate::boot::{Boot, Firmware, Programs};
use crate::event_log::{self, TpmEvent, as_in_a_trust_domain, parse};
use crate::tools::read;

const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";
/// Prefix of the data of every event about a QEMU setting.
const SETTING: &[u8] = b"QEMU FW CFG\0";

/// A build of OVMF, and its particular settings.
pub struct Build {
    /// Firmware to boot.
    pub firmware: Firmware,
    /// File used for the prediction. Only events of trust domains depend on it.
    pub predicted_from: PathBuf,
    pub edk2: Edk2,
    pub secure_boot: SecureBoot,
    pub boot_applications: BootApplications,
    /// Whether SMBIOS is measured after everything else. That depends on the order in which drivers start: in a build
    /// with system management mode, the TPM's driver starts later.
    pub smbios_last: bool,
    /// Whether the firmware measures QEMU's ACPI tables; firmware of 2022 does not.
    pub acpi: bool,
    pub vcpus: u16,
    pub memory_mib: u32,
    /// Size in MiB of the 64-bit window for a GPU; `None` for a machine without a GPU's port.
    pub mmio64_mib: Option<u32>,
}

/// Boots `build`, and compares what it measured with the prediction.
pub async fn check(artefacts: &Artefacts, programs: &Programs, build: Build) -> anyhow::Result<()> {
    let initrd = programs.initrd(artefacts)?;
    let (kernel, firmware) = (read(&artefacts.kernel)?, read(&build.predicted_from)?);
    let report = programs
        .run(&Boot {
            firmware: build.firmware,
            kernel: &artefacts.kernel,
            initrd: &initrd,
            command_line: COMMAND_LINE,
            vcpus: build.vcpus,
            memory_mib: build.memory_mib,
            mmio64_mib: build.mmio64_mib,
        })
        .await?;
    let tpm = parse(&report["log"])?;
    log_is_the_tpms(&tpm, &report)?;
    let separator = if build.edk2 >= Edk2::Stable202411 {
        4
    } else {
        1
    };
    let tpm_log = Sha384::digest(&report["etc/tpm/log"]).into();
    let found = as_in_a_trust_domain(tpm, separator, build.acpi.then_some(tpm_log))?;

    let memory = u64::from(build.memory_mib) << 20;
    let form = KernelForm::of(programs.qemu_major(), build.edk2);
    println!("the kernel's form: {form:?}");
    let loading = Loading {
        memory,
        initrd: Some(initrd.len() as u64),
        command_line: COMMAND_LINE,
    };
    let kernel = setup_header::measured(&kernel, form, &loading)?;
    let machine = Machine {
        memory,
        edk2: build.edk2,
        fw_cfg: FwCfg::direct_boot().with_window(build.mmio64_mib),
        secure_boot: build.secure_boot,
        boot_applications: build.boot_applications,
        platform: platform(&report)?,
    };
    let boot = DirectBoot {
        firmware: &firmware,
        kernel: &kernel,
        initrd: Some(&initrd),
        command_line: COMMAND_LINE,
    };
    let predicted = |boot: &DirectBoot<'_>, machine: &Machine| -> anyhow::Result<_> {
        let mut events = predict(boot, machine, PageOrder::SinglePass)?.events;
        let (settings, rest) = events
            .into_iter()
            .partition(|event| event.data.starts_with(SETTING));
        events = rest;
        events.retain(|event| !of_trust_domains(event) && (build.acpi || !is_acpi(event)));
        if build.smbios_last {
            events.sort_by_key(|event| event.event_type == event_type::EFI_HANDOFF_TABLES);
        }
        anyhow::Ok((settings, events))
    };
    let (settings, expected) = predicted(&boot, &machine)?;
    settings_are_qemus(&settings, &report)?;
    assert_eq!(
        differing(&found, &expected, true)?,
        [""; 0],
        "the prediction is wrong"
    );
    data_are_those_logged(&found, &expected);

    // The comparison detects differences, and names them.
    let other = DirectBoot {
        command_line: "console=ttyS0 quiet panic=-2",
        ..boot
    };
    assert_eq!(
        differing(&found, &predicted(&other, &machine)?.1, false)?,
        ["kernel command line"]
    );
    let other = DirectBoot {
        initrd: Some(&initrd[1..]),
        ..boot
    };
    assert_eq!(
        differing(&found, &predicted(&other, &machine)?.1, false)?,
        ["initrd"]
    );
    let other = match build.secure_boot {
        SecureBoot::Off => SecureBoot::NotBuilt,
        SecureBoot::NotBuilt => SecureBoot::Off,
    };
    let other = Machine {
        secure_boot: other,
        ..machine
    };
    assert_eq!(
        differing(&found, &predicted(&boot, &other)?.1, false)?,
        ["variable SecureBoot"]
    );
    Ok(())
}

/// Asserts that the log from the kernel replays to the TPM's registers.
fn log_is_the_tpms(log: &[TpmEvent], report: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<()> {
    for pcr in 0..10 {
        let held = std::str::from_utf8(&report[&format!("pcr/{pcr}")])?
            .trim()
            .to_lowercase();
        assert_eq!(hex::encode(event_log::replay(log, pcr)), held, "PCR {pcr}");
    }
    Ok(())
}

/// Returns the digests of the tables that QEMU generated, as the guest of this boot read them.
fn platform(report: &BTreeMap<String, Vec<u8>>) -> anyhow::Result<PlatformDigests> {
    let tables = PlatformTables {
        acpi_loader: &report["etc/table-loader"],
        acpi_rsdp: &report["etc/acpi/rsdp"],
        acpi_tables: &report["etc/acpi/tables"],
        smbios: &report["smbios"],
    };
    let processor = processor(tables.smbios).context("no processor in the SMBIOS table")?;
    Ok(PlatformDigests::of_tables(&tables, processor)?)
}

/// Returns the processor described by the first processor structure in the SMBIOS table.
fn processor(mut table: &[u8]) -> Option<ProcessorId> {
    while table.first()? != &4 {
        let strings = table.get(usize::from(*table.get(1)?)..)?;
        let end = strings.windows(2).position(|pair| pair == [0, 0])?;
        table = &strings[end + 2..];
    }
    let number = |at| Some(u32::from_le_bytes(table.get(at..at + 4)?.try_into().ok()?));
    Some(ProcessorId {
        signature: number(8)?,
        features: number(12)?,
    })
}

fn is_acpi(event: &PredictedEvent) -> bool {
    event.data == b"ACPI DATA"
}

/// Returns whether firmware measures this event only in a trust domain.
fn of_trust_domains(event: &PredictedEvent) -> bool {
    [
        event_type::EFI_HANDOFF_TABLES2,
        event_type::EFI_PLATFORM_FIRMWARE_BLOB2,
    ]
    .contains(&event.event_type)
}

/// Asserts that QEMU's settings are the predicted ones: each has the predicted bytes, and no other one is present.
fn settings_are_qemus(
    predicted: &[PredictedEvent],
    report: &BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<()> {
    let names = std::str::from_utf8(&report["names"])?;
    let offered: Vec<_> = [
        "etc/extra-pci-roots",
        "etc/boot-menu-wait",
        "etc/reserved-memory-end",
        "opt/ovmf/X-PciMmio64Mb",
        "bootorder",
    ]
    .into_iter()
    .filter(|name| names.lines().any(|line| line == *name))
    .collect();
    let mut expected = Vec::new();
    for event in predicted {
        let name = event.name.trim_start_matches("QEMU setting ");
        // BootMenu has a number instead of a name, so the guest's kernel does not show it.
        if name != "BootMenu" {
            expected.push(name);
            assert_eq!(
                event.digest[..],
                Sha384::digest(&report[name])[..],
                "{name}"
            );
        }
    }
    // Firmware before stable202505 measures no settings, although QEMU offers them.
    if predicted.is_empty() {
        expected.push("bootorder");
    }
    assert_eq!(offered, expected, "among {names}");
    Ok(())
}

/// Returns the names of the predicted events that are not found in their positions, and prints every position if
/// `print` is set. The events pass through the same code as those of a trust domain.
fn differing(
    found: &[(Rtmr, TpmEvent)],
    expected: &[PredictedEvent],
    print: bool,
) -> anyhow::Result<Vec<String>> {
    let logged = found.iter().map(|(rtmr, event)| LoggedEvent {
        rtmr: *rtmr,
        event_type: event.event_type,
        digest: event.digest,
        data: &event.data,
    });
    let log = encode(logged)?;
    let log = EventLog::parse(&log)?;
    let mut differing = Vec::new();
    for rtmr in Rtmr::ALL {
        for row in compare(&log, expected, rtmr) {
            let name = row.expected.map_or("nothing", |event| &event.name);
            let digest = row
                .found
                .map_or("nothing".into(), |event| hex::encode(event.digest));
            if print {
                println!("{rtmr:?} {} {name}: {digest}", row.position);
            }
            if !row.matches() {
                differing.push(name.to_owned());
            }
        }
    }
    Ok(differing)
}

/// Asserts that the logged data are the predicted ones, except for addresses, which differ from boot to boot.
fn data_are_those_logged(found: &[(Rtmr, TpmEvent)], expected: &[PredictedEvent]) {
    for rtmr in Rtmr::ALL {
        let found = found
            .iter()
            .filter(|(of, _)| *of == rtmr)
            .map(|(_, event)| event);
        let expected = expected.iter().filter(|event| event.rtmr == rtmr);
        for (found, expected) in found.zip(expected) {
            let known = match expected.event_type {
                event_type::EFI_BOOT_SERVICES_APPLICATION => 8..expected.data.len(),
                event_type::EFI_HANDOFF_TABLES => 0..8,
                _ => 0..expected.data.len(),
            };
            assert_eq!(found.event_type, expected.event_type, "{}", expected.name);
            assert_eq!(found.data.len(), expected.data.len(), "{}", expected.name);
            assert_eq!(
                found.data[known.clone()],
                expected.data[known],
                "{}",
                expected.name
            );
        }
    }
}
