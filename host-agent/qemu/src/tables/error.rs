//! The error of computing tables.

use std::io;
use std::path::PathBuf;

use crate::process::SpawnError;
use crate::qmp::QmpError;
use crate::qtest::QtestError;
use crate::socket::SocketError;
use crate::spec::SpecError;

/// Why the tables could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// QEMU cannot have a machine of this shape.
    #[error("this machine cannot be expressed")]
    Spec(#[from] SpecError),
    /// A file cannot be read.
    #[error("cannot open {path:?} to boot it")]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The system has no file descriptor left.
    #[error("cannot make sockets for QEMU")]
    Socket(#[from] SocketError),
    /// QEMU cannot be started.
    #[error("cannot start QEMU to compute tables")]
    Spawn(#[from] SpawnError),
    /// The QMP connection failed.
    #[error("cannot control QEMU while computing tables")]
    Qmp(#[source] QmpError),
    /// A file or stream of this process failed.
    #[error("cannot prepare or read the machine's console")]
    Console(#[source] io::Error),
    /// The kernel printed nothing in time.
    #[error(
        "the kernel said nothing within {seconds} s, so the firmware may not have read the tables; give it more time, or a kernel that speaks on ttyS0 (QEMU: {diagnostics:?})"
    )]
    Silent {
        /// The deadline in seconds.
        seconds: u64,
        /// What QEMU wrote to standard error.
        diagnostics: String,
    },
    /// QEMU ended, or wrote diagnostics before something failed.
    #[error("QEMU failed while computing tables: {diagnostics:?}")]
    Ended {
        /// What QEMU wrote to standard error.
        diagnostics: String,
        /// What failed.
        #[source]
        source: Box<Self>,
    },
    /// The paused machine cannot be read.
    #[error("cannot read the machine")]
    Read(#[from] QtestError),
    /// fw_cfg lacks a required item.
    #[error("QEMU offers no {name:?} in fw_cfg; is this a machine without ACPI?")]
    Missing {
        /// Name of the item.
        name: &'static str,
    },
    /// The firmware published no SMBIOS table.
    #[error(
        "the machine's memory holds no sound SMBIOS entry point; has the firmware come so far?"
    )]
    NoSmbios,
    /// The machine's memory holds several SMBIOS tables that differ.
    #[error("the machine's memory holds several SMBIOS tables that differ")]
    SeveralSmbios,
}
