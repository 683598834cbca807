//! Timings of a boot since QEMU's start: for display, for `phases.json`, and for the README's numbers.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Largest number of steps that are kept. A boot has about ten.
const MAX_STEPS: usize = 64;

/// One step of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Name of the step: `hello`, the name of a phase, or `serving`.
    pub name: String,
    /// Time at which the step began, in milliseconds since QEMU's start, on the host's clock.
    pub host_ms: u64,
    /// Time at which the step began, in milliseconds since the kernel's start, on the guest's clock.
    pub guest_ms: Option<u64>,
}

/// The steps of a boot so far.
#[derive(Debug, Clone)]
pub struct Timings {
    started: Instant,
    steps: Vec<Step>,
}

impl Timings {
    /// Starts the clock: QEMU starts now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            steps: vec![],
        }
    }

    /// Records that a step begins now. Returns the time since QEMU's start.
    pub fn step(&mut self, name: &str, guest_ms: Option<u64>) -> Duration {
        let since = self.started.elapsed();
        if self.steps.len() < MAX_STEPS {
            let host_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            self.steps.push(Step {
                name: name.to_owned(),
                host_ms,
                guest_ms,
            });
        }
        since
    }

    /// Returns the steps in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the time since QEMU's start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the time from QEMU's start until the guest served; `None` if it does not serve yet.
    #[must_use]
    pub fn serving(&self) -> Option<Duration> {
        let step = self.steps.iter().find(|step| step.name == "serving")?;
        Some(Duration::from_millis(step.host_ms))
    }

    /// Returns the steps as JSON for `phases.json`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Steps hold only strings and numbers, so serialisation cannot fail.
        serde_json::to_vec_pretty(&self.steps).unwrap_or_default()
    }
}
