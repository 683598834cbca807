//! Installs third-party programs for tests into the cache: with their usual package managers, from lock files with hashes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use cocoon_protocol::bytes::Hex32;

use crate::image::cache;

/// Installs the Python packages of `requirements.txt` in `source` into a virtual environment, and returns its folder.
///
/// # Errors
/// If the installation fails.
pub fn python(place: &str, source: &Path) -> anyhow::Result<PathBuf> {
    let lock = source.join("requirements.txt");
    installed(place, "python", &lock, |root| {
        run(Command::new("python3").args(["-m", "venv"]).arg(root))?;
        run(Command::new(root.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet", "--require-hashes"])
            // Wheels only: an installation then compiles nothing and runs no code of the packages.
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(&lock))
    })
}

/// Installs the Node packages of `package-lock.json` in `source`, and returns the folder for scripts that use them.
///
/// # Errors
/// If the installation fails.
pub fn node(place: &str, source: &Path) -> anyhow::Result<PathBuf> {
    node_with(place, source, &["ci"])
}

/// Like [`node`], but without optional packages, which need not all be in the lock file. `npm ci` would insist on
/// them, even where a mirror lacks those for other platforms.
///
/// # Errors
/// If the installation fails, or if it changes the lock file.
pub fn node_without_optional(place: &str, source: &Path) -> anyhow::Result<PathBuf> {
    let root = node_with(place, source, &["install", "--omit=optional"])?;
    let [locked, used] = [source, &root].map(|folder| fs::read(folder.join("package-lock.json")));
    anyhow::ensure!(
        locked? == used?,
        "npm installed what {}/package-lock.json does not list: remove {}, and make the list anew with npm",
        source.display(),
        root.display()
    );
    Ok(root)
}

fn node_with(place: &str, source: &Path, command: &[&str]) -> anyhow::Result<PathBuf> {
    let lock = source.join("package-lock.json");
    installed(place, "node", &lock, |root| {
        for file in ["package.json", "package-lock.json"] {
            fs::copy(source.join(file), root.join(file))?;
        }
        run(Command::new("npm")
            .args(command)
            .args(["--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(root))
    })
}

/// Returns a folder in the cache's `place` in which `install` has completed once for this content of `lock`.
fn installed(
    place: &str,
    name: &str,
    lock: &Path,
    install: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    let locked = fs::read(lock).with_context(|| format!("cannot read {}", lock.display()))?;
    let place = cache()?.join(place);
    fs::create_dir_all(&place)?;
    let key = Hex32::sha256(&locked).to_string();
    let root = place.join(format!("{name}-{}", &key[..16]));
    let busy = File::create(place.join(format!("{name}.lock")))?;
    busy.lock()?;
    // Written last, so that an interrupted installation is repeated.
    let complete = root.join("complete");
    if !complete.is_file() {
        if root.exists() {
            fs::remove_dir_all(&root)?;
        }
        fs::create_dir(&root)?;
        install(&root)?;
        File::create(&complete)?;
    }
    Ok(root)
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
