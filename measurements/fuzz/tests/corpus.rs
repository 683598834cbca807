//! Runs each target on its seeds, on mutations of them, and on the inputs that fuzzing has found.
//!
//! Mutations come from a fixed generator, so that a failure is the same everywhere. The failure message shows the input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use cocoon_fuzz::{Cost, TARGETS, Target, warm};

/// Number of mutations of each target that fit in a test's time, shared among its seeds.
const fn mutations(cost: Cost) -> usize {
    match cost {
        Cost::Parses => 3000,
        Cost::Verifies => 60,
    }
}

#[test]
fn no_input_breaks_what_must_hold() {
    warm();
    let mut broken = Vec::new();
    for target in TARGETS {
        let mut inputs = (target.seeds)();
        assert!(!inputs.is_empty(), "{} has no seed", target.name);
        let found = found(target);
        let each = mutations(target.cost) / inputs.len() + 1;
        for seed in inputs.clone() {
            inputs.extend(mutated(&seed, each));
        }
        inputs.extend(found);
        broken.extend(inputs.iter().filter_map(|input| failure(target, input)));
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// Every target has a libFuzzer binary with its name, and there are no other binaries.
#[test]
fn each_target_has_its_binary() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut files: Vec<String> = names(&folder);
    let mut expected: Vec<String> = TARGETS.iter().map(|t| format!("{}.rs", t.name)).collect();
    files.sort();
    expected.sort();
    assert_eq!(files, expected);
    for target in TARGETS {
        let path = folder.join(format!("{}.rs", target.name));
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(&format!("run(\"{}\", data)", target.name)));
    }
}

/// Returns a description of the input if the target fails on it.
fn failure(target: &Target, input: &[u8]) -> Option<String> {
    let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    ran.is_err().then(|| {
        let shown: String = input.iter().take(400).map(|b| format!("{b:02x}")).collect();
        format!("{}: {} bytes {shown}", target.name, input.len())
    })
}

/// Returns the inputs kept in `corpus/TARGET/`.
fn found(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target.name);
    let files = names(&folder).into_iter().map(|name| folder.join(name));
    files.map(|path| std::fs::read(path).unwrap()).collect()
}

/// Returns the names of the files in `folder`, which may be missing.
fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
    entries.map(|entry| name(entry.unwrap())).collect()
}

/// Returns copies of `seed` that are truncated or have flipped bits, overwritten bytes or a repeated piece.
fn mutated(seed: &[u8], count: usize) -> Vec<Vec<u8>> {
    let mut generator = Generator(seed.len() as u64 + 1);
    let mut inputs = Vec::new();
    for _ in 0..count {
        let mut input = seed.to_vec();
        let (at, what) = (generator.below(seed.len()), generator.below(5));
        match what {
            0 => input.truncate(at),
            1 | 2 => {
                for _ in 0..=generator.below(3) {
                    let at = generator.below(seed.len());
                    if let Some(byte) = input.get_mut(at) {
                        *byte ^= 1 << generator.below(8);
                    }
                }
            }
            3 => {
                let value = [0, 0xff, 0x7f, 0x80][generator.below(4)];
                input
                    .iter_mut()
                    .skip(at)
                    .take(4)
                    .for_each(|byte| *byte = value);
            }
            _ => {
                let piece: Vec<u8> = input.iter().skip(at).take(64).copied().collect();
                input.splice(at..at, piece);
            }
        }
        inputs.push(input);
    }
    inputs
}

/// Knuth's linear congruential generator, which gives the same numbers on every machine.
struct Generator(u64);

impl Generator {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let high = usize::try_from(self.0 >> 33).unwrap_or(0);
        high % limit.max(1)
    }
}
