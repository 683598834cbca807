//! Why a VM could not be brought up, or ended.

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

/// Why there is no VM.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The image folder.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The operator's configuration.
    #[error("the operator's configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The public address.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The VM's folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// No such TEE.
    #[error(transparent)]
    Tee(#[from] NotReady),
    /// Its GPU.
    #[error(transparent)]
    Gpu(#[from] NotGiven),
    /// Its place.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Its network.
    #[error("network: {0}")]
    Network(String),
    /// No QEMU.
    #[error(transparent)]
    Qemu(#[from] QemuError),
    /// No simulator.
    #[error(transparent)]
    Simulator(#[from] SimulatorError),
    /// QEMU's streams.
    #[error("cannot make QEMU's sockets")]
    Socket(#[from] SocketError),
    /// QEMU does not start.
    #[error("cannot start QEMU")]
    Spawn(#[from] SpawnError),
    /// QEMU started and refused.
    #[error("QEMU does not run: {}", said(diagnostics))]
    Refused {
        /// What QEMU wrote.
        diagnostics: String,
        /// What its control socket did.
        #[source]
        source: QmpError,
    },
    /// The VM ended although nobody asked it to.
    #[error("{failure}{}{}{}", console_words(console), qemu_words(diagnostics), stuck_words(stuck.as_ref()))]
    Failed {
        /// Why.
        failure: Failure,
        /// Last lines of its console.
        console: Vec<String>,
        /// What QEMU wrote.
        diagnostics: String,
        /// That QEMU is still there.
        stuck: Option<StopError>,
    },
    /// `down` came before it served.
    #[error("the VM was stopped before it served")]
    Stopped,
    /// QEMU hangs in the kernel.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// The owner of the VM is gone.
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
