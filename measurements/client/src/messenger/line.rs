//! The report on a job for programs: one object on one line of JSON.

use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::openai::Usage;
use serde::Serialize;
use zeroize::Zeroizing;

use super::report::{Part, Report};
use crate::transcript::Timing;

/// The report. Unknown values are null, so that every line has the same fields.
#[derive(Serialize)]
pub struct Line<'a> {
    /// URL of the appliance that answered last, or of the first one that was given.
    pub url: String,
    /// Whether the appliance was verified.
    pub accepted: bool,
    /// Lowest class of the verdicts on all appliances that answered.
    pub class: Option<Class>,
    /// The verdict in one line.
    pub summary: Option<&'a str>,
    /// The whole verdict, if the appliance was rejected.
    pub verdict: Option<&'a Verdict>,
    /// The model that was used.
    pub model: Option<&'a str>,
    /// Name of the task.
    pub task: &'static str,
    /// The result, as far as it arrived; null for drafts.
    pub result: Option<&'a str>,
    /// The drafts of a reply; null for other tasks.
    pub drafts: Option<Vec<&'a str>>,
    /// Whether every request was answered and no answer was cut at a token limit.
    pub complete: bool,
    /// Tokens of all requests together.
    pub usage: Option<Usage>,
    /// The requests that were answered.
    pub parts: &'a [Part],
    /// Durations of the job.
    pub timing: Timing,
    /// The error, if the job failed.
    pub error: Option<&'a str>,
}

impl<'a> Line<'a> {
    /// Makes the report on a `task` that could not be started.
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

    /// Adds the results and the error of a job. After a rejection, the fields about the appliance
    /// stay as they are.
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

    /// Returns the line as text without a line break. Wiped on drop.
    pub fn text(&self) -> Zeroizing<String> {
        crate::transcript::json(self)
    }
}
