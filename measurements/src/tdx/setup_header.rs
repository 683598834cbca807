//! Predicts the kernel as QEMU hands it to the firmware: the file itself, or with the boot loader's fields filled in.
//!
//! QEMU fills in the setup header of every Linux kernel that it loads (`hw/i386/x86-common.c`, `x86_load_linux`; fields of
//! the Linux/x86 boot protocol, `Documentation/arch/x86/boot.rst`). Firmware that takes the kernel in two pieces, setup and
//! rest, measures the changed file. Since QEMU 10.0 the unchanged file is available as `etc/boot/kernel`, which edk2 prefers
//! since stable202502. The changed fields depend on the memory and on the initrd's size, so one kernel file can have many
//! digests.

use std::borrow::Cow;

use thiserror::Error;

use super::{hob, rtmr::Edk2};
use crate::bytes::{Reader, Truncated};

const STRUCTURE: &str = "Linux setup header";
/// `HdrS`.
const MAGIC: u32 = 0x5372_6448;
/// First boot protocol with a command line pointer, and the oldest one that is predicted (Linux 2.4).
const OLDEST_PROTOCOL: u16 = 0x0202;
/// First boot protocol whose `xloadflags` say whether an initrd may lie anywhere below 4 GiB.
const XLOADFLAGS_PROTOCOL: u16 = 0x020c;
/// First boot protocol with `initrd_addr_max`.
const INITRD_MAX_PROTOCOL: u16 = 0x0203;

const VID_MODE: usize = 0x1fa;
const HEADER: usize = 0x202;
const VERSION: usize = 0x206;
const TYPE_OF_LOADER: usize = 0x210;
const LOADFLAGS: usize = 0x211;
const RAMDISK_IMAGE: usize = 0x218;
const RAMDISK_SIZE: usize = 0x21c;
const HEAP_END_PTR: usize = 0x224;
const CMD_LINE_PTR: usize = 0x228;
const INITRD_ADDR_MAX: usize = 0x22c;
const XLOADFLAGS: usize = 0x236;

/// QEMU's boot loader id (`type_of_loader`).
const QEMU: u8 = 0xb0;
/// Load flag: the protected-mode kernel belongs above 1 MiB.
const LOADED_HIGH: u8 = 0x01;
const CAN_USE_HEAP: u8 = 0x80;
const CAN_BE_LOADED_ABOVE_4G: u16 = 0x2;
/// Addresses of the setup code and of the command line under QEMU.
const REAL_ADDRESS: u32 = 0x1_0000;
const COMMAND_LINE_ADDRESS: u32 = 0x2_0000;
/// Bytes that q35 keeps free below the end of low memory for ACPI tables.
const ACPI_DATA: u64 = 0x2_8000;
const DEFAULT_INITRD_MAX: u64 = 0x37ff_ffff;

/// Form in which the firmware gets the kernel and measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KernelForm {
    /// The file as it is: QEMU 10.0 or later with edk2 stable202502 or later.
    #[default]
    Unchanged,
    /// The file with the fields of QEMU's boot loader: an older QEMU, or older firmware.
    SetupHeaderPatched,
}

impl KernelForm {
    /// Returns the form that results from this major version of QEMU and this firmware.
    #[must_use]
    pub const fn of(qemu_major: u32, edk2: Edk2) -> Self {
        if qemu_major >= 10 && edk2.takes_unchanged_kernel() {
            Self::Unchanged
        } else {
            Self::SetupHeaderPatched
        }
    }
}

/// Inputs of the patched fields, besides the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loading<'a> {
    /// RAM of the q35 machine in bytes.
    pub memory: u64,
    /// Size of the initrd file in bytes, if there is one.
    pub initrd: Option<u64>,
    /// Command line, as given after `-append`. Only a `vga=` in it changes the header.
    pub command_line: &'a str,
}

/// Why the patched kernel cannot be predicted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SetupHeaderError {
    /// The file ends within the header.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// The file is not a Linux kernel.
    #[error("Linux setup header: magic at offset 0x202 is {found:#x}: this is no Linux kernel")]
    Magic {
        /// Value found.
        found: u32,
    },
    /// The kernel is older than Linux 2.4 or meant for low memory, so QEMU loads it elsewhere.
    #[error(
        "Linux setup header: boot protocol {version:#06x} with load flags {flags:#04x}; 0x0202 or later, loaded high, expected"
    )]
    Protocol {
        /// Version of the boot protocol.
        version: u16,
        /// Load flags of the kernel.
        flags: u8,
    },
    /// The initrd does not fit: QEMU would not start such a machine.
    #[error(
        "an initrd of {initrd} bytes does not fit below {limit:#x}: give the machine more memory"
    )]
    Initrd {
        /// Size of the initrd in bytes.
        initrd: u64,
        /// Highest address for the last byte of the initrd.
        limit: u64,
    },
    /// The `vga=` mode is invalid: QEMU would not start with it.
    #[error("the command line's vga={mode:?} is neither normal, ext, ask nor a number")]
    VideoMode {
        /// Text after `vga=`, cut to 16 characters.
        mode: String,
    },
}

/// Returns `kernel` as the firmware measures it.
///
/// # Errors
/// [`SetupHeaderError`] when the header is not one that QEMU patches, or QEMU would refuse the combination. The
/// unchanged form never fails.
pub fn measured<'a>(
    kernel: &'a [u8],
    form: KernelForm,
    loading: &Loading<'_>,
) -> Result<Cow<'a, [u8]>, SetupHeaderError> {
    match form {
        KernelForm::Unchanged => Ok(Cow::Borrowed(kernel)),
        KernelForm::SetupHeaderPatched => patched(kernel, loading).map(Cow::Owned),
    }
}

fn patched(kernel: &[u8], loading: &Loading<'_>) -> Result<Vec<u8>, SetupHeaderError> {
    let at = |offset| Reader::at(STRUCTURE, kernel, offset);
    let found = at(HEADER).u32()?;
    if found != MAGIC {
        return Err(SetupHeaderError::Magic { found });
    }
    let version = at(VERSION).u16()?;
    let [flags] = at(LOADFLAGS).array()?;
    if version < OLDEST_PROTOCOL || flags & LOADED_HIGH == 0 {
        return Err(SetupHeaderError::Protocol { version, flags });
    }
    // The highest field that is read or written, so that every write below lies within the file.
    let xloadflags = at(XLOADFLAGS).u16()?;
    let initrd_max = if version >= XLOADFLAGS_PROTOCOL && xloadflags & CAN_BE_LOADED_ABOVE_4G != 0 {
        u32::MAX.into()
    } else if version >= INITRD_MAX_PROTOCOL {
        at(INITRD_ADDR_MAX).u32()?.into()
    } else {
        DEFAULT_INITRD_MAX
    };

    let mut kernel = kernel.to_vec();
    let mut put = |offset: usize, value: &[u8]| {
        if let Some(field) = kernel.get_mut(offset..offset + value.len()) {
            field.copy_from_slice(value);
        }
    };
    put(CMD_LINE_PTR, &COMMAND_LINE_ADDRESS.to_le_bytes());
    if let Some(mode) = video_mode(loading.command_line)? {
        put(VID_MODE, &mode.to_le_bytes());
    }
    put(TYPE_OF_LOADER, &[QEMU]);
    put(LOADFLAGS, &[flags | CAN_USE_HEAP]);
    let heap = COMMAND_LINE_ADDRESS - REAL_ADDRESS - 0x200;
    put(HEAP_END_PTR, &heap.to_le_bytes()[..2]);
    if let Some(size) = loading.initrd {
        let free = hob::low_memory(loading.memory).saturating_sub(ACPI_DATA);
        let limit = initrd_max.min(free.saturating_sub(1));
        let fields = limit
            .checked_sub(size)
            .filter(|room| *room > 0)
            .and_then(|room| {
                Some((
                    u32::try_from(room & !0xfff).ok()?,
                    u32::try_from(size).ok()?,
                ))
            });
        let Some((address, size)) = fields else {
            return Err(SetupHeaderError::Initrd {
                initrd: size,
                limit,
            });
        };
        put(RAMDISK_IMAGE, &address.to_le_bytes());
        put(RAMDISK_SIZE, &size.to_le_bytes());
    }
    Ok(kernel)
}

/// Returns the mode that QEMU reads after the first `vga=`, wherever it stands.
fn video_mode(command_line: &str) -> Result<Option<u16>, SetupHeaderError> {
    let Some((_, rest)) = command_line.split_once("vga=") else {
        return Ok(None);
    };
    for (name, mode) in [("normal", 0xffff), ("ext", 0xfffe), ("ask", 0xfffd)] {
        if rest.starts_with(name) {
            return Ok(Some(mode));
        }
    }
    let text = rest.split(' ').next().unwrap_or_default();
    let number = match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8),
        None => text.parse(),
    };
    let number = number.map_err(|_| SetupHeaderError::VideoMode {
        mode: text.chars().take(16).collect(),
    })?;
    // The field has 16 bits, and QEMU stores the low ones.
    let [low, high, ..] = number.to_le_bytes();
    Ok(Some(u16::from_le_bytes([low, high])))
}

#[cfg(test)]
mod tests;
