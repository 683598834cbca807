//! Predictions against peers and real firmware: other people's programs on the same artefacts, and OVMF's own event
//! log of a real boot.
//!
//! Every foreign program is fetched by hash and unpacked, never installed. Where one cannot be had, its test prints
//! `SKIPPED` with the reason; with `COCOON_NO_SKIP=1` in the environment, as in continuous integration, it fails. Published
//! evidence that no lock fetches may be absent even then, unless `COCOON_VECTORS` names its folder.

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
