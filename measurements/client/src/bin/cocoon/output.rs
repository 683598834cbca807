//! Settings as commands need them: refusals shown, remembering without fuss.

use cocoon_client::terminal::{say, style};
use cocoon_client::trust::{Settings, TrustError};
use cocoon_client::{AttestedConnection, TableStyle, chain, table};
use cocoon_measurements::verdict::Verdict;

/// A refused manifest is a rejection with its own verdict; everything else about settings is usage.
pub fn refused_manifest(error: &TrustError) -> Option<Verdict> {
    match error {
        TrustError::Manifest { source, .. } => Some(Verdict::from(source)),
        _ => None,
    }
}

/// Loads settings, or prints the table of a refused manifest.
pub fn settings(flags: &crate::flags::TrustFlags) -> anyhow::Result<Option<Settings>> {
    match flags.load() {
        Ok(settings) => Ok(Some(settings)),
        Err(error) => match refused_manifest(&error) {
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
