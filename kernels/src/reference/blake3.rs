//! BLAKE3's hash mode as section 2 of its paper defines it, without optimisation.

const CHUNK: usize = 1024;
const BLOCK: usize = 64;

const CHUNK_START: u32 = 1;
const CHUNK_END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;

/// The initial value: the first 32 bits of the fractional parts of the square roots of the first eight primes.
const IV: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];
/// For each message word of the next round, the index of the word it is taken from.
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];

/// Returns the 32-byte hash of `message`.
#[must_use]
pub fn hash(message: &[u8]) -> [u8; 32] {
    bytes(subtree(message, 0, true))
}

/// Returns the chaining value of a subtree that is not the whole tree. `first_chunk` is the number of its first chunk.
#[must_use]
pub fn chaining_value(chunks: &[u8], first_chunk: u64) -> [u8; 32] {
    bytes(subtree(chunks, first_chunk, false))
}

fn subtree(message: &[u8], first_chunk: u64, whole: bool) -> [u32; 8] {
    let root = if whole { ROOT } else { 0 };
    if message.len() <= CHUNK {
        return chunk(message, first_chunk, root);
    }
    // "The left subtree is the largest complete one that leaves at least one byte to the right."
    let chunks = message.len().div_ceil(CHUNK);
    let mut left = 1;
    while left * 2 < chunks {
        left *= 2;
    }
    let (one, other) = message.split_at(left * CHUNK);
    let one = subtree(one, first_chunk, false);
    let other = subtree(other, first_chunk + left as u64, false);
    let mut words = [0; 16];
    words[..8].copy_from_slice(&one);
    words[8..].copy_from_slice(&other);
    compress(IV, words, 0, BLOCK, PARENT | root)
}

fn chunk(bytes: &[u8], number: u64, root: u32) -> [u32; 8] {
    let blocks = bytes.len().div_ceil(BLOCK).max(1);
    let mut value = IV;
    for index in 0..blocks {
        let block = &bytes[index * BLOCK..bytes.len().min((index + 1) * BLOCK)];
        let mut padded = [0; BLOCK];
        padded[..block.len()].copy_from_slice(block);
        let mut words = [0; 16];
        for (word, four) in words.iter_mut().zip(padded.chunks_exact(4)) {
            *word = u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
        }
        let start = if index == 0 { CHUNK_START } else { 0 };
        let end = if index + 1 == blocks {
            CHUNK_END | root
        } else {
            0
        };
        value = compress(value, words, number, block.len(), start | end);
    }
    value
}

fn compress(
    value: [u32; 8],
    mut message: [u32; 16],
    counter: u64,
    length: usize,
    flags: u32,
) -> [u32; 8] {
    let [low, high] = [counter, counter >> 32].map(low_word);
    let length = low_word(length as u64);
    let mut state = [0; 16];
    state[..8].copy_from_slice(&value);
    state[8..12].copy_from_slice(&IV[..4]);
    state[12..].copy_from_slice(&[low, high, length, flags]);
    for _ in 0..7 {
        let columns = [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]];
        let diagonals = [[0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]];
        for (place, words) in columns
            .iter()
            .chain(&diagonals)
            .zip(message.chunks_exact(2))
        {
            mix(&mut state, *place, words[0], words[1]);
        }
        message = PERMUTATION.map(|from| message[from]);
    }
    std::array::from_fn(|index| state[index] ^ state[index + 8])
}

fn mix(state: &mut [u32; 16], [a, b, c, d]: [usize; 4], x: u32, y: u32) {
    for (word, [first, second]) in [(x, [16, 12]), (y, [8, 7])] {
        state[a] = state[a].wrapping_add(state[b]).wrapping_add(word);
        state[d] = (state[d] ^ state[a]).rotate_right(first);
        state[c] = state[c].wrapping_add(state[d]);
        state[b] = (state[b] ^ state[c]).rotate_right(second);
    }
}

fn low_word(number: u64) -> u32 {
    let [a, b, c, d, ..] = number.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn bytes(words: [u32; 8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (four, word) in bytes.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The input of the published test vectors: bytes 0 to 250, repeated.
    fn message(length: usize) -> Vec<u8> {
        (0..=250).cycle().take(length).collect()
    }

    #[test]
    fn the_lengths_of_the_published_vectors_agree_with_the_crate() {
        for length in [
            0, 1, 2, 63, 64, 65, 127, 128, 1023, 1024, 1025, 2048, 2049, 3072, 4097, 6145, 8193,
            31_744, 102_400,
        ] {
            let message = message(length);
            assert_eq!(
                hash(&message),
                *::blake3::hash(&message).as_bytes(),
                "{length} bytes"
            );
        }
    }

    #[test]
    fn a_published_vector() {
        assert_eq!(
            hex::encode(hash(&message(1025))),
            "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"
        );
    }

    #[test]
    fn subtrees_count_their_chunks_from_where_they_begin() {
        let message = message(7 * CHUNK + 5);
        let mut words = [0; 16];
        for (half, (part, first)) in words
            .chunks_exact_mut(8)
            .zip([(&message[..4 * CHUNK], 0), (&message[4 * CHUNK..], 4)])
        {
            let value = chaining_value(part, first);
            for (word, four) in half.iter_mut().zip(value.chunks_exact(4)) {
                *word = u32::from_le_bytes(four.try_into().unwrap());
            }
        }
        let root = bytes(compress(IV, words, 0, BLOCK, PARENT | ROOT));
        assert_eq!(root, hash(&message));
        assert_ne!(
            chaining_value(&message[..CHUNK], 0),
            chaining_value(&message[..CHUNK], 1 << 32)
        );
    }

    proptest! {
        #[test]
        fn any_message_agrees_with_the_crate(length in 0..40_000usize, seed: u64) {
            let message: Vec<u8> = (0..length as u64).map(|i| i.wrapping_mul(seed | 1).to_le_bytes()[3]).collect();
            prop_assert_eq!(hash(&message), *::blake3::hash(&message).as_bytes());
        }
    }
}
