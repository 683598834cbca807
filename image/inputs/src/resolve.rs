//! Resolves requests into a lock: the newest signed versions and their dependencies.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::Suite;
use crate::packages::{self, Package, Relation};
use crate::{
    Archive, ArchiveError, Entry, Kind, Lock, LockError, MirrorError, PipError, Request, Take, pip,
    version,
};

/// Largest number of packages in a closure.
const MAX_CLOSURE: usize = 512;

/// Why requests cannot be turned into a lock.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No mirror is known.
    #[error("no archive to resolve from")]
    NoMirror(#[source] MirrorError),
    /// A suite cannot be read.
    #[error("cannot read suite {suite}")]
    Suite {
        /// Name of the suite.
        suite: String,
        /// Underlying error.
        #[source]
        source: Box<ArchiveError>,
    },
    /// No suite of the request has the package.
    #[error("no package {package} in {}", suites.join(", "))]
    NoPackage {
        /// Name of the package.
        package: String,
        /// Suites searched.
        suites: Vec<String>,
    },
    /// No package satisfies a dependency.
    #[error("{package} depends on {relation}, which nothing in {} satisfies", suites.join(", "))]
    Unsatisfied {
        /// Package that has the dependency.
        package: String,
        /// The dependency, in Debian's notation.
        relation: String,
        /// Suites searched.
        suites: Vec<String>,
    },
    /// A metapackage does not have exactly one dependency to follow.
    #[error(
        "{package} must depend on exactly one package whose name starts with its own first two words, it depends on: {depends}"
    )]
    NotMeta {
        /// Name of the package.
        package: String,
        /// Depends field of the metapackage.
        depends: String,
    },
    /// A closure exceeds the bound.
    #[error("{package} needs more than {MAX_CLOSURE} packages")]
    TooLarge {
        /// Name of the package.
        package: String,
    },
    /// pip could not download the package.
    #[error("cannot fetch Python package {package}")]
    Python {
        /// Name of the package.
        package: String,
        /// Underlying error.
        #[source]
        source: Box<PipError>,
    },
    /// The result is not a valid lock.
    #[error("the resolved lock is not valid")]
    Lock(#[source] LockError),
}

/// Resolves `requests` to the newest signed versions. Nothing may be older than in `old`: no suite may have an earlier
/// date, and a wheel of the same name and version must have the same bytes, because nobody signs wheels.
///
/// # Errors
/// [`ResolveError`] if a suite cannot be read, or a request or dependency cannot be satisfied.
pub fn resolve(archive: &Archive, requests: &[Request], old: &Lock) -> Result<Lock, ResolveError> {
    let mut wanted: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for request in requests {
        for suite in &request.suites {
            wanted
                .entry(suite)
                .or_default()
                .extend(request.components());
        }
    }
    let mut suites = BTreeMap::new();
    for (name, components) in &wanted {
        let read = archive.suite(name, components, old.release(name));
        let suite = read.map_err(|source| ResolveError::Suite {
            suite: (*name).to_owned(),
            source: Box::new(source),
        })?;
        suites.insert((*name).to_owned(), suite);
    }
    let indices = indices(&suites)?;
    let mut inputs: BTreeMap<(String, String, String), Entry> = BTreeMap::new();
    for request in requests {
        let entries = match request.kind {
            Kind::Debian => debian(&indices, request)?,
            Kind::Python => {
                let locked = pip::lock(&archive.cache, request, old, &*archive.reporter);
                vec![locked.map_err(|source| ResolveError::Python {
                    package: request.name.clone(),
                    source: Box::new(source),
                })?]
            }
        };
        for entry in entries {
            let key = (
                entry.name.clone(),
                entry.version.clone(),
                entry.architecture.clone(),
            );
            let slot = inputs.entry(key).or_insert(Entry {
                groups: Vec::new(),
                ..entry
            });
            if !slot.groups.contains(&request.group) {
                slot.groups.push(request.group.clone());
            }
        }
    }
    let used: BTreeSet<_> = inputs
        .values()
        .filter_map(|entry| entry.suite.as_deref())
        .collect();
    let releases = suites
        .values()
        .map(|suite| &suite.release)
        .filter(|release| used.contains(release.suite.as_str()));
    Lock::new(
        requests.to_vec(),
        releases.cloned().collect(),
        inputs.values().cloned().collect(),
    )
    .map_err(ResolveError::Lock)
}

type Index<'a> = BTreeMap<&'a str, Vec<Package<'a>>>;
/// Indices by suite and component.
type Indices<'a> = BTreeMap<(&'a str, &'a str), Index<'a>>;

/// Builds the index of each component: packages by their name, and by each name that they provide.
fn indices(suites: &BTreeMap<String, Suite>) -> Result<Indices<'_>, ResolveError> {
    let mut indices = BTreeMap::new();
    for (name, suite) in suites {
        for (component, text) in &suite.packages {
            indices.insert((name.as_str(), component.as_str()), index(name, text)?);
        }
    }
    Ok(indices)
}

fn index<'a>(suite: &str, text: &'a str) -> Result<Index<'a>, ResolveError> {
    let parsed = packages::parse(suite, text).map_err(|source| {
        let source = ArchiveError::Packages {
            suite: suite.to_owned(),
            source,
        };
        ResolveError::Suite {
            suite: suite.to_owned(),
            source: Box::new(source),
        }
    })?;
    let mut index: Index<'_> = BTreeMap::new();
    for package in parsed {
        let provided: BTreeSet<&str> = packages::relations(package.provides)
            .flatten()
            .map(|r| r.name)
            .collect();
        for provided in provided
            .into_iter()
            .filter(|provided| *provided != package.name)
        {
            index.entry(provided).or_default().push(package.clone());
        }
        index.entry(package.name).or_default().push(package);
    }
    Ok(index)
}

fn debian(indices: &Indices<'_>, request: &Request) -> Result<Vec<Entry>, ResolveError> {
    let search = Search { indices, request };
    let top = search
        .newest(&Relation {
            name: &request.name,
            version: None,
        })
        .ok_or_else(|| ResolveError::NoPackage {
            package: request.name.clone(),
            suites: request.suites.clone(),
        })?;
    let found = match request.take {
        Take::Package => vec![top],
        Take::Dependency => vec![search.dependency(&top.1)?],
        Take::Closure => search.closure(top)?,
    };
    Ok(found
        .into_iter()
        .map(|(suite, package)| entry(suite, &package))
        .collect())
}

type Found<'a> = (&'a str, Package<'a>);

struct Search<'a> {
    indices: &'a Indices<'a>,
    request: &'a Request,
}

impl<'a> Search<'a> {
    /// Returns the best match for a relation. A package with that name precedes one that provides it; otherwise the
    /// alphabetically first name wins, then the higher version, then the suite listed first. So the order of the index
    /// does not matter.
    fn newest(&self, wanted: &Relation<'_>) -> Option<Found<'a>> {
        let mut best: Option<Found<'a>> = None;
        let places = self
            .request
            .suites
            .iter()
            .flat_map(|suite| self.request.components().map(|c| (suite.as_str(), c)));
        for place in places {
            let Some(((suite, _), index)) = self.indices.get_key_value(&place) else {
                continue;
            };
            for package in index
                .get(wanted.name)
                .into_iter()
                .flatten()
                .filter(|package| packages::provides(package, wanted))
            {
                let better = best.as_ref().is_none_or(|(_, best)| {
                    let named = |package: &Package<'_>| package.name == wanted.name;
                    named(package)
                        .cmp(&named(best))
                        .then_with(|| {
                            if package.name == best.name {
                                version::compare(package.version, best.version)
                            } else {
                                best.name.cmp(package.name)
                            }
                        })
                        .is_gt()
                });
                if better {
                    best = Some((suite, package.clone()));
                }
            }
        }
        best
    }

    /// Follows a metapackage such as `linux-image-cloud-amd64` to `linux-image-6.12.…-cloud-amd64`, whatever else it
    /// depends on.
    fn dependency(&self, meta: &Package<'a>) -> Result<Found<'a>, ResolveError> {
        let stem: String = meta
            .name
            .splitn(3, '-')
            .take(2)
            .collect::<Vec<_>>()
            .join("-");
        let depends = || ResolveError::NotMeta {
            package: meta.name.to_owned(),
            depends: meta.depends.to_owned(),
        };
        let mut followed = packages::relations(meta.depends)
            .filter(|group| group.iter().any(|r| r.name.starts_with(&stem)));
        let (Some(group), None) = (followed.next(), followed.next()) else {
            return Err(depends());
        };
        self.first(meta, &group)
    }

    fn closure(&self, top: Found<'a>) -> Result<Vec<Found<'a>>, ResolveError> {
        let mut taken: BTreeMap<&str, Found<'a>> = BTreeMap::new();
        let mut waiting = vec![top];
        while let Some((suite, package)) = waiting.pop() {
            if taken.contains_key(package.name) {
                continue;
            }
            if taken.len() == MAX_CLOSURE {
                return Err(ResolveError::TooLarge {
                    package: self.request.name.clone(),
                });
            }
            for group in
                packages::relations(package.pre_depends).chain(packages::relations(package.depends))
            {
                let left_out = |relation: &Relation<'_>| {
                    self.request
                        .without
                        .iter()
                        .any(|name| is_left_out(name, relation.name))
                };
                let met = group.iter().any(|r| {
                    taken.values().any(|(_, p)| packages::provides(p, r))
                        || packages::provides(&package, r)
                });
                if !met && !group.iter().any(left_out) {
                    waiting.push(self.first(&package, &group)?);
                }
            }
            taken.insert(package.name, (suite, package));
        }
        Ok(taken.into_values().collect())
    }

    /// Returns the match of the first alternative that can be satisfied, as apt does.
    fn first(
        &self,
        package: &Package<'_>,
        group: &[Relation<'_>],
    ) -> Result<Found<'a>, ResolveError> {
        group
            .iter()
            .find_map(|relation| self.newest(relation))
            .ok_or_else(|| {
                let written = |r: &Relation<'_>| {
                    r.version.map_or_else(
                        || r.name.to_owned(),
                        |(op, v)| format!("{} ({op} {v})", r.name),
                    )
                };
                ResolveError::Unsatisfied {
                    package: package.name.to_owned(),
                    relation: group.iter().map(written).collect::<Vec<_>>().join(" | "),
                    suites: self.request.suites.clone(),
                }
            })
    }
}

/// Whether a pattern of `without` matches a name. A pattern may end in `*`, because names of kernel packages contain a
/// version.
fn is_left_out(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => name.starts_with(beginning),
        None => pattern == name,
    }
}

fn entry(suite: &str, package: &Package<'_>) -> Entry {
    Entry {
        name: package.name.to_owned(),
        version: package.version.to_owned(),
        architecture: package.architecture.to_owned(),
        kind: Kind::Debian,
        suite: Some(suite.to_owned()),
        path: package.filename.to_owned(),
        sha256: package.sha256,
        size: package.size,
        groups: Vec::new(),
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
