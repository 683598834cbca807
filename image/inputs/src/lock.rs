//! The lock file: every foreign file with its hash, and the requests that it answers.
//!
//! `[[request]]` tables are written by people; `[[release]]` and `[[input]]` are derived from them by
//! [`crate::resolve`], so that an auditor can walk from a signed Release file to each hash.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::canonical::Canonical;
use crate::names::{is_name, is_relative, is_version};
use crate::{Digest, LockError};

/// Version of the file's format.
pub(crate) const FORMAT: u32 = 1;
/// The component that a request means when it names none.
pub(crate) const MAIN: &str = "main";
/// No input is larger than this, whatever the lock says: bounds disk and memory.
pub const MAX_INPUT_BYTES: u64 = 8 << 30;

/// A parsed and checked lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    format: u32,
    #[serde(default, rename = "request")]
    requests: Vec<Request>,
    #[serde(default, rename = "release")]
    releases: Vec<Release>,
    #[serde(default, rename = "input")]
    inputs: Vec<Entry>,
}

/// Something wanted, and why. One request fills one group, or adds to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Group that the result belongs to.
    pub group: String,
    /// Debian package or Python wheel.
    pub kind: Kind,
    /// Package asked for.
    pub name: String,
    /// Exact version; required for Python, absent for Debian (the newest of `suites`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Suites to choose from; the highest version wins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<String>,
    /// Parts of these suites to choose from, such as `non-free`; `main` alone when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// What to lock.
    #[serde(default)]
    pub take: Take,
    /// Packages left out of a closure; a name that ends in `*` leaves out all that begin so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Why this input exists and, for `without`, why it can be left out.
    pub reason: String,
}

/// What a request locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    /// The named package alone.
    #[default]
    Package,
    /// The package that the named metapackage depends on: kernel packages carry their version in the name.
    Dependency,
    /// The named package with everything in Depends and Pre-Depends, transitively.
    Closure,
}

/// Kind of a foreign file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A `.deb` from a Debian archive.
    Debian,
    /// A wheel from the Python index that pip is configured with.
    Python,
}

/// The signed Release file from which entries of one suite were derived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Suite, such as `trixie`.
    pub suite: String,
    /// Its `Date` field, as published.
    pub date: String,
    /// Digest of the InRelease file.
    pub inrelease_sha256: Digest,
    /// Digest of `main/binary-amd64/Packages.xz`, as InRelease names it.
    pub packages_sha256: Digest,
    /// The same of each other component that was searched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, Digest>,
}

/// One locked file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Package name.
    pub name: String,
    /// Package version.
    pub version: String,
    /// `amd64` or `all`; `any` for Python.
    pub architecture: String,
    /// Debian package or Python wheel.
    pub kind: Kind,
    /// Suite it was found in; Debian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// Path below the archive's base (`pool/…`), or the wheel's file name. Never a host.
    pub path: String,
    /// Digest of the file.
    pub sha256: Digest,
    /// Size of the file in bytes.
    pub size: u64,
    /// Groups that need it.
    pub groups: Vec<String>,
}

impl Lock {
    /// Builds a lock from its parts, sorted, with the same checks as [`Lock::parse`].
    ///
    /// # Errors
    /// [`LockError`], naming the table and the field.
    pub fn new(
        requests: Vec<Request>,
        mut releases: Vec<Release>,
        mut inputs: Vec<Entry>,
    ) -> Result<Self, LockError> {
        releases.sort_by(|a, b| a.suite.cmp(&b.suite));
        inputs.iter_mut().for_each(|entry| entry.groups.sort());
        inputs.sort_by(|a, b| {
            (&a.groups, &a.name, &a.version).cmp(&(&b.groups, &b.name, &b.version))
        });
        let lock = Self {
            format: FORMAT,
            requests,
            releases,
            inputs,
        };
        lock.check()?;
        Ok(lock)
    }

    /// Parses and checks the text of a lock file.
    ///
    /// # Errors
    /// [`LockError`], naming the table and the field.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let lock: Self =
            toml::from_str(text).map_err(|error| LockError::Syntax(Box::new(error)))?;
        if lock.format != FORMAT {
            return Err(LockError::Format { found: lock.format });
        }
        Self::new(lock.requests, lock.releases, lock.inputs)
    }

    /// The text to commit; [`Lock::parse`] reads it back unchanged.
    ///
    /// # Panics
    /// Never: every field is a string, a number or a list of strings.
    #[must_use]
    pub fn render(&self) -> String {
        let body =
            toml::to_string(self).expect("strings, numbers and lists always have a TOML form");
        format!(
            "# Every foreign file of the build. [[request]] is written by hand; [[release]] and [[input]] are\n\
             # derived from it: refresh with `cocoon-image lock --update`, then review the difference.\n\n{body}"
        )
    }

    /// SHA-256 over a canonical form (length-prefixed fields, sorted): independent of layout and comments.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut form = Canonical::new("cocoon inputs lock 2");
        for request in &self.requests {
            let take = match request.take {
                Take::Package => "package",
                Take::Dependency => "dependency",
                Take::Closure => "closure",
            };
            form.fields(&[&request.group, request.kind.name(), &request.name, take]);
            form.fields(&[request.version.as_deref().unwrap_or_default()]);
            form.list(&request.suites);
            form.list(&request.components);
            form.list(&request.without);
        }
        form.fields(&["releases"]);
        for release in &self.releases {
            let hashes = [
                release.inrelease_sha256.to_string(),
                release.packages_sha256.to_string(),
            ];
            form.fields(&[&release.suite, &release.date, &hashes[0], &hashes[1]]);
            form.fields(&[&release.components.len().to_string()]);
            for (component, packages) in &release.components {
                form.fields(&[component, &packages.to_string()]);
            }
        }
        form.fields(&["inputs"]);
        for entry in &self.inputs {
            form.fields(&[
                &entry.name,
                &entry.version,
                &entry.architecture,
                entry.kind.name(),
            ]);
            form.fields(&[entry.suite.as_deref().unwrap_or_default(), &entry.path]);
            form.fields(&[&entry.sha256.to_string(), &entry.size.to_string()]);
            form.list(&entry.groups);
        }
        form.digest()
    }

    /// Every locked file.
    #[must_use]
    pub fn inputs(&self) -> &[Entry] {
        &self.inputs
    }

    /// Every request.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The locked files of one group; empty if there is no such group.
    pub fn group<'a>(&'a self, group: &str) -> impl Iterator<Item = &'a Entry> {
        self.inputs
            .iter()
            .filter(move |entry| entry.groups.iter().any(|g| g == group))
    }

    /// The Release file from which entries of `suite` were derived.
    #[must_use]
    pub fn release(&self, suite: &str) -> Option<&Release> {
        self.releases.iter().find(|release| release.suite == suite)
    }

    fn check(&self) -> Result<(), LockError> {
        let mut suites = BTreeSet::new();
        for release in &self.releases {
            if !suites.insert(&release.suite) {
                return Err(LockError::DuplicateRelease {
                    suite: release.suite.clone(),
                });
            }
            if crate::date::parse(&release.date).is_none() {
                return Err(refuse(
                    "release",
                    &release.suite,
                    format!("{:?} is not a date", release.date),
                ));
            }
            if let Some(component) = release.components.keys().find(|c| !is_other(c)) {
                let problem = format!("{component:?} is not the name of a component beside main");
                return Err(refuse("release", &release.suite, problem));
            }
        }
        for request in &self.requests {
            request.check()?;
        }
        let asked: BTreeSet<_> = self.requests.iter().map(|request| &request.group).collect();
        let mut seen = BTreeMap::new();
        for entry in &self.inputs {
            entry.check()?;
            if let Some(suite) = &entry.suite
                && !suites.contains(suite)
            {
                return Err(refuse(
                    "input",
                    &entry.name,
                    format!("there is no [[release]] of suite {suite}"),
                ));
            }
            for group in &entry.groups {
                if !asked.contains(group) {
                    return Err(refuse(
                        "input",
                        &entry.name,
                        format!("no [[request]] fills group {group}"),
                    ));
                }
                if seen.insert((group, &entry.name), ()).is_some() {
                    return Err(LockError::Duplicate {
                        name: entry.name.clone(),
                        group: group.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Python => "python",
        }
    }
}

impl Request {
    /// Where its packages are looked for in each suite.
    pub(crate) fn components(&self) -> impl Iterator<Item = &str> {
        let main = self.components.is_empty().then_some(MAIN);
        main.into_iter()
            .chain(self.components.iter().map(String::as_str))
    }

    fn check(&self) -> Result<(), LockError> {
        let problem = match self.kind {
            _ if !is_name(&self.name) => "name has characters that no package name has",
            _ if !is_name(&self.group) => "group has characters that no group name has",
            Kind::Debian if self.version.is_some() => {
                "version must be absent: the newest of the suites is locked"
            }
            Kind::Debian if self.suites.is_empty() => "suites must not be empty",
            Kind::Debian if !self.suites.iter().all(|s| is_name(s)) => {
                "suite has characters that no suite name has"
            }
            Kind::Debian if !self.components.iter().all(|c| is_name(c)) => {
                "component has characters that no component name has"
            }
            Kind::Python if self.version.is_none() => "version must be given",
            Kind::Python if !self.suites.is_empty() => "a Python package has no suites",
            Kind::Python if !self.components.is_empty() => "a Python package has no components",
            _ if self.reason.trim().is_empty() => "reason must say why the input exists",
            _ => return Ok(()),
        };
        Err(refuse("request", &self.name, problem))
    }
}

impl Entry {
    fn check(&self) -> Result<(), LockError> {
        let problem = match self.kind {
            _ if !is_name(&self.name) => "name has characters that no package name has",
            _ if !is_version(&self.version) => "version has characters that no version has",
            _ if self.groups.is_empty() => "groups must not be empty",
            _ if self.size == 0 || self.size > MAX_INPUT_BYTES => "size is out of bounds",
            _ if !is_relative(&self.path) => {
                "path must be plain and relative, without host, `..` or `%`"
            }
            Kind::Debian if self.suite.is_none() => "suite is missing",
            Kind::Debian if !self.path.ends_with(".deb") => "path must end in .deb",
            Kind::Python if self.suite.is_some() => "a Python package has no suite",
            Kind::Python if self.path.contains('/') || !self.path.ends_with(".whl") => {
                "path must be a wheel's file name"
            }
            _ => return Ok(()),
        };
        Err(refuse("input", &self.name, problem))
    }
}

/// Whether this can be a component whose index a release lists beside that of `main`.
fn is_other(component: &str) -> bool {
    component != MAIN && is_name(component)
}

fn refuse(table: &'static str, name: &str, problem: impl Into<String>) -> LockError {
    LockError::Field {
        table,
        name: name.to_owned(),
        problem: problem.into(),
    }
}

#[cfg(test)]
#[path = "lock_tests.rs"]
mod tests;
