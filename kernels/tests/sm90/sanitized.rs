//! Runs the emulated kernels under AddressSanitizer and ThreadSanitizer, which look for what compute-sanitizer's
//! memcheck and racecheck look for on a GPU. Planted mistakes show that the sanitizers and the emulator find them.

use std::process::{Command, Output};

use cocoon_kernels::device::{Argument, Device as _, Kernel, Memory as _};

use super::emulated::{Emulated, SANITIZER, Sanitizer, available};

/// Environment variable with the planted mistake that the process is to run.
const FAULT: &str = "COCOON_FAULT";

/// Whether this process runs under a sanitizer.
pub fn running() -> bool {
    Sanitizer::of_process() != Sanitizer::None
}

/// Runs one test of this program again, under the sanitizer.
fn again(sanitizer: Sanitizer, test: &str, fault: &str) -> Output {
    let program = std::env::current_exe().expect("this program");
    // ThreadSanitizer does not see how the test harness passes results on, because the harness is not instrumented. The
    // suppression names only the type of the results, so it hides no race in a kernel; the planted race shows that.
    let suppressions = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(suppressions.path(), "race:CompletedTest\n").expect("a temporary file");
    let thread_options = format!(
        "halt_on_error=1:exitcode=66:report_thread_leaks=0:suppressions={}",
        suppressions.path().display()
    );
    // Addresses are not randomised: ThreadSanitizer of GCC 12 cannot handle the strongest randomisation of newer
    // systems.
    let mut command = Command::new("setarch");
    command.args(["--addr-no-randomize", "env"]);
    if sanitizer != Sanitizer::None {
        // Preloaded into this program only, because `setarch` itself still runs at random addresses.
        let library = sanitizer.library();
        command.arg(format!("LD_PRELOAD={}", library.display()));
    }
    command
        .arg(program)
        .args([test, "--exact", "--test-threads=1", "--nocapture"])
        .env(FAULT, fault)
        .env(SANITIZER, sanitizer.name())
        // Leaks of the test program itself do not matter here.
        .env("ASAN_OPTIONS", "detect_leaks=0:exitcode=66")
        .env("TSAN_OPTIONS", thread_options);
    command.output().expect("this program runs")
}

/// Runs a whole test of each kernel, with all its sizes and starts.
fn clean(sanitizer: Sanitizer) {
    if !available() || running() {
        return;
    }
    for kernel in ["sm90_scrub", "sm90_blake3"] {
        let test = format!("{kernel}::emulated_at_odd_sizes_and_misaligned_starts");
        let output = again(sanitizer, &test, "");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{test}: {said}");
        let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed; 0 failed");
        assert!(passed, "{test} did not run: {said}");
    }
}

#[test]
fn no_access_outside_of_memory() {
    clean(Sanitizer::Address);
}

#[test]
fn no_race_between_threads() {
    clean(Sanitizer::Thread);
}

/// Runs in a separate process, because most mistakes end it.
#[test]
fn planted() {
    let Ok(fault) = std::env::var(FAULT) else {
        return;
    };
    let threads = if ["no_barrier", "half_a_barrier"].contains(&fault.as_str()) {
        64
    } else {
        32
    };
    let kernel = Kernel {
        name: Box::leak(fault.into_boxed_str()),
        threads,
        resident: 1,
        shares: false,
    };
    let device = Emulated::new("faults", 0);
    let memory = device.upload(&[1; 128]).expect("memory");
    device.start(&kernel, 1, &[Argument::Long(memory.address())]);
}

#[test]
fn planted_mistakes_are_found() {
    if !available() || running() {
        return;
    }
    for (fault, sanitizer, message) in [
        (
            "no_barrier",
            Sanitizer::Thread,
            "WARNING: ThreadSanitizer: data race",
        ),
        (
            "past_the_end",
            Sanitizer::Address,
            "ERROR: AddressSanitizer: heap-buffer-overflow",
        ),
        (
            "past_the_end_of_shared_memory",
            Sanitizer::Address,
            "ERROR: AddressSanitizer: heap-buffer-overflow",
        ),
        (
            "misaligned",
            Sanitizer::None,
            "EMULATOR: block 0 thread 0: a vector of 128 bits at an address that is no multiple of 16",
        ),
        (
            "half_a_barrier",
            Sanitizer::None,
            "threads of the block wait for each other in different places",
        ),
        (
            "no_wait",
            Sanitizer::None,
            "ends with asynchronous copies that nothing waited for",
        ),
    ] {
        let output = again(sanitizer, "sanitized::planted", fault);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{fault} was not found");
        assert!(said.contains(message), "{fault}: {said}");
    }
}
