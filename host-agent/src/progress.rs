//! What happens on the way to a serving VM and after, and how people are shown it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::control::{Metrics, Phase};
use cocoon_protocol::gpu::GpuMetrics;

use crate::waiting::Waiting;

/// How long steps of a boot may take, and why.
const SLOW: &str = "seconds with KVM, up to minutes under emulation";

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A decision, or something that takes a while.
    Note(String),
    /// QEMU runs, with this process id.
    Started(u32),
    /// A boot phase began.
    Phase {
        /// Which.
        phase: Phase,
        /// Since QEMU's start.
        since_start: Duration,
    },
    /// Some of the phase is done.
    Work {
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// Clients can connect.
    Serving {
        /// Where.
        endpoint: SocketAddr,
        /// Since QEMU's start.
        since_start: Duration,
    },
    /// Counters.
    Metrics(Metrics),
    /// How the guest's GPUs are used.
    Gpus(Vec<GpuMetrics>),
    /// The engine died so often and was started again.
    EngineRestarted(u32),
    /// It has failed, and QEMU is being ended.
    Ending(String),
}

/// Where people hear of progress.
pub type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

impl Progress {
    /// The same in a line; `None` for what only programs want to know.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        Some(match self {
            Self::Note(text) => text.clone(),
            Self::Started(pid) => format!("QEMU runs (process {pid})"),
            Self::Phase { phase, .. } => format!("phase {}", phase.name()),
            Self::Serving { endpoint, .. } => format!("serving on https://{endpoint}"),
            Self::EngineRestarted(count) => {
                format!("the engine died and was started again (time {count})")
            }
            // Every ten seconds for ever, and many times a second.
            Self::Metrics(_) | Self::Gpus(_) | Self::Work { .. } => return None,
            // People hear it in full at the end, which is near.
            Self::Ending(_) => return None,
        })
    }
}

/// Shows a boot as it goes, one step after the other, none of them silent; each line begins with `indent`.
pub fn show(
    reporter: Arc<dyn Reporter>,
    indent: &'static str,
) -> impl Fn(Progress) + Send + Sync + 'static {
    let begin = {
        let reporter = Arc::clone(&reporter);
        move |what: &str| Waiting::new(&*reporter, &format!("{indent}{what}"), SLOW)
    };
    let current = Mutex::new(Some(begin("what must be there before QEMU starts")));
    move |progress| {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = |what: Option<&str>, outcome: &str| {
            if let Some(step) = current.take() {
                step.finish(outcome);
            }
            *current = what.map(&begin);
        };
        let until = |since: &Duration| format!("until {:.1} s", since.as_secs_f64());
        match &progress {
            Progress::Started(_) => next(Some("firmware and kernel"), "done"),
            Progress::Phase { phase, since_start } => {
                next(Some(meaning(*phase)), &until(since_start));
            }
            Progress::Work { done, total } => {
                let percent = u128::from(*done)
                    .saturating_mul(100)
                    .checked_div(u128::from(*total));
                if let (Some(step), Some(percent)) = (current.as_ref(), percent) {
                    step.say(&format!("{percent} %"));
                }
            }
            Progress::Serving { since_start, .. } => next(None, &until(since_start)),
            Progress::Note(_)
            | Progress::Metrics(_)
            | Progress::Gpus(_)
            | Progress::EngineRestarted(_)
            | Progress::Ending(_) => {}
        }
        drop(current);
        let step = matches!(progress, Progress::Started(_) | Progress::Phase { .. });
        if let (Some(line), false) = (progress.line(), step) {
            reporter.note(&format!("{indent}{line}"));
        }
    }
}

fn meaning(phase: Phase) -> &'static str {
    match phase {
        Phase::Mounts | Phase::Modules | Phase::Platform => "agent starts",
        Phase::Configuration => "configuration, compared with the launch",
        Phase::Model => "model, checked block by block into memory",
        Phase::Keys => "keys, made in the VM",
        Phase::Evidence => "evidence for the certificate",
        Phase::Engine => "engine loads the weights",
        Phase::Serving => "listener opens",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_inputs::report::Task;

    /// Keeps lines.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Lines {
        fn push(&self, line: String) {
            self.0.lock().unwrap().push(line);
        }
    }

    impl Reporter for Lines {
        fn start(&self, what: &str, _: Option<u64>) -> Box<dyn Task> {
            self.push(format!("{what} …"));
            Box::new(self.clone())
        }

        fn note(&self, line: &str) {
            self.push(line.to_owned());
        }
    }

    impl Task for Lines {
        fn position(&self, _: u64) {}

        fn say(&self, line: &str) {
            // Without the time, which differs.
            self.push(line.split(',').next().unwrap_or_default().to_owned());
        }

        fn finish(&self, outcome: &str) {
            self.push(outcome.to_owned());
        }
    }

    #[test]
    fn every_moment_of_a_boot_belongs_to_a_step() {
        let lines = Lines::default();
        let listener = show(Arc::new(lines.clone()), "  ");
        let since_start = Duration::from_millis(2500);
        for progress in [
            Progress::Note("emulation".into()),
            Progress::Started(7),
            Progress::Phase {
                phase: Phase::Model,
                since_start,
            },
            Progress::Work { done: 1, total: 4 },
            Progress::Work { done: 0, total: 0 },
            Progress::Serving {
                endpoint: "127.0.0.1:1".parse().unwrap(),
                since_start,
            },
            Progress::Metrics(Metrics::default()),
            Progress::Gpus(vec![GpuMetrics::default()]),
            Progress::EngineRestarted(1),
        ] {
            listener(progress);
        }
        drop(listener);
        let expected = [
            "  what must be there before QEMU starts …",
            "  emulation",
            "done",
            "  firmware and kernel …",
            "until 2.5 s",
            "  model, checked block by block into memory …",
            "25 %",
            "until 2.5 s",
            "  serving on https://127.0.0.1:1",
            "  the engine died and was started again (time 1)",
        ];
        assert_eq!(*lines.0.lock().unwrap(), expected);
    }
}
