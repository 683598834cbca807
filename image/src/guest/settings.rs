//! Checks cargo's configuration files for settings that could change the guest's executables.
//!
//! Cargo reads `config.toml` in its home and in `.cargo` of every folder above the sources. Where to download from is up to
//! the machine, but what is compiled, and how, must be the same everywhere. Settings that [`OVERRIDDEN`] overrides are
//! harmless. Any other that reaches the compiler is refused, because a verifier could not explain why the bytes differ.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::files::{self, FileError};

/// Largest configuration file that is read, in bytes.
const MAX_SETTINGS: u64 = 1 << 20;

/// Variables that override settings of configuration files, for both targets.
pub const OVERRIDDEN: &[(&str, &str)] = &[
    ("CARGO_INCREMENTAL", "0"),
    ("RUSTC_WRAPPER", ""),
    ("RUSTC_WORKSPACE_WRAPPER", ""),
    ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER", "cc"),
    ("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld"),
];

/// Harmless tables: they concern the network, the terminal and other commands.
const HARMLESS: &[&str] = &[
    "alias",
    "cache",
    "cargo-new",
    "credential-alias",
    "doc",
    "future-incompat-report",
    "http",
    "install",
    "net",
    "registries",
    "registry",
    "term",
];
/// Harmless settings in `[build]`: a variable or an argument overrides them, or they do not influence the result.
const HARMLESS_BUILD: &[&str] = &[
    "build-dir",
    "dep-info-basedir",
    "incremental",
    "jobs",
    "rustc-workspace-wrapper",
    "rustc-wrapper",
    "rustdoc",
    "rustdocflags",
    "rustflags",
    "target",
    "target-dir",
    "warnings",
];
/// Harmless settings in `[target.…]`: `CARGO_ENCODED_RUSTFLAGS` and the linker's variable take precedence.
const HARMLESS_TARGET: &[&str] = &["linker", "runner", "rustdocflags", "rustflags"];

/// Harmless settings in `[source.…]`: downloads are compared with the checksums of `Cargo.lock`. Not harmless are `directory`,
/// a folder of unpacked packages (as `cargo vendor` writes it) whose files may have been changed, and `git`, another source
/// than `Cargo.lock` names.
const HARMLESS_SOURCE: &[&str] = &["local-registry", "registry", "replace-with"];

/// Why cargo's configuration is refused.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// A setting changes what is compiled.
    #[error(
        "{path} sets `{key}`, which changes what is compiled into the image: take it out while building an image"
    )]
    Foreign {
        /// Path of the configuration file.
        path: PathBuf,
        /// Name of the setting, with dots between its parts.
        key: String,
    },
    /// A configuration file is not TOML.
    #[error("{path} is no configuration that cargo could read")]
    Malformed {
        /// Path of the configuration file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: toml::de::Error,
    },
    /// A configuration file cannot be read.
    #[error("cannot read cargo's configuration")]
    File(#[from] FileError),
}

/// Checks every file that cargo reads when it runs in `source` with its home at `cargo_home`.
///
/// # Errors
/// [`SettingsError`] for the first setting that could change the executables.
pub fn check(source: &Path, cargo_home: &Path) -> Result<(), SettingsError> {
    let above = source.ancestors().map(|folder| folder.join(".cargo"));
    for folder in above.chain([cargo_home.to_owned()]) {
        for name in ["config", "config.toml"] {
            let path = folder.join(name);
            if !path.is_file() {
                continue;
            }
            let bytes = files::read(&path, MAX_SETTINGS)?;
            match foreign_key(&String::from_utf8_lossy(&bytes)) {
                Ok(None) => {}
                Ok(Some(key)) => return Err(SettingsError::Foreign { path, key }),
                Err(source) => return Err(SettingsError::Malformed { path, source }),
            }
        }
    }
    Ok(())
}

/// Returns the variables of [`OVERRIDDEN`], for the environment of a child process.
pub fn overridden() -> impl Iterator<Item = (String, OsString)> {
    OVERRIDDEN
        .iter()
        .map(|(name, value)| ((*name).to_owned(), OsString::from(value)))
}

/// Returns the first setting that is not harmless.
fn foreign_key(text: &str) -> Result<Option<String>, toml::de::Error> {
    let settings: toml::Table = text.parse()?;
    let foreign = settings.iter().find_map(|(key, value)| match key.as_str() {
        known if HARMLESS.contains(&known) => None,
        "build" => inner(key, value, HARMLESS_BUILD),
        "source" => each(key, value, HARMLESS_SOURCE),
        "target" => each(key, value, HARMLESS_TARGET),
        _ => Some(key.clone()),
    });
    Ok(foreign)
}

/// Returns the first setting that is not harmless in a table of tables.
fn each(name: &str, value: &toml::Value, harmless: &[&str]) -> Option<String> {
    let Some(tables) = value.as_table() else {
        return Some(name.to_owned());
    };
    let mut tables = tables.iter();
    tables.find_map(|(key, value)| inner(&format!("{name}.{key}"), value, harmless))
}

fn inner(name: &str, value: &toml::Value, harmless: &[&str]) -> Option<String> {
    let Some(table) = value.as_table() else {
        return Some(name.to_owned());
    };
    let mut keys = table.keys();
    let foreign = keys.find(|key| !harmless.contains(&key.as_str()))?;
    Some(format!("{name}.{foreign}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foreign(text: &str) -> Option<String> {
        foreign_key(text).unwrap()
    }

    #[test]
    fn where_to_download_from_is_the_machines_business() {
        let usual = "[source.crates-io]\nreplace-with = 'near'\n[source.near]\nregistry = 'sparse+x'\n\
            [net]\ngit-fetch-with-cli = true\n[term]\nquiet = true\n[build]\njobs = 1\nrustc-wrapper = 'sccache'\n\
            [target.x86_64-unknown-linux-gnu]\nlinker = 'clang'\nrustflags = ['-Cdebuginfo=2']\n";
        assert_eq!(foreign(usual), None);
        let local =
            "[source.crates-io]\nreplace-with = 'near'\n[source.near]\nlocal-registry = 'x'\n";
        assert_eq!(foreign(local), None);
        assert_eq!(foreign(""), None);
    }

    #[test]
    fn what_reaches_the_compiler_is_named() {
        for (text, key) in [
            ("[profile.engine]\nlto = true", "profile"),
            ("[patch.crates-io]\nx = { path = 'x' }", "patch"),
            ("[env]\nCC = 'clang'", "env"),
            ("include = 'other.toml'", "include"),
            ("source = 'x'", "source"),
            (
                "[source.crates-io]\nreplace-with = 'v'\n[source.v]\ndirectory = 'vendor'",
                "source.v.directory",
            ),
            (
                "[source.'https://x/y']\ngit = 'https://x/y'",
                "source.https://x/y.git",
            ),
            ("[source.v]\npath = 'v'", "source.v.path"),
            ("[build]\nrustc = 'mine'", "build.rustc"),
            (
                "[target.x86_64-unknown-linux-gnu.onig]\nrustc-link-lib = ['onig']",
                "target.x86_64-unknown-linux-gnu.onig",
            ),
        ] {
            assert_eq!(foreign(text).as_deref(), Some(key), "{text}");
        }
    }

    #[test]
    fn every_folder_above_the_sources_and_cargos_home_count() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("cache/guest/src");
        let home = folder.path().join("home");
        for dot_cargo in [folder.path().join("cache/.cargo"), home.clone()] {
            std::fs::create_dir_all(&dot_cargo).unwrap();
            let path = dot_cargo.join("config.toml");
            std::fs::write(&path, "[env]\nA = 'b'").unwrap();
            assert_eq!(
                check(&source, &home).unwrap_err().to_string(),
                format!(
                    "{} sets `env`, which changes what is compiled into the image: take it out while building an image",
                    path.display()
                )
            );
            std::fs::write(&path, "not = [").unwrap();
            assert!(
                matches!(check(&source, &home), Err(SettingsError::Malformed { path: found, .. }) if found == path)
            );
            std::fs::write(&path, "[net]\nretry = 3").unwrap();
            check(&source, &home).unwrap();
        }
    }
}
