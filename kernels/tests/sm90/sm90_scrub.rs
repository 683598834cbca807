//! Tests of filling and counting.

use cocoon_kernels::device::{Device, Memory};
use cocoon_kernels::{reference, sm90_scrub};
use proptest::prelude::*;

use super::emulated::{Emulated, available};
use super::{Case, bytes, cases};

const TILE: usize = 64 * 1024;

/// Counts in every range, scrubs the even ones and fills the odd ones. Then checks every byte of the memory: nothing
/// outside of the ranges may have changed.
pub fn counts_and_fills(device: &impl Device, case: &Case) {
    let mut memories: Vec<_> = case
        .iter()
        .map(|(skew, bytes)| {
            // Seven bytes after each range must not change. Under AddressSanitizer, nothing may follow it.
            let behind = if super::sanitized::running() { 0 } else { 7 };
            let mut whole = vec![0xa7; skew + bytes.len() + behind];
            whole[*skew..skew + bytes.len()].copy_from_slice(bytes);
            device.upload(&whole).expect("memory")
        })
        .collect();
    let part = |(skew, bytes): &(usize, Vec<u8>)| *skew as u64..(skew + bytes.len()) as u64;
    let spans: Vec<_> = memories
        .iter()
        .zip(case)
        .map(|(memory, range)| memory.span(part(range)).expect("within"))
        .collect();
    let expected: Vec<u64> = case
        .iter()
        .map(|(_, bytes)| reference::count(bytes))
        .collect();
    assert_eq!(
        sm90_scrub::count(device, &spans).expect("counted"),
        expected
    );

    let total = |parity: usize| {
        case.iter()
            .skip(parity)
            .step_by(2)
            .map(|(_, b)| b.len() as u64)
            .sum()
    };
    let mut targets: Vec<_> = memories
        .iter_mut()
        .zip(case)
        .map(|(memory, range)| memory.span_mut(part(range)).expect("within"))
        .collect();
    let (mut even, mut odd) = (Vec::new(), Vec::new());
    for (index, target) in targets.drain(..).enumerate() {
        if index % 2 == 0 {
            even.push(target)
        } else {
            odd.push(target)
        }
    }
    let scrubbed = sm90_scrub::scrub(device, &mut even).expect("scrubbed");
    assert_eq!((scrubbed.bytes, scrubbed.residue), (total(0), 0));
    assert_eq!(
        sm90_scrub::fill(device, &mut odd, 0x5c).expect("filled"),
        total(1)
    );

    for (index, (memory, (skew, bytes))) in memories.iter().zip(case).enumerate() {
        let mut expected = vec![0xa7; usize::try_from(memory.bytes()).expect("small")];
        expected[*skew..skew + bytes.len()].fill(if index % 2 == 0 { 0 } else { 0x5c });
        let found = device.download(memory).expect("read back");
        let wrong = found.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(
            wrong,
            None,
            "range {index}: skew {skew}, {} bytes",
            bytes.len()
        );
    }
}

/// Sizes and starts around every boundary: vectors, tiles, and the alignment of tiles.
pub fn odd_sizes(tile: usize) -> Case {
    let lengths = [
        0,
        1,
        2,
        15,
        16,
        17,
        31,
        32,
        33,
        127,
        128,
        129,
        4095,
        4096,
        4097,
        tile - 1,
        tile,
        tile + 1,
        2 * tile + 4095,
    ];
    let skews = [0, 1, 3, 8, 15, 16, 17, 127, 128, 129];
    lengths
        .iter()
        .flat_map(|length| skews.map(|skew| (skew, bytes(*length, (length * 131 + skew) as u64))))
        .collect()
}

#[test]
fn emulated_at_odd_sizes_and_misaligned_starts() {
    if available() {
        counts_and_fills(&Emulated::new("sm90_scrub", 1), &odd_sizes(TILE));
    }
}

#[test]
fn emulated_with_any_batch() {
    if !available() {
        return;
    }
    let device = Emulated::new("sm90_scrub", 0);
    let range = (0..200usize, 0..3 * TILE, any::<u64>())
        .prop_map(|(skew, length, seed)| (skew, bytes(length, seed)));
    proptest!(cases(48), |(case in prop::collection::vec(range, 0..6), seed: u64)| {
        device.reseed(seed);
        counts_and_fills(&device, &case);
    });
}

/// Places one byte among zeros, at each boundary.
#[test]
fn emulated_a_single_byte_is_found_wherever_it_is() {
    if !available() {
        return;
    }
    let device = Emulated::new("sm90_scrub", 7);
    let length = 2 * TILE + 100;
    for (skew, place) in [
        (0, 0),
        (5, 0),
        (5, 10),
        (5, 11),
        (0, TILE - 1),
        (0, TILE),
        (3, TILE - 3),
        (9, length - 1),
    ] {
        let mut whole = vec![0; skew + length];
        whole[skew + place] = 1 << (place % 8);
        let memory = device.upload(&whole).expect("memory");
        let span = memory
            .span(skew as u64..(skew + length) as u64)
            .expect("within");
        assert_eq!(
            sm90_scrub::count(&device, &[span]).expect("counted"),
            [1],
            "{skew} {place}"
        );
    }
}

#[test]
fn a_range_outside_of_the_memory_is_refused() {
    if !available() {
        return;
    }
    let device = Emulated::new("sm90_scrub", 0);
    let memory = device.allocate(10).expect("memory");
    assert_eq!(
        memory.span(3..11).unwrap_err().to_string(),
        "bytes 3 to 11 are not a part of memory of 10 bytes"
    );
}
