//! GPUs at boot: opens the GPUs that the measured command line requests behind the [`Gate`].

use std::sync::Arc;

use cocoon_protocol::binding::Claims;
use cocoon_protocol::control::{GuestMessage, LONGEST_SILENCE};
use cocoon_protocol::document::Evidence;
use cocoon_protocol::gpu::{CollateralRequest, GpuNeeds};

use crate::attester;
use crate::control::Control;
use crate::gpu::collector::{self, Collector, CollectorError};
use crate::gpu::gate::{Count, PATIENCE, Setup, count_on_bus};
use crate::gpu::judge::Roots;
use crate::gpu::simulated::Simulated;
use crate::gpu::wanted::{Wanted, WantedError};
use crate::gpu::{Gate, GateError, GpuSource};
use crate::runtime::{Runtime, RuntimeError};
use crate::tee::{Platform, simulated};

/// The guest sends nothing while GPUs are listed, attached and asked for evidence, nor while it waits for NVIDIA's
/// collateral, makes the GPUs ready and collects the CPU's evidence. The host must not take either silence for a dead guest.
const _: () = {
    let first = collector::LISTING.as_secs() + 2 * collector::PATIENCE.as_secs();
    let second = PATIENCE.as_secs() + collector::PATIENCE.as_secs() + simulated::DEADLINE.as_secs();
    assert!(first < LONGEST_SILENCE.as_secs() && second < LONGEST_SILENCE.as_secs());
};

/// The roots that GPU evidence must chain to, and the number of GPUs if they are simulated. `None` without GPUs.
pub(super) type Asked = Option<(Roots, Option<u16>)>;

/// Why no GPU may work.
#[derive(Debug, thiserror::Error)]
pub(super) enum GpusError {
    /// The GPU token of the measured command line is invalid, or does not fit this machine.
    #[error(transparent)]
    Wanted(#[from] WantedError),
    /// The GPUs' evidence was not accepted.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The collector, the process that holds the GPUs, failed.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// The runtime volume, which holds the collector, is missing or invalid.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The PCI bus has no NVIDIA GPU.
    #[error(
        "no GPU found: there is none of NVIDIA's on this machine's PCI bus, and this image is for them; give it one, or \
         start the image of variant cpu"
    )]
    None,
}

/// Resolves the GPU token of the measured command line on this machine.
pub(super) fn asked(wanted: Wanted, platform: &Platform) -> Result<Asked, GpusError> {
    let in_tee = matches!(platform, Platform::Hardware(_));
    Ok(wanted.roots(in_tee)?)
}

/// Verifies the requested GPUs and lets them take work.
pub(super) fn open(
    asked: Asked,
    platform: &Platform,
    runtime: Option<&Runtime>,
    control: &Control,
    claims: &Claims,
) -> Result<Option<Arc<Gate>>, GpusError> {
    let Some((roots, simulated)) = asked else {
        return Ok(None);
    };
    let (source, count): (Arc<dyn GpuSource>, Count) = match (simulated, platform) {
        (Some(count), Platform::Plain(proof)) => {
            let source = Arc::new(Simulated::new(proof, control.clone(), count));
            (source, Box::new(move || Ok(count.into())))
        }
        // Unreachable: `Wanted::roots` has already refused this combination.
        (Some(_), Platform::Hardware(_)) => return Err(WantedError::SimulatedInTee.into()),
        (None, _) => {
            let program = runtime.ok_or(RuntimeError::Missing)?.collector();
            (Arc::new(Collector::start(&program)?), count_on_bus())
        }
    };
    let setup = Setup {
        source,
        count,
        roots,
        collateral: control.gpu_collateral(),
    };
    let nonce = attester::boot_gpu_nonce(claims);
    let ask = |gpus| request(control, None, gpus);
    Ok(Some(Arc::new(Gate::open(setup, &nonce, ask, PATIENCE)?)))
}

/// Asks the host for the vendors' collateral for this boot's CPU evidence and for the GPUs. Does nothing without CPU
/// evidence, which is passed only in a TEE: [`open`] has already asked about the GPUs.
pub(super) fn ask_for_collateral(
    control: &Control,
    evidence: Option<&Evidence>,
    gate: Option<&Gate>,
) {
    if let Some(evidence) = evidence {
        let gpus = gate.map_or_else(Vec::new, |gate| gate.needs().to_vec());
        request(control, Some(evidence.clone()), gpus);
    }
}

fn request(control: &Control, evidence: Option<Evidence>, gpus: Vec<GpuNeeds>) {
    // A host that does not read sends no collateral, and clients reject its guest.
    let request = CollateralRequest { evidence, gpus };
    let _ = control.send(GuestMessage::CollateralRequest(request));
}
