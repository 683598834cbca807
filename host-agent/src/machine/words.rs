//! What happens to a VM, what is to be done about it, and what people hear of it.

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Hex32, Hex64};
use cocoon_protocol::control::{GuestMessage, Metrics, Phase};
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_protocol::gpu::{CollateralRequest, CollectedGpu, GpuCollateral, GpuMetrics};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest said something.
    Guest(GuestMessage),
    /// The guest's bytes were no message.
    Garbage(String),
    /// The simulator has measured the VM.
    Launched(Collateral),
    /// The simulator has not.
    NotLaunched(String),
    /// The simulator's answer to a request.
    Evidence(u64, Result<Evidence, String>),
    /// The simulator's answer to a request about GPUs.
    Gpus(u64, Result<Vec<CollectedGpu>, String>),
    /// The vendors' endorsements of what the guest last asked for: those that there are.
    Collateral(Option<Collateral>, Option<GpuCollateral>),
    /// Nothing came from the guest for so many seconds.
    Silence(u64),
    /// QEMU ended, or closed the channel.
    Gone,
    /// Somebody wants the VM to finish and end.
    Drain,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Let the simulator measure the VM.
    Launch(Tee),
    /// Send the configuration, with this collateral.
    Configure(Option<Collateral>),
    /// Ask the simulator for evidence.
    AskEvidence(u64, Hex64),
    /// Send evidence, or why there is none.
    SendEvidence(u64, Result<Evidence, String>),
    /// Ask the simulator what the guest's simulated GPUs show.
    AskGpus(u64, Hex32),
    /// Send what they show, or why they show nothing.
    SendGpus(u64, Result<Vec<CollectedGpu>, String>),
    /// Get the vendors' endorsements of this, now and whenever there are newer ones, instead of what was asked before.
    SeekCollateral(Box<CollateralRequest>),
    /// Send endorsements.
    SendCollateral(Option<Collateral>, Option<GpuCollateral>),
    /// Send the wish to drain.
    SendDrain,
    /// Tell people.
    Tell(News),
    /// Accept clients.
    Open,
    /// Accept no more clients.
    Close,
    /// Stop QEMU.
    Stop,
}

/// What people want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The guest spoke.
    Hello(Option<Tee>),
    /// A phase began.
    Phase(Phase, u64),
    /// Some of the phase is done.
    Work(u64, u64),
    /// The guest serves.
    Serving(u64),
    /// Counters.
    Metrics(Metrics),
    /// How its GPUs are used.
    Gpus(Vec<GpuMetrics>),
    /// The engine died and came back.
    EngineRestarted(u32),
    /// Something else that an operator should know, in plain text.
    Note(String),
}
