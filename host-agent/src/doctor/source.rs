//! What a probe may ask of a machine: small traits, so that captured machines can answer in tests.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cocoon_measurements::snp::report::TcbVersion;

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
    /// Whether no report is signed by the chip's own key.
    pub chip_key_masked: bool,
    /// Whether a provider's key (VLEK) is loaded, which can sign in its place.
    pub provider_key: bool,
    /// The patch levels that reports state.
    pub reported: TcbVersion,
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
