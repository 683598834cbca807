//! The tests of the kernels on a GPU, and what only a GPU can show. They are ignored by default; `kernels/on-gpu` runs
//! them.

use cocoon_kernels::cubins::Cubins;
use cocoon_kernels::device::{Device as _, Memory as _};
use cocoon_kernels::gpu::{Gpu, GpuError};
use cocoon_kernels::{reference, sm90_blake3, sm90_scrub};

use super::bytes;

/// Environment variable with the folder of the cubins made by `cocoon-image kernels build`.
const CUBINS: &str = "COCOON_KERNELS";

fn gpu() -> Gpu {
    let folder = std::env::var_os(CUBINS).expect("COCOON_KERNELS names the folder of the cubins");
    Gpu::open(0, &Cubins::read(folder.as_ref()).expect("cubins")).expect("a GPU")
}

#[test]
#[ignore = "needs a GPU of compute capability 9.0"]
fn scrub_at_odd_sizes_and_misaligned_starts() {
    super::sm90_scrub::counts_and_fills(&gpu(), &super::sm90_scrub::odd_sizes(64 * 1024));
}

#[test]
#[ignore = "needs a GPU of compute capability 9.0"]
fn blake3_at_odd_sizes_and_misaligned_starts() {
    super::sm90_blake3::hashes(&gpu(), &super::sm90_blake3::odd_sizes());
}

#[test]
#[ignore = "needs a GPU of compute capability 9.0"]
fn blake3_of_a_thousand_messages_at_once() {
    let case = (0..1000)
        .map(|i| (i % 37, bytes(i * i % 50_000, i as u64)))
        .collect();
    super::sm90_blake3::hashes(&gpu(), &case);
}

/// A message beyond 4 GiB with an odd end, which needs two passes over the tree. Three would need more than 8 GiB.
#[test]
#[ignore = "needs a GPU of compute capability 9.0 and 6 GiB of its memory"]
fn blake3_beyond_4_gib() {
    let gpu = gpu();
    let part = bytes(1 << 28, 5);
    let length = (1_u64 << 32) + 12_345;
    let mut whole = Vec::new();
    while (whole.len() as u64) < length {
        let room = usize::try_from(length).expect("fits") - whole.len();
        whole.extend(&part[..room.min(part.len())]);
    }
    let memory = gpu.upload(&whole).expect("memory");
    let root =
        sm90_blake3::roots(&gpu, &[memory.span(0..length).expect("within")]).expect("hashed")[0];
    assert_eq!(root.to_string(), blake3::hash(&whole).to_string());
}

/// Also names the whole memory by its address: the driver must report one allocation, even if it has several physical
/// pieces.
#[test]
#[ignore = "needs a GPU of compute capability 9.0 and 6 GiB of its memory"]
#[expect(unsafe_code, reason = "names memory by its address")]
fn scrub_beyond_4_gib() {
    let gpu = gpu();
    let length = (1_u64 << 32) + 4_321;
    let mut memory = gpu.allocate(length + 10).expect("memory");
    sm90_scrub::fill(
        &gpu,
        &mut [memory.span_mut(3..length).expect("within")],
        0x80,
    )
    .expect("filled");
    // SAFETY: the memory lives until the end of this test, and nobody writes it meanwhile.
    let whole = unsafe { gpu.span(memory.address(), length + 10) }.expect("one allocation");
    let counted = sm90_scrub::count(&gpu, &[whole]).expect("counted");
    assert_eq!(counted, [length - 3]);
    // SAFETY: as above, and nobody else uses it any more.
    let whole = unsafe { gpu.span_mut(memory.address(), length + 10) }.expect("one allocation");
    let scrubbed = sm90_scrub::scrub(&gpu, &mut [whole]).expect("scrubbed");
    assert_eq!((scrubbed.bytes, scrubbed.residue), (length + 10, 0));
}

/// Ranges given by address must lie in one allocation of the driver's.
#[test]
#[ignore = "needs a GPU of compute capability 9.0"]
#[expect(unsafe_code, reason = "names memory by its address")]
fn addresses_are_checked_against_the_drivers_allocations() {
    let gpu = gpu();
    let content = bytes(5000, 1);
    let memory = gpu.upload(&content).expect("memory");
    // SAFETY: the memory lives until the end of this test, and nobody writes it.
    let span = unsafe { gpu.span(memory.address() + 1, 4000) }.expect("within");
    assert_eq!(
        sm90_scrub::count(&gpu, &[span]).expect("counted"),
        [reference::count(&content[1..4001])]
    );
    // Beyond any rounding by the driver, and beyond all memory.
    for length in [5000 + (4 << 20), 1 << 50] {
        // SAFETY: refused, and so never used.
        let beyond = unsafe { gpu.span(memory.address(), length) }
            .map(|_| ())
            .unwrap_err();
        assert!(matches!(beyond, GpuError::Allocation { .. }), "{beyond}");
    }
}

/// One small run of every kernel for compute-sanitizer, under which a launch takes a thousand times as long.
#[test]
#[ignore = "needs a GPU of compute capability 9.0"]
fn small_for_compute_sanitizer() {
    let gpu = gpu();
    let sizes = [0, 1, 17, 1025, 65_537, 131_073];
    let case = sizes
        .iter()
        .zip([0, 1, 3, 15, 16, 5])
        .map(|(length, skew)| (skew, bytes(*length, 9)))
        .collect();
    super::sm90_scrub::counts_and_fills(&gpu, &case);
    super::sm90_blake3::hashes(&gpu, &case);
}
