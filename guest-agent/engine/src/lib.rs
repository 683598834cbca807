//! The unprivileged inference worker: a [`Backend`] behind framed messages on one inherited socket.
//!
//! It sees no TLS key, no network, no control channel and no other process. The agent starts it in
//! empty namespaces under a system-call filter and starts it again when it dies, so anything that
//! goes wrong here may end the process: nothing but the running answers is lost.

pub mod backend;
#[cfg(feature = "mistralrs")]
pub mod mistral;
pub mod sample;
pub mod serve;
pub mod stops;

pub use backend::{Backend, Event};
