//! The beginning of every command that sends prompts: settings, and a first verified appliance.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Instant;

use cocoon_client::terminal::{Waiting, say, style};
use cocoon_client::transcript::milliseconds;
use cocoon_client::trust::Settings;
use cocoon_client::{Address, Appliance, TableStyle, Upstreams, chain, summary, table};
use cocoon_measurements::verdict::Verdict;

use crate::flags::TrustFlags;
use crate::output::settings;
use crate::{Outcome, unless_interrupted};

/// Flags for the beginning of a command.
pub struct Opening<'a> {
    pub urls: &'a [Address],
    pub trust: &'a TrustFlags,
    /// Whether to show the whole verdict.
    pub verbose: bool,
    /// Whether the output is for programs.
    pub json: bool,
}

/// A verified appliance, with a connection kept for the first request.
pub struct Opened {
    pub settings: Arc<Settings>,
    pub upstreams: Upstreams,
    pub appliance: Appliance,
    pub attested_ms: Option<u64>,
}

impl Opening<'_> {
    /// Reads the settings and connects to the first appliance that can be verified. The inner error
    /// is the outcome of the command if it ends here. For programs, every failure is reported by
    /// `tell` with the appliance's URL, the verdict if there is one, and the error.
    pub async fn open(
        &self,
        tell: impl Fn(String, Option<&Verdict>, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<Result<Opened, Outcome>> {
        let first = &self.urls[0];
        let settings = if self.json {
            match unless_interrupted(self.trust.load()).await? {
                Ok(settings) => settings,
                Err(error) => {
                    let verdict = error.verdict();
                    tell(first.to_string(), verdict.as_ref(), &chain(&error))?;
                    return match verdict {
                        Some(_) => Ok(Err(Outcome::Rejected)),
                        None => Err(error.into()),
                    };
                }
            }
        } else {
            let Some(settings) = settings(self.trust).await? else {
                return Ok(Err(Outcome::Rejected));
            };
            settings
        };
        let settings = Arc::new(settings);
        let upstreams =
            Upstreams::renewing(Arc::clone(&settings), self.urls.to_vec(), |line| say(line));
        let mut waiting = Waiting::new(format!("attesting {first}"));
        let begun = Instant::now();
        let warming = upstreams.warm(|connection| {
            let appliance = Appliance::of(connection);
            let shown = self.shown(&appliance.address, connection.verdict());
            (appliance, shown)
        });
        let warmed = unless_interrupted(warming).await?;
        let attested_ms = milliseconds(begun.elapsed());
        waiting.done();
        match warmed {
            Ok((appliance, shown)) => {
                if !self.json {
                    say(shown);
                }
                Ok(Ok(Opened {
                    settings,
                    upstreams,
                    appliance,
                    attested_ms,
                }))
            }
            Err(error) => {
                if self.json {
                    let judged = error.verdict();
                    let url = judged.map_or(first, |(address, _)| address);
                    let verdict = judged.map(|(_, verdict)| verdict);
                    tell(url.to_string(), verdict, &chain(&error))?;
                }
                if !error.is_rejection() {
                    return Err(error.into());
                }
                if !self.json {
                    say(format_args!("cocoon: {}", chain(&error)));
                }
                Ok(Err(Outcome::Rejected))
            }
        }
    }

    fn shown(&self, url: &Address, verdict: &Verdict) -> String {
        let style = style(true);
        let color = style.color && std::io::stderr().is_terminal();
        if self.verbose {
            table(verdict, TableStyle { color, ..style })
        } else {
            format!("{url}: {}", summary(verdict, color))
        }
    }
}
