//! How the commands speak while they work: steps and waiting for people, on standard error; one JSON object per event
//! for programs, on standard output.

use std::io::{self, Write as _};
use std::sync::Arc;

use cocoon_host_agent::Progress;
use cocoon_host_agent::progress::{Listener, show};
use cocoon_host_agent::waiting::Waiting;
use cocoon_inputs::report::{self, Reporter};
use serde_json::{Value, json};

/// Who listens.
pub(super) struct Voice {
    json: bool,
    reporter: Arc<dyn Reporter>,
}

impl Voice {
    pub(super) fn new(json: bool) -> Self {
        let reporter = report::stderr();
        Self { json, reporter }
    }

    /// Where downloads are told, to both kinds of listeners.
    pub(super) fn reporter(&self) -> Arc<dyn Reporter> {
        Arc::clone(&self.reporter)
    }

    /// One line.
    pub(super) fn note(&self, text: &str) {
        if self.json {
            tell(&event(&Progress::Note(text.to_owned())));
        } else {
            self.reporter.note(text);
        }
    }

    /// Something that takes time, until it is dropped. A program has the event and a clock of its own.
    pub(super) fn waiting(&self, what: &str, hint: &'static str) -> Option<Waiting> {
        if self.json {
            self.note(what);
            None
        } else {
            Some(Waiting::new(&*self.reporter, what, hint))
        }
    }

    /// Listens to a VM.
    pub(super) fn listener(&self) -> Listener {
        if self.json {
            Arc::new(|progress| tell(&event(&progress)))
        } else {
            Arc::new(show(self.reporter(), ""))
        }
    }
}

/// One line. Whoever read it, `head` for one, may have seen enough: the VM goes on.
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
