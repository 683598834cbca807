//! The phases of a boot with their durations, and the time at which the evidence was taken.

use serde::{Deserialize, Serialize};

use crate::lifecycle::{Lifecycle, Millis, State};
use crate::timings::Step;

/// The step that ends a boot.
const SERVING: &str = "serving";
/// Name of the phase before the guest's first message: firmware, kernel and the agent's first steps.
const FIRST: &str = "firmware";
/// Known steps. Any other name in a report is ignored.
const KNOWN: [&str; 10] = [
    "hello",
    "mounts",
    "modules",
    "platform",
    "configuration",
    "model",
    "keys",
    "evidence",
    "engine",
    SERVING,
];

/// One phase of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseTime {
    /// Name of the phase, from a closed set.
    pub name: String,
    /// When it began, in milliseconds after QEMU's start.
    pub from_ms: u64,
    /// When the next phase began; `None` for the phase under way.
    pub to_ms: Option<u64>,
}

/// Returns the phases that these steps begin, after a first one from QEMU's start. A phase of no duration is merged into
/// the next.
#[must_use]
pub fn phases(steps: &[Step]) -> Vec<PhaseTime> {
    let mut phases: Vec<PhaseTime> = vec![];
    let (mut name, mut from_ms) = (FIRST, 0);
    for step in steps {
        let Some(known) = KNOWN.iter().find(|known| **known == step.name) else {
            continue;
        };
        // Steps that were reported together have no duration between them.
        if step.host_ms > from_ms {
            phases.push(PhaseTime {
                name: name.to_owned(),
                from_ms,
                to_ms: Some(step.host_ms),
            });
            from_ms = step.host_ms;
        }
        name = known;
        if name == SERVING {
            return phases;
        }
    }
    if !steps.is_empty() {
        phases.push(PhaseTime {
            name: name.to_owned(),
            from_ms,
            to_ms: None,
        });
    }
    phases
}

/// Returns when the guest began to take its evidence, counted back from the time at which it began to serve.
#[must_use]
pub fn evidence(steps: &[Step], life: &Lifecycle) -> Option<Millis> {
    let State::Serving = life.state else {
        return None;
    };
    let at = |name: &str| steps.iter().find(|step| step.name == name);
    let (evidence, serving) = (at("evidence")?, at(SERVING)?);
    let before = serving.host_ms.checked_sub(evidence.host_ms)?;
    life.since.checked_sub(before)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(name: &str, host_ms: u64) -> Step {
        Step {
            name: name.to_owned(),
            host_ms,
            guest_ms: None,
        }
    }

    fn told(steps: &[Step]) -> Vec<(String, u64, Option<u64>)> {
        let phases = phases(steps).into_iter();
        phases
            .map(|phase| (phase.name, phase.from_ms, phase.to_ms))
            .collect()
    }

    #[test]
    fn every_moment_of_a_boot_belongs_to_one_phase() {
        assert!(told(&[]).is_empty());
        let steps = [
            step("hello", 1_000),
            step("configuration", 1_000),
            step("model", 1_500),
            step("evidence", 4_000),
        ];
        let expected = |name: &str, from, to| (name.to_owned(), from, to);
        let mut phases = vec![
            expected("firmware", 0, Some(1_000)),
            expected("configuration", 1_000, Some(1_500)),
            expected("model", 1_500, Some(4_000)),
            expected("evidence", 4_000, None),
        ];
        assert_eq!(told(&steps), phases);
        let steps = [&steps[..], &[step("serving", 4_100)]].concat();
        phases[3].2 = Some(4_100);
        assert_eq!(told(&steps), phases);
    }

    #[test]
    fn what_no_boot_has_is_left_out() {
        let steps = [step("<script>", 5), step("model", 10), step("keys", 3)];
        let expected = [
            ("firmware".to_owned(), 0, Some(10)),
            ("keys".to_owned(), 10, None),
        ];
        assert_eq!(told(&steps), expected);
    }

    #[test]
    fn evidence_is_as_old_as_the_boot_says() {
        let life = Lifecycle {
            state: State::Serving,
            since: 100_000,
            run: 1,
            failures: 0,
            refusals: 0,
            last_failure: None,
        };
        let steps = [step("evidence", 4_000), step("serving", 6_500)];
        assert_eq!(evidence(&steps, &life), Some(97_500));
        assert_eq!(evidence(&steps[..1], &life), None);
        let backwards = [step("evidence", 7_000), step("serving", 6_500)];
        assert_eq!(evidence(&backwards, &life), None);
        let state = State::Booting;
        assert_eq!(evidence(&steps, &Lifecycle { state, ..life }), None);
    }
}
