//! What an engine reports of its GPU: the weights measured in GPU memory, and counters of operations on that memory.

use serde::{Deserialize, Serialize};

use crate::bytes::Hex32;

/// Path under which clients get [`Weights`].
pub const WEIGHTS_PATH: &str = "/.well-known/cocoon/weights";
/// Most tensors in one frame.
pub const MAX_TENSORS_IN_FRAME: usize = 256;
/// Most tensors of a model.
pub const MAX_TENSORS: usize = 1 << 15;

/// Measurement of one piece of GPU memory, made there after the model was loaded. If the host has written the piece from a
/// GGUF file and the engine computes with the file's own format, these are the bytes of a tensor as they are in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorRoot {
    /// BLAKE3 hash of the piece, as `b3sum` prints it.
    pub root: Hex32,
    /// Length of the piece in bytes.
    pub bytes: u64,
}

/// Measurements of a model in GPU memory and of the data beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// BLAKE3 over [`Self::encode`].
    pub root: Hex32,
    /// Bytes of caches and scratch memory, all of which every scrub overwrites.
    pub pool_bytes: u64,
    /// Tensors that the host has written, sorted by root and then by bytes, because the order of loading has no meaning.
    pub tensors: Vec<TensorRoot>,
    /// All other memory that was in use and is not overwritten with the pool, sorted in the same way. It holds what the engine
    /// has made on the GPU, such as embeddings in the format of its arithmetic.
    pub derived: Vec<TensorRoot>,
}

impl Weights {
    /// Returns the bytes whose BLAKE3 hash is the root of the model's weights: a tag of 16 bytes, the number of tensors, then
    /// root and length of each tensor and of each derived piece. Numbers are big-endian and have eight bytes.
    pub fn encode(tensors: &[TensorRoot], derived: &[TensorRoot]) -> Vec<u8> {
        let mut bytes = b"cocoon-weights-2".to_vec();
        bytes.extend((tensors.len() as u64).to_be_bytes());
        for tensor in tensors.iter().chain(derived) {
            bytes.extend(tensor.root.0);
            bytes.extend(tensor.bytes.to_be_bytes());
        }
        bytes
    }
}

/// Copies in one direction between host memory and GPU memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crossings {
    /// Number of bytes copied.
    pub bytes: u64,
    /// Number of copies.
    pub calls: u64,
}

/// Counters since the engine began to load the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuCounts {
    /// Copies to the GPU, including those of the weights.
    pub to_device: Crossings,
    /// Copies from the GPU.
    pub to_host: Crossings,
    /// Bytes of caches and freed memory that were overwritten and then read again.
    pub scrubbed_bytes: u64,
    /// How many of these bytes were not zero when they were read again.
    pub residue_bytes: u64,
}

impl GpuCounts {
    /// Returns whether these counters can come after `before`: no counter ever decreases.
    pub fn follow(&self, before: &Self) -> bool {
        self.numbers()
            .iter()
            .zip(before.numbers())
            .all(|(now, before)| *now >= before)
    }

    /// Returns the sum of these counters and those of another run of the engine.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let sum = |one: Crossings, other: Crossings| Crossings {
            bytes: one.bytes.saturating_add(other.bytes),
            calls: one.calls.saturating_add(other.calls),
        };
        Self {
            to_device: sum(self.to_device, other.to_device),
            to_host: sum(self.to_host, other.to_host),
            scrubbed_bytes: self.scrubbed_bytes.saturating_add(other.scrubbed_bytes),
            residue_bytes: self.residue_bytes.saturating_add(other.residue_bytes),
        }
    }

    fn numbers(&self) -> [u64; 6] {
        [
            self.to_device.bytes,
            self.to_device.calls,
            self.to_host.bytes,
            self.to_host.calls,
            self.scrubbed_bytes,
            self.residue_bytes,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_never_fall() {
        let before = GpuCounts {
            to_host: Crossings { bytes: 3, calls: 1 },
            ..GpuCounts::default()
        };
        assert!(before.follow(&GpuCounts::default()) && before.follow(&before));
        assert!(!GpuCounts::default().follow(&before));
        let sum = before.plus(&before);
        assert_eq!(sum.to_host, Crossings { bytes: 6, calls: 2 });
    }

    #[test]
    fn the_models_root_is_over_this() {
        let tensor = TensorRoot {
            root: crate::bytes::Hex([7; 32]),
            bytes: 258,
        };
        let encoded = Weights::encode(&[tensor], &[]);
        assert_eq!(encoded.len(), 16 + 8 + 40);
        assert_eq!(&encoded[..16], b"cocoon-weights-2");
        assert_eq!(encoded[16..24], [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(encoded[24..56], [7; 32]);
        assert_eq!(encoded[56..], [0, 0, 0, 0, 0, 0, 1, 2]);
        // The number of tensors shows in which of the two lists a piece is.
        let derived = Weights::encode(&[], &[tensor]);
        assert_eq!(derived[16..24], [0; 8]);
        assert_eq!(derived[24..], encoded[24..]);
    }
}
