//! Events that firmware and kernel extend into the runtime registers, and the extend operation.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha384};

/// Event types of the TCG PC Client Platform Firmware Profile that a TDX boot uses.
pub mod event_type {
    /// Not extended into any register.
    pub const NO_ACTION: u32 = 3;
    /// The end of the firmware's configuration.
    pub const SEPARATOR: u32 = 4;
    /// A record of the operating system's loader.
    pub const EVENT_TAG: u32 = 6;
    /// Platform configuration: fw_cfg items and ACPI tables.
    pub const PLATFORM_CONFIG_FLAGS: u32 = 0xa;
    /// A variable that configures secure boot.
    pub const EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
    /// A variable that configures booting.
    pub const EFI_VARIABLE_BOOT: u32 = 0x8000_0002;
    /// An executable that is started.
    pub const EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
    /// A named step of the boot.
    pub const EFI_ACTION: u32 = 0x8000_0007;
    /// Configuration tables, such as SMBIOS.
    pub const EFI_HANDOFF_TABLES: u32 = 0x8000_0009;
    /// Code or data of the firmware, with a description.
    pub const EFI_PLATFORM_FIRMWARE_BLOB2: u32 = 0x8000_000a;
    /// Configuration tables with a description, such as the TD hand-off block.
    pub const EFI_HANDOFF_TABLES2: u32 = 0x8000_000b;
}

/// A runtime measurement register of a trust domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rtmr {
    /// The platform's configuration, as the firmware saw it.
    Rtmr0,
    /// The boot path: kernel and the firmware's steps.
    Rtmr1,
    /// Command line and initrd.
    Rtmr2,
    /// Left to the running system; our image does not use it.
    Rtmr3,
}

impl Rtmr {
    /// All registers, in order.
    pub const ALL: [Self; 4] = [Self::Rtmr0, Self::Rtmr1, Self::Rtmr2, Self::Rtmr3];

    /// Returns the register's number, 0 to 3.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Where a predicted digest comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// Computed from the artefacts.
    Computed,
    /// Valid for the simulator's platform only; no hardware measures it.
    Simulated,
}

/// One expected event, in its position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictedEvent {
    /// Register that the event extends.
    pub rtmr: Rtmr,
    /// One of [`event_type`]; informative, never compared.
    pub event_type: u32,
    /// Description of what is hashed, for people.
    pub name: Cow<'static, str>,
    /// SHA-384 digest that extends the register.
    #[serde(with = "hex::serde")]
    pub digest: [u8; 48],
    /// Data that the event log shows beside the digest; often not what was hashed.
    #[serde(with = "hex::serde")]
    pub data: Vec<u8>,
    /// Where the digest comes from.
    pub provenance: Provenance,
}

impl PredictedEvent {
    /// Returns a computed event whose logged data are what is hashed.
    pub(crate) fn of_data(
        rtmr: Rtmr,
        event_type: u32,
        name: impl Into<Cow<'static, str>>,
        data: Vec<u8>,
    ) -> Self {
        let digest = Sha384::digest(&data).into();
        Self {
            rtmr,
            event_type,
            name: name.into(),
            digest,
            data,
            provenance: Provenance::Computed,
        }
    }

    /// Returns a computed event whose logged data are not what is hashed.
    pub(crate) fn of_digest(
        rtmr: Rtmr,
        event_type: u32,
        name: impl Into<Cow<'static, str>>,
        digest: [u8; 48],
        data: Vec<u8>,
    ) -> Self {
        Self {
            rtmr,
            event_type,
            name: name.into(),
            digest,
            data,
            provenance: Provenance::Computed,
        }
    }
}

/// Returns the value of `register` after it was extended with `digest`.
#[must_use]
pub fn extend(register: &[u8; 48], digest: &[u8; 48]) -> [u8; 48] {
    Sha384::new()
        .chain_update(register)
        .chain_update(digest)
        .finalize()
        .into()
}

/// Returns the four registers after `events` in their order, starting from zeroes.
pub fn replay<'a>(events: impl IntoIterator<Item = (Rtmr, &'a [u8; 48])>) -> [[u8; 48]; 4] {
    let mut registers = [[0; 48]; 4];
    for (rtmr, digest) in events {
        let register = &mut registers[rtmr.index()];
        *register = extend(register, digest);
    }
    registers
}
