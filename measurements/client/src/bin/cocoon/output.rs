//! Helpers for commands: loading settings, remembering appliances, and the outcome of later
//! requests.

use cocoon_client::terminal::{say, style};
use cocoon_client::trust::Settings;
use cocoon_client::{AttestedConnection, TableStyle, chain, table};

use crate::{Outcome, unless_interrupted};

/// Loads the settings. If the manifest is refused, prints the table of its checks and returns
/// `None`.
pub async fn settings(flags: &crate::flags::TrustFlags) -> anyhow::Result<Option<Settings>> {
    match unless_interrupted(flags.load()).await? {
        Ok(settings) => Ok(Some(settings)),
        Err(error) => match error.verdict() {
            Some(verdict) => {
                say(table(
                    &verdict,
                    TableStyle {
                        color: false,
                        ..style(true)
                    },
                ));
                Ok(None)
            }
            None => Err(error.into()),
        },
    }
}

/// Remembers a confidential appliance; a failure is only noted.
pub fn remember(settings: &Settings, connection: &AttestedConnection) {
    if let Err(error) = settings.remember(connection) {
        say(format_args!("note: {}", chain(&error)));
    }
}

/// Returns the outcome of a command whose appliance was accepted first: it may still be refused
/// between two requests.
pub fn outcome<E: std::error::Error + Send + Sync + 'static>(
    done: Result<(), E>,
    is_rejection: impl Fn(&E) -> bool,
    tell: impl Fn(&E),
) -> anyhow::Result<Outcome> {
    match done {
        Ok(()) => Ok(Outcome::Done),
        Err(error) if is_rejection(&error) => {
            tell(&error);
            Ok(Outcome::Rejected)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use cocoon_client::terminal::TerminalError;

    use super::*;

    #[test]
    fn a_rejection_is_1_and_every_other_failure_an_error() {
        let ended = |rejected| {
            let unanswered = TerminalError::Unanswered {
                asked: 2,
                failed: 1,
                rejected,
            };
            outcome(Err(unanswered), TerminalError::is_rejection, |_| {})
        };
        assert!(matches!(ended(true), Ok(Outcome::Rejected)));
        assert!(ended(false).is_err());
        let done = outcome(Ok(()), TerminalError::is_rejection, |_| {});
        assert!(matches!(done, Ok(Outcome::Done)));
    }
}
