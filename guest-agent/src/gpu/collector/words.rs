//! Error texts for the collector's answers, without untrusted text.

use cocoon_protocol::gpu::collector::{Found, Held, Mode, NvmlFailure, Shown};

use super::CollectorError;

/// Returns the driver's version, its mode and its GPUs, if there are any.
pub(super) fn held(found: Found) -> Result<(String, Mode, Vec<Held>), CollectorError> {
    let why = match found {
        Found::Gpus {
            driver_version,
            mode,
            gpus,
        } => return Ok((driver_version, mode, gpus)),
        Found::NoDriver => {
            "there is no driver of NVIDIA's, or its kernel module is not loaded".to_owned()
        }
        Found::OldDriver { driver_version } => format!(
            "the driver {driver_version} knows nothing of confidential computing: build the image with one that NVIDIA released for it"
        ),
        Found::NoGpu { driver_version } => {
            format!("the driver {driver_version} sees no GPU: pass one through to this VM")
        }
        Found::Failed(failure) => failed(failure),
    };
    Err(CollectorError::Nothing(why))
}

/// Returns why a GPU gave no evidence.
pub(super) fn why_not(shown: &Shown) -> String {
    match shown {
        Shown::Evidence(_) => "it does".to_owned(),
        Shown::Off => OFF.to_owned(),
        Shown::Unsupported => "this GPU or this driver makes no reports".to_owned(),
        Shown::Lost => "it fell off the bus or needs a reset".to_owned(),
        Shown::Failed(failure) => failed(*failure),
    }
}

/// Describes a failed call of the driver's library.
pub(super) fn failed(failure: NvmlFailure) -> String {
    let NvmlFailure { call, code } = failure;
    match code {
        0 => format!("the driver answers nonsense to {call:?}"),
        code => format!("the driver fails at {call:?} with code {code} of nvml.h"),
    }
}

/// What the host must do if confidential computing is off.
pub(super) const OFF: &str =
    "confidential computing is off: the host turns it on (`cocoon-host gpu prepare`)";
/// What an operator must do if the driver does not follow a request.
pub(super) const AGAIN: &str =
    "boot again; if that does not help, the host resets the GPU (`cocoon-host gpu prepare`)";
