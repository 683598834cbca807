//! Output of a job for people: results on standard output as they arrive, everything else on
//! standard error.

use std::io::{self, IsTerminal as _};

use cocoon_client::messenger::{Heard, Report, Task};
use cocoon_client::terminal::{Answering, Waiting, print, say};

/// Separates two drafts.
const RULE: &str = "\n\n---\n\n";

/// Writes results to standard output.
pub struct Shown {
    waiting: Option<Waiting>,
    answering: Option<Answering>,
    /// A new result was asked for, but none of its words arrived yet.
    begins: bool,
    results: usize,
    ends_line: bool,
    written: io::Result<()>,
}

impl Shown {
    pub fn new() -> Self {
        Self {
            waiting: None,
            answering: None,
            begins: false,
            results: 0,
            ends_line: true,
            written: Ok(()),
        }
    }

    pub fn hear(&mut self, heard: Heard<'_>) {
        match heard {
            Heard::Asking(question) if *question.task == Task::Notes => {
                self.answering = None;
                // The old progress display is removed before there is a new one.
                self.waiting = None;
                let what = format!("reading; after this part {} more", question.left);
                self.waiting = Some(Waiting::new(what));
            }
            Heard::Asking(question) => {
                self.waiting = None;
                self.begins |= question.begins;
                self.answering.get_or_insert_with(Answering::new);
            }
            Heard::Words(words) => {
                if std::mem::take(&mut self.begins) {
                    if self.results > 0 {
                        self.write(RULE);
                    }
                    self.results += 1;
                }
                self.ends_line = words.ends_with('\n');
                self.write(words);
            }
        }
    }

    /// Ends the last line and adds notes. Fails if a result could not be written.
    pub fn end(mut self, report: &Report) -> io::Result<()> {
        (self.waiting, self.answering) = (None, None);
        self.written?;
        if !self.ends_line {
            print("\n")?;
        }
        if !report.is_complete() {
            say("(cut at the token limit)");
        }
        if let Some(usage) = report.usage().filter(|_| io::stderr().is_terminal()) {
            let requests = report.parts.len();
            let (asked, answered) = (usage.prompt_tokens, usage.completion_tokens);
            say(format_args!(
                "({asked} tokens asked, {answered} answered, in {requests} requests)"
            ));
        }
        Ok(())
    }

    fn write(&mut self, words: &str) {
        if self.written.is_ok() {
            let answering = self.answering.get_or_insert_with(Answering::new);
            self.written = answering.words(words);
        }
    }
}
