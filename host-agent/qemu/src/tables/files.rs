//! The files of the machine: those to boot, and blank ones for the rest.

use std::fs;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use super::TablesError;
use crate::socket::pair;
use crate::spec::{Blob, Channel, Disk};

/// Every descriptor that QEMU inherits.
pub(super) struct Files(pub(super) Vec<OwnedFd>);

impl Files {
    pub(super) fn open(&mut self, path: &Path) -> Result<Blob, TablesError> {
        let file = fs::File::open(path).map_err(|source| TablesError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(self.keep(file))
    }

    pub(super) fn zeroes(&mut self, length: u64) -> Result<Blob, TablesError> {
        let made = nix::sys::memfd::memfd_create(c"zeroes", nix::sys::memfd::MFdFlags::empty())
            .map_err(io::Error::from)
            .and_then(|fd| {
                let mut file = fs::File::from(fd);
                file.set_len(length)?;
                file.flush()?;
                file.rewind()?;
                Ok(file)
            });
        let file = made.map_err(TablesError::Console)?;
        Ok(self.keep(file))
    }

    pub(super) fn disks(&mut self, count: u8) -> Result<Vec<Disk>, TablesError> {
        let disk = |number| {
            Ok(Disk {
                source: self.zeroes(1 << 20)?,
                serial: format!("disk{number}"),
            })
        };
        (0..count).map(disk).collect()
    }

    pub(super) fn control(&mut self) -> Result<Channel, TablesError> {
        // The channel is not used, so its other end is closed at once.
        let (prepared, _) = pair()?;
        let endpoint = prepared.endpoint;
        self.0.push(prepared.fd);
        Ok(Channel {
            port: "tables".into(),
            endpoint,
        })
    }

    fn keep(&mut self, file: fs::File) -> Blob {
        let blob = Blob::Descriptor(file.as_raw_fd());
        self.0.push(file.into());
        blob
    }
}
