//! Types that cross a trust or process boundary of the Cocoon appliance, with their encoding and validation.
//!
//! | module | between | normative text |
//! |---|---|---|
//! | [`binding`] | guest and verifier: the bytes that evidence commits to | SPEC.md §2 |
//! | [`batch`] | guest and verifier: one quote shared by several sessions | SPEC.md §2.1 |
//! | [`document`] | guest and verifier: the attestation document | SPEC.md §3 |
//! | [`pieces`] | guest and verifier: collateral that a document names by digest | SPEC.md §3.1 |
//! | [`receipt`] | guest and client: token counts of an answer and commitments to request and response | SPEC.md §11 |
//! | [`manifest`] | image builder and verifier: expected measurements | SPEC.md §5 |
//! | [`config`] | operator, guest and verifier: the measured configuration | SPEC.md §6 |
//! | [`control`] | host agent and guest: the control channel | this crate |
//! | [`engine`] | guest agent and engine: requests and tokens | this crate |
//! | [`gpu`] | guest, host and verifier: evidence and endorsements of GPUs | SPEC.md §12 |
//! | [`gpu_section`] | guest and verifier: evidence of the GPUs in a document | SPEC.md §2.2 |
//! | [`gpu::collector`] | guest agent and the process that holds the GPUs | this crate |
//! | [`simulator`] | host agent and simulator: evidence without hardware | this crate |
//! | [`frame`] | control channel, engine, collector, simulator: length-prefixed JSON | this crate |
//!
//! Nothing here opens a file, a socket or a device. Nothing here decides whether a value is trustworthy: a parsed value is
//! only well formed.
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
