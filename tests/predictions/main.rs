//! Compares predicted measurements with other implementations and with real firmware: independent programs on the same
//! artefacts, and OVMF's own event log of a real boot.
//!
//! Every third-party program is fetched by hash and unpacked, never installed. Where one cannot be obtained, its test prints
//! `SKIPPED` with the reason; with `COCOON_NO_SKIP=1` in the environment, as in continuous integration, it fails. Published
//! evidence that no lock file covers may be absent even then, unless `COCOON_VECTORS` names its folder.

#[path = "../src/absent.rs"]
mod absent;
mod artefacts;
mod authenticode;
mod boot;
mod event_log;
mod firmware;
mod gpu_report;
mod launch_digest;
mod literals;
mod measured;
mod pe_image;
mod reference_manifests;
#[path = "../src/skip.rs"]
mod skip;
mod tools;
mod volume;
