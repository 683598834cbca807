//! Tests of the table, also against a model that knows the content of all memory.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// One of the default stream's handles.
const STREAM: u64 = 0;
/// A stream other than the default stream.
const OTHER: u64 = 7;

fn ledger() -> Ledger {
    Ledger::new(1 << 20)
}

fn block(address: u64, bytes: u64) -> Block {
    Block {
        address,
        bytes,
        stream: Some(STREAM),
    }
}

#[test]
fn memory_is_handed_out_again_to_whoever_wants_as_much_on_the_same_stream() {
    let mut ledger = ledger();
    for address in [0x1000, 0x2000, 0x3000] {
        ledger.allocated(address, 512, 512);
        assert_eq!(ledger.released(address, Some(STREAM)), Some(vec![]));
    }
    assert_eq!(ledger.reuse(1024, STREAM), None);
    assert_eq!(ledger.reuse(512, 1), None);
    // The block given back last comes first, because caches still hold it.
    assert_eq!(ledger.reuse(512, STREAM), Some(0x3000));
    assert_eq!(ledger.reuse(512, STREAM), Some(0x2000));
    assert!(ledger.is_live(0x2000) && !ledger.is_live(0x1000));
    assert_eq!(ledger.live_bytes(0), 1024);
    assert_eq!(ledger.take_dirty(), [block(0x1000, 512)]);
    assert_eq!(ledger.reuse(512, STREAM), None);
    let counts = ledger.counts();
    assert_eq!(
        (counts.allocations, counts.releases, counts.strays),
        (5, 3, 0)
    );
}

#[test]
fn what_is_kept_is_bounded_and_leaves_in_the_order_in_which_it_came() {
    let mut ledger = Ledger::new(1024);
    for address in [0x1000, 0x2000, 0x3000] {
        ledger.allocated(address, 512, 512);
    }
    assert_eq!(ledger.released(0x2000, Some(STREAM)), Some(vec![]));
    let clean = ledger.take_dirty();
    ledger.put_back(&clean, false);
    assert_eq!(ledger.released(0x1000, Some(STREAM)), Some(vec![]));
    let first = Retired {
        block: block(0x2000, 512),
        dirty: false,
    };
    assert_eq!(ledger.released(0x3000, Some(STREAM)), Some(vec![first]));
    let rest = [0x1000, 0x3000].map(|address| Retired {
        block: block(address, 512),
        dirty: true,
    });
    assert_eq!(ledger.retire_all(), rest);
    assert_eq!(ledger.retire_all(), []);
}

#[test]
fn memory_of_no_stream_goes_at_once_and_is_overwritten_first() {
    let mut ledger = ledger();
    ledger.allocated(0x1000, 100, 100);
    let block = Block {
        stream: None,
        ..block(0x1000, 100)
    };
    let gone = Retired { block, dirty: true };
    assert_eq!(ledger.released(0x1000, None), Some(vec![gone]));
    assert_eq!((ledger.take_dirty(), ledger.retire_all()), (vec![], vec![]));
}

#[test]
fn memory_of_a_stream_that_may_end_goes_at_once_and_is_overwritten_first() {
    let mut ledger = ledger();
    // The second handle stands for another stream in each thread.
    for stream in [OTHER, 2] {
        ledger.allocated(0x1000, 512, 512);
        let block = Block {
            stream: Some(stream),
            ..block(0x1000, 512)
        };
        let gone = Retired { block, dirty: true };
        assert_eq!(ledger.released(0x1000, Some(stream)), Some(vec![gone]));
        assert_eq!(ledger.reuse(512, stream), None);
    }
    assert_eq!((ledger.take_dirty(), ledger.retire_all()), (vec![], vec![]));
}

#[test]
fn what_the_driver_does_not_take_back_is_there_for_the_next_scrub_and_is_told() {
    let mut ledger = ledger();
    let mut retired = Vec::new();
    for (address, stream) in [
        (0x1000, Some(STREAM)),
        (0x2000, Some(OTHER)),
        (0x3000, None),
    ] {
        ledger.allocated(address, 512, 512);
        retired.extend(ledger.released(address, stream).unwrap());
    }
    retired.extend(ledger.retire_all());
    for Retired { block, .. } in retired {
        ledger.refused(block);
    }
    assert_eq!(ledger.counts().strays, 3);
    let dirty = ledger.take_dirty();
    let addresses: Vec<u64> = dirty.iter().map(|block| block.address).collect();
    assert_eq!(addresses, [0x2000, 0x3000, 0x1000]);
    ledger.put_back(&dirty, false);
    // The driver's error may come from earlier work, and the driver may have freed the block: nobody gets it.
    assert_eq!(
        (ledger.reuse(512, STREAM), ledger.reuse(512, OTHER)),
        (None, None)
    );
    // A block that the driver allocates again was free, and is no longer scrubbed.
    ledger.allocated(0x1000, 512, 512);
    assert_eq!(ledger.counts().strays, 4);
    assert_eq!(ledger.take_dirty(), []);
    let rest: Vec<_> = ledger
        .retire_all()
        .iter()
        .map(|retired| (retired.block.address, retired.dirty))
        .collect();
    assert_eq!(rest, [(0x2000, false), (0x3000, false)]);
}

#[test]
fn what_is_given_back_twice_stays_where_it_is() {
    let mut ledger = ledger();
    ledger.allocated(0x1000, 512, 512);
    assert_eq!(ledger.released(0x1000, Some(STREAM)), Some(Vec::new()));
    assert_eq!(ledger.released(0x1000, Some(STREAM)), Some(Vec::new()));
    assert_eq!(ledger.released(0x1000, None), Some(Vec::new()));
    assert_eq!(ledger.counts().strays, 2);
    assert_eq!(ledger.take_dirty().len(), 1);
}

#[test]
fn what_passes_by_the_table_is_noticed() {
    let mut ledger = ledger();
    assert_eq!(ledger.released(0x1000, Some(STREAM)), None);
    assert_eq!(ledger.counts().strays, 1);
    ledger.allocated(0x1000, 512, 512);
    ledger.allocated(0x1000, 512, 512);
    assert_eq!(ledger.counts().strays, 2);
}

fn part(address: u64, bytes: u64) -> Part {
    Part { address, bytes }
}

#[test]
fn what_the_host_wrote_from_the_beginning_on_is_apart_from_what_it_did_not() {
    let mut ledger = ledger();
    ledger.allocated(0x9000, 1000, 1024);
    ledger.allocated(0x1000, 1024, 1024);
    ledger.allocated(0x5000, 512, 512);
    // No byte of this allocation was asked for.
    ledger.allocated(0x7000, 0, 512);
    ledger.wrote(0x1000, 300);
    ledger.wrote(0x1000 + 300, 200);
    // A write after a gap, beyond what was asked for, or to unknown memory is counted, but is no upload.
    ledger.wrote(0x5000 + 8, 100);
    ledger.wrote(0x9000, 1001);
    ledger.wrote(0x10, 1);
    let mut contents = Contents {
        uploads: vec![part(0x1000, 500)],
        derived: vec![
            part(0x9000, 1000),
            part(0x1000 + 500, 524),
            part(0x5000, 512),
        ],
    };
    assert_eq!(ledger.contents(&[]), Ok(contents.clone()));
    ledger.wrote(0x9000, 1000);
    contents.uploads.insert(0, part(0x9000, 1000));
    contents.derived.remove(0);
    assert_eq!(ledger.contents(&[]), Ok(contents.clone()));

    // Memory can be set aside with at most its allocated size, and only if the table lists it.
    contents.derived.pop();
    assert_eq!(ledger.contents(&[(0x5000, 500)]), Ok(contents.clone()));
    contents.uploads.remove(0);
    assert_eq!(
        ledger.contents(&[(0x9000, 1024), (0x5000, 512)]),
        Ok(contents)
    );
    for (address, bytes, told) in [
        (
            0x9000,
            1025,
            "1025 bytes at 0x9000 are not one allocation of the table's",
        ),
        (
            0x9001,
            8,
            "8 bytes at 0x9001 are not one allocation of the table's",
        ),
    ] {
        let unknown = ledger.contents(&[(0x5000, 512), (address, bytes)]);
        assert_eq!(unknown.unwrap_err().to_string(), told);
    }

    let moment = ledger.moment();
    ledger.allocated(0x20_000, 512, 512);
    ledger.allocated(0x30_000, 512, 512);
    ledger.wrote(0x30_000, 0);
    assert_eq!(
        ledger.scratch_since(moment),
        [(0x20_000, 512), (0x30_000, 512)]
    );
    ledger.wrote(0x30_000, 1);
    assert_eq!(ledger.scratch_since(moment), [(0x20_000, 512)]);
    // Memory counts whether or not the host has written it, and reused memory counts from its reuse on.
    assert_eq!(ledger.live_bytes(moment), 1024);
    let later = ledger.moment();
    ledger.released(0x20_000, Some(STREAM));
    assert_eq!(ledger.live_bytes(moment), 512);
    assert_eq!(ledger.live_bytes(later), 0);
    assert_eq!(ledger.reuse(400, STREAM), Some(0x20_000));
    assert_eq!(ledger.live_bytes(later), 512);
    ledger.read(12);
    let counts = ledger.counts();
    let sum = 300 + 200 + 100 + 1001 + 1 + 1000 + 1;
    assert_eq!((counts.to_device.bytes, counts.to_device.calls), (sum, 8));
    assert_eq!((counts.to_host.bytes, counts.to_host.calls), (12, 1));
    // Reused memory has a new user, so what was uploaded before does not count.
    ledger.released(0x1000, Some(STREAM));
    assert_eq!(ledger.reuse(700, STREAM), Some(0x1000));
    let contents = ledger.contents(&[]).unwrap();
    assert_eq!(contents.uploads, [part(0x9000, 1000), part(0x30_000, 1)]);
    assert_eq!(contents.derived.last(), Some(&part(0x1000, 700)));
}

#[test]
fn sizes_are_rounded_as_the_driver_rounds_them() {
    assert_eq!(Ledger::capacity(0), 0);
    assert_eq!(Ledger::capacity(1), 512);
    assert_eq!(Ledger::capacity(512), 512);
    assert_eq!(Ledger::capacity(513), 1024);
    assert_eq!(Ledger::capacity(u64::MAX), u64::MAX);
}

#[derive(Debug, Clone)]
enum Step {
    Allocate { grains: u64, stream: u64 },
    Release { which: usize, stream: Stream },
    Scrub,
    Fail,
    Exhaust,
    Refuse,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..4_u64, 0..2_u64).prop_map(|(grains, stream)| Step::Allocate { grains, stream }),
        8 => (any::<usize>(), prop::option::weighted(0.9, 0..3_u64))
            .prop_map(|(which, stream)| Step::Release { which, stream }),
        1 => Just(Step::Scrub),
        1 => Just(Step::Fail),
        1 => Just(Step::Exhaust),
        1 => Just(Step::Refuse),
    ]
}

/// Memory in the model: its size, and whether it was written since it was last all zero.
type Memory = BTreeMap<u64, (u64, bool)>;

/// Does what the interposed calls do with retired memory.
fn free(memory: &mut Memory, retired: &[Retired]) -> Result<(), TestCaseError> {
    for Retired { block, dirty } in retired {
        let held = memory.remove(&block.address);
        let (bytes, written) = held.expect("what goes to the driver came from it");
        prop_assert_eq!(bytes, block.bytes);
        prop_assert!(*dirty || !written, "a prompt goes to the driver");
    }
    Ok(())
}

proptest! {
    #[test]
    fn nothing_goes_to_the_driver_before_it_is_overwritten(steps in prop::collection::vec(step(), 0..200)) {
        let mut ledger = Ledger::new(8 * GRAIN);
        let (mut memory, mut live, mut fresh) = (Memory::new(), Vec::new(), 0x1000);
        let mut refused = 0;
        for step in steps {
            match step {
                Step::Allocate { grains, stream } => {
                    let bytes = grains * GRAIN;
                    let address = ledger.reuse(bytes, stream).unwrap_or_else(|| {
                        fresh += 0x10_000;
                        ledger.allocated(fresh, bytes, bytes);
                        fresh
                    });
                    prop_assert!(!live.contains(&address), "in use twice");
                    live.push(address);
                    // Whoever allocates memory writes to it.
                    memory.insert(address, (bytes, true));
                }
                Step::Release { which, stream } if !live.is_empty() => {
                    let address = live.swap_remove(which % live.len());
                    let retired = ledger.released(address, stream).expect("known");
                    free(&mut memory, &retired)?;
                }
                Step::Release { .. } => {}
                Step::Scrub => {
                    let dirty = ledger.take_dirty();
                    for block in &dirty {
                        prop_assert!(!live.contains(&block.address), "in use, and scrubbed");
                        memory.insert(block.address, (block.bytes, false));
                    }
                    ledger.put_back(&dirty, false);
                    let kept = memory.iter().filter(|(address, _)| !live.contains(address));
                    prop_assert!(kept.into_iter().all(|(_, (_, written))| !written), "left behind");
                }
                Step::Fail => {
                    let dirty = ledger.take_dirty();
                    ledger.put_back(&dirty, true);
                }
                Step::Exhaust => free(&mut memory, &ledger.retire_all())?,
                Step::Refuse => {
                    for Retired { block, .. } in ledger.retire_all() {
                        ledger.refused(block);
                        refused += 1;
                    }
                }
            }
            let kept = memory.iter().filter(|(address, _)| !live.contains(address));
            let kept: u64 = kept.map(|(_, (bytes, _))| bytes).sum();
            prop_assert!(kept <= 8 * GRAIN);
            let contents = ledger.contents(&[]).expect("nothing is aside");
            let covered: u64 = contents.derived.iter().map(|part| part.bytes).sum();
            prop_assert_eq!(covered, ledger.live_bytes(0));
            prop_assert_eq!(ledger.counts().strays, refused);
        }
    }
}
