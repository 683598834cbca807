//! Intel TDX: prediction of measurements, and verification of quotes.

pub mod attributes;
pub mod boot_variables;
mod collateral;
mod crypto;
pub mod event;
pub mod hob;
pub mod mrtd;
pub mod quote;
pub mod rtmr;
pub mod rtmr0;
pub mod setup_header;
pub mod smbios;
pub mod tcb;
pub mod tdvf;
pub mod varstore;

use thiserror::Error;

use self::{
    event::{PredictedEvent, event_type},
    mrtd::PageOrder,
    rtmr0::{Machine, Rtmr0Error},
    tdvf::{Tdvf, TdvfError},
};
use crate::pe::PeError;

/// The artefacts of a direct boot (`-bios`, `-kernel`, `-initrd`, `-append`), as QEMU reads them.
#[derive(Debug, Clone, Copy)]
pub struct DirectBoot<'a> {
    /// The firmware image.
    pub firmware: &'a [u8],
    /// The kernel, in the form in which the firmware gets it: see [`setup_header::measured`].
    pub kernel: &'a [u8],
    /// The initrd file, if there is one.
    pub initrd: Option<&'a [u8]>,
    /// Command line, as given after `-append`.
    pub command_line: &'a str,
}

/// Predicted measurements of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxPrediction {
    /// MRTD, the digest of the firmware's pages.
    pub mrtd: [u8; 48],
    /// All events, in the order of the event log (in which the registers are interleaved).
    pub events: Vec<PredictedEvent>,
}

impl TdxPrediction {
    /// Returns RTMR0 to RTMR3 after all events.
    #[must_use]
    pub fn registers(&self) -> [[u8; 48]; 4] {
        event::replay(self.events.iter().map(|event| (event.rtmr, &event.digest)))
    }
}

/// Why measurements cannot be predicted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PredictError {
    /// The firmware is not valid TDX firmware.
    #[error("cannot predict MRTD from the firmware")]
    Firmware(#[from] TdvfError),
    /// The firmware does not fit the machine.
    #[error("cannot predict RTMR0 from firmware and machine")]
    Rtmr0(#[from] Rtmr0Error),
    /// The kernel is not an EFI executable.
    #[error("cannot predict RTMR1 from the kernel")]
    Kernel(#[from] PeError),
}

/// Predicts MRTD and every event of RTMR0, RTMR1 and RTMR2. RTMR3 stays zero.
///
/// # Errors
/// [`PredictError`] naming the artefact that cannot be measured.
pub fn predict(
    boot: &DirectBoot<'_>,
    machine: &Machine,
    order: PageOrder,
) -> Result<TdxPrediction, PredictError> {
    let firmware = Tdvf::parse(boot.firmware)?;
    // The log's order: platform, kernel, boot options, the firmware's steps around the kernel's own events.
    let mut events = rtmr0::rtmr0(&firmware, machine)?;
    let is_option = |event: &PredictedEvent| event.event_type == event_type::EFI_VARIABLE_BOOT;
    let platform = events.iter().take_while(|event| !is_option(event)).count();
    let (options, last): (Vec<_>, Vec<_>) =
        events.split_off(platform).into_iter().partition(is_option);
    let mut steps = rtmr::rtmr1_of(boot.kernel, machine.edk2)?;
    let exit = steps.split_off(steps.len().saturating_sub(EXIT_STEPS));
    events.push(steps.remove(0));
    events.extend(options);
    events.extend(steps);
    events.extend(last);
    events.extend(rtmr::rtmr2(boot.command_line, boot.initrd, machine.edk2));
    events.extend(exit);
    Ok(TdxPrediction {
        mrtd: mrtd::mrtd(&firmware, order),
        events,
    })
}

/// Number of RTMR1's events after the kernel's own: the two of `ExitBootServices`.
const EXIT_STEPS: usize = 2;
