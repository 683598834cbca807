//! What the kernels compute, against the reference, at odd sizes and misaligned starts: their own source on the
//! processor always, and on a GPU where one is (`--ignored`, by `kernels/on-gpu`).

#[path = "../emulated/mod.rs"]
mod emulated;
mod gpu;
mod sanitized;
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod sm90_blake3;
mod sm90_scrub;

use proptest::test_runner::Config;

/// Ranges with their distance from a place that is aligned.
type Case = Vec<(usize, Vec<u8>)>;

/// Fewer cases where each is slow; cases that failed once are not kept, because no folder of the sources is written to.
fn cases(number: u32) -> Config {
    Config {
        cases: number,
        failure_persistence: None,
        ..Config::default()
    }
}

/// Bytes that hang on their place and on `seed`; about one of four is zero.
fn bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let [low, high, ..] = state.to_le_bytes();
        if low < 64 { 0 } else { high }
    };
    (0..length).map(|_| next()).collect()
}
