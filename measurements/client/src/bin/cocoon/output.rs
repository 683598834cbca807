//! Settings as commands need them: refusals shown, remembering without fuss.

use cocoon_client::terminal::{say, style};
use cocoon_client::trust::Settings;
use cocoon_client::{AttestedConnection, TableStyle, chain, table};

use crate::unless_interrupted;

/// Loads settings, or prints the table of a refused manifest.
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

/// Remembers a confidential appliance; not being able to is worth a line.
pub fn remember(settings: &Settings, connection: &AttestedConnection) {
    if let Err(error) = settings.remember(connection) {
        say(format_args!("note: {}", chain(&error)));
    }
}
