//! PID 1 of the Cocoon appliance: boot phases, attestation evidence, keys, TLS, the API and supervision of the engine.
//!
//! | module | provides | must never |
//! |---|---|---|
//! | [`attester`] | attestation documents for bindings, one TEE call at a time | call the TEE before its limits are checked |
//! | [`api`], [`tls`] | the attested TLS listener and the OpenAI-compatible API | answer a prompt on a connection that is not attested |
//! | [`engine`] | requests to the engine and its answers | trust a frame from the engine |
//! | [`gpu`] | GPU evidence, verified before the GPUs may work | let an unverified GPU work |
//! | [`metering`] | token counts, taken as the engine reports them | count what the engine did not report, or lose a reported token |
//! | [`control`] | the control channel to the host | accept a message outside its boot phase |
//! | [`boot`], [`model`], [`runtime`] | the boot phases, from the first mount to serving | continue after a failure |
//! | [`volume`] | the host's disks, verified and copied into memory | leave a disk attached |
//! | [`jail`] | namespaces and system call filters of the engine | share anything with the engine but a socket pair |
//! | [`tee`] | evidence from TEE hardware, or from the simulator where there is none | simulate in a TEE |
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
