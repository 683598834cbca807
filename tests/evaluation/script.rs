//! Runs the script that requests translations and scores them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cocoon_tests::image::workspace;
use cocoon_tests::installed;
use tokio::time::timeout;

const PLACE: &str = "tests/evaluation";
/// Time limit for all sentences in all languages on a slow machine.
const DEADLINE: Duration = Duration::from_secs(3600);

fn path() -> PathBuf {
    workspace().join(PLACE).join("python/evaluate.py")
}

/// Installs sacrebleu, and returns the Python interpreter that has it.
pub async fn install() -> anyhow::Result<PathBuf> {
    let source = workspace().join(PLACE).join("python");
    let installed = tokio::task::spawn_blocking(move || installed::python(PLACE, &source));
    Ok(installed.await??.join("bin/python"))
}

/// Returns the requests that the script would send, one per line. Needs no packages.
pub fn requests(model: &str) -> anyhow::Result<String> {
    let mut command = Command::new("python3");
    command.arg(path()).args([model, "--requests"]);
    said(command.output().context("cannot run python3")?)
}

/// Evaluates the endpoint at `url`, and returns what the script prints.
pub async fn evaluate(
    python: &Path,
    url: &str,
    token: &str,
    model: &str,
    options: &[&str],
) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(python);
    command
        .arg(path())
        .arg(model)
        .args(options)
        .env("OPENAI_BASE_URL", url)
        .env("OPENAI_API_KEY", token)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(DEADLINE, command.output()).await;
    said(output.context("the script does not end")??)
}

fn said(output: std::process::Output) -> anyhow::Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the script failed: {errors}");
    Ok(String::from_utf8(output.stdout)?)
}
