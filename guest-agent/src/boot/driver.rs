//! NVIDIA's driver, in an image with real GPUs: every GPU is reset before the driver first sees it, and then its modules
//! are loaded, after those of the kernel's maker and before the door is locked.
//!
//! In confidential computing a GPU is attached once between two resets, and what an earlier machine left in it is none of
//! this one's business. The reset is that of the PCI function (FLR), which the host cannot take for another.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::gpu::wanted::{self, PCI, WantedError};

/// The modules in load order, one path a line.
const LIST: &str = "/driver.list";
/// The kind of reset, as the kernel calls it.
const RESET: &str = "flr";
/// What the first module is told: device files are the agent's to make, and nobody else's to change.
const PARAMETERS: &std::ffi::CStr = c"NVreg_ModifyDeviceFiles=0";

/// Why there is no driver.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    /// The bus, or something on it.
    #[error(transparent)]
    Bus(#[from] WantedError),
    /// A GPU that cannot be reset alone.
    #[error(
        "GPU {address} has no reset of its function: it offers {found:?}, and is not used unreset"
    )]
    NoReset {
        /// Where it is.
        address: String,
        /// What it offers.
        found: String,
    },
    /// A file of the kernel's.
    #[error("cannot {operation} {path}", path = path.display())]
    File {
        /// What.
        operation: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The driver wants none of them.
    #[error(
        "NVIDIA's driver takes none of the {found} GPUs of this machine: it does not know them"
    )]
    Unknown {
        /// How many there are.
        found: usize,
    },
}

/// Resets and loads; how many GPUs there are. Where there is none, the driver loads no further than to find that out.
pub(super) fn start() -> Result<usize, DriverError> {
    let gpus = wanted::addresses(Path::new(PCI))?;
    for address in &gpus {
        reset(Path::new(PCI), address)?;
    }
    let list = fs::read_to_string(LIST).map_err(failed("read", Path::new(LIST)))?;
    for (number, path) in list.lines().enumerate() {
        let parameters = if number == 0 { PARAMETERS } else { c"" };
        let loaded = File::open(path)
            .and_then(|file| Ok(finit_module(&file, parameters, ModuleInitFlags::empty())?));
        match loaded {
            Ok(()) => {}
            // What NVIDIA's driver says when there is nothing for it.
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

/// Resets the function at `address` of a folder like [`PCI`].
fn reset(bus: &Path, address: &str) -> Result<(), DriverError> {
    let method = bus.join(address).join("reset_method");
    let found = fs::read_to_string(&method).map_err(failed("read", &method))?;
    if !found.split_whitespace().any(|word| word == RESET) {
        return Err(DriverError::NoReset {
            address: address.to_owned(),
            found: found.trim().to_owned(),
        });
    }
    // The kernel takes the first that works: from now on there is one.
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
        fs::write(folder.join("reset_method"), methods).unwrap();
        fs::write(folder.join("reset"), "").unwrap();
        bus
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
