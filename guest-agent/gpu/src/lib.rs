//! The collector: a process of its own that holds the GPUs attached for the VM's whole life, collects their evidence, and
//! lets them take work when the agent says so.
//!
//! A GPU in confidential computing that its last user closes cannot be opened again before it is reset, and engines come
//! and go: so somebody else holds it. That one is dynamic, because the driver's library is, and apart from the agent,
//! which is static.
//!
//! | module | does | must never |
//! |---|---|---|
//! | [`collector`] | the agent's requests, answered from what the driver says | judge evidence |
//! | [`driver`] | what is asked of a driver, as a trait | know NVML |
//! | [`nvml`] | the same, of NVIDIA's library | be linked: it is loaded at run time |
//! | [`serve`] | frames over the agent's socket | see a prompt, a key or the network |
//! | [`jail`] | what this process gives up | keep the driver from its devices |
//!
//! What has never run: all of it against a GPU. Its tests answer in NVML's place, once as a trait and once as a shared
//! library behind the same symbols.

pub mod collector;
pub mod driver;
pub mod jail;
pub mod nvml;
pub mod serve;
