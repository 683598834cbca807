//! Executables of other packages, for tests that start them as operators and clients do.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::image::workspace;

/// Returns the path of the executable `name` of `package`, built from these sources. Cargo tells a test only the
/// executables of its own package. After a build of the whole workspace this takes little time.
///
/// # Errors
/// If the package does not build, or has no such executable.
pub fn built(package: &str, name: &str) -> anyhow::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--message-format", "json"]);
    command.args(["--package", package, "--bin", name]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("{package} does not build");
    }
    let text = String::from_utf8(output.stdout).context("cargo's messages are not text")?;
    // No package depends on this executable, so it is the last one that cargo reports.
    let message = |line| serde_json::from_str::<Value>(line).ok();
    let mut named = text.lines().rev().filter_map(message);
    let path = named.find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)));
    path.with_context(|| format!("{package} has no executable {name}"))
}
