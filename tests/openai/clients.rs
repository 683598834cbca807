//! Installs OpenAI's official clients from their lock files, and runs their checks.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_tests::image::workspace;
use cocoon_tests::installed;
use tokio::time::timeout;

use crate::skip::skipped;

/// Time limit for one client's checks: many answers on a slow machine.
const DEADLINE: Duration = Duration::from_secs(600);

/// Returns the value, or reports that the test is skipped and returns `None`.
pub fn had<T>(what: &str, had: anyhow::Result<T>) -> Option<T> {
    match had {
        Ok(had) => Some(had),
        Err(error) => {
            skipped(format_args!("{what} cannot be had: {error:#}"));
            None
        }
    }
}

/// An official client.
#[derive(Clone, Copy)]
pub enum Client {
    Python,
    Node,
}

/// An installed client, ready to run its checks.
pub struct Installed {
    program: PathBuf,
    script: PathBuf,
}

/// Result of a client's checks.
pub struct Said {
    pub success: bool,
    pub checks: usize,
    pub output: String,
}

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Self::Python => "the official client for Python",
            Self::Node => "the official client for Node",
        }
    }

    /// Returns the number of checks in the client's script.
    pub fn checks(self) -> usize {
        match self {
            Self::Python => 13,
            Self::Node => 11,
        }
    }

    /// Installs the client into the cache, once for each content of its lock file.
    pub fn install(self) -> anyhow::Result<Installed> {
        let place = "tests/openai";
        let source = workspace().join(place);
        let (script, root, program) = match self {
            Self::Python => {
                let source = source.join("python");
                let root = installed::python(place, &source)?;
                let program = root.join("bin/python");
                (source.join("conformance.py"), root, program)
            }
            Self::Node => {
                let source = source.join("node");
                let root = installed::node(place, &source)?;
                (source.join("conformance.mjs"), root, "node".into())
            }
        };
        // Node looks for packages in the script's folder.
        let copy = root.join(script.file_name().context("the script has no name")?);
        fs::copy(&script, &copy)?;
        Ok(Installed {
            program,
            script: copy,
        })
    }
}

impl Installed {
    /// Runs the checks against the endpoint at `url`.
    pub async fn run(&self, url: &str, token: &str, model: &str) -> Said {
        let mut command = tokio::process::Command::new(&self.program);
        command
            .arg(&self.script)
            .arg(model)
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .env("NO_PROXY", "127.0.0.1")
            .env("OPENAI_BASE_URL", url)
            .env("OPENAI_API_KEY", token)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(DEADLINE, command.output()).await;
        let output = output.expect("the checks end in time").unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        Said {
            success: output.status.success(),
            checks: told.lines().filter(|line| line.starts_with("ok ")).count(),
            output: format!("{told}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }
}
