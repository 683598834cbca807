//! Computes the ACPI and SMBIOS tables that an image's machine has as a trust domain, as files for the manifest's signers.
//!
//! The machine is built as `up` builds it, so that the tables cannot describe another one by mistake. It runs under emulation
//! and needs neither TDX nor KVM: the expected values must not come from the operator's machine that they are to judge.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cocoon_qemu::args::MACHINE;
use cocoon_qemu::find::{MINIMUM_TDX, Version};
use cocoon_qemu::socket::SocketError;
use cocoon_qemu::tables::{self, Boot, KERNEL_SPEAKS, Tables, TablesError};
use cocoon_qemu::{Accel, Qemu};

use crate::image::{Image, ImageError};
use crate::qemu::{self, Shape};

/// Names of the files, as `cocoon measure tdx --tables` and `cocoon-image manifest platform` read them.
pub const FILES: [&str; 4] = [
    "acpi-loader.bin",
    "acpi-rsdp.bin",
    "acpi-tables.bin",
    "smbios.bin",
];

/// The boot order that predictions of RTMR0 assume: QEMU's own for a direct kernel boot.
pub const BOOT_ORDER: &[u8] = b"/rom@genroms/linuxboot_dma.bin\0";

/// How long the firmware may take to start the kernel: three seconds on an idle core, much longer on a busy one.
const DEADLINE: Duration = Duration::from_secs(300);

/// The size of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs.
    pub vcpus: u16,
    /// Guest memory in MiB.
    pub memory_mib: u32,
    /// Size of the firmware's window for a GPU's BARs in MiB; `None` for a machine without a GPU's port.
    pub mmio64_mib: Option<u32>,
}

/// Computed tables, and the QEMU version that they hold for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Computed {
    /// The tables.
    pub tables: Tables,
    /// Version of the QEMU that computed the tables. Another release may compute other tables, even for the same versioned
    /// machine type.
    pub qemu: Version,
}

/// Why the tables could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// The folder is not a usable image.
    #[error("cannot compute tables for this image")]
    Image(#[from] ImageError),
    /// The system has no file descriptor left.
    #[error("cannot prepare the machine whose tables are wanted")]
    Socket(#[from] SocketError),
    /// QEMU did not produce the tables.
    #[error("cannot compute the machine's tables")]
    Tables(#[from] TablesError),
    /// The boot order differs from the one that predictions assume, so no prediction would hold.
    #[error(
        "the machine has the boot order {found:?}, not that of a direct boot, so no prediction of RTMR0 holds: use another QEMU"
    )]
    BootOrder {
        /// The boot order that QEMU offers.
        found: String,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {path:?}")]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Computes the tables of `image` as a trust domain of this `size`, by booting its firmware with `qemu`.
///
/// # Errors
/// [`ComputeError`] if the machine cannot be built or its tables are not usable. The emulated machine is gone in any case.
pub async fn compute(image: Image, size: Size, qemu: &Qemu) -> Result<Computed, ComputeError> {
    let (kernel, firmware) = image.probe.clone();
    let shape = Shape {
        name: "tables".into(),
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        accel: Accel::Emulated,
        // Only the shape of this machine is used; it is never started.
        pid_file: PathBuf::new(),
    };
    let machine = qemu::machine(&shape, image)?;
    let boot = Boot {
        firmware: Some(&firmware),
        kernel: &kernel,
        ready: &KERNEL_SPEAKS,
        deadline: DEADLINE,
    };
    let measured = tables::Shape {
        mmio64_mib: size.mmio64_mib,
        ..tables::Shape::of(&machine.spec)
    };
    let tables = tables::tables(qemu, &measured, &boot).await?;
    if tables.boot_order != BOOT_ORDER {
        return Err(ComputeError::BootOrder {
            found: String::from_utf8_lossy(&tables.boot_order).into_owned(),
        });
    }
    Ok(Computed {
        tables,
        qemu: qemu.version,
    })
}

impl Computed {
    /// The versioned machine type that the tables belong to.
    pub const MACHINE: &str = MACHINE;

    /// Returns whether the QEMU that computed the tables can start a trust domain. If not, it is not the release that the
    /// tables are needed for.
    #[must_use]
    pub fn starts_trust_domains(&self) -> bool {
        self.qemu >= MINIMUM_TDX
    }

    /// Writes the [`FILES`] to `folder`. Older files are removed first, so that old and new ones never mix.
    ///
    /// # Errors
    /// [`ComputeError::Write`] with the file that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<[PathBuf; 4], ComputeError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| ComputeError::Write { path, source }
        };
        fs::create_dir_all(folder).map_err(fail(folder))?;
        let paths = FILES.map(|name| folder.join(name));
        for path in &paths {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(fail(path)(error));
                }
                _ => {}
            }
        }
        let Tables {
            acpi_loader,
            acpi_rsdp,
            acpi_tables,
            smbios,
            boot_order: _,
        } = &self.tables;
        let partial = FILES.map(|name| folder.join(format!(".{name}.partial")));
        for (path, bytes) in partial
            .iter()
            .zip([acpi_loader, acpi_rsdp, acpi_tables, smbios])
        {
            fs::write(path, bytes).map_err(fail(path))?;
        }
        for (from, to) in partial.iter().zip(&paths) {
            fs::rename(from, to).map_err(fail(to))?;
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use cocoon_measurements::tdx::rtmr0::{FwCfg, PlatformTables};

    use super::*;

    #[test]
    fn files_and_boot_order_are_those_of_the_prediction() {
        assert_eq!(FILES, PlatformTables::FILES);
        let expected = FwCfg::direct_boot().boot_order;
        assert_eq!(expected.as_deref(), Some(BOOT_ORDER));
    }

    #[test]
    fn tables_are_written_over_older_ones_and_leave_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let mut computed = Computed {
            tables: Tables {
                acpi_loader: b"loader".into(),
                acpi_rsdp: b"rsdp".into(),
                acpi_tables: b"tables".into(),
                boot_order: BOOT_ORDER.into(),
                smbios: b"smbios".into(),
            },
            qemu: MINIMUM_TDX,
        };
        assert!(computed.starts_trust_domains());
        computed.write(&folder).unwrap();
        computed.tables.smbios = b"other".into();
        let paths = computed.write(&folder).unwrap();
        let read = paths.map(|path| String::from_utf8(fs::read(path).unwrap()).unwrap());
        assert_eq!(read, ["loader", "rsdp", "tables", "other"]);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 4);

        let file = folder.join("smbios.bin");
        let error = computed.write(&file).unwrap_err();
        assert!(
            matches!(&error, ComputeError::Write { path, .. } if *path == file),
            "{error:?}"
        );
        computed.qemu.minor -= 1;
        assert!(!computed.starts_trust_domains());
    }
}
