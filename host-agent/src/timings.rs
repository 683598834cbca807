//! How long everything took, from QEMU's start on: for people, for `phases.json`, and for the README's numbers.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Most steps that are kept: a boot has about ten.
const MAX_STEPS: usize = 64;

/// One step of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Such as `hello`, a phase's name, or `serving`.
    pub name: String,
    /// When it began, in milliseconds after QEMU's start, on the host's clock.
    pub host_ms: u64,
    /// When it began, in milliseconds after the kernel's start, on the guest's clock.
    pub guest_ms: Option<u64>,
}

/// All steps so far.
#[derive(Debug, Clone)]
pub struct Timings {
    started: Instant,
    steps: Vec<Step>,
}

impl Timings {
    /// QEMU starts now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            started: Instant::now(),
            steps: vec![],
        }
    }

    /// A step begins now; returns how long after QEMU's start.
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

    /// The steps in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How long ago QEMU was started.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// From QEMU's start to the first client that could connect.
    #[must_use]
    pub fn serving(&self) -> Option<Duration> {
        let step = self.steps.iter().find(|step| step.name == "serving")?;
        Some(Duration::from_millis(step.host_ms))
    }

    /// JSON for `phases.json`.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Strings and numbers: serialisation cannot fail.
        serde_json::to_vec_pretty(&self.steps).unwrap_or_default()
    }
}
