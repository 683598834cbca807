//! Evidence shared by several sessions (SPEC.md §2.1): the report data commit to a Merkle tree over the session bindings, and
//! each session gets the inclusion proof of its own binding.
//!
//! The tree is that of RFC 9162 §2.1 over SHA-256. A leaf is a whole session binding, which contains the exporter of its TLS
//! session. A client therefore sees of other sessions only hashes over secrets that it does not know.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

use crate::binding::{self, BINDING_LEN, BINDING_VERSION};
use crate::bytes::{Hex, Hex32, Hex64};

/// Length of the bytes that the report data of a batch are the digest of.
const COMMITMENT_LEN: usize = 52;

/// Most sessions that may share one quote or report.
pub const MAX_LEAVES: usize = 32;

const BATCH_TAG: &[u8; 16] = b"cocoon-batch-1\0\0";
const LEAF: [u8; 1] = [0];
const NODE: [u8; 1] = [1];

/// Position of one session in a batch, with the inclusion proof of its binding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// Number of sessions in the batch, 2 to [`MAX_LEAVES`].
    pub leaves: u16,
    /// Index of this session's leaf, from zero.
    pub index: u16,
    /// Inclusion proof: the sibling hashes on the way from the leaf to the root, the leaf's sibling first. It has one hash for
    /// each level above the leaf.
    pub path: Vec<Hex32>,
}

/// Reason why a batch position is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The number of leaves is out of range.
    #[error("a batch has 2 to {MAX_LEAVES} sessions, this one has {0}")]
    Leaves(u16),
    /// The index is not below the number of leaves.
    #[error("session {index} of a batch of {leaves}: they count from zero")]
    Index {
        /// The index found.
        index: u16,
        /// Number of leaves of the batch.
        leaves: u16,
    },
    /// The path has the wrong length.
    #[error(
        "a path of {found} hashes, where session {index} of a batch of {leaves} has {expected}"
    )]
    Path {
        /// Index of the session's leaf.
        index: u16,
        /// Number of leaves of the batch.
        leaves: u16,
        /// Number of hashes found.
        found: usize,
        /// Number of hashes that this position requires.
        expected: usize,
    },
}

impl Batch {
    /// Checks that the position exists in such a tree and that the path has the length which the position requires.
    pub fn check(&self) -> Result<(), BatchError> {
        let Self { leaves, index, .. } = *self;
        if !(2..=MAX_LEAVES).contains(&usize::from(leaves)) {
            return Err(BatchError::Leaves(leaves));
        }
        if index >= leaves {
            return Err(BatchError::Index { index, leaves });
        }
        let (found, expected) = (self.path.len(), turns(index.into(), leaves.into()).len());
        if found != expected {
            return Err(BatchError::Path {
                index,
                leaves,
                found,
                expected,
            });
        }
        Ok(())
    }

    /// Returns the report data of the batch that has `binding` at this position.
    pub fn report_data(&self, binding: &[u8; BINDING_LEN]) -> Result<Hex64, BatchError> {
        self.commitment(binding).map(|bytes| digest(&bytes))
    }

    /// Returns the GPUs' nonce of the batch that has `binding` at this position, with the GPU digest of `binding` set to zero.
    pub fn gpu_nonce(&self, binding: &[u8; BINDING_LEN]) -> Result<Hex32, BatchError> {
        let bytes = self.commitment(&binding::without_gpus(binding))?;
        Ok(binding::nonce_over(&bytes))
    }

    fn commitment(&self, binding: &[u8; BINDING_LEN]) -> Result<[u8; COMMITMENT_LEN], BatchError> {
        self.check()?;
        let turns = turns(self.index.into(), self.leaves.into());
        let mut hash = leaf(binding);
        for (beside, right) in self.path.iter().zip(turns.iter().rev()) {
            hash = match right {
                true => node(beside, &hash),
                false => node(&hash, beside),
            };
        }
        Ok(commitment(self.leaves, &hash))
    }
}

/// Report data over several bindings, with the position of each.
pub struct Shared {
    /// Report data for the TEE to sign.
    pub report_data: Hex64,
    /// Nonce for the GPUs. It is meant for bindings whose GPU digest is still zero.
    pub gpu_nonce: Hex32,
    /// Positions in the order of the bindings; `None` if there is only one binding.
    pub places: Vec<Option<Batch>>,
}

/// Combines session bindings into one batch. A single binding gets the report data of [`binding::report_data`]. Returns `None`
/// for no bindings and for more than [`MAX_LEAVES`].
pub fn share(bindings: &[[u8; BINDING_LEN]]) -> Option<Shared> {
    if let [alone] = bindings {
        return Some(Shared {
            report_data: binding::report_data(alone),
            gpu_nonce: binding::gpu_nonce(alone),
            places: vec![None],
        });
    }
    let leaves = u16::try_from(bindings.len()).ok()?;
    if !(2..=MAX_LEAVES).contains(&bindings.len()) {
        return None;
    }
    let hashes: Vec<Hex32> = bindings.iter().map(|binding| leaf(binding)).collect();
    let place = |index| {
        Some(Batch {
            leaves,
            index,
            path: path(index.into(), &hashes),
        })
    };
    let bytes = commitment(leaves, &root(&hashes));
    Some(Shared {
        report_data: digest(&bytes),
        gpu_nonce: binding::nonce_over(&bytes),
        places: (0..leaves).map(place).collect(),
    })
}

fn leaf(bytes: &[u8]) -> Hex32 {
    Hex(Sha256::new()
        .chain_update(LEAF)
        .chain_update(bytes)
        .finalize()
        .into())
}

fn node(left: &Hex32, right: &Hex32) -> Hex32 {
    let hash = Sha256::new().chain_update(NODE);
    Hex(hash
        .chain_update(left)
        .chain_update(right)
        .finalize()
        .into())
}

/// Returns the bytes whose digest the evidence of a batch carries as its report data.
fn commitment(leaves: u16, root: &Hex32) -> [u8; COMMITMENT_LEN] {
    let mut bytes = [0; COMMITMENT_LEN];
    bytes[..16].copy_from_slice(BATCH_TAG);
    bytes[16..18].copy_from_slice(&BINDING_VERSION.to_be_bytes());
    bytes[18..20].copy_from_slice(&leaves.to_be_bytes());
    bytes[20..].copy_from_slice(&root.0);
    bytes
}

fn digest(commitment: &[u8; COMMITMENT_LEN]) -> Hex64 {
    Hex64::from_digest(Sha512::digest(commitment).into())
}

/// Returns the largest power of two below `leaves`, which must be at least 2.
fn split(leaves: usize) -> usize {
    leaves.next_power_of_two() / 2
}

/// Returns, for each node from the root down to a leaf, whether the way to the leaf goes right.
fn turns(mut index: usize, mut leaves: usize) -> Vec<bool> {
    let mut turns = Vec::new();
    while leaves > 1 {
        let split = split(leaves);
        let right = index >= split;
        (index, leaves) = match right {
            true => (index - split, leaves - split),
            false => (index, split),
        };
        turns.push(right);
    }
    turns
}

/// Merkle tree hash of RFC 9162 §2.1.1.
fn root(hashes: &[Hex32]) -> Hex32 {
    match hashes {
        [] => Hex32::sha256(&[]),
        [alone] => *alone,
        several => {
            let (left, right) = several.split_at(split(several.len()));
            node(&root(left), &root(right))
        }
    }
}

/// Inclusion proof of RFC 9162 §2.1.3.1.
fn path(index: usize, hashes: &[Hex32]) -> Vec<Hex32> {
    if hashes.len() < 2 {
        return Vec::new();
    }
    let (left, right) = hashes.split_at(split(hashes.len()));
    let (mut path, beside) = match index.checked_sub(left.len()) {
        None => (path(index, left), root(right)),
        Some(index) => (path(index, right), root(left)),
    };
    path.push(beside);
    path
}

#[cfg(test)]
mod tests;
