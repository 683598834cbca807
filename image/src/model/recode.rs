//! Converts weights of types that the engine computes slowly to Q8_0, which it computes fast, when the volume is written.
//!
//! On a CPU the engine multiplies quantised weights with candle. It has vector instructions for most types of GGUF, but none
//! for Q4_1, Q5_0 and Q5_1, which take several times as long. Q8_0 has the same blocks of 32 weights, so it fits wherever they
//! do, and its steps are at least four times finer for weights on both sides of zero. It costs memory: 34 bytes per block
//! instead of 20 to 24.
//!
//! The conversion happens here and not in the guest, so the measured weights are those that are computed with, and the guest
//! needs no memory for two copies. The same file gives the same bytes everywhere, because no operation below depends on the
//! machine.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use half::f16;

use super::gguf::{Header, MAX_HEADER};

/// Number of weights per block, for all types concerned.
const BLOCK: usize = 32;
/// Number of blocks to read at once.
const BLOCKS: usize = 1 << 14;
/// Number of Q8_0 in the list of tensor types.
const Q8_0: u32 = 8;
const Q8_0_BYTES: usize = 34;
/// Values of `general.file_type` for files of mostly Q4_1, Q5_0 or Q5_1 tensors.
const MOSTLY_SLOW: [u32; 3] = [3, 8, 9];
const MOSTLY_Q8_0: u32 = 7;
/// Suffix of the name of a converted file, before its extension.
pub const MARK: &str = "+Q8_0";

/// Decodes the bytes of a block into its weights.
type Decode = fn(&[u8]) -> [f32; BLOCK];

/// Slow types: number, bytes per block, function to decode a block.
const SLOW: [(u32, usize, Decode); 3] = [(3, 20, q4_1), (6, 22, q5_0), (7, 24, q5_1)];

/// Types with known sizes: number, weights per block, bytes per block.
pub(super) const SIZES: [(u32, u64, u64); 15] = [
    (0, 1, 4),      // F32
    (1, 1, 2),      // F16
    (2, 32, 18),    // Q4_0
    (3, 32, 20),    // Q4_1
    (6, 32, 22),    // Q5_0
    (7, 32, 24),    // Q5_1
    (8, 32, 34),    // Q8_0
    (9, 32, 36),    // Q8_1
    (10, 256, 84),  // Q2_K
    (11, 256, 110), // Q3_K
    (12, 256, 144), // Q4_K
    (13, 256, 176), // Q5_K
    (14, 256, 210), // Q6_K
    (15, 256, 292), // Q8_K
    (30, 1, 2),     // BF16
];

/// Plan for writing a GGUF file with fast types only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recoding {
    header: Vec<u8>,
    parts: Vec<Part>,
    /// Size of the converted file, in bytes.
    pub size: u64,
}

/// A tensor: its place in the original file, its index in [`SLOW`] if it is converted, and the padding after it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    from: u64,
    length: u64,
    slow: Option<usize>,
    padding: usize,
}

impl Recoding {
    /// Plans the conversion of the file at `path`. Returns `None` if it has no tensor of a slow type or is not understood.
    ///
    /// # Errors
    /// An [`io::Error`] when the file cannot be read.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut beginning = Vec::new();
        file.take(MAX_HEADER as u64).read_to_end(&mut beginning)?;
        Ok(Header::parse(&beginning).and_then(|header| Self::plan(header, size)))
    }

    fn plan(mut header: Header, size: u64) -> Option<Self> {
        if !header
            .tensors
            .iter()
            .any(|tensor| slow(tensor.kind).is_some())
        {
            return None;
        }
        let (mut parts, mut next) = (Vec::new(), 0_u64);
        for tensor in &mut header.tensors {
            let (_, weights, bytes) = *SIZES.iter().find(|(kind, ..)| *kind == tensor.kind)?;
            if tensor.elements % weights != 0 {
                return None;
            }
            let blocks = tensor.elements / weights;
            let from = header.data.checked_add(tensor.offset)?;
            let length = blocks.checked_mul(bytes)?;
            if from.checked_add(length)? > size {
                return None;
            }
            let slow = slow(tensor.kind);
            let written = match slow {
                Some(_) => blocks.checked_mul(Q8_0_BYTES as u64)?,
                None => length,
            };
            let end = next.checked_add(written)?;
            let aligned = end.checked_next_multiple_of(header.alignment)?;
            parts.push(Part {
                from,
                length,
                slow,
                padding: usize::try_from(aligned - end).ok()?,
            });
            tensor.offset = next;
            if slow.is_some() {
                tensor.kind = Q8_0;
            }
            next = aligned;
        }
        if let Some(place) = header.file_type {
            let number = header.values.get_mut(place..place + 4)?;
            if MOSTLY_SLOW.iter().any(|slow| *number == slow.to_le_bytes()) {
                number.copy_from_slice(&MOSTLY_Q8_0.to_le_bytes());
            }
        }
        let header = header.encode();
        let size = next.checked_add(header.len() as u64)?;
        Some(Self {
            header,
            parts,
            size,
        })
    }

    /// Passes the bytes of the converted file to `put`. `file` is the original file.
    ///
    /// # Errors
    /// The error of `put`, or the one that `read` makes of a failure to read.
    pub fn write<E>(
        &self,
        file: &mut File,
        read: impl Fn(io::Error) -> E,
        mut put: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        put(&self.header)?;
        let mut written = Vec::new();
        for part in &self.parts {
            file.seek(SeekFrom::Start(part.from)).map_err(&read)?;
            let kind = part.slow.and_then(|index| SLOW.get(index));
            let size = kind.map_or(1 << 20, |(_, bytes, _)| bytes * BLOCKS);
            let mut left = part.length;
            let mut buffer = vec![0; size];
            while left > 0 {
                let take = usize::try_from(left).map_or(size, |left| left.min(size));
                let taken = &mut buffer[..take];
                file.read_exact(taken).map_err(&read)?;
                match kind {
                    None => put(taken)?,
                    Some((_, bytes, decode)) => {
                        written.clear();
                        for block in taken.chunks_exact(*bytes) {
                            written.extend(q8_0(&decode(block)));
                        }
                        put(&written)?;
                    }
                }
                left -= take as u64;
            }
            put(&vec![0; part.padding])?;
        }
        Ok(())
    }
}

/// Returns the index of a slow type in [`SLOW`].
fn slow(kind: u32) -> Option<usize> {
    SLOW.iter().position(|(number, ..)| *number == kind)
}

/// Decodes a block of `d`, `m` and 16 bytes with two weights each: `d·q + m`.
fn q4_1(block: &[u8]) -> [f32; BLOCK] {
    let (d, m) = (number(block, 0), number(block, 2));
    std::array::from_fn(|index| d * f32::from(low(block, 4, index)) + m)
}

/// Decodes a block of `d`, 32 fifth bits and 16 bytes with two weights each: `d·(q − 16)`.
fn q5_0(block: &[u8]) -> [f32; BLOCK] {
    let d = number(block, 0);
    std::array::from_fn(|index| {
        let q = low(block, 6, index) | high(block, 2, index);
        d * (f32::from(q) - 16.0)
    })
}

/// Decodes a block of `d`, `m`, 32 fifth bits and 16 bytes with two weights each: `d·q + m`.
fn q5_1(block: &[u8]) -> [f32; BLOCK] {
    let (d, m) = (number(block, 0), number(block, 2));
    std::array::from_fn(|index| {
        let q = low(block, 8, index) | high(block, 4, index);
        d * f32::from(q) + m
    })
}

/// Encodes a block of `d` and 32 signed bytes: `d·q`. Unlike ggml's reference, this chooses `q` for `d` as it is stored, which
/// is more accurate.
fn q8_0(weights: &[f32; BLOCK]) -> [u8; Q8_0_BYTES] {
    let largest = weights
        .iter()
        .fold(0_f32, |most, weight| most.max(weight.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let mut block = [0; Q8_0_BYTES];
    block[..2].copy_from_slice(&scale.to_le_bytes());
    let scale = scale.to_f32();
    if scale > 0.0 {
        for (place, weight) in block[2..].iter_mut().zip(weights) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "127 and a little, rounded; and `as` saturates"
            )]
            let q = (weight / scale).round() as i8;
            *place = q.cast_unsigned();
        }
    }
    block
}

/// Returns the half-precision number at offset `at`.
fn number(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Returns the low four bits of a weight. The low halves of the bytes hold the first 16 weights, the high halves the others.
fn low(block: &[u8], at: usize, index: usize) -> u8 {
    match index < BLOCK / 2 {
        true => block[at + index] & 15,
        false => block[at + index - BLOCK / 2] >> 4,
    }
}

/// Returns the fifth bit of a weight, at its position in the value.
fn high(block: &[u8], at: usize, index: usize) -> u8 {
    (block[at + index / 8] >> (index % 8) & 1) << 4
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::super::gguf::tests::file;
    use super::*;

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    fn recoded(bytes: &[u8]) -> Option<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.gguf");
        fs::write(&path, bytes).unwrap();
        let recoding = Recoding::of(&path).unwrap()?;
        let mut written = Vec::new();
        let put = |part: &[u8]| {
            written.extend(part);
            Ok::<_, io::Error>(())
        };
        let mut file = File::open(&path).unwrap();
        recoding.write(&mut file, |error| error, put).unwrap();
        assert_eq!(written.len() as u64, recoding.size);
        Some(written)
    }

    #[test]
    fn slow_tensors_change_and_the_others_move() {
        // Weights from -8 to 7: in ascending order in the low halves, in descending order in the high halves.
        let nibbles: Vec<u8> = (0..16).map(|q| q | (15 - q) << 4).collect();
        let slow = [&half(1.0)[..], &half(-8.0), &nibbles].concat();
        let fast = [7; 34];
        let bytes = file(&[
            ("norm", 3, 0, &[9; 12]),
            ("slow", 64, 3, &slow.repeat(2)),
            ("fast", 32, 8, &fast),
        ]);
        let written = recoded(&bytes).unwrap();
        let header = Header::parse(&written).unwrap();
        let kinds: Vec<_> = header
            .tensors
            .iter()
            .map(|tensor| (tensor.kind, tensor.offset))
            .collect();
        assert_eq!(kinds, [(0, 0), (8, 32), (8, 32 + 96)]);
        let place = header.file_type.unwrap();
        assert_eq!(header.values[place..place + 4], [7, 0, 0, 0]);
        let data = &written[usize::try_from(header.data).unwrap()..];
        assert_eq!(data[..12], [9; 12]);
        assert_eq!(data[128..128 + 34], fast);
        assert_eq!(data[32..34], half(8.0 / 127.0));
        assert_eq!(data[66..68], half(8.0 / 127.0));
        let q: Vec<i8> = data[34..66].iter().map(|byte| byte.cast_signed()).collect();
        assert_eq!(q[..4], [-127, -111, -95, -79]);
        assert_eq!(q[12..20], [64, 79, 95, 111, 111, 95, 79, 64]);
    }

    #[test]
    fn what_has_no_slow_tensor_or_is_not_understood_stays() {
        assert_eq!(recoded(&file(&[("fast", 32, 8, &[0; 34])])), None);
        // A tensor of an unknown type, one with an incomplete block, and one that exceeds the file.
        let slow: (&str, u64, u32, &[u8]) = ("slow", 32, 3, &[0; 20]);
        assert_eq!(recoded(&file(&[slow, ("new", 32, 99, &[])])), None);
        assert_eq!(recoded(&file(&[slow, ("odd", 33, 3, &[0; 40])])), None);
        assert_eq!(recoded(&file(&[slow, ("short", 64, 3, &[0; 39])])), None);
        assert_eq!(recoded(b"GGUF\x03\0\0\0rest"), None);
        assert!(recoded(&file(&[slow])).is_some());
    }

    #[test]
    fn the_fifth_bits_are_where_the_format_has_them() {
        let bits = [0x01, 0, 0, 0x80];
        let block = [&half(2.0)[..], &bits, &[0x21; 16]].concat();
        let weights = q5_0(&block);
        assert_eq!((weights[0], weights[1]), (2.0, -30.0));
        assert_eq!((weights[16], weights[31]), (-28.0, 4.0));
        let block = [&half(2.0)[..], &half(1.0), &bits, &[0x21; 16]].concat();
        let weights = q5_1(&block);
        assert_eq!((weights[0], weights[1]), (35.0, 3.0));
        assert_eq!((weights[16], weights[31]), (5.0, 37.0));
    }

    proptest! {
        /// The error is at most half a step of Q8_0, which is a fraction of a slow type's own step.
        #[test]
        fn rounding_is_half_a_step(weights in prop::array::uniform32(-100_f32..100.0)) {
            let block = q8_0(&weights);
            let scale = number(&block, 0);
            for (byte, weight) in block[2..].iter().zip(weights) {
                let error = (f32::from(byte.cast_signed()) * scale - weight).abs();
                prop_assert!(error <= scale * 0.501, "{weight}: {error} with steps of {scale}");
            }
        }

        #[test]
        fn no_block_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 24)) {
            for (_, size, decode) in SLOW {
                q8_0(&decode(&bytes[..size]));
            }
        }
    }
}
