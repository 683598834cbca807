//! Writes receipts to files that only their owner can read, one file each.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cocoon_protocol::receipt::Delivery;
use zeroize::Zeroizing;

use super::{Bundle, Session};
use crate::error::chain;
use crate::judge::now;
use crate::terminal::say;

/// Longest response that is kept, in bytes.
pub const MAX_KEPT_BODY: usize = 64 << 20;

/// Whether requests and responses are written next to their receipts, in plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// Requests and responses are not written.
    Left,
    /// Requests and responses are written.
    Kept,
}

/// A folder for receipts.
#[derive(Debug)]
pub struct Keeper {
    folder: PathBuf,
    bodies: Bodies,
}

/// Why receipts cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The folder cannot be created.
    #[error("cannot make the folder {} for receipts", .path.display())]
    Folder {
        /// Path of the folder.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", .path.display())]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        #[source]
        source: io::Error,
    },
}

impl Keeper {
    /// Opens the folder. If it does not exist, creates it with mode 0700.
    pub fn open(folder: &Path, bodies: Bodies) -> Result<Self, KeepError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| KeepError::Folder {
            path: folder.to_owned(),
            source,
        })?;
        Ok(Self {
            folder: folder.to_owned(),
            bodies,
        })
    }

    /// Returns whether requests and responses are kept.
    pub fn bodies(&self) -> Bodies {
        self.bodies
    }

    /// Writes a receipt, and request and response if they are kept. A failure, such as a full disk,
    /// is reported on standard error and does not affect the answer.
    pub(super) fn keep(
        &self,
        delivery: &Delivery,
        session: &Session,
        request: Option<Bytes>,
        response: Option<Zeroizing<Vec<u8>>>,
    ) {
        let bundle = Bundle::new(delivery, session, now());
        let receipt = &delivery.signed.receipt;
        // Receipts of one connection get the same prefix, and sort by number.
        let nonce = receipt.nonce.to_string();
        let name = format!("{}-{:04}", &nonce[..16], receipt.number);
        let mut written = self.write(&name, "json", &bundle.to_json());
        if let Some(request) = request {
            written = written.and_then(|()| self.write(&name, "request", &request));
            match response {
                Some(response) => {
                    written = written.and_then(|()| self.write(&name, "response", &response));
                }
                None => say(format_args!(
                    "note: the response of receipt {name} exceeds {MAX_KEPT_BODY} bytes and is not kept"
                )),
            }
        }
        if let Err(error) = written {
            say(format_args!("note: a receipt is lost: {}", chain(&error)));
        }
    }

    fn write(&self, name: &str, kind: &str, bytes: &[u8]) -> Result<(), KeepError> {
        let path = self.folder.join(format!("{name}.receipt.{kind}"));
        let mut options = OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o600).open(&path);
        opened
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|source| KeepError::Write { path, source })
    }
}
