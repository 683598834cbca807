//! GPUs at boot: those that the measured command line asks for, opened behind the [`Gate`].

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

/// Nothing is told while GPUs are listed, attached and show their evidence, nor while NVIDIA's word on them comes, they are
/// let to work and the CPU's evidence is made: the host must not take that for an end.
const _: () = {
    let first = collector::LISTING.as_secs() + 2 * collector::PATIENCE.as_secs();
    let second = PATIENCE.as_secs() + collector::PATIENCE.as_secs() + simulated::DEADLINE.as_secs();
    assert!(first < LONGEST_SILENCE.as_secs() && second < LONGEST_SILENCE.as_secs());
};

/// Whose GPUs count, and how many there are where they are simulated.
pub(super) type Asked = Option<(Roots, Option<u16>)>;

/// Why there is no GPU that may work.
#[derive(Debug, thiserror::Error)]
pub(super) enum GpusError {
    /// The measured word on them.
    #[error(transparent)]
    Wanted(#[from] WantedError),
    /// They are not proven.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The process that holds them.
    #[error(transparent)]
    Collector(#[from] CollectorError),
    /// Its program.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// None at all.
    #[error(
        "no GPU found: there is none of NVIDIA's on this machine's PCI bus, and this image is for them; give it one, or \
         start the image of variant cpu"
    )]
    None,
}

/// What the measured command line asks for, on this machine.
pub(super) fn asked(wanted: Wanted, platform: &Platform) -> Result<Asked, GpusError> {
    let in_tee = matches!(platform, Platform::Hardware(_));
    Ok(wanted.roots(in_tee)?)
}

/// Verifies what was asked for, and lets it work.
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
        // `Wanted::roots` has refused this already.
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

/// Asks the host for whatever the vendors say about this boot, where the CPU is real: its evidence, and the GPUs beside it.
/// About GPUs alone it was asked when they were opened.
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
    // A host that does not read staples nothing: its own loss.
    let request = CollateralRequest { evidence, gpus };
    let _ = control.send(GuestMessage::CollateralRequest(request));
}
