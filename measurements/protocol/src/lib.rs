//! Types that cross a boundary of the Cocoon appliance, with their encoding and validation.
//!
//! | module | between | normative text |
//! |---|---|---|
//! | [`binding`] | guest and verifier: the bytes that evidence commits to | SPEC.md §2 |
//! | [`batch`] | the same, where several sessions share one quote | SPEC.md §2.1 |
//! | [`document`] | guest and verifier: the attestation document | SPEC.md §3 |
//! | [`pieces`] | guest and verifier: the collateral that a document names | SPEC.md §3.1 |
//! | [`receipt`] | guest and client: what an answer cost, and what it was about | SPEC.md §11 |
//! | [`manifest`] | image builder and verifier: expected measurements | SPEC.md §5 |
//! | [`config`] | operator, guest and verifier: the measured configuration | SPEC.md §6 |
//! | [`control`] | host agent and guest: the control channel | this crate |
//! | [`engine`] | guest agent and engine: requests and tokens | this crate |
//! | [`gpu`] | guest, host and verifier: evidence and endorsements of GPUs | SPEC.md §12 |
//! | [`gpu_section`] | guest and verifier: evidence of the GPUs in a document | SPEC.md §2.2 |
//! | [`gpu::collector`] | guest agent and the process that holds the GPUs | this crate |
//! | [`simulator`] | host agent and simulator: evidence without hardware | this crate |
//! | [`frame`] | control channel, engine, collector, simulator: one JSON value behind a length | this crate |
//!
//! Nothing here opens a file, a socket or a device, and nothing decides whether a value is to be
//! trusted: a type only says that its bytes are well formed.
#![forbid(unsafe_code)]

pub mod batch;
pub mod binding;
pub mod bytes;
pub mod config;
pub mod control;
pub mod document;
pub mod engine;
pub mod frame;
pub mod gpu;
pub mod gpu_section;
pub mod manifest;
pub mod openai;
pub mod pieces;
pub mod receipt;
pub mod simulator;
pub mod unique;
pub mod wiping;
