//! The operations by which a machine is examined: small traits, so that tests can answer for captured machines.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cocoon_measurements::snp::report::TcbVersion;
use sev::firmware::host::SnpPlatformStatus;

/// Maximum number of bytes read of a file: enough for `/proc/cpuinfo` of the largest machines.
pub const MAX_FILE: u64 = 4 << 20;

/// Why an operation failed.
pub type Refusal = io::ErrorKind;

/// Files of procfs, sysfs, devtmpfs and `/etc`.
pub trait Files {
    /// Reads the first [`MAX_FILE`] bytes of a file.
    ///
    /// # Errors
    /// Fails with the kind of the system's error.
    fn read(&self, path: &str) -> Result<Vec<u8>, Refusal>;

    /// Returns the names in a folder, sorted; none if it does not exist.
    fn list(&self, path: &str) -> Vec<String>;

    /// Returns the last component of a symbolic link's target, such as a device's driver.
    fn link(&self, path: &str) -> Option<String>;

    /// Checks whether a device can be opened for reading and writing.
    ///
    /// # Errors
    /// Fails with the kind of the system's error.
    fn open(&self, path: &str) -> Result<(), Refusal>;

    /// Returns a file's text without surrounding white space; `None` if it cannot be read.
    fn text(&self, path: &str) -> Option<String> {
        let bytes = self.read(path).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }
}

/// Other operations: programs, sockets, processor registers and the clock.
pub trait World: Files {
    /// Runs a program to its end. Time and output are bounded.
    ///
    /// # Errors
    /// Fails if the program cannot be run or does not end in time.
    fn run(&self, command: &[&str]) -> Result<Ran, Refusal>;

    /// Returns EAX, EBX, ECX and EDX of a CPUID leaf.
    fn cpuid(&self, leaf: u32) -> [u32; 4];

    /// Reads a model-specific register of the first processor. Needs root and the `msr` module.
    fn msr(&self, register: u32) -> Option<u64>;

    /// Returns the status of AMD's secure processor (`SNP_PLATFORM_STATUS`, through `/dev/sev`).
    ///
    /// # Errors
    /// Says why the secure processor gave no status.
    fn snp_status(&self) -> Result<SnpStatus, String>;

    /// Checks whether a peer accepts a connection.
    ///
    /// # Errors
    /// Fails with the kind of the system's error.
    fn connect(&self, to: &Peer) -> Result<(), Refusal>;

    /// Checks whether a listener can be bound to `address`.
    ///
    /// # Errors
    /// Fails with the kind of the system's error.
    fn listen(&self, address: SocketAddr) -> Result<(), Refusal>;

    /// Returns the free bytes on the disk of a folder, or of its nearest ancestor that exists.
    fn free(&self, folder: &Path) -> Option<u64>;

    /// Returns the time in seconds since 1970.
    fn now(&self) -> u64;
}

/// Status of AMD's secure processor (AMD 56860, table of `SNP_PLATFORM_STATUS`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpStatus {
    /// Version of the firmware's interface: major, minor and build.
    pub firmware: (u8, u8, u32),
    /// Whether the firmware has checked memory for aliases since the last reset, and found none.
    pub alias_check: bool,
    /// Whether reports omit the chip's identifier (MASK_CHIP_ID).
    pub chip_id_masked: bool,
    /// Whether reports are not signed (MASK_CHIP_KEY).
    pub chip_key_masked: bool,
    /// Whether a provider's key (VLEK) is loaded, which signs instead of the chip's own.
    pub provider_key: bool,
    /// Patch levels that reports state (REPORTED_TCB).
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

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A Unix socket.
    Unix(PathBuf),
    /// A vsock address.
    Vsock {
        /// Context id of the vsock address.
        cid: u32,
        /// Port of the vsock address.
        port: u32,
    },
    /// A TCP address of this machine.
    Tcp(SocketAddr),
}

/// The result of a program that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ran {
    /// Whether the exit status was 0.
    pub success: bool,
    /// Standard output and standard error together, bounded in length.
    pub output: String,
}

#[cfg(test)]
mod tests {
    use sev::Generation;
    use sev::parser::ByteParser;

    use super::*;

    /// AMD 56860, structure of `SNP_PLATFORM_STATUS`: API version, state, initialised, build, masks, guests, current and
    /// reported TCB.
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
