//! Predicts RTMR0, the platform's configuration, as a list of events: TDX firmware under QEMU with direct boot.
//!
//! The register differs from machine to machine, so it is judged event by event. The list and its order are edk2's
//! (`OvmfPkg`, `SecurityPkg/Tcg`). ACPI and SMBIOS digests are arguments, because they depend on QEMU, on every device and on
//! where the firmware puts the tables: see [`PlatformDigests::of_tables`].

use sha2::{Digest, Sha384};
use thiserror::Error;

use super::{
    boot_variables::BootApplications,
    event::{PredictedEvent, Provenance, Rtmr, event_type},
    hob::{self, HobError},
    rtmr::{Edk2, separator},
    smbios::{self, ProcessorId, SmbiosError},
    tdvf::{Section, Tdvf},
};
use crate::guid::Guid;

pub(crate) const GLOBAL_VARIABLE: Guid = Guid::parse("8be4df61-93ca-11d2-aa0d-00e098032b8c");
const IMAGE_SECURITY_DATABASE: Guid = Guid::parse("d719b2cb-3d3a-4596-a3bc-dad00e67656f");
const TD_HOB_TABLE: Guid = Guid::parse("93bb96af-b9f2-4eb8-9462-e0ba74564236");

/// Why RTMR0 cannot be predicted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Rtmr0Error {
    /// The memory does not fit the firmware.
    #[error("cannot predict the TD hand-off block")]
    Hob(#[from] HobError),
    /// The firmware has no variable store, although all known firmware measures one.
    #[error("the firmware has no configuration volume: its RTMR0 is not that of OVMF")]
    NoVariableStore,
}

/// The properties of a virtual machine on which RTMR0 depends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// RAM in bytes.
    pub memory: u64,
    /// Release of the firmware.
    pub edk2: Edk2,
    /// QEMU's fw_cfg items for the firmware.
    pub fw_cfg: FwCfg,
    /// State of secure boot in the (otherwise blank) variable store.
    pub secure_boot: SecureBoot,
    /// The firmware's applications that appear as boot options.
    pub boot_applications: BootApplications,
    /// Digests of the tables that QEMU generates.
    pub platform: PlatformDigests,
}

impl Machine {
    /// Returns the simulator's platform: our locked firmware (edk2 stable202508 or later, built with secure boot, blank
    /// variable store) with `memory` bytes of RAM, and [`simulated_platform_digests`].
    #[must_use]
    pub fn simulated(memory: u64) -> Self {
        Self {
            memory,
            edk2: Edk2::Stable202508,
            fw_cfg: FwCfg::direct_boot(),
            secure_boot: SecureBoot::Off,
            boot_applications: BootApplications::BootManagerMenu,
            platform: simulated_platform_digests(),
        }
    }
}

/// QEMU's fw_cfg items that firmware measures; `None` means that QEMU does not offer the item.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FwCfg {
    /// `etc/extra-pci-roots`: present with expander bridges.
    pub extra_pci_roots: Option<u64>,
    /// `BootMenu`: always present.
    pub boot_menu: u16,
    /// `etc/boot-menu-wait`: milliseconds.
    pub boot_menu_wait: Option<u16>,
    /// `etc/reserved-memory-end`: present with hot-pluggable memory.
    pub reserved_memory_end: Option<u64>,
    /// `opt/ovmf/X-PciMmio64Mb`: the text of QEMU's option, without a terminating NUL.
    pub pci_mmio64_mb: Option<Vec<u8>>,
    /// `bootorder`, with its terminating NUL.
    pub boot_order: Option<Vec<u8>>,
}

impl FwCfg {
    /// Returns the items that QEMU offers for `-kernel` without any bootindex.
    #[must_use]
    pub fn direct_boot() -> Self {
        Self {
            boot_order: Some(b"/rom@genroms/linuxboot_dma.bin\0".to_vec()),
            ..Self::default()
        }
    }

    /// Sets the 64-bit MMIO window for the BARs of a GPU, in MiB, as `-fw_cfg name=opt/ovmf/X-PciMmio64Mb,string=N` does.
    /// `None` leaves the firmware's default.
    #[must_use]
    pub fn with_window(self, mmio64_mib: Option<u32>) -> Self {
        Self {
            pci_mmio64_mb: mmio64_mib.map(|mib| mib.to_string().into_bytes()),
            ..self
        }
    }

    fn events(&self) -> Vec<PredictedEvent> {
        // In the order in which the firmware measures them.
        let items = [
            (
                "etc/extra-pci-roots",
                self.extra_pci_roots.map(|n| n.to_le_bytes().to_vec()),
            ),
            ("BootMenu", Some(self.boot_menu.to_le_bytes().to_vec())),
            (
                "etc/boot-menu-wait",
                self.boot_menu_wait.map(|n| n.to_le_bytes().to_vec()),
            ),
            (
                "etc/reserved-memory-end",
                self.reserved_memory_end.map(|n| n.to_le_bytes().to_vec()),
            ),
            ("opt/ovmf/X-PciMmio64Mb", self.pci_mmio64_mb.clone()),
            ("bootorder", self.boot_order.clone()),
        ];
        let event = |(name, item): (&str, Option<Vec<u8>>)| {
            let digest = Sha384::digest(item?).into();
            let mut data = b"QEMU FW CFG\0".to_vec();
            data.extend(name.as_bytes());
            data.resize(12 + 56, 0);
            let name = format!("QEMU setting {name}");
            Some(PredictedEvent::of_digest(
                Rtmr::Rtmr0,
                event_type::PLATFORM_CONFIG_FLAGS,
                name,
                digest,
                data,
            ))
        };
        items.into_iter().filter_map(event).collect()
    }
}

/// The value of the variable `SecureBoot` with a blank variable store; the keys are absent in each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecureBoot {
    /// The firmware was built without secure boot: the variable is absent.
    NotBuilt,
    /// The firmware was built with secure boot, which is off without keys: the variable is one zero byte.
    Off,
}

/// A digest that the caller supplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenDigest {
    /// SHA-384 digest.
    pub digest: [u8; 48],
    /// Where the digest comes from.
    pub provenance: Provenance,
}

/// Digests of the tables that QEMU generates, which cannot be computed from the artefacts alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformDigests {
    /// Digest of fw_cfg `etc/table-loader`.
    pub acpi_loader: GivenDigest,
    /// Digest of fw_cfg `etc/acpi/rsdp`.
    pub acpi_rsdp: GivenDigest,
    /// Digest of fw_cfg `etc/acpi/tables`.
    pub acpi_tables: GivenDigest,
    /// Digest of the filtered SMBIOS structure table; measured since edk2 stable202505.
    pub smbios: GivenDigest,
}

/// The tables that QEMU generates, as one machine's firmware saw them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlatformTables<'a> {
    /// fw_cfg `etc/table-loader`, whole.
    pub acpi_loader: &'a [u8],
    /// fw_cfg `etc/acpi/rsdp`, whole, before the table loader's script ran on it.
    pub acpi_rsdp: &'a [u8],
    /// fw_cfg `etc/acpi/tables`, whole, before the table loader's script ran on it.
    pub acpi_tables: &'a [u8],
    /// The SMBIOS structure table that the firmware published, its own structures included, unfiltered.
    pub smbios: &'a [u8],
}

impl PlatformTables<'_> {
    /// Names of the tables' files, in the order of the fields.
    pub const FILES: [&'static str; 4] = [
        "acpi-loader.bin",
        "acpi-rsdp.bin",
        "acpi-tables.bin",
        "smbios.bin",
    ];
}

impl PlatformDigests {
    /// Returns the digests of `tables` on a machine with `processor`.
    ///
    /// `tables` must not come from the machine under appraisal. They come from an emulated machine with the same
    /// configuration, run by the signer of the manifest.
    ///
    /// # Errors
    /// [`SmbiosError`] when the SMBIOS table is not sound.
    pub fn of_tables(
        tables: &PlatformTables<'_>,
        processor: ProcessorId,
    ) -> Result<Self, SmbiosError> {
        let computed = |bytes: &[u8]| GivenDigest {
            digest: Sha384::digest(bytes).into(),
            provenance: Provenance::Computed,
        };
        Ok(Self {
            acpi_loader: computed(tables.acpi_loader),
            acpi_rsdp: computed(tables.acpi_rsdp),
            acpi_tables: computed(tables.acpi_tables),
            smbios: computed(&smbios::measured(tables.smbios, processor)?),
        })
    }
}

/// Returns the simulator's placeholders for ACPI and SMBIOS digests, each the SHA-384 of a text that says so.
///
/// They are constants, equal on every machine, and **no hardware ever measures them**: a manifest that holds them
/// describes the simulator's platform and nothing else.
#[must_use]
pub fn simulated_platform_digests() -> PlatformDigests {
    let stand_in = |table: &str| GivenDigest {
        digest: Sha384::digest(format!("cocoon simulated platform: {table}")).into(),
        provenance: Provenance::Simulated,
    };
    PlatformDigests {
        acpi_loader: stand_in("etc/table-loader"),
        acpi_rsdp: stand_in("etc/acpi/rsdp"),
        acpi_tables: stand_in("etc/acpi/tables"),
        smbios: stand_in("SMBIOS"),
    }
}

/// Returns all events that `firmware` extends into RTMR0 on `machine`, in order.
///
/// # Errors
/// [`Rtmr0Error`] when the firmware and the memory do not fit, or there is no variable store.
pub fn rtmr0(firmware: &Tdvf<'_>, machine: &Machine) -> Result<Vec<PredictedEvent>, Rtmr0Error> {
    let store = firmware
        .configuration_volume()
        .ok_or(Rtmr0Error::NoVariableStore)?;
    let mut events = vec![
        hob_event(firmware, machine.memory)?,
        store_event(firmware, store),
    ];
    if machine.edk2 >= Edk2::Stable202505 {
        events.extend(machine.fw_cfg.events());
    }
    events.extend(secure_boot_events(machine.secure_boot));
    events.push(separator(Rtmr::Rtmr0));
    let platform = &machine.platform;
    let acpi = [
        ("loader", platform.acpi_loader),
        ("RSDP", platform.acpi_rsdp),
        ("tables", platform.acpi_tables),
    ];
    for (name, given) in acpi {
        let name = format!("ACPI {name}");
        events.push(given_event(
            event_type::PLATFORM_CONFIG_FLAGS,
            name,
            given,
            b"ACPI DATA".to_vec(),
        ));
    }
    if machine.edk2 >= Edk2::Stable202505 {
        let name = "SMBIOS tables".to_owned();
        events.push(given_event(
            event_type::EFI_HANDOFF_TABLES,
            name,
            platform.smbios,
            smbios_pointers(),
        ));
    }
    events.extend(machine.boot_applications.events());
    if machine.edk2.boot_separator() == Rtmr::Rtmr0 {
        events.push(separator(Rtmr::Rtmr0));
    }
    Ok(events)
}

fn hob_event(firmware: &Tdvf<'_>, memory: u64) -> Result<PredictedEvent, HobError> {
    let digest = Sha384::digest(hob::td_hob(firmware, memory)?).into();
    let address = firmware.hob_section().map_or(0, |section| section.address);
    let mut data = b"\x09TdxTable\0".to_vec();
    data.extend(1_u64.to_le_bytes());
    data.extend(TD_HOB_TABLE.0);
    data.extend(address.to_le_bytes());
    let name = format!("memory map (TD hand-off block, {} MiB)", memory >> 20);
    Ok(PredictedEvent::of_digest(
        Rtmr::Rtmr0,
        event_type::EFI_HANDOFF_TABLES2,
        name,
        digest,
        data,
    ))
}

fn store_event(firmware: &Tdvf<'_>, store: &Section) -> PredictedEvent {
    let digest = Sha384::digest(firmware.data(store)).into();
    let mut data = b"\x29Fv(XXXXXXXX-XXXX-XXXX-XXXX-XXXXXXXXXXXX)\0".to_vec();
    data.extend(store.address.to_le_bytes());
    data.extend(store.memory_size.to_le_bytes());
    let kind = event_type::EFI_PLATFORM_FIRMWARE_BLOB2;
    PredictedEvent::of_digest(Rtmr::Rtmr0, kind, "variable store (CFV)", digest, data)
}

fn secure_boot_events(state: SecureBoot) -> impl Iterator<Item = PredictedEvent> {
    let secure_boot: &[u8] = match state {
        SecureBoot::NotBuilt => &[],
        SecureBoot::Off => &[0],
    };
    [
        (GLOBAL_VARIABLE, "SecureBoot", secure_boot),
        (GLOBAL_VARIABLE, "PK", &[]),
        (GLOBAL_VARIABLE, "KEK", &[]),
        (IMAGE_SECURITY_DATABASE, "db", &[]),
        (IMAGE_SECURITY_DATABASE, "dbx", &[]),
    ]
    .into_iter()
    .map(|(vendor, name, value)| {
        let data = variable_data(vendor, name, value);
        let kind = event_type::EFI_VARIABLE_DRIVER_CONFIG;
        PredictedEvent::of_data(Rtmr::Rtmr0, kind, format!("variable {name}"), data)
    })
}

/// Builds the `UEFI_VARIABLE_DATA` of the TCG profile.
pub(crate) fn variable_data(vendor: Guid, name: &str, value: &[u8]) -> Vec<u8> {
    let utf16: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut data = vendor.0.to_vec();
    data.extend((utf16.len() as u64 / 2).to_le_bytes());
    data.extend((value.len() as u64).to_le_bytes());
    data.extend(utf16);
    data.extend(value);
    data
}

fn given_event(event_type: u32, name: String, given: GivenDigest, data: Vec<u8>) -> PredictedEvent {
    let event = PredictedEvent::of_digest(Rtmr::Rtmr0, event_type, name, given.digest, data);
    PredictedEvent {
        provenance: given.provenance,
        ..event
    }
}

/// Builds the `EFI_HANDOFF_TABLE_POINTERS` of the SMBIOS table, whose entry point has the format of version 2 on QEMU's q35.
/// The table's address is left zero: it is not measured.
fn smbios_pointers() -> Vec<u8> {
    const SMBIOS_TABLE: Guid = Guid::parse("eb9d2d31-2d88-11d3-9a16-0090273fc14d");
    [&1_u64.to_le_bytes(), &SMBIOS_TABLE.0[..], &[0; 8]].concat()
}

#[cfg(test)]
mod tests;
