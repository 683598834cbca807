//! The script that asks and scores.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cocoon_tests::image::workspace;
use cocoon_tests::installed;
use tokio::time::timeout;

const PLACE: &str = "tests/evaluation";
/// For all sentences in all languages, on a slow machine.
const DEADLINE: Duration = Duration::from_secs(3600);

fn path() -> PathBuf {
    workspace().join(PLACE).join("python/evaluate.py")
}

/// The interpreter that has sacrebleu.
pub async fn install() -> anyhow::Result<PathBuf> {
    let source = workspace().join(PLACE).join("python");
    let installed = tokio::task::spawn_blocking(move || installed::python(PLACE, &source));
    Ok(installed.await??.join("bin/python"))
}

/// What it would send, a line each. Needs no packages.
pub fn requests(model: &str) -> anyhow::Result<String> {
    let mut command = Command::new("python3");
    command.arg(path()).args([model, "--requests"]);
    said(command.output().context("cannot run python3")?)
}

/// What it prints about the endpoint at `url`.
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
