//! Figures about the host and its appliances at one moment: the common source of `cocoon-host top`, the metrics and the
//! status page.
//!
//! ```text
//! keeper ──report──▶ meter (counters with times) ─┐
//! /proc, sysfs ──▶ system, gpus ──────────────────┼──▶ Watch ──▶ top · metrics · status page
//! lifecycle, steps of the boot ──▶ phases ────────┘
//! ```
//!
//! Counters and phase names come from guests, which are not trusted: only numbers and names from a closed set are taken.
//! Unknown values are absent and shown as such; nothing is estimated.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::daemon::api::View;
use crate::lifecycle::{Millis, State};

pub mod gpus;
pub mod journald;
pub mod meter;
pub mod metrics;
pub mod phases;
pub mod system;
pub mod top;

pub use gpus::GpuUse;
pub use meter::{Meter, Rates};
pub use phases::PhaseTime;
pub use system::{HostUse, ProcessUse};

/// A snapshot of everything, as returned by `GET /v1/watch`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Time of the snapshot, on the host's clock.
    pub time: Millis,
    /// Release of the daemon.
    pub version: String,
    /// Path of the daemon's configuration file.
    pub file: PathBuf,
    /// Number of events since the daemon's start.
    pub events: u64,
    /// Figures of the host.
    pub host: HostUse,
    /// Figures of the daemon's own process.
    pub daemon: ProcessUse,
    /// Appliances in the order of the configuration file.
    pub appliances: Vec<Watched>,
}

/// One appliance in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// The appliance as other endpoints of the API show it.
    pub view: View,
    /// Rates of the guest's activity; `None` unless it serves and reports counters.
    pub rates: Option<Rates>,
    /// State of the evidence that the guest took at boot.
    pub evidence: Evidence,
    /// Phases of the boot.
    pub phases: Vec<PhaseTime>,
    /// Figures of the QEMU process.
    pub qemu: Option<ProcessUse>,
    /// GPUs of the appliance.
    pub gpus: Vec<GpuUse>,
}

/// What the host knows about an appliance's evidence. Only clients decide whether it is acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Evidence {
    /// The guest has no evidence.
    None,
    /// The guest is requesting its evidence.
    Coming,
    /// The guest has its evidence.
    Taken {
        /// When the guest began to take it; `None` for a boot that an earlier daemon observed.
        at: Option<Millis>,
    },
}

impl Watched {
    /// Combines `view` with the guest's `rates`, QEMU's use of resources and the GPUs.
    #[must_use]
    pub fn new(
        view: View,
        rates: Option<Rates>,
        qemu: Option<ProcessUse>,
        gpus: Vec<GpuUse>,
    ) -> Self {
        let steps = view.report.as_ref().map_or(&[][..], |report| &report.steps);
        let evidence = match view.life.state {
            State::Attesting => Evidence::Coming,
            State::Serving | State::Draining { .. } if view.report.is_some() => Evidence::Taken {
                at: phases::evidence(steps, &view.life),
            },
            _ => Evidence::None,
        };
        Self {
            phases: phases::phases(steps),
            rates,
            evidence,
            qemu,
            gpus,
            view,
        }
    }

    /// Returns whether the appliance's TEE is simulated.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        is_simulated(&self.view)
    }
}

/// Returns whether an appliance's TEE is simulated.
pub(crate) fn is_simulated(view: &View) -> bool {
    view.tee.starts_with("simulated-")
}
