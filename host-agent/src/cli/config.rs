//! `cocoon-host config`: checks the daemon's configuration file without starting anything, or prints an example.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_host_agent::config::{DEFAULT_PATH, EXAMPLE, HostConfig, LoadError, Machine};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Config {
    /// Check a configuration file and report every error
    ///
    /// Each error has a line, a column and the allowed values. Exits with 1 if there is any.
    ///
    /// A missing image or manifest is only a warning: it keeps one appliance from starting, and not even that after an update.
    Check {
        /// Configuration file
        #[arg(default_value = DEFAULT_PATH)]
        file: PathBuf,
    },
    /// Print a commented example
    Example,
}

pub(super) fn run(wanted: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let file = match wanted {
        Config::Example if json => {
            writeln!(out, "{}", json!({ "example": EXAMPLE }))?;
            return Ok(ExitCode::SUCCESS);
        }
        Config::Example => {
            write!(out, "{EXAMPLE}")?;
            return Ok(ExitCode::SUCCESS);
        }
        Config::Check { file } => file,
    };
    match HostConfig::load(file, &Machine::this()) {
        Ok(config) => {
            let names: Vec<&str> = config
                .appliances
                .iter()
                .map(|one| one.name.as_str())
                .collect();
            let warnings = &config.warnings;
            if json {
                let valid = json!({
                    "file": file, "valid": true, "appliances": names, "problems": [], "warnings": warnings
                });
                writeln!(out, "{valid}")?;
            } else {
                for warning in warnings {
                    writeln!(out, "{}:{warning} (warning)", file.display())?;
                }
                writeln!(out, "{} is valid: {}", file.display(), names.join(", "))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(LoadError::Problems(problems)) => {
            if json {
                let list = &problems.list;
                let invalid = json!({ "file": file, "valid": false, "appliances": [], "problems": list, "warnings": [] });
                writeln!(out, "{invalid}")?;
            } else {
                writeln!(out, "{problems}")?;
            }
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}
