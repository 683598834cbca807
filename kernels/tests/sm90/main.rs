//! Tests the kernels against the references, at odd sizes and misaligned starts: always with their source on the
//! processor, and on a GPU where there is one (`--ignored`, by `kernels/on-gpu`).

#[path = "../emulated/mod.rs"]
mod emulated;
mod gpu;
mod sanitized;
#[path = "../../../tests/src/skip.rs"]
mod skip;
mod sm90_blake3;
mod sm90_scrub;

use proptest::test_runner::Config;

/// Ranges, each with its distance from an aligned address.
type Case = Vec<(usize, Vec<u8>)>;

/// A configuration with this number of cases. Failed cases are not persisted, because tests must not write into the
/// sources.
fn cases(number: u32) -> Config {
    Config {
        cases: number,
        failure_persistence: None,
        ..Config::default()
    }
}

/// Bytes that depend on their position and on `seed`; about one in four is zero.
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
