//! Predicts RTMR1 and RTMR2 of a directly booted kernel (`-kernel`, `-initrd`, `-append`) as lists of events.

use sha2::{Digest, Sha384};

use super::event::{PredictedEvent, Rtmr, event_type};
use crate::pe::{self, PeError};

/// edk2 releases that changed the measured events. Each includes the changes of earlier releases.
///
/// Firmware older than stable202502 measures the kernel with QEMU's changes: see
/// [`setup_header`](super::setup_header).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Edk2 {
    /// The separator before booting is measured into RTMR0. Earlier releases differ in more than is listed here: stable202211
    /// was seen to measure no ACPI tables.
    Stable202408,
    /// The separator before booting is measured into RTMR1.
    Stable202411,
    /// The kernel is taken from QEMU unpatched (QEMU 10.0 or later), so its file is what is measured.
    Stable202502,
    /// QEMU's fw_cfg items and SMBIOS tables are measured.
    Stable202505,
    /// `initrd=initrd` precedes the command line instead of following it.
    Stable202508,
}

impl Edk2 {
    /// Returns whether the firmware takes the unchanged kernel where QEMU (10.0 or later) offers it.
    pub(crate) const fn takes_unchanged_kernel(self) -> bool {
        matches!(
            self,
            Self::Stable202502 | Self::Stable202505 | Self::Stable202508
        )
    }

    /// Returns the register into which the separator before booting is measured.
    pub(crate) const fn boot_separator(self) -> Rtmr {
        match self {
            Self::Stable202408 => Rtmr::Rtmr0,
            _ => Rtmr::Rtmr1,
        }
    }
}

/// Returns the events that firmware from stable202411 on measures into RTMR1 for `kernel`, given in the form in which the
/// firmware gets it.
///
/// # Errors
/// [`PeError`] when the kernel is not an EFI executable.
pub fn rtmr1(kernel: &[u8]) -> Result<Vec<PredictedEvent>, PeError> {
    rtmr1_of(kernel, Edk2::Stable202411)
}

/// Returns the events that firmware of the release `edk2` measures into RTMR1 for `kernel`, given in the form in which the
/// firmware gets it (see [`setup_header::measured`](super::setup_header::measured)).
///
/// # Errors
/// [`PeError`] when the kernel is not an EFI executable.
pub fn rtmr1_of(kernel: &[u8], edk2: Edk2) -> Result<Vec<PredictedEvent>, PeError> {
    let action = |text: &'static str| {
        PredictedEvent::of_data(
            Rtmr::Rtmr1,
            event_type::EFI_ACTION,
            text,
            text.as_bytes().to_vec(),
        )
    };
    let mut events = vec![
        PredictedEvent::of_digest(
            Rtmr::Rtmr1,
            event_type::EFI_BOOT_SERVICES_APPLICATION,
            "kernel (Authenticode SHA-384)",
            pe::authenticode_sha384(kernel)?,
            image_load_event(kernel.len() as u64),
        ),
        action("Calling EFI Application from Boot Option"),
    ];
    if edk2.boot_separator() == Rtmr::Rtmr1 {
        events.push(separator(Rtmr::Rtmr1));
    }
    events.extend([
        action("Exit Boot Services Invocation"),
        action("Exit Boot Services Returned with Success"),
    ]);
    Ok(events)
}

/// Returns the events that the kernel's EFI stub measures into RTMR2: the command line as completed by the firmware, and
/// `initrd`.
///
/// Without an initrd (`None`), both its event and its token on the command line are absent.
#[must_use]
pub fn rtmr2(command_line: &str, initrd: Option<&[u8]>, edk2: Edk2) -> Vec<PredictedEvent> {
    let options = loaded_command_line(command_line, initrd.is_some(), edk2);
    let mut utf16: Vec<u8> = options.encode_utf16().flat_map(u16::to_le_bytes).collect();
    utf16.extend([0, 0]);
    let tag = |name, digest, id: u32, description: &[u8]| {
        PredictedEvent::of_digest(
            Rtmr::Rtmr2,
            event_type::EVENT_TAG,
            name,
            digest,
            tagged(id, description),
        )
    };
    let mut events = vec![tag(
        "kernel command line",
        Sha384::digest(utf16).into(),
        LOAD_OPTIONS_TAG,
        b"LOADED_IMAGE::LoadOptions\0",
    )];
    if let Some(initrd) = initrd {
        events.push(tag(
            "initrd",
            Sha384::digest(initrd).into(),
            INITRD_TAG,
            b"Linux initrd\0",
        ));
    }
    events
}

/// Returns the command line that the kernel receives and measures for the text after QEMU's `-append`.
#[must_use]
pub fn loaded_command_line(append: &str, with_initrd: bool, edk2: Edk2) -> String {
    match (with_initrd, edk2 >= Edk2::Stable202508) {
        (false, _) => append.to_owned(),
        (true, true) => format!("initrd=initrd {append}"),
        (true, false) => format!("{append} initrd=initrd"),
    }
}

pub(crate) fn separator(rtmr: Rtmr) -> PredictedEvent {
    PredictedEvent::of_data(rtmr, event_type::SEPARATOR, "separator", vec![0; 4])
}

/// Event tags from Linux, `drivers/firmware/efi/libstub/efistub.h`.
const INITRD_TAG: u32 = 0x8f3b_22ec;
const LOAD_OPTIONS_TAG: u32 = 0x8f3b_22ed;

fn tagged(id: u32, description: &[u8]) -> Vec<u8> {
    let length = u32::try_from(description.len()).unwrap_or(u32::MAX);
    [&id.to_le_bytes(), &length.to_le_bytes(), description].concat()
}

/// Builds the `EFI_IMAGE_LOAD_EVENT` of QEMU's kernel. The load address is left zero: it is not measured and differs from
/// boot to boot.
fn image_load_event(length: u64) -> Vec<u8> {
    // Vendor media node of edk2's QemuKernelLoaderFsDxe, a file path node "kernel", end of path.
    const PATH: &[u8] =
        b"\x04\x03\x14\0\x72\xf7\x28\x14\x4a\xb6\x1e\x44\xb8\xc3\x9e\xbd\xd7\xf8\x93\xc7\
        \x04\x04\x12\0k\0e\0r\0n\0e\0l\0\0\0\x7f\xff\x04\0";
    let mut event = [0_u64, length, 0, PATH.len() as u64]
        .map(u64::to_le_bytes)
        .concat();
    event.extend(PATH);
    event
}

#[cfg(test)]
mod tests {
    use super::{Edk2, loaded_command_line, rtmr1, rtmr1_of, rtmr2};
    use crate::{
        pe,
        tdx::event::{Rtmr, replay},
    };

    #[test]
    fn rtmr2_of_a_known_command_line_and_initrd() {
        let events = rtmr2(
            "console=ttyS0 root=/dev/vda",
            Some(&vec![b'A'; 1 << 20]),
            Edk2::Stable202508,
        );
        let registers = replay(events.iter().map(|event| (event.rtmr, &event.digest)));
        assert_eq!(
            hex::encode(registers[Rtmr::Rtmr2.index()]),
            "a24dddf7bd314134186a5dc96023261ad9afaa550a2b52590f9f4449dd1c544d17c4c547eb4e9483676d764155a60064"
        );
    }

    #[test]
    fn the_token_moved_and_needs_an_initrd() {
        assert_eq!(
            loaded_command_line("a b", true, Edk2::Stable202508),
            "initrd=initrd a b"
        );
        assert_eq!(
            loaded_command_line("a b", true, Edk2::Stable202505),
            "a b initrd=initrd"
        );
        assert_eq!(loaded_command_line("a b", false, Edk2::Stable202508), "a b");
        assert_eq!(rtmr2("a b", None, Edk2::Stable202508).len(), 1);
    }

    #[test]
    fn older_firmware_puts_its_separator_elsewhere() {
        let kernel = pe::tests::sample();
        let names = |edk2| -> Vec<_> {
            let events = rtmr1_of(&kernel, edk2).unwrap();
            events.into_iter().map(|event| event.name).collect()
        };
        let mut old = names(Edk2::Stable202408);
        old.insert(2, "separator".into());
        assert_eq!(old, names(Edk2::Stable202411));
        assert_eq!(old, names(Edk2::Stable202508));
    }

    /// The constant events of every direct boot, as hardware logged them.
    #[test]
    fn rtmr1_has_the_logged_steps() {
        let events = rtmr1(&pe::tests::sample()).unwrap();
        let prefixes: Vec<_> = events[1..]
            .iter()
            .map(|event| hex::encode(&event.digest[..12]))
            .collect();
        assert_eq!(
            prefixes,
            [
                "77a0dab2312b4e1e57a84d86",
                "394341b7182cd227c5c6b07e",
                "214b0bef1379756011344877",
                "0a2e01c85deae718a530ad8c"
            ]
        );
        assert_eq!(
            events[0].digest,
            pe::authenticode_sha384(&pe::tests::sample()).unwrap()
        );
    }
}
