//! PID 1 of the Cocoon appliance: boot phases, evidence, keys, TLS, API, supervision of the engine.
//!
//! | module | does | must never |
//! |---|---|---|
//! | [`attester`] | bindings to documents, one at a time | call the TEE before the limits are counted |
//! | [`api`], [`tls`] | the attested listener and OpenAI's API | answer a prompt on a connection that has no evidence |
//! | [`engine`] | requests to the engine and back | believe a frame |
//! | [`gpu`] | evidence of GPUs, verified before they work | let one work that is not proven |
//! | [`metering`] | tokens counted as they come | count what nobody told, or forget what was told |
//! | [`control`] | the host's messages | let in what has no place now |
//! | [`boot`], [`model`], [`runtime`] | phases from the first mount to serving | go on after a failure |
//! | [`volume`] | disks of the host's, verified and read into memory | leave one attached |
//! | [`jail`] | the engine's namespaces and system calls | share anything but a socket pair |
//! | [`tee`] | evidence from hardware, or from the simulator without | simulate in a TEE |
//! | [`sys`] | the only unsafe code | grow |

pub mod api;
pub mod attester;
pub mod boot;
pub mod certificate;
pub mod control;
pub mod engine;
pub mod gpu;
pub mod jail;
pub mod keys;
pub mod memory;
pub mod metering;
pub mod model;
pub mod runtime;
#[expect(
    unsafe_code,
    reason = "ioctls and system calls that no safe library offers, and an allocator"
)]
pub mod sys;
pub mod tee;
pub mod tls;
pub mod volume;
pub mod wait;
