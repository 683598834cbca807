//! The unprivileged inference worker: a [`Backend`] behind framed messages on one inherited socket.
//!
//! It sees no TLS key, no network, no control channel and no other process. The agent starts it in
//! empty namespaces under a system-call filter and starts it again when it dies, so anything that
//! goes wrong here may end the process: nothing but the running answers is lost.

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
pub mod turns;

pub use backend::{Backend, Event};
