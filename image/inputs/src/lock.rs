//! The lock file: every foreign file with its hash, and the requests from which the files were chosen.
//!
//! `[[request]]` tables are written by hand. [`crate::resolve`] derives `[[release]]` and `[[input]]` tables from them,
//! so that an auditor can follow each hash from a signed Release file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::canonical::Canonical;
use crate::names::{is_name, is_relative, is_version};
use crate::{Digest, LockError};

/// Version of the lock file's format.
pub(crate) const FORMAT: u32 = 1;
/// Component that is searched when a request names none.
pub(crate) const MAIN: &str = "main";
/// Largest size of one input in bytes, whatever the lock says; bounds disk and memory.
pub const MAX_INPUT_BYTES: u64 = 8 << 30;

/// A parsed and validated lock file.
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

/// A requested input and the reason for it. One or more requests fill a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Group that receives the resulting entries.
    pub group: String,
    /// Debian package or Python wheel.
    pub kind: Kind,
    /// Name of the requested package.
    pub name: String,
    /// Exact version: required for Python, absent for Debian, where the newest of `suites` is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Suites to search; the highest version is taken.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<String>,
    /// Components of these suites to search, such as `non-free`; `main` alone if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub components: Vec<String>,
    /// Which packages to lock.
    #[serde(default)]
    pub take: Take,
    /// Packages left out of a closure. A name that ends in `*` leaves out all packages with that prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Why this input exists and, for `without`, why those packages can be left out.
    pub reason: String,
}

/// Which packages a request locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Take {
    /// The named package alone.
    #[default]
    Package,
    /// The package that the named metapackage depends on: the names of kernel packages contain their version.
    Dependency,
    /// The named package and all packages in Depends and Pre-Depends, transitively.
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
    /// `Date` field of the Release file, as published.
    pub date: String,
    /// Digest of the InRelease file.
    pub inrelease_sha256: Digest,
    /// Digest of `main/binary-amd64/Packages.xz`, as InRelease lists it.
    pub packages_sha256: Digest,
    /// Digest of `Packages.xz` for each other component that was searched.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub components: BTreeMap<String, Digest>,
}

/// One locked file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// `amd64` or `all`; `any` for Python.
    pub architecture: String,
    /// Debian package or Python wheel.
    pub kind: Kind,
    /// Suite in which the package was found; Debian only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suite: Option<String>,
    /// Path relative to the archive's base address (`pool/…`), or file name of the wheel. Never contains a host.
    pub path: String,
    /// Digest of the file.
    pub sha256: Digest,
    /// Size of the file in bytes.
    pub size: u64,
    /// Groups that need it.
    pub groups: Vec<String>,
}

impl Lock {
    /// Builds a sorted lock from its parts, with the same checks as [`Lock::parse`].
    ///
    /// # Errors
    /// [`LockError`] with the table and the field that are not valid.
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

    /// Parses and validates the text of a lock file.
    ///
    /// # Errors
    /// [`LockError`] with the table and the field that are not valid, or the syntax error.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        let lock: Self =
            toml::from_str(text).map_err(|error| LockError::Syntax(Box::new(error)))?;
        if lock.format != FORMAT {
            return Err(LockError::Format { found: lock.format });
        }
        Self::new(lock.requests, lock.releases, lock.inputs)
    }

    /// Renders the text of the lock file, which [`Lock::parse`] reads back unchanged.
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

    /// Computes SHA-256 over a canonical form (length-prefixed fields; releases and inputs are sorted). Layout,
    /// comments and the reasons of requests do not change it.
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

    /// Every locked file of every group.
    #[must_use]
    pub fn inputs(&self) -> &[Entry] {
        &self.inputs
    }

    /// Every request, in the order of the file.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The locked files of one group; none if there is no such group.
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
    /// Components in which the request's packages are searched, in each suite.
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

/// Whether a release may list this component beside `main`.
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
