//! Records the progress events that the host agent reports about a VM, and lets tests wait for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_host_agent::Progress;
use cocoon_protocol::control::{Metrics, Phase};
use tokio::sync::watch;
use tokio::time::timeout;

/// All progress events of one VM. Clones share the same record.
#[derive(Clone)]
pub struct Seen {
    name: String,
    began: Instant,
    all: Arc<watch::Sender<Vec<Progress>>>,
}

impl Seen {
    /// Makes an empty record. `name` identifies the VM where its events are printed.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            began: Instant::now(),
            all: Arc::new(watch::Sender::new(Vec::new())),
        }
    }

    /// Records an event, and prints it to standard error.
    pub fn hear(&self, progress: Progress) {
        let what = match &progress {
            Progress::Phase { phase, .. } => format!("phase {}", phase.name()),
            Progress::Serving { .. } => "serving".to_owned(),
            Progress::Note(text) => text.clone(),
            Progress::Started(_) => "QEMU runs".to_owned(),
            Progress::Metrics(metrics) => format!("{metrics:?}"),
            Progress::Gpus(gpus) => format!("{gpus:?}"),
            Progress::EngineRestarted(count) => format!("engine restarted, {count}"),
            Progress::Ending(why) => format!("ending: {why}"),
            Progress::Work { .. } => String::new(),
        };
        if !what.is_empty() {
            let seconds = self.began.elapsed().as_secs_f64();
            eprintln!("{:>16} {seconds:>7.2} s  {what}", self.name);
        }
        self.all.send_modify(|all| all.push(progress));
    }

    /// Returns the phases so far, in the order in which they were reported.
    pub fn phases(&self) -> Vec<Phase> {
        let phase = |progress: &Progress| match progress {
            Progress::Phase { phase, .. } => Some(*phase),
            _ => None,
        };
        self.all.borrow().iter().filter_map(phase).collect()
    }

    /// Returns all events so far in `Debug` format.
    pub fn all(&self) -> String {
        format!("{:?}", self.all.borrow())
    }

    /// Waits until `what` returns `Some` for an event, and returns that value.
    ///
    /// # Errors
    /// If no event satisfies it within `deadline`.
    pub async fn until<T>(
        &self,
        deadline: Duration,
        what: impl Fn(&Progress) -> Option<T>,
    ) -> anyhow::Result<T> {
        let mut all = self.all.subscribe();
        let found = timeout(deadline, async {
            loop {
                // Newest first, because counters only grow.
                let found = all.borrow_and_update().iter().rev().find_map(&what);
                if let Some(found) = found {
                    return Some(found);
                }
                all.changed().await.ok()?;
            }
        });
        let found = found.await.ok().flatten();
        found.ok_or_else(|| {
            anyhow::anyhow!(
                "{}: what was awaited did not come in {deadline:?}",
                self.name
            )
        })
    }

    /// Waits for counters that satisfy `enough`. The guest reports its counters every ten seconds.
    ///
    /// # Errors
    /// If none arrive within 90 seconds.
    pub async fn metrics(&self, enough: impl Fn(&Metrics) -> bool) -> anyhow::Result<Metrics> {
        self.until(Duration::from_secs(90), |progress| match progress {
            Progress::Metrics(metrics) if enough(metrics) => Some(*metrics),
            _ => None,
        })
        .await
    }
}
