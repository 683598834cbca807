//! The errors of starting and running a VM.

use cocoon_protocol::config::ConfigError;
use cocoon_qemu::process::{SpawnError, StopError};
use cocoon_qemu::qmp::QmpError;
use cocoon_qemu::socket::SocketError;

use crate::gpu::NotGiven;
use crate::image::ImageError;
use crate::machine::Failure;
use crate::numa::PinError;
use crate::qemu::QemuError;
use crate::relay::ListenError;
use crate::simulator::SimulatorError;
use crate::state::StateError;
use crate::tee::NotReady;

/// Why a VM could not be started, or ended.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The image folder cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The operator's configuration cannot be used.
    #[error("the operator's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The public address cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The VM's state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// This machine cannot start the requested TEE.
    #[error(transparent)]
    Tee(#[from] NotReady),
    /// The GPU cannot be given to the VM.
    #[error(transparent)]
    Gpu(#[from] NotGiven),
    /// The VM's processors cannot be bound to its NUMA nodes.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The VM's network is not available.
    #[error("network: {0}")]
    Network(String),
    /// There is no usable QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// The simulator failed.
    #[error(transparent)]
    Simulator(#[from] SimulatorError),
    /// The sockets for QEMU cannot be created.
    #[error("cannot make QEMU's sockets")]
    Socket(#[from] SocketError),
    /// QEMU cannot be started.
    #[error("cannot start QEMU")]
    Spawn(#[from] SpawnError),
    /// QEMU started, but refused to run.
    #[error("QEMU does not run: {}", said(diagnostics))]
    Refused {
        /// QEMU's standard error.
        diagnostics: String,
        /// The error on QEMU's control socket.
        #[source]
        source: QmpError,
    },
    /// The VM ended although nobody asked it to.
    #[error("{failure}{}{}{}", console_words(console), qemu_words(diagnostics), stuck_words(stuck.as_ref()))]
    Failed {
        /// Why it ended.
        failure: Failure,
        /// Last lines of the console.
        console: Vec<String>,
        /// QEMU's standard error.
        diagnostics: String,
        /// The error of stopping QEMU, if its process did not end.
        stuck: Option<StopError>,
    },
    /// The VM was stopped before it served.
    #[error("the VM was stopped before it served")]
    Stopped,
    /// QEMU did not end after SIGKILL.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The task that owns the VM panicked or was aborted.
    #[error("the task that owns the VM ended early")]
    Lost,
}

fn said(diagnostics: &str) -> &str {
    if diagnostics.is_empty() {
        "it said nothing"
    } else {
        diagnostics.trim_end()
    }
}

fn console_words(console: &[String]) -> String {
    if console.is_empty() {
        String::new()
    } else {
        format!("\nlast lines of the console:\n  {}", console.join("\n  "))
    }
}

fn qemu_words(diagnostics: &str) -> String {
    if diagnostics.is_empty() {
        String::new()
    } else {
        format!(
            "\nQEMU said:\n  {}",
            diagnostics.trim_end().replace('\n', "\n  ")
        )
    }
}

fn stuck_words(stuck: Option<&StopError>) -> String {
    stuck.map_or_else(String::new, |error| format!("\n{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_qemu_that_hangs_does_not_hide_why_the_vm_ended() {
        let error = UpError::Failed {
            failure: Failure::Gone("serving"),
            console: vec!["the last line".to_owned()],
            diagnostics: String::new(),
            stuck: Some(StopError { pid: 12 }),
        };
        let text = error.to_string();
        let stuck = "\nQEMU (process 12) did not end after SIGKILL; it hangs inside the kernel";
        assert!(
            text.starts_with("the VM ended by itself while serving") && text.ends_with(stuck),
            "{text}"
        );
    }
}
