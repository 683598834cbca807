//! Vocabulary of the state machine: events that reach it, effects that it asks for, and news for the operator.

use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Hex32, Hex64};
use cocoon_protocol::control::{GuestMessage, Metrics, Phase};
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_protocol::gpu::{CollateralRequest, CollectedGpu, GpuCollateral, GpuMetrics};

/// An event that the state machine handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest sent a message.
    Guest(GuestMessage),
    /// The guest sent bytes that are not a message; the text says why.
    Garbage(String),
    /// The simulator has measured the VM and returned this collateral.
    Launched(Collateral),
    /// The simulator could not measure the VM; the text says why.
    NotLaunched(String),
    /// The simulator's answer to the evidence request with this number.
    Evidence(u64, Result<Evidence, String>),
    /// The simulator's answer to the GPU evidence request with this number.
    Gpus(u64, Result<Vec<CollectedGpu>, String>),
    /// Vendors' endorsements for the guest's latest collateral request; a missing part is `None`.
    Collateral(Option<Collateral>, Option<GpuCollateral>),
    /// The guest sent nothing for this number of seconds.
    Silence(u64),
    /// QEMU ended, or closed the channel.
    Gone,
    /// The operator wants the VM to finish its requests and end.
    Drain,
}

/// An action that the driver carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Have the simulator measure the VM as this TEE.
    Launch(Tee),
    /// Send the guest its configuration, with this collateral.
    Configure(Option<Collateral>),
    /// Ask the simulator for evidence over this report data, under this request number.
    AskEvidence(u64, Hex64),
    /// Send the guest evidence, or the reason why there is none.
    SendEvidence(u64, Result<Evidence, String>),
    /// Ask the simulator for evidence of the guest's simulated GPUs over this nonce, under this request number.
    AskGpus(u64, Hex32),
    /// Send the guest the evidence of its simulated GPUs, or the reason why there is none.
    SendGpus(u64, Result<Vec<CollectedGpu>, String>),
    /// Obtain the vendors' endorsements for this request, now and whenever newer ones appear. It replaces the previous
    /// request.
    SeekCollateral(Box<CollateralRequest>),
    /// Send the guest these endorsements.
    SendCollateral(Option<Collateral>, Option<GpuCollateral>),
    /// Tell the guest to drain.
    SendDrain,
    /// Report news to the operator.
    Tell(News),
    /// Accept client connections.
    Open,
    /// Accept no more client connections.
    Close,
    /// Stop QEMU.
    Stop,
}

/// News about a VM for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The guest said hello and named the TEE that it found.
    Hello(Option<Tee>),
    /// A phase began, at this time in milliseconds since the guest's kernel started.
    Phase(Phase, u64),
    /// Progress of the current phase: units done, units in total.
    Work(u64, u64),
    /// The guest serves, since this time in milliseconds since its kernel started.
    Serving(u64),
    /// The guest's counters.
    Metrics(Metrics),
    /// Utilisation of the guest's GPUs.
    Gpus(Vec<GpuMetrics>),
    /// The engine died and was restarted; this is the number of deaths since boot.
    EngineRestarted(u32),
    /// Anything else that an operator should know, as plain text.
    Note(String),
}
