//! The part of a response that its receipt covers: hashed as it arrives, and stored if it is to be
//! kept.

use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::wiping::WipingWriter;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::keeper::MAX_KEPT_BODY;

/// The covered bytes so far.
pub(super) struct Covered {
    hash: Sha256,
    held: Option<WipingWriter>,
    length: usize,
}

impl Covered {
    /// Starts with no bytes. `kept` says whether the bytes are stored.
    pub fn new(kept: bool) -> Self {
        Self {
            hash: Sha256::new(),
            held: kept.then(WipingWriter::default),
            length: 0,
        }
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.length = self.length.saturating_add(bytes.len());
        if self.length > MAX_KEPT_BODY {
            self.held = None;
        } else if let Some(held) = &mut self.held {
            held.push(bytes);
        }
    }

    /// Returns the SHA-256 of the bytes so far.
    pub fn digest(&self) -> Hex32 {
        Hex(self.hash.clone().finalize().into())
    }

    /// Takes the bytes, if they were stored and are not longer than [`MAX_KEPT_BODY`].
    pub fn take(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let held = self.held.take()?;
        Some(Zeroizing::new(held.into_bytes()))
    }
}
