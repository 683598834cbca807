//! Tests with a real QEMU and a guest of sixty bytes.
//!
//! They use the QEMU named by `COCOON_QEMU`, the system's, or else the private copy, which is fetched and unpacked if
//! necessary. If none can be obtained, the tests print SKIPPED, or fail with `COCOON_NO_SKIP=1`.

#[path = "../../../../tests/src/absent.rs"]
mod absent;
mod choices;
mod guest;
mod inputs;
mod machine;
mod networks;
#[path = "../../../../tests/src/skip.rs"]
mod skip;
mod tables;
mod tee;
