//! Reads from the measured command line whether this image uses GPUs, and counts the GPUs on the PCI bus.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cocoon_protocol::gpu::MAX_GPUS;

use super::judge::Roots;

/// Name of the command line token.
const TOKEN: &str = "cocoon.gpu=";
/// Folder in which the kernel lists PCI functions.
pub const PCI: &str = "/sys/bus/pci/devices";
/// PCI vendor ID of NVIDIA.
const NVIDIA: u32 = 0x10de;
/// PCI base class of display controllers. An H100 is a 3D controller, `0x030200`.
const DISPLAY: u32 = 0x03;

/// GPU setting of the measured command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No GPUs: the image contains no software that could use one.
    None,
    /// All NVIDIA GPUs of the machine, at least one.
    Nvidia,
    /// This number of simulated GPUs, to test everything but the computation.
    Simulated(u16),
}

/// Why the GPUs cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum WantedError {
    /// The token occurs more than once.
    #[error("cocoon.gpu= stands more than once on the command line")]
    Repeated,
    /// The token's value is malformed.
    #[error("cocoon.gpu= is neither nvidia nor simulated:N with 1 to {MAX_GPUS} GPUs")]
    Malformed,
    /// Simulated GPUs are requested in a TEE.
    #[error(
        "this image asks for simulated GPUs, and this machine is a TEE: it runs only where everything is simulated"
    )]
    SimulatedInTee,
    /// A file or folder of the PCI bus cannot be read.
    #[error("cannot read {path}")]
    Bus {
        /// Path of the file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
    /// An NVIDIA function is no GPU, and its evidence cannot be verified.
    #[error(
        "the NVIDIA function {address} of class {class:06x} is no GPU: switches and others prove nothing to this image, so that it \
         runs without them only"
    )]
    NoGpu {
        /// Domain, bus, device and function, as the kernel names them.
        address: String,
        /// Class, subclass and programming interface.
        class: u32,
    },
}

impl Wanted {
    /// Reads the setting from a whole kernel command line.
    ///
    /// # Errors
    /// [`WantedError::Repeated`] or [`WantedError::Malformed`].
    pub fn from_cmdline(cmdline: &str) -> Result<Self, WantedError> {
        let mut values = cmdline
            .split_ascii_whitespace()
            .filter_map(|word| word.strip_prefix(TOKEN));
        let value = values.next();
        if values.next().is_some() {
            return Err(WantedError::Repeated);
        }
        match value.map(|value| value.split_once(':').unwrap_or((value, ""))) {
            None => Ok(Self::None),
            Some(("nvidia", "")) => Ok(Self::Nvidia),
            Some(("simulated", count)) => {
                let count = count.parse().map_err(|_| WantedError::Malformed)?;
                match (1..=MAX_GPUS).contains(&usize::from(count)) {
                    true => Ok(Self::Simulated(count)),
                    false => Err(WantedError::Malformed),
                }
            }
            Some(_) => Err(WantedError::Malformed),
        }
    }

    /// Returns the roots that this machine's GPU evidence must chain to, and the number of simulated GPUs. Returns `None`
    /// without GPUs.
    ///
    /// # Errors
    /// [`WantedError::SimulatedInTee`].
    pub fn roots(self, in_tee: bool) -> Result<Option<(Roots, Option<u16>)>, WantedError> {
        match (self, in_tee) {
            (Self::None, _) => Ok(None),
            (Self::Nvidia, _) => Ok(Some((Roots::Vendor, None))),
            (Self::Simulated(count), false) => Ok(Some((Roots::Development, Some(count)))),
            (Self::Simulated(_), true) => Err(WantedError::SimulatedInTee),
        }
    }
}

/// Returns the number of GPUs on `bus`.
///
/// # Errors
/// As [`addresses`].
pub fn count(bus: &Path) -> Result<usize, WantedError> {
    Ok(addresses(bus)?.len())
}

/// Returns the sorted addresses of NVIDIA's GPUs on `bus`, a folder like [`PCI`]. Only display controllers are GPUs.
///
/// # Errors
/// [`WantedError::NoGpu`] for any other NVIDIA function, [`WantedError::Bus`] when the folder or a file cannot be read.
pub fn addresses(bus: &Path) -> Result<Vec<String>, WantedError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| WantedError::Bus { path, source }
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(bus).map_err(failed(bus))? {
        let folder = entry.map_err(failed(bus))?.path();
        let number = |file: &str| {
            let path = folder.join(file);
            let text = fs::read_to_string(&path).map_err(failed(&path))?;
            let digits = text.trim().strip_prefix("0x").unwrap_or_default();
            u32::from_str_radix(digits, 16)
                .map_err(|_| failed(&path)(io::ErrorKind::InvalidData.into()))
        };
        if number("vendor")? != NVIDIA {
            continue;
        }
        let address = folder.file_name().unwrap_or_default().to_string_lossy();
        let (address, class) = (address.into_owned(), number("class")?);
        if class >> 16 != DISPLAY {
            return Err(WantedError::NoGpu { address, class });
        }
        found.push(address);
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_measured_word_has_three_forms() {
        let read = |cmdline| Wanted::from_cmdline(cmdline).map_err(|error| error.to_string());
        assert_eq!(read("quiet cocoon.gpus=1"), Ok(Wanted::None));
        assert_eq!(
            read("quiet cocoon.gpu=nvidia panic=-1\n"),
            Ok(Wanted::Nvidia)
        );
        assert_eq!(read("cocoon.gpu=simulated:16"), Ok(Wanted::Simulated(16)));
        let malformed = "cocoon.gpu= is neither nvidia nor simulated:N with 1 to 16 GPUs";
        for wrong in [
            "cocoon.gpu=",
            "cocoon.gpu=amd",
            "cocoon.gpu=nvidia:1",
            "cocoon.gpu=simulated",
            "cocoon.gpu=simulated:0",
            "cocoon.gpu=simulated:17",
            "cocoon.gpu=simulated:-1",
        ] {
            assert_eq!(read(wrong), Err(malformed.to_owned()), "{wrong}");
        }
        assert_eq!(
            read("cocoon.gpu=nvidia cocoon.gpu=nvidia"),
            Err("cocoon.gpu= stands more than once on the command line".to_owned())
        );
    }

    fn bus(functions: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (address, vendor, class) in functions {
            let function = folder.path().join(address);
            fs::create_dir(&function).unwrap();
            fs::write(function.join("vendor"), format!("{vendor}\n")).unwrap();
            fs::write(function.join("class"), format!("{class}\n")).unwrap();
        }
        folder
    }

    #[test]
    fn gpus_are_counted_and_nothing_else_of_nvidias_is_let_in() {
        let bridge = ("0000:00:1f.0", "0x8086", "0x060100");
        let one = ("0000:01:00.0", "0x10de", "0x030200");
        let other = ("0001:02:00.0", "0x10de", "0x030000");
        assert_eq!(count(bus(&[bridge]).path()).unwrap(), 0);
        assert_eq!(count(bus(&[bridge, one, other]).path()).unwrap(), 2);
        let found = addresses(bus(&[other, bridge, one]).path()).unwrap();
        assert_eq!(found, ["0000:01:00.0", "0001:02:00.0"]);
        let switch = ("0000:05:00.0", "0x10de", "0x068000");
        assert_eq!(
            count(bus(&[one, switch]).path()).unwrap_err().to_string(),
            "the NVIDIA function 0000:05:00.0 of class 068000 is no GPU: switches and others prove nothing to this image, so that \
             it runs without them only"
        );
        let broken = bus(&[("0000:01:00.0", "nonsense", "0x030200")]);
        assert_eq!(
            count(broken.path()).unwrap_err().to_string(),
            format!(
                "cannot read {}/0000:01:00.0/vendor",
                broken.path().display()
            )
        );
    }
}
