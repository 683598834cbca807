//! Output of the commands while they work: text on standard error for people, or one JSON object per event on standard output
//! for programs.

use std::io::{self, Write as _};
use std::sync::Arc;

use cocoon_host_agent::Progress;
use cocoon_host_agent::progress::{Listener, show};
use cocoon_host_agent::waiting::Waiting;
use cocoon_inputs::report::{self, Reporter};
use serde_json::{Value, json};

/// The output of one command.
pub(super) struct Voice {
    json: bool,
    reporter: Arc<dyn Reporter>,
}

impl Voice {
    pub(super) fn new(json: bool) -> Self {
        let reporter = report::stderr();
        Self { json, reporter }
    }

    /// The reporter for downloads, which writes to standard error with and without `--json`.
    pub(super) fn reporter(&self) -> Arc<dyn Reporter> {
        Arc::clone(&self.reporter)
    }

    /// Prints one line.
    pub(super) fn note(&self, text: &str) {
        if self.json {
            tell(&event(&Progress::Note(text.to_owned())));
        } else {
            self.reporter.note(text);
        }
    }

    /// Shows that something takes time, until the result is dropped. With `--json`, only prints an event.
    pub(super) fn waiting(&self, what: &str, hint: &'static str) -> Option<Waiting> {
        if self.json {
            self.note(what);
            None
        } else {
            Some(Waiting::new(&*self.reporter, what, hint))
        }
    }

    /// Returns a listener for a VM's progress.
    pub(super) fn listener(&self) -> Listener {
        if self.json {
            Arc::new(|progress| tell(&event(&progress)))
        } else {
            Arc::new(show(self.reporter(), ""))
        }
    }
}

/// Prints one line. A closed pipe, such as `head` leaves, must not stop the VM.
fn tell(event: &Value) {
    let _ = writeln!(io::stdout().lock(), "{event}");
}

fn event(progress: &Progress) -> Value {
    match progress {
        Progress::Note(text) => json!({ "event": "note", "text": text }),
        Progress::Started(pid) => json!({ "event": "started", "qemu_pid": pid }),
        Progress::Phase { phase, since_start } => {
            json!({ "event": "phase", "phase": phase, "ms": since_start.as_millis() })
        }
        Progress::Work { done, total } => json!({ "event": "work", "done": done, "total": total }),
        Progress::Serving {
            endpoint,
            since_start,
        } => json!({ "event": "serving", "endpoint": endpoint, "ms": since_start.as_millis() }),
        Progress::Metrics(metrics) => json!({ "event": "metrics", "metrics": metrics }),
        Progress::Gpus(gpus) => json!({ "event": "gpus", "gpus": gpus }),
        Progress::EngineRestarted(count) => json!({ "event": "engine-restarted", "count": count }),
        Progress::Ending(why) => json!({ "event": "ending", "reason": why }),
    }
}
