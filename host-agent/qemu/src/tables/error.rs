//! Why there are no tables.

use std::io;
use std::path::PathBuf;

use crate::process::SpawnError;
use crate::qmp::QmpError;
use crate::qtest::QtestError;
use crate::socket::SocketError;
use crate::spec::SpecError;

/// Why there are no tables.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// The shape is none that QEMU could have.
    #[error("this machine cannot be expressed")]
    Spec(#[from] SpecError),
    /// A file cannot be read.
    #[error("cannot open {path:?} to boot it")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No descriptor left.
    #[error("cannot make sockets for QEMU")]
    Socket(#[from] SocketError),
    /// QEMU does not start.
    #[error("cannot start QEMU to compute tables")]
    Spawn(#[from] SpawnError),
    /// The control socket failed.
    #[error("cannot control QEMU while computing tables")]
    Qmp(#[source] QmpError),
    /// A descriptor of this process failed.
    #[error("cannot prepare or read the machine's console")]
    Console(#[source] io::Error),
    /// The kernel did not start.
    #[error(
        "the kernel said nothing within {seconds} s, so the firmware may not have read the tables; give it more time, or a kernel that speaks on ttyS0 (QEMU: {diagnostics:?})"
    )]
    Silent {
        /// The deadline.
        seconds: u64,
        /// What QEMU wrote.
        diagnostics: String,
    },
    /// QEMU ended, or complained before something failed.
    #[error("QEMU failed while computing tables: {diagnostics:?}")]
    Ended {
        /// What QEMU wrote.
        diagnostics: String,
        /// What failed then.
        #[source]
        source: Box<Self>,
    },
    /// The standing machine cannot be read.
    #[error("cannot read the machine")]
    Read(#[from] QtestError),
    /// QEMU offers no such item.
    #[error("QEMU offers no {name:?} in fw_cfg; is this a machine without ACPI?")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// The firmware published no SMBIOS table.
    #[error(
        "the machine's memory holds no sound SMBIOS entry point; has the firmware come so far?"
    )]
    NoSmbios,
    /// There are several.
    #[error("the machine's memory holds several SMBIOS tables that differ")]
    SeveralSmbios,
}
