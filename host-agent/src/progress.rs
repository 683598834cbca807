//! Progress of a VM while it boots and serves, and its display to the operator.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cocoon_inputs::report::Reporter;
use cocoon_protocol::control::{Metrics, Phase};
use cocoon_protocol::gpu::GpuMetrics;

use crate::waiting::Waiting;

/// How long a step of a boot may take, and why.
const SLOW: &str = "seconds with KVM, up to minutes under emulation";

/// A step in the life of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A decision, or the start of something that takes a while.
    Note(String),
    /// QEMU runs with this process id.
    Started(u32),
    /// A boot phase began.
    Phase {
        /// The phase.
        phase: Phase,
        /// Time since QEMU's start.
        since_start: Duration,
    },
    /// Progress within the current phase.
    Work {
        /// Units done.
        done: u64,
        /// Units in total.
        total: u64,
    },
    /// Clients can connect.
    Serving {
        /// Address of the public listener.
        endpoint: SocketAddr,
        /// Time since QEMU's start.
        since_start: Duration,
    },
    /// The guest's counters.
    Metrics(Metrics),
    /// Utilisation of the guest's GPUs.
    Gpus(Vec<GpuMetrics>),
    /// The engine died and was restarted; this is the number of deaths since boot.
    EngineRestarted(u32),
    /// The VM has failed for this reason, and QEMU is being ended.
    Ending(String),
}

/// A callback that receives progress.
pub type Listener = Arc<dyn Fn(Progress) + Send + Sync>;

impl Progress {
    /// Returns the progress as one line; `None` for what only programs use.
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
            // These arrive every ten seconds or many times a second.
            Self::Metrics(_) | Self::Gpus(_) | Self::Work { .. } => return None,
            // The full reason is reported as soon as QEMU has ended.
            Self::Ending(_) => return None,
        })
    }
}

/// Returns a listener that shows a boot as a sequence of steps without gaps. Each line begins with `indent`.
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

    /// Collects the reported lines.
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
            // Drops the time, which differs from run to run.
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
