//! Judges a new VM's evidence in a task of its own, so that the keeper can go on.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::Keeper;
use crate::attest::Asked;
use crate::text::{chain, plain};
use crate::update::Event;

/// A running appraisal of the new VM's evidence. Dropping it aborts the task.
pub(super) struct Judgement(JoinHandle<Result<String, String>>);

impl Drop for Judgement {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits for the verdict; for ever if no appraisal is running.
pub(super) async fn judged(judgement: &mut Option<Judgement>) -> Result<String, String> {
    match judgement {
        Some(judgement) => {
            let judged = (&mut judgement.0).await;
            judged.unwrap_or_else(|error| Err(chain(&error)))
        }
        None => std::future::pending().await,
    }
}

impl Keeper {
    pub(super) async fn judged(&mut self, judged: Result<String, String>) {
        self.judgement = None;
        if self.halting {
            return;
        }
        match judged {
            Ok(words) => {
                self.news.push(("update", words));
                self.update(Event::Accepted).await;
            }
            Err(why) => self.update(Event::Refused(plain(&why, 1000))).await,
        }
    }

    pub(super) fn examine(&mut self) {
        let Some(other) = &self.other else { return };
        let report = other.report.as_ref();
        let Some(guest) = report.and_then(|report| report.guest) else {
            // A new daemon has had no report of this VM yet. `settle` calls again once it has.
            return;
        };
        let asked = Asked {
            guest,
            manifest: other.folder().join("manifest.json"),
            trust_root: report.and_then(|report| report.trust_root.clone()),
            policy: (self.kept.under_way()).and_then(|update| update.policy.clone()),
        };
        let judge = Arc::clone(&self.setting.judge);
        self.judgement = Some(Judgement(tokio::spawn(async move {
            judge
                .judge(asked)
                .await
                .map_err(|why| format!("a client would not accept its evidence: {why}"))
        })));
    }
}
