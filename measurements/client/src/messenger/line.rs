//! A job for programs: one object on one line of JSON.

use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::openai::Usage;
use serde::Serialize;
use zeroize::Zeroizing;

use super::report::{Part, Report};
use crate::transcript::Timing;

/// The line. What is not known is null, so that every line has the same fields.
#[derive(Serialize)]
pub struct Line<'a> {
    /// The appliance that answered last, or the first that was asked for.
    pub url: String,
    /// Whether it was verified.
    pub accepted: bool,
    /// What the verdicts on all that answered are worth together.
    pub class: Option<Class>,
    /// The verdict in one line.
    pub summary: Option<&'a str>,
    /// The whole verdict, after a rejection.
    pub verdict: Option<&'a Verdict>,
    /// The model that was asked.
    pub model: Option<&'a str>,
    /// What was asked for.
    pub task: &'static str,
    /// The one result, as far as it came.
    pub result: Option<&'a str>,
    /// Results of which there may be several.
    pub drafts: Option<Vec<&'a str>>,
    /// Whether everything was answered, and no answer was cut at a limit.
    pub complete: bool,
    /// Tokens of all requests.
    pub usage: Option<Usage>,
    /// The requests.
    pub parts: &'a [Part],
    /// How long it took.
    pub timing: Timing,
    /// What went wrong.
    pub error: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// What kept `task` from being begun.
    pub fn failed(
        task: &'static str,
        url: String,
        verdict: Option<&'a Verdict>,
        error: &'a str,
    ) -> Self {
        Self {
            url,
            accepted: false,
            class: verdict.map(|verdict| verdict.class),
            summary: None,
            verdict,
            model: None,
            task,
            result: None,
            drafts: None,
            complete: false,
            usage: None,
            parts: &[],
            timing: Timing::default(),
            error: Some(error),
        }
    }

    /// The same with what came of it, and what went wrong then; where that was a rejection, it says so already.
    pub fn with(self, report: &'a Report, error: Option<&'a str>) -> Self {
        let results = report.results.iter().map(|result| result.as_str());
        let several = self.task == "reply";
        let appliance = report.appliance.as_ref().filter(|_| self.accepted);
        let class = report.class().filter(|_| self.accepted);
        Self {
            url: appliance.map_or(self.url, |one| one.address.to_string()),
            class: class.or(self.class),
            summary: appliance.map(|one| one.summary.as_str()).or(self.summary),
            result: results.clone().next().filter(|_| !several),
            drafts: several.then(|| results.collect()),
            complete: error.is_none() && report.is_complete(),
            usage: report.usage(),
            parts: &report.parts,
            error,
            ..self
        }
    }

    /// The line as text, wiped on drop, without a line break.
    pub fn text(&self) -> Zeroizing<String> {
        crate::transcript::json(self)
    }
}
