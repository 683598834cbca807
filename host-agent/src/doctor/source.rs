//! What a probe may ask of a machine: small traits, so that captured machines can answer in tests.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cocoon_measurements::snp::report::TcbVersion;
use sev::firmware::host::SnpPlatformStatus;

/// The largest file that is read, in bytes: `/proc/cpuinfo` of the largest machines.
pub const MAX_FILE: u64 = 4 << 20;

/// Why a question has no answer.
pub type Refusal = io::ErrorKind;

/// Files of procfs, sysfs, devtmpfs and `/etc`.
pub trait Files {
    /// The first [`MAX_FILE`] bytes of a file.
    ///
    /// # Errors
    /// Why there are none.
    fn read(&self, path: &str) -> Result<Vec<u8>, Refusal>;

    /// The names in a folder, in order; none when it is not there.
    fn list(&self, path: &str) -> Vec<String>;

    /// The last part of a symbolic link's target: the driver of a device, for example.
    fn link(&self, path: &str) -> Option<String>;

    /// Whether a device can be opened for reading and writing.
    ///
    /// # Errors
    /// Why not.
    fn open(&self, path: &str) -> Result<(), Refusal>;

    /// A file's text without the white space around it; `None` when there is none.
    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.read(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

/// Everything else: programs, sockets, processor registers, the clock.
pub trait World: Files {
    /// Runs a program to its end, within seconds; its output is bounded.
    ///
    /// # Errors
    /// Why it did not run or did not end.
    fn run(&self, command: &[&str]) -> Result<Ran, Refusal>;

    /// CPUID of this processor: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32) -> [u32; 4];

    /// A model-specific register of the first processor; needs root and the `msr` module.
    fn msr(&self, register: u32) -> Option<u64>;

    /// What AMD's secure processor says of itself (`SNP_PLATFORM_STATUS`, through `/dev/sev`).
    ///
    /// # Errors
    /// Why it says nothing.
    fn snp_status(&self) -> Result<SnpStatus, String>;

    /// Whether somebody answers there.
    ///
    /// # Errors
    /// Why nobody does.
    fn connect(&self, to: &Peer) -> Result<(), Refusal>;

    /// Whether a listener could be opened there.
    ///
    /// # Errors
    /// Why not.
    fn listen(&self, address: SocketAddr) -> Result<(), Refusal>;

    /// Free bytes on the disk of a folder, or of the nearest one above it that exists.
    fn free(&self, folder: &Path) -> Option<u64>;

    /// Seconds since 1970.
    fn now(&self) -> u64;
}

/// What AMD's secure processor says of itself (AMD 56860, table of `SNP_PLATFORM_STATUS`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpStatus {
    /// The firmware's interface, major and minor, and build.
    pub firmware: (u8, u8, u32),
    /// Whether it has looked for aliases in memory since the last reset, and found none.
    pub alias_check: bool,
    /// Whether reports leave out the chip's identity.
    pub chip_id_masked: bool,
    /// Whether reports are left unsigned.
    pub chip_key_masked: bool,
    /// Whether a provider's key (VLEK) is loaded: it signs instead of the chip's own.
    pub provider_key: bool,
    /// The patch levels that reports state.
    pub reported: TcbVersion,
}

impl From<&SnpPlatformStatus> for SnpStatus {
    fn from(status: &SnpPlatformStatus) -> Self {
        let (init, policy) = (&status.is_rmp_init, &status.platform_policy);
        let reported = &status.reported_tcb_version;
        Self {
            firmware: (status.version.0, status.version.1, status.build_id),
            alias_check: init.alias_check_complete(),
            chip_id_masked: policy.mask_chip_id(),
            chip_key_masked: policy.mask_chip_key(),
            provider_key: policy.vlek_en(),
            reported: TcbVersion {
                fmc: reported.fmc,
                bootloader: reported.bootloader,
                tee: reported.tee,
                snp: reported.snp,
                microcode: reported.microcode,
            },
        }
    }
}

/// Somebody who may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// On a unix socket.
    Unix(PathBuf),
    /// On a vsock address.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// On a TCP address of this machine.
    Tcp(SocketAddr),
}

/// A program that came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whether it said that all went well.
    pub success: bool,
    /// What it wrote on standard output and standard error, within limits.
    pub output: String,
}

#[cfg(test)]
mod tests {
    use sev::Generation;
    use sev::parser::ByteParser;

    use super::*;

    /// AMD 56860, structure of `SNP_PLATFORM_STATUS`: API, state, initialised, build, masks, guests, current and reported TCB.
    const STATUS: [u8; 32] = [
        1, 55, 1, 0, 40, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17,
        0x18, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28,
    ];

    fn status(edit: impl FnOnce(&mut [u8; 32]), generation: Generation) -> SnpStatus {
        let mut bytes = STATUS;
        edit(&mut bytes);
        SnpStatus::from(&SnpPlatformStatus::from_bytes_with(&bytes, generation).unwrap())
    }

    #[test]
    fn the_secure_processors_bytes_are_read_where_amd_puts_them() {
        let genoa = SnpStatus {
            firmware: (1, 55, 40),
            alias_check: false,
            chip_id_masked: false,
            chip_key_masked: false,
            provider_key: false,
            reported: TcbVersion {
                fmc: None,
                bootloader: 0x21,
                tee: 0x22,
                snp: 0x27,
                microcode: 0x28,
            },
        };
        assert_eq!(status(|_| (), Generation::Genoa), genoa);
        let turin = status(|_| (), Generation::Turin).reported;
        let expected = TcbVersion {
            fmc: Some(0x21),
            bootloader: 0x22,
            tee: 0x23,
            snp: 0x24,
            microcode: 0x28,
        };
        assert_eq!(turin, expected);

        type Flag = fn(&mut SnpStatus);
        let flags: [(usize, u8, Flag); 4] = [
            (3, 1 << 1, |s| s.alias_check = true),
            (8, 1, |s| s.chip_id_masked = true),
            (8, 1 << 1, |s| s.chip_key_masked = true),
            (8, 1 << 2, |s| s.provider_key = true),
        ];
        for (at, bit, flag) in flags {
            let mut expected = genoa.clone();
            flag(&mut expected);
            assert_eq!(status(|b| b[at] |= bit, Generation::Genoa), expected);
        }
    }
}
