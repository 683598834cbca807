//! Third-party packages for the tests: fetched from a lock file, unpacked once, and run with their own loader.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use cocoon_inputs::unpack::{Limits, unpack_deb_into};
use cocoon_inputs::{Cache, Fetched, Fetcher, Lock, Mirrors, Options, Policy, report};
use cocoon_tests::image::{cache, workspace};
use sha2::{Digest as _, Sha256};

use crate::absent::absent;
use crate::skip::skipped;

/// Lock file of packages that only tests use; none of them is in the image.
const TOOLS: &str = include_str!("tools.lock");
/// Lock file of packages for the tests of the model volume.
const VOLUME_TOOLS: &str = include_str!("volume.lock");
/// Folder of the libraries in a Debian package.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Returns the result of `open`, or reports that the test is skipped and returns `None`.
pub fn had<T>(what: &str, open: impl FnOnce() -> anyhow::Result<T>) -> Option<T> {
    match open() {
        Ok(had) => Some(had),
        Err(error) => {
            skipped(format_args!("{what} cannot be had: {error:#}"));
            None
        }
    }
}

/// A folder of unpacked packages.
#[derive(Debug)]
pub struct Packages {
    root: PathBuf,
}

impl Packages {
    /// Returns the packages of `group` in the tests' own lock file.
    pub fn of_tests(group: &str) -> anyhow::Result<Self> {
        Self::open(Lock::parse(TOOLS)?, group, Policy::AllowNewest)
    }

    /// Returns the packages of `group` in the lock file for the model volume's tests.
    pub fn of_volumes(group: &str) -> anyhow::Result<Self> {
        Self::open(Lock::parse(VOLUME_TOOLS)?, group, Policy::AllowNewest)
    }

    /// Returns the packages of `group` in the image's lock file. If the locked version is gone, the newest signed one
    /// is used: none of it is shipped.
    pub fn of_image(group: &str) -> anyhow::Result<Self> {
        Self::open(image_lock()?, group, Policy::AllowNewest)
    }

    /// Returns the packages of `group` in the image's lock file, in exactly the locked version.
    pub fn as_locked(group: &str) -> anyhow::Result<Self> {
        Self::open(image_lock()?, group, Policy::Release)
    }

    fn open(lock: Lock, group: &str, missing: Policy) -> anyhow::Result<Self> {
        let packages = fetch(lock, group, missing)?;
        let place = cache()?.join("tests/packages");
        let root = place.join(format!("{group}-{}", content_key(&packages)));
        if root.is_dir() {
            return Ok(Self { root });
        }
        fs::create_dir_all(&place)?;
        // Another test may want the same packages at the same time.
        let lock = File::create(root.with_extension("lock"))?;
        let what = "waiting for another test that unpacks the same packages";
        report::exclusive(&lock, &*report::stderr(), what)?;
        if !root.is_dir() {
            let partial = root.with_extension("partial");
            if partial.exists() {
                fs::remove_dir_all(&partial)?;
            }
            fs::create_dir(&partial)?;
            for package in &packages {
                unpack_deb_into(&package.read()?, Limits::default(), wanted, &partial)
                    .with_context(|| format!("cannot unpack {}", package.entry.name))?;
            }
            fs::rename(&partial, &root)?;
        }
        Ok(Self { root })
    }

    /// Returns the path of a file in the packages.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Returns the only file in `folder` whose name begins with `prefix` and ends with `suffix`.
    pub fn only(&self, folder: &str, prefix: &str, suffix: &str) -> anyhow::Result<PathBuf> {
        let listed = fs::read_dir(self.file(folder))?.collect::<io::Result<Vec<_>>>()?;
        let fits = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
        };
        let mut found = listed.iter().map(fs::DirEntry::path).filter(fits);
        match (found.next(), found.next()) {
            (Some(path), None) => Ok(path),
            _ => anyhow::bail!("{folder} does not hold one file {prefix}…{suffix}"),
        }
    }

    /// Returns a command for `usr/bin/PROGRAM`, run with the packages' own loader and libraries and without this
    /// process's environment, so that it does not depend on the host.
    pub fn program(&self, program: &str) -> Command {
        self.started("usr/bin", program)
    }

    /// Does the same for `usr/sbin/PROGRAM`.
    pub fn system_program(&self, program: &str) -> Command {
        self.started("usr/sbin", program)
    }

    fn started(&self, folder: &str, program: &str) -> Command {
        let libraries = self.file(LIBRARIES);
        let mut path = libraries.clone().into_os_string();
        // Debian's folder for libraries that only this program uses.
        path.push(":");
        path.push(libraries.join(program));
        let mut command = Command::new(self.file("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .env_clear()
            .env("OPENSSL_CONF", "/dev/null")
            .arg("--library-path")
            .arg(path)
            .arg(self.file(folder).join(program));
        command
    }
}

/// Reads a file of the test vectors, which are not part of the repository: below `COCOON_VECTORS`, or else in
/// `../shared/vectors` beside the checkout. If no folder is named and the file is absent, this prints SKIPPED, even with
/// `COCOON_NO_SKIP`, because no lock file covers published evidence. A file missing from a named folder is a failure.
pub fn vector(path: &str) -> Option<Vec<u8>> {
    let named = std::env::var_os("COCOON_VECTORS").filter(|folder| !folder.is_empty());
    let beside = workspace().join("../shared/vectors");
    let found = vector_below(named.map(PathBuf::from), &beside, path);
    if found.is_none() {
        absent(format_args!("{path} is needed: set COCOON_VECTORS"));
    }
    found
}

fn vector_below(named: Option<PathBuf>, beside: &Path, path: &str) -> Option<Vec<u8>> {
    let file = named.as_deref().unwrap_or(beside).join(path);
    let missing = |error: io::Error| {
        assert!(
            named.is_none(),
            "cannot read {} ({error}), and COCOON_VECTORS says that it is there",
            file.display()
        );
    };
    fs::read(&file).map_err(missing).ok()
}

/// Returns the only Python wheel of `group` in the tests' own lock file. It stays packed, because Python imports from it.
pub fn wheel(group: &str) -> anyhow::Result<PathBuf> {
    let mut fetched = fetch(Lock::parse(TOOLS)?, group, Policy::AllowNewest)?;
    let wheel = fetched.pop().context("the lock names no wheel")?;
    anyhow::ensure!(fetched.is_empty(), "the lock names several wheels");
    Ok(wheel.path)
}

/// Runs the program and returns its standard output. The error contains everything that a failed program printed.
pub fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    anyhow::ensure!(
        output.status.success(),
        "{command:?}: {}\n{said}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(said)
}

fn image_lock() -> anyhow::Result<Lock> {
    let path = workspace().join("image/inputs.lock");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Ok(Lock::parse(&text)?)
}

/// Fetches the packages of `group`. The policy `missing` applies if a locked version is gone.
fn fetch(lock: Lock, group: &str, missing: Policy) -> anyhow::Result<Vec<Fetched>> {
    let options = Options {
        policy: missing,
        ..Options::default()
    };
    let cache = Cache::open(cache()?)?;
    let fetcher = Fetcher::new(lock, cache, Mirrors::discover(), options, report::stderr());
    Ok(fetcher.fetch_group(group)?)
}

/// Leaves out documentation, and all kernel modules except the one that is used.
fn wanted(path: &str) -> bool {
    let module = path.contains("/kernel/") && path.contains(".ko");
    !path.starts_with("usr/share/doc/") && (!module || path.contains("/qemu_fw_cfg.ko"))
}

/// Returns a name that depends on all packages, but not on their order.
fn content_key(packages: &[Fetched]) -> String {
    let mut digests: Vec<_> = packages
        .iter()
        .map(|package| *package.entry.sha256.as_bytes())
        .collect();
    digests.sort_unstable();
    let digest = digests
        .iter()
        .fold(
            Sha256::new_with_prefix("packages of tests 1\0"),
            Sha256::chain_update,
        )
        .finalize();
    hex::encode(&digest[..16])
}

/// Returns the contents of a file; an error names the file.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

#[test]
fn vectors_may_be_absent_where_no_folder_is_named() {
    let beside = tempfile::tempdir().unwrap();
    assert_eq!(vector_below(None, beside.path(), "nvidia/x.xml"), None);
    fs::create_dir(beside.path().join("nvidia")).unwrap();
    fs::write(beside.path().join("nvidia/x.xml"), "x").unwrap();
    let found = vector_below(None, beside.path(), "nvidia/x.xml");
    assert_eq!(found.as_deref(), Some(&b"x"[..]));
}

#[test]
#[should_panic(
    expected = "cannot read /nowhere/nvidia/x.xml (No such file or directory (os error 2)), and COCOON_VECTORS says that it is there"
)]
fn vectors_are_in_the_folder_that_is_named() {
    vector_below(Some("/nowhere".into()), Path::new("/"), "nvidia/x.xml");
}
