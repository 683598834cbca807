//! Tests of hashing.

use cocoon_kernels::device::{Device, Memory};
use cocoon_kernels::{reference, sm90_blake3};
use proptest::prelude::*;

use super::emulated::{Emulated, available};
use super::{Case, bytes, cases};

/// Checks that the root of each message equals that of the reference and of the `blake3` crate.
pub fn hashes(device: &impl Device, case: &Case) {
    let memories: Vec<_> = case
        .iter()
        .map(|(skew, bytes)| {
            let mut whole = vec![0xa7; *skew];
            whole.extend(bytes);
            device.upload(&whole).expect("memory")
        })
        .collect();
    let spans: Vec<_> = memories
        .iter()
        .zip(case)
        .map(|(memory, (skew, _))| memory.span(*skew as u64..memory.bytes()).expect("within"))
        .collect();
    let roots = sm90_blake3::roots(device, &spans).expect("hashed");
    assert_eq!(roots.len(), case.len());
    for (root, (skew, bytes)) in roots.iter().zip(case) {
        assert_eq!(
            root.to_string(),
            blake3::hash(bytes).to_string(),
            "{} bytes at {skew}",
            bytes.len()
        );
        if bytes.len() < 300_000 {
            assert_eq!(root.0, reference::blake3::hash(bytes));
        }
    }
}

/// Offsets of messages from an aligned address, in bytes.
const SKEWS: [usize; 5] = [0, 1, 4, 15, 16];

/// Sizes around every boundary: vectors, blocks, chunks, stages, tiles, and groups of tiles.
pub fn odd_sizes() -> Case {
    let lengths = [
        0, 1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2047, 2048, 2049, 3072,
        4097, 131_071, 131_072, 131_073, 132_096, 263_168, 393_217,
    ];
    let mut case: Case = Vec::new();
    for (index, length) in lengths.iter().enumerate() {
        for skew in SKEWS {
            // Long messages get at most one start each; the short ones show the effect of all starts.
            if *length < 10_000 || skew == SKEWS[index % SKEWS.len()] {
                case.push((skew, bytes(*length, (length + skew) as u64)));
            }
        }
    }
    case
}

#[test]
fn emulated_at_odd_sizes_and_misaligned_starts() {
    if available() {
        // Two orders of threads.
        for seed in [1, 2] {
            hashes(&Emulated::new("sm90_blake3", seed), &odd_sizes());
        }
    }
}

#[test]
fn emulated_with_any_batch() {
    if !available() {
        return;
    }
    let device = Emulated::new("sm90_blake3", 0);
    let length = prop_oneof![
        0..3000usize,
        100_000..300_000usize,
        (0..300usize).prop_map(|chunks| chunks * 1024)
    ];
    let message = (0..40usize, length, any::<u64>())
        .prop_map(|(skew, length, seed)| (skew, bytes(length, seed)));
    proptest!(cases(40), |(case in prop::collection::vec(message, 0..5), seed: u64)| {
        device.reseed(seed);
        hashes(&device, &case);
    });
}

/// Two messages of more than 256 tiles, which need two passes over the tree, and two small ones.
#[test]
fn emulated_through_two_passes_of_the_tree() {
    if !available() {
        return;
    }
    let tile = usize::try_from(sm90_blake3::TILE).expect("small");
    let case = vec![
        (0, bytes(256 * tile + 1, 1)),
        (3, bytes(5, 2)),
        (16, bytes(259 * tile + 700, 3)),
        (0, bytes(2 * tile, 4)),
    ];
    hashes(&Emulated::new("sm90_blake3", 2), &case);
}

/// Runs single tiles beyond 4 GiB. Their values must equal those of the reference at the same chunks.
#[test]
fn emulated_beyond_4_gib() {
    use cocoon_kernels::device::Argument;

    if !available() {
        return;
    }
    let (tile, tiles) = (sm90_blake3::TILE, 40_961);
    let length = (tiles - 1) * tile + 1500;
    // The memory is committed only where tiles are written.
    let device = Emulated::new("sm90_blake3", 0);
    let mut memory = device
        .allocate(length)
        .expect("five gibibytes of addresses");
    for number in [0, 1, 32_767, 32_768, 32_769, tiles - 1] {
        let here = number * tile..length.min((number + 1) * tile);
        let content = bytes(
            usize::try_from(here.end - here.start).expect("a tile"),
            number,
        );
        memory.write(here.start, &content);
        let device = Emulated::new("sm90_blake3", number).only_block(
            u32::try_from(number).expect("small"),
            u32::try_from(tiles).expect("small"),
        );
        let table: Vec<u8> = [memory.address(), length, 0]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let table = device.upload(&table).expect("memory");
        let (values, roots) = (
            device.allocate(32 * tiles).expect("memory"),
            device.allocate(32).expect("memory"),
        );
        let arguments = [
            Argument::Long(table.address()),
            Argument::Word(1),
            Argument::Long(tiles),
            Argument::Long(values.address()),
            Argument::Long(roots.address()),
        ];
        device.start(
            &sm90_blake3::LEAVES,
            u32::try_from(tiles).expect("small"),
            &arguments,
        );
        let found = device.download(&values).expect("read back");
        let at = usize::try_from(32 * number).expect("small");
        let expected = reference::blake3::chaining_value(&content, number * 128);
        assert_eq!(found[at..at + 32], expected, "tile {number}");
    }
}

#[test]
fn no_messages_have_no_roots() {
    if available() {
        assert_eq!(
            sm90_blake3::roots(&Emulated::new("sm90_blake3", 0), &[]).expect("nothing to do"),
            []
        );
    }
}
