//! Tests of the binding to the driver, over a stand-in (`tests/emulator/driver.cc`): the order of operations, the
//! arguments of kernels, and that memory is not freed too early.

use std::process::Command;

use super::*;
use crate::cubins::tests::{CUBIN, cubins};
use crate::reference;

#[path = "../../tests/emulator/stand_in.rs"]
mod stand_in;

#[test]
fn without_a_driver_it_says_so() {
    // SAFETY: this loads the driver's library, if there is one.
    if unsafe { sys::is_culib_present() } {
        return;
    }
    assert_eq!(
        refused(0, &cubins(CUBIN)),
        "there is no NVIDIA driver here: libcuda.so.1 cannot be loaded"
    );
}

fn refused(ordinal: usize, cubins: &Cubins) -> String {
    Gpu::open(ordinal, cubins)
        .map(|_| ())
        .unwrap_err()
        .to_string()
}

#[test]
fn over_an_emulated_driver() {
    let folder = tempfile::tempdir().unwrap();
    if !stand_in::compiled(folder.path()) {
        return;
    }
    for (test, major) in [
        ("gpu::tests::works", "9"),
        ("gpu::tests::another_generation_is_refused", "10"),
        ("interposed::tests::passing_by::is_noticed", "9"),
    ] {
        // Each test has its own process, because the driver is looked up once per process.
        let output = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--ignored"])
            .env("LD_LIBRARY_PATH", folder.path())
            .env("EMULATED_MAJOR", major)
            .output()
            .unwrap();
        stand_in::passed(test, &output);
    }
}

#[test]
#[ignore = "run by `over_an_emulated_driver`"]
fn another_generation_is_refused() {
    assert_eq!(
        refused(0, &cubins(CUBIN)),
        "emulated has compute capability 10.0, and the kernels are machine code for 9.0 (H100, H200)"
    );
}

/// Shared-memory carveout that was set for a kernel, in per cent; -1 if none was set.
fn carveout(kernel: &Kernel) -> i32 {
    // SAFETY: the stand-in is loaded already, and its initialisers do nothing.
    let library = unsafe { libloading::Library::new("libcuda.so.1") }.unwrap();
    let name = CString::new(kernel.name).unwrap();
    type Function = unsafe extern "C" fn(*const std::ffi::c_char) -> i32;
    // SAFETY: the stand-in's function of this name has this signature.
    let carveout = unsafe { library.get::<Function>(b"emulated_carveout\0") }.unwrap();
    // SAFETY: the string ends with 0.
    unsafe { carveout(name.as_ptr()) }
}

#[test]
#[ignore = "run by `over_an_emulated_driver`"]
fn works() {
    assert_eq!(
        refused(1, &cubins(CUBIN)),
        "there is no GPU of number 1 here"
    );
    assert_eq!(refused(0, &cubins(62)), "the driver cannot load a kernel");

    let gpu = Gpu::open(0, &cubins(CUBIN)).unwrap();
    assert_eq!(gpu.resident(&sm90_scrub::FILL), 16);
    // Six blocks of 37 KiB fit a multiprocessor only if nearly all of its memory is shared memory.
    let carveouts = [&sm90_blake3::LEAVES, &sm90_blake3::JOIN, &sm90_scrub::FILL].map(carveout);
    assert_eq!(carveouts, [100, -1, -1]);
    let bytes: Vec<u8> = (0..200_003_u32)
        .map(|i| (i / 7 % 5).to_le_bytes()[0])
        .collect();
    let mut memory = gpu.upload(&bytes).unwrap();
    assert_eq!(gpu.download(&memory).unwrap(), bytes);
    assert_eq!(gpu.download(&gpu.allocate(3).unwrap()).unwrap(), [0; 3]);
    assert_eq!(gpu.download(&gpu.upload(&[]).unwrap()).unwrap(), []);

    let span = memory.span(1..200_003).unwrap();
    let counted = sm90_scrub::count(&gpu, &[span, span]).unwrap();
    assert_eq!(counted, [reference::count(&bytes[1..]); 2]);
    let roots = sm90_blake3::roots(&gpu, &[span, memory.span(7..7).unwrap()]).unwrap();
    assert_eq!(roots[0].0, *blake3::hash(&bytes[1..]).as_bytes());
    assert_eq!(roots[1].0, *blake3::hash(b"").as_bytes());

    let mut left = memory.span_mut(3..100_000).unwrap();
    let scrubbed = sm90_scrub::scrub(&gpu, std::slice::from_mut(&mut left)).unwrap();
    assert_eq!((scrubbed.bytes, scrubbed.residue), (99_997, 0));
    let mut expected = bytes;
    expected[3..100_000].fill(0);
    assert_eq!(gpu.download(&memory).unwrap(), expected);

    // SAFETY: the memory lives until the end of this test, and nobody writes it.
    let raw = unsafe { gpu.span(memory.address() + 100_000, 100_003) }.unwrap();
    assert_eq!(
        sm90_scrub::count(&gpu, &[raw]).unwrap(),
        [reference::count(&expected[100_000..])]
    );
    // SAFETY: refused, and so never used.
    let beyond = unsafe { gpu.span_mut(memory.address() + 100_000, 100_004) };
    assert_eq!(
        beyond.map(|_| ()).unwrap_err().to_string(),
        format!(
            "100004 bytes at {:#x} do not lie in one allocation of 200003 bytes at {:#x}",
            memory.address() + 100_000,
            memory.address()
        )
    );
    // SAFETY: refused, and so never used.
    let nowhere = unsafe { gpu.span(1, 1) };
    assert_eq!(
        nowhere.map(|_| ()).unwrap_err().to_string(),
        "the driver cannot find the allocation of an address"
    );
}
