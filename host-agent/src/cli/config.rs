//! `cocoon-host config`: judges the daemon's file without starting anything.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use cocoon_host_agent::config::{DEFAULT_PATH, EXAMPLE, HostConfig, LoadError, Machine};
use serde_json::json;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Config {
    /// Say everything that is wrong with a file, with line, column and what is allowed; exit code 1 if anything is. An image or
    /// manifest that is not there is a warning: it keeps one appliance from starting, and not after an update.
    Check {
        /// The file.
        #[arg(default_value = DEFAULT_PATH)]
        file: PathBuf,
    },
    /// Print the commented example.
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
