//! Base addresses of the Debian archive, from this machine's apt configuration or from a flag; no host is built in.

use std::fs;
use std::path::{Path, PathBuf};

/// Largest configuration file of apt that is read, in bytes.
const MAX_SOURCES_BYTES: u64 = 1 << 20;

/// Base addresses of the Debian archive and of its security archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mirrors {
    main: Vec<String>,
    security: Vec<String>,
    snapshot: Option<String>,
}

/// Why no mirror can be used.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum MirrorError {
    /// Neither apt's configuration nor the flag names a Debian archive over HTTP.
    #[error(
        "no Debian archive in apt's configuration (looked at {}): name one with --mirror URL",
        names(looked_at)
    )]
    None {
        /// Files looked at, whether or not they exist; empty for the flag.
        looked_at: Vec<PathBuf>,
    },
    /// The value of the flag is not an HTTP address.
    #[error(
        "{url:?} is not a mirror: --mirror takes the http or https address of the folder that holds dists and pool"
    )]
    BadUrl {
        /// Value of the flag.
        url: String,
    },
}

impl Mirrors {
    /// Reads this machine's apt configuration.
    ///
    /// # Errors
    /// [`MirrorError::None`] if no Debian archive is configured; names the files looked at and the flag.
    pub fn discover() -> Result<Self, MirrorError> {
        Self::discover_in(Path::new("/"))
    }

    /// Reads the apt configuration below the folder `root`.
    ///
    /// # Errors
    /// [`MirrorError::None`] if no Debian archive is configured.
    pub fn discover_in(root: &Path) -> Result<Self, MirrorError> {
        let apt = root.join("etc/apt");
        let mut files = vec![apt.join("sources.list")];
        let parts = apt.join("sources.list.d");
        let mut found: Vec<PathBuf> = fs::read_dir(&parts).map_or_else(
            |_| Vec::new(),
            |dir| dir.flatten().map(|f| f.path()).collect(),
        );
        found.retain(|path| {
            path.extension()
                .is_some_and(|e| e == "list" || e == "sources")
        });
        found.sort();
        files.push(parts);
        let mut sources = Vec::new();
        for file in files.iter().take(1).chain(&found) {
            let Some(text) = read_bounded(file) else {
                continue;
            };
            if file.extension().is_some_and(|e| e == "sources") {
                sources.extend(deb822(&text));
            } else {
                sources.extend(text.lines().filter_map(one_line));
            }
        }
        let mirrors = Self::from_sources(&sources, root);
        files.extend(found);
        if mirrors.main.is_empty() {
            Err(MirrorError::None { looked_at: files })
        } else {
            Ok(mirrors)
        }
    }

    /// Takes the addresses given with `--mirror`. An address that ends in `-security` is that of the security archive.
    ///
    /// # Errors
    /// [`MirrorError::BadUrl`] if a value is not an HTTP address; [`MirrorError::None`] if none is that of the main
    /// archive.
    pub fn from_urls<S: AsRef<str>>(urls: &[S]) -> Result<Self, MirrorError> {
        let mut mirrors = Self::default();
        for url in urls {
            let base = http_base(url.as_ref()).ok_or_else(|| MirrorError::BadUrl {
                url: url.as_ref().to_owned(),
            })?;
            if base.ends_with("-security") {
                mirrors.security.push(base)
            } else {
                mirrors.main.push(base)
            }
        }
        mirrors.finish();
        if mirrors.main.is_empty() {
            Err(MirrorError::None {
                looked_at: Vec::new(),
            })
        } else {
            Ok(mirrors)
        }
    }

    /// Sets the snapshot archive that is used if a Release file names none; `@SNAPSHOTID@` stands for the time.
    #[must_use]
    pub fn with_snapshot(mut self, template: Option<String>) -> Self {
        self.snapshot = template;
        self
    }

    /// Base addresses that should carry `suite`, in the order of the configuration.
    #[must_use]
    pub fn bases(&self, suite: &str) -> &[String] {
        if is_security(suite) {
            &self.security
        } else {
            &self.main
        }
    }

    pub(crate) fn snapshot(&self) -> Option<&str> {
        self.snapshot.as_deref()
    }

    fn from_sources(sources: &[Source], root: &Path) -> Self {
        let debian: Vec<&Source> = sources.iter().filter(|source| source.is_debian()).collect();
        // Third parties also publish `bookworm main`, so addresses whose last part begins with `debian` are preferred.
        let named = |source: &&&Source| {
            source
                .uri
                .trim_end_matches('/')
                .rsplit('/')
                .next()
                .is_some_and(|end| end.starts_with("debian"))
        };
        let chosen: Vec<&Source> = if debian.iter().any(|s| named(&s)) {
            debian.iter().filter(named).copied().collect()
        } else {
            debian
        };
        let mut mirrors = Self::default();
        for source in chosen {
            for uri in expand(&source.uri, root) {
                let Some(base) = http_base(&uri) else {
                    continue;
                };
                let list = if source.suites.iter().any(|suite| is_security(suite)) {
                    &mut mirrors.security
                } else {
                    &mut mirrors.main
                };
                list.push(base);
            }
        }
        mirrors.finish();
        mirrors
    }

    fn finish(&mut self) {
        // Debian's mirrors usually keep the security archive beside the main one. If it is absent, its Release file is
        // not found.
        if self.security.is_empty() {
            self.security = self
                .main
                .iter()
                .filter(|base| base.ends_with("/debian"))
                .map(|base| format!("{base}-security"))
                .collect();
        }
        for list in [&mut self.main, &mut self.security] {
            let mut seen = std::collections::BTreeSet::new();
            list.retain(|base| seen.insert(base.clone()));
        }
    }
}

struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
}

impl Source {
    /// Whether this is Debian's own archive: one of these suites with the component `main`. PPAs and vendors use other
    /// names.
    fn is_debian(&self) -> bool {
        const NAMES: [&str; 12] = [
            "bullseye",
            "bookworm",
            "trixie",
            "forky",
            "duke",
            "sid",
            "oldoldstable",
            "oldstable",
            "stable",
            "testing",
            "unstable",
            "experimental",
        ];
        let ours = |suite: &String| {
            let base = suite.split(['-', '/']).next().unwrap_or_default();
            NAMES.contains(&base)
                && matches!(
                    &suite[base.len()..],
                    "" | "-updates" | "-security" | "-backports" | "-proposed-updates" | "/updates"
                )
        };
        self.components.iter().any(|c| c == "main") && self.suites.iter().any(ours)
    }
}

fn is_security(suite: &str) -> bool {
    suite.ends_with("-security") || suite.ends_with("/updates")
}

/// Parses `deb [options] uri suite component…`.
fn one_line(line: &str) -> Option<Source> {
    let mut rest = line
        .split('#')
        .next()?
        .trim()
        .strip_prefix("deb")?
        .strip_prefix([' ', '\t'])?
        .trim_start();
    if rest.starts_with('[') {
        rest = rest.split_once(']')?.1;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Source {
        uri: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
    })
}

fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line.trim_end(), "\n"])
        .collect();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            let mut words = Vec::new();
            let mut inside = false;
            for line in paragraph.lines() {
                let value = match line.split_once(':') {
                    _ if line.starts_with([' ', '\t']) => inside.then_some(line),
                    Some((key, value)) => {
                        inside = key.eq_ignore_ascii_case(name);
                        inside.then_some(value)
                    }
                    None => None,
                };
                words.extend(
                    value
                        .into_iter()
                        .flat_map(str::split_whitespace)
                        .map(str::to_owned),
                );
            }
            words
        };
        let off = field("Enabled").first().is_some_and(|word| {
            matches!(
                word.to_ascii_lowercase().as_str(),
                "no" | "false" | "0" | "off" | "without" | "disable"
            )
        });
        if off || !field("Types").iter().any(|word| word == "deb") {
            continue;
        }
        for uri in field("URIs") {
            sources.push(Source {
                uri,
                suites: field("Suites"),
                components: field("Components"),
            });
        }
    }
    sources
}

/// Expands `mirror+file:`, which Debian's cloud images use: a file with one address per line. Priorities after an
/// address are ignored.
fn expand(uri: &str, root: &Path) -> Vec<String> {
    let Some(list) = uri.strip_prefix("mirror+file:") else {
        return vec![uri.to_owned()];
    };
    let text = read_bounded(&root.join(list.trim_start_matches('/'))).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|word| !word.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

fn http_base(uri: &str) -> Option<String> {
    let host = uri
        .strip_prefix("http://")
        .or_else(|| uri.strip_prefix("https://"))?;
    let plain = !host.is_empty()
        && !host.starts_with('/')
        && host
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"?#\"'<>\\".contains(&b));
    plain.then(|| uri.trim_end_matches('/').to_owned())
}

fn read_bounded(path: &Path) -> Option<String> {
    let small =
        fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_SOURCES_BYTES);
    small.then(|| fs::read_to_string(path).ok()).flatten()
}

fn names(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "no file".to_owned();
    }
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
