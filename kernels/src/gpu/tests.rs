//! The binding to the driver, over a stand-in for it (`tests/emulator/driver.cc`): what is started, in which order, with
//! which arguments, on memory that is not freed too early.

use std::borrow::Cow;
use std::path::Path;
use std::process::{Command, Output};

use super::*;
use crate::reference;

#[path = "../../../tests/src/skip.rs"]
mod skip;

/// What the stand-in takes for machine code of a GPU: an ELF header of that machine.
fn cubins(machine: u8) -> Cubins {
    let mut header = vec![0; 64];
    header[..4].copy_from_slice(b"\x7fELF");
    header[18] = machine;
    Cubins {
        scrub: Cow::Owned(header.clone()),
        blake3: Cow::Owned(header),
    }
}

const CUBIN: u8 = 190;

#[test]
fn without_a_driver_it_says_so() {
    // SAFETY: looks for the driver's library.
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
    let emulator = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
    let mut compiler = Command::new("g++");
    compiler
        .args([
            "-std=c++17",
            "-O2",
            "-fPIC",
            "-shared",
            "-fno-strict-aliasing",
        ])
        .args(["-Wall", "-Wextra", "-Wno-unknown-pragmas"])
        .arg("-I")
        .arg(&emulator)
        .args(["-Wl,-soname,libcuda.so.1", "-o"])
        .arg(folder.path().join("libcuda.so.1"))
        .args(["driver.cc", "sm90_scrub.cc", "sm90_blake3.cc"].map(|name| emulator.join(name)))
        .arg("-ldl");
    let Ok(compiled) = compiler.output() else {
        return skip::skipped("g++ is not installed, with which the driver's stand-in is compiled");
    };
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    for (test, major) in [("works", "9"), ("another_generation_is_refused", "10")] {
        // A process of its own: whether there is a driver is found out once.
        let output = Command::new(std::env::current_exe().unwrap())
            .args([&format!("gpu::tests::{test}"), "--exact", "--ignored"])
            .env("LD_LIBRARY_PATH", folder.path())
            .env("EMULATED_MAJOR", major)
            .output()
            .unwrap();
        passed(test, &output);
    }
}

fn passed(test: &str, output: &Output) {
    let (said, complained) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{test}: {said}{complained}"
    );
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

#[test]
#[ignore = "run by `over_an_emulated_driver`"]
fn another_generation_is_refused() {
    assert_eq!(
        refused(0, &cubins(CUBIN)),
        "emulated has compute capability 10.0, and the kernels are machine code for 9.0 (H100, H200)"
    );
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
