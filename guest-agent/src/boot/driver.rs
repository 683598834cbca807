//! NVIDIA's driver, in images for real GPUs. Every GPU is reset before the driver first sees it. The driver's modules load
//! after the modules of the kernel's vendor and before module loading is disabled.
//!
//! In confidential computing mode a GPU can be attached once between two resets, and state that an earlier VM left in it
//! must not be visible here. Only a function-level reset (FLR) is accepted: the host cannot mistake it for another kind.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::gpu::wanted::{self, PCI, WantedError};

/// Driver modules in load order, one path per line.
const LIST: &str = "/driver.list";
/// Reset method, as the kernel names it.
const RESET: &str = "flr";
/// Parameters of the first module: only the agent creates the device files, and the driver must not change them.
const PARAMETERS: &CStr = c"NVreg_ModifyDeviceFiles=0";

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    /// The PCI bus cannot be read, or has an NVIDIA function that is no GPU.
    #[error(transparent)]
    Bus(#[from] WantedError),
    /// A GPU does not support a function-level reset.
    #[error(
        "GPU {address} has no reset of its function: it offers {found:?}, and is not used unreset"
    )]
    NoReset {
        /// PCI address of the GPU.
        address: String,
        /// Reset methods that the kernel offers for it.
        found: String,
    },
    /// A file operation on a kernel file or a module failed.
    #[error("cannot {operation} {path}", path = path.display())]
    File {
        /// Failed operation.
        operation: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// The driver supports none of the GPUs.
    #[error(
        "NVIDIA's driver takes none of the {found} GPUs of this machine: it does not know them"
    )]
    Unknown {
        /// Number of GPUs on the bus.
        found: usize,
    },
}

/// Resets the GPUs, loads the driver, and returns the number of GPUs. Without a GPU only the first module is tried, to
/// confirm that the driver finds none.
pub(super) fn start() -> Result<usize, DriverError> {
    started(Path::new(PCI), Path::new(LIST), |path, parameters| {
        let file = File::open(path)?;
        Ok(finit_module(&file, parameters, ModuleInitFlags::empty())?)
    })
}

/// Resets the GPUs on `bus`, then passes each module of `list` with its parameters to `load`.
fn started(
    bus: &Path,
    list: &Path,
    mut load: impl FnMut(&str, &CStr) -> io::Result<()>,
) -> Result<usize, DriverError> {
    let gpus = wanted::addresses(bus)?;
    for address in &gpus {
        reset(bus, address)?;
    }
    let list = fs::read_to_string(list).map_err(failed("read", list))?;
    for (number, path) in list.lines().enumerate() {
        let parameters = if number == 0 { PARAMETERS } else { c"" };
        match load(path, parameters) {
            Ok(()) => {}
            // NVIDIA's driver fails with ENODEV when it finds no GPU that it supports.
            Err(error) if number == 0 && error.raw_os_error() == Some(Errno::ENODEV as i32) => {
                if gpus.is_empty() {
                    break;
                }
                return Err(DriverError::Unknown { found: gpus.len() });
            }
            Err(error) => return Err(failed("load", Path::new(path))(error)),
        }
    }
    Ok(gpus.len())
}

/// Resets the function at `address` below `bus`, a folder like [`PCI`].
fn reset(bus: &Path, address: &str) -> Result<(), DriverError> {
    let method = bus.join(address).join("reset_method");
    let found = fs::read_to_string(&method).map_err(failed("read", &method))?;
    if !found.split_whitespace().any(|word| word == RESET) {
        return Err(DriverError::NoReset {
            address: address.to_owned(),
            found: found.trim().to_owned(),
        });
    }
    // The kernel uses the first method that works; from now on FLR is the only one.
    fs::write(&method, RESET).map_err(failed("write", &method))?;
    let reset = bus.join(address).join("reset");
    fs::write(&reset, "1").map_err(failed("write", &reset))
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DriverError {
    let path = path.to_owned();
    move |source| DriverError::File {
        operation,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(methods: &str) -> tempfile::TempDir {
        let bus = tempfile::tempdir().unwrap();
        let folder = bus.path().join("0000:01:00.0");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("vendor"), "0x10de\n").unwrap();
        fs::write(folder.join("class"), "0x030200\n").unwrap();
        fs::write(folder.join("reset_method"), methods).unwrap();
        fs::write(folder.join("reset"), "").unwrap();
        bus
    }

    /// Path and parameters of a loaded module, and the number of GPUs that had been reset by then.
    type Loaded = (String, String, usize);

    /// Loads two modules, the first of which fails with `first`, if any. Returns each attempt and the outcome.
    fn loading(bus: &Path, first: Option<Errno>) -> (Vec<Loaded>, Result<usize, String>) {
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(&list, "/lib/nvidia.ko\n/lib/nvidia-uvm.ko\n").unwrap();
        let mut loaded = Vec::new();
        let outcome = started(bus, list.path(), |path, parameters| {
            let resets = fs::read_dir(bus)
                .unwrap()
                .filter(|function| {
                    let function = function.as_ref().unwrap();
                    fs::read(function.path().join("reset")).unwrap() == b"1"
                })
                .count();
            let parameters = parameters.to_str().unwrap().to_owned();
            loaded.push((path.to_owned(), parameters, resets));
            match first {
                Some(error) => Err(error.into()),
                None => Ok(()),
            }
        });
        (loaded, outcome.map_err(|error| error.to_string()))
    }

    #[test]
    fn every_gpu_is_reset_before_the_driver_is_loaded() {
        let module =
            |path: &str, parameters: &str, resets| (path.to_owned(), parameters.to_owned(), resets);
        let bus = function("flr bus\n");
        let both = vec![
            module("/lib/nvidia.ko", "NVreg_ModifyDeviceFiles=0", 1),
            module("/lib/nvidia-uvm.ko", "", 1),
        ];
        assert_eq!(loading(bus.path(), None), (both, Ok(1)));

        // The driver supports no GPU of this machine: first with one GPU, then with none.
        let bus = function("flr bus\n");
        let one = vec![module("/lib/nvidia.ko", "NVreg_ModifyDeviceFiles=0", 1)];
        let told =
            "NVIDIA's driver takes none of the 1 GPUs of this machine: it does not know them";
        assert_eq!(
            loading(bus.path(), Some(Errno::ENODEV)),
            (one, Err(told.to_owned()))
        );
        let empty = tempfile::tempdir().unwrap();
        let (loaded, outcome) = loading(empty.path(), Some(Errno::ENODEV));
        assert_eq!((loaded.len(), outcome), (1, Ok(0)));
        assert_eq!(
            loading(empty.path(), Some(Errno::EKEYREJECTED)).1,
            Err("cannot load /lib/nvidia.ko".to_owned())
        );

        // The GPU cannot be reset, so nothing is loaded.
        let bus = function("bus\n");
        let (loaded, outcome) = loading(bus.path(), None);
        assert_eq!(loaded, []);
        assert!(outcome.unwrap_err().ends_with("and is not used unreset"));
    }

    #[test]
    fn a_gpu_is_reset_by_its_own_function_or_not_used() {
        let bus = function("flr bus\n");
        reset(bus.path(), "0000:01:00.0").unwrap();
        let read = |file: &str| fs::read_to_string(bus.path().join("0000:01:00.0").join(file));
        assert_eq!(read("reset_method").unwrap(), "flr");
        assert_eq!(read("reset").unwrap(), "1");
        for (offered, shown) in [("bus pm\n", "bus pm"), ("\n", "")] {
            let bus = function(offered);
            let error = reset(bus.path(), "0000:01:00.0").unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "GPU 0000:01:00.0 has no reset of its function: it offers {shown:?}, and is not used unreset"
                )
            );
            let reset = fs::read(bus.path().join("0000:01:00.0/reset")).unwrap();
            assert_eq!(reset, b"");
        }
    }
}
