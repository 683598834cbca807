//! The official clients: installed under their lock files, and run.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use cocoon_tests::image::{cache, workspace};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

/// Makes a skipped test fail.
const NO_SKIP: &str = "COCOON_NO_SKIP";
/// How long one client's checks may take: many answers, of a slow machine.
const DEADLINE: Duration = Duration::from_secs(600);

/// What was had, or `None` after saying that, and why, it was not.
pub fn had<T>(what: &str, had: anyhow::Result<T>) -> Option<T> {
    match had {
        Ok(had) => Some(had),
        Err(error) => {
            let line = format!("SKIPPED: {what} cannot be had: {error:#}");
            let must = std::env::var_os(NO_SKIP).is_some_and(|value| !value.is_empty());
            assert!(!must, "{line}");
            // Past the capture of a passing test's output. A closed standard error leaves nobody to tell.
            let _ = writeln!(io::stderr(), "{line}");
            None
        }
    }
}

/// A client.
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

/// What a client's checks said.
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

    /// Checks in the script.
    pub fn checks(self) -> usize {
        match self {
            Self::Python => 12,
            Self::Node => 11,
        }
    }

    /// Installs it into the cache, once for each content of its lock file.
    pub fn install(self) -> anyhow::Result<Installed> {
        let (folder, lock, script) = match self {
            Self::Python => ("python", "requirements.txt", "conformance.py"),
            Self::Node => ("node", "package-lock.json", "conformance.mjs"),
        };
        let source = workspace().join("tests/openai").join(folder);
        let locked = fs::read(source.join(lock)).with_context(|| format!("{folder}/{lock}"))?;
        let place = cache()?.join("tests/openai");
        fs::create_dir_all(&place)?;
        let key = hex::encode(&Sha256::digest(&locked)[..8]);
        let root = place.join(format!("{folder}-{key}"));
        let busy = File::create(place.join(format!("{folder}.lock")))?;
        busy.lock()?;
        // Written last: an installation that was broken off is made anew.
        let complete = root.join("complete");
        if !complete.is_file() {
            if root.exists() {
                fs::remove_dir_all(&root)?;
            }
            fs::create_dir(&root)?;
            match self {
                Self::Python => python(&source, &root)?,
                Self::Node => node(&source, &root)?,
            }
            File::create(&complete)?;
        }
        // Node looks for packages beside the script.
        let copy = root.join(script);
        fs::copy(source.join(script), &copy)?;
        let program = match self {
            Self::Python => root.join("bin/python"),
            Self::Node => "node".into(),
        };
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

fn python(source: &Path, root: &Path) -> anyhow::Result<()> {
    run(Command::new("python3").args(["-m", "venv"]).arg(root))?;
    run(Command::new(root.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--require-hashes"])
        // Nothing is compiled, and nothing of a package runs, before its tests do.
        .args(["--only-binary", ":all:", "--requirement"])
        .arg(source.join("requirements.txt")))
}

fn node(source: &Path, root: &Path) -> anyhow::Result<()> {
    for file in ["package.json", "package-lock.json"] {
        fs::copy(source.join(file), root.join(file))?;
    }
    run(Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .current_dir(root))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{program} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
