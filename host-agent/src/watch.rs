//! What a machine and its appliances are doing now, in numbers: the one source of `cocoon-host top`, the metrics and the
//! status page.
//!
//! ```text
//! keeper ──report──▶ meter (counters with times) ─┐
//! /proc, sysfs ──▶ system, gpus ──────────────────┼──▶ Watch ──▶ top · metrics · status page
//! lifecycle, steps of the boot ──▶ phases ────────┘
//! ```
//!
//! Counters and names of phases come from guests, which are not believed: they are numbers and words of a closed set.
//! What nobody knows is absent and shown as such; nothing is estimated.

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

/// `GET /v1/watch`: everything at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The moment, on the host's clock.
    pub time: Millis,
    /// The daemon's release.
    pub version: String,
    /// The file that it keeps to.
    pub file: PathBuf,
    /// Events so far.
    pub events: u64,
    /// The machine.
    pub host: HostUse,
    /// The daemon itself.
    pub daemon: ProcessUse,
    /// In the order of the file.
    pub appliances: Vec<Watched>,
}

/// One appliance at that moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// What the API says of it elsewhere.
    pub view: View,
    /// What its guest does in a second, while it serves and tells.
    pub rates: Option<Rates>,
    /// The evidence that its guest took at its boot.
    pub evidence: Evidence,
    /// The phases of its boot.
    pub phases: Vec<PhaseTime>,
    /// QEMU.
    pub qemu: Option<ProcessUse>,
    /// The GPUs that are its own.
    pub gpus: Vec<GpuUse>,
}

/// What this machine knows of an appliance's evidence. Whether it convinces anybody is for clients to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Evidence {
    /// There is none.
    None,
    /// The guest asks for it.
    Coming,
    /// The guest has it.
    Taken {
        /// When it began to take it; `None` for a boot that an earlier daemon saw.
        at: Option<Millis>,
    },
}

impl Watched {
    /// What is known of `view` with its guest's `rates`, where QEMU's use and its GPUs' were looked up.
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

    /// Whether its TEE is imitated.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        is_simulated(&self.view)
    }
}

/// Whether its TEE is imitated.
pub(crate) fn is_simulated(view: &View) -> bool {
    view.tee.starts_with("simulated-")
}
