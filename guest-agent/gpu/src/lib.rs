//! The collector: a process that holds the attached GPUs for the VM's whole life, collects their evidence, and lets them
//! accept work when the agent says so.
//!
//! In confidential computing a GPU that its last user closes cannot be opened again before a reset. Engines come and go, so
//! another process must hold the GPU. This process is dynamically linked, because the driver's library is. It is separate from
//! the agent, which is static.
//!
//! | module | does | must never |
//! |---|---|---|
//! | [`collector`] | answers the agent's requests with what the driver reports | judge evidence |
//! | [`driver`] | defines the interface to a driver as a trait | know NVML |
//! | [`nvml`] | implements it with NVIDIA's library | be linked: it is loaded at run time |
//! | [`serve`] | exchanges frames over the agent's socket | see a prompt, a key or the network |
//! | [`jail`] | gives up what this process does not need | keep the driver from its devices |
//!
//! None of this has run with a GPU yet. The tests take NVML's place, once as an implementation of the trait and once as a
//! shared library with the same symbols.

pub mod collector;
pub mod driver;
pub mod jail;
pub mod nvml;
pub mod serve;
