//! The unprivileged inference worker: serves a [`Backend`] to the guest agent over one inherited socket.
//!
//! It has no access to TLS keys, the network, the control channel or other processes. The agent starts it in empty namespaces
//! under a system call filter, and restarts it when it dies. Any failure here may therefore end the process: only the running
//! answers are lost.

pub mod answer;
pub mod backend;
pub mod calls;
pub mod choose;
pub mod making;
pub mod marks;
#[cfg(feature = "mistralrs")]
pub mod mistral;
pub mod pool;
pub mod rooms;
pub mod sample;
pub mod serve;
pub mod start;
pub mod stops;
pub mod strict;
pub mod turns;

pub use backend::{Backend, Event};
