//! Parses Debian's Packages index and the relations between packages.

use crate::{Digest, names};

/// Largest number of packages in one index (sid had 70 000).
const MAX_PACKAGES: usize = 400_000;

/// One paragraph of a Packages file; the fields borrow from its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package<'a> {
    pub name: &'a str,
    pub version: &'a str,
    pub architecture: &'a str,
    pub depends: &'a str,
    pub pre_depends: &'a str,
    pub provides: &'a str,
    pub filename: &'a str,
    pub size: u64,
    pub sha256: Digest,
}

/// One alternative of a dependency: a name, and optionally a version with its relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Relation<'a> {
    pub name: &'a str,
    pub version: Option<(&'a str, &'a str)>,
}

/// Why an index was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PackagesError {
    /// A paragraph lacks a required field, or the field is not valid.
    #[error("package {package:?} in the index of {suite}: field {field} is missing or not valid")]
    Field {
        /// Name of the suite.
        suite: String,
        /// Name of the package; empty if that field is missing.
        package: String,
        /// Name of the field.
        field: &'static str,
    },
    /// The index has more paragraphs than any suite.
    #[error("the index of {suite} has more than {MAX_PACKAGES} packages")]
    TooMany {
        /// Name of the suite.
        suite: String,
    },
}

/// Parses the text of a Packages file.
///
/// # Errors
/// [`PackagesError`] at the first paragraph that is not a valid package.
pub(crate) fn parse<'a>(suite: &str, text: &'a str) -> Result<Vec<Package<'a>>, PackagesError> {
    let mut packages = Vec::new();
    for paragraph in text
        .split("\n\n")
        .filter(|paragraph| !paragraph.trim().is_empty())
    {
        if packages.len() == MAX_PACKAGES {
            return Err(PackagesError::TooMany {
                suite: suite.to_owned(),
            });
        }
        packages.push(parse_one(suite, paragraph)?);
    }
    Ok(packages)
}

/// Splits a dependency field. All groups must be satisfied, each by one of its alternatives.
pub(crate) fn relations(field: &str) -> impl Iterator<Item = Vec<Relation<'_>>> {
    field
        .split(',')
        .map(str::trim)
        .filter(|group| !group.is_empty())
        .map(|group| group.split('|').map(relation).collect())
}

/// Whether `provider` satisfies `wanted`, under its own name or a provided one.
pub(crate) fn provides(provider: &Package<'_>, wanted: &Relation<'_>) -> bool {
    let fits = |version: Option<&str>| match (wanted.version, version) {
        (None, _) => true,
        (Some((relation, bound)), Some(version)) => {
            crate::version::satisfies(version, relation, bound)
        }
        // Debian Policy 7.5: an unversioned Provides does not satisfy a versioned dependency.
        (Some(_), None) => false,
    };
    (provider.name == wanted.name && fits(Some(provider.version)))
        || relations(provider.provides)
            .flatten()
            .any(|given| given.name == wanted.name && fits(given.version.map(|v| v.1)))
}

/// Parses `name:any (>= version) [arch]`.
fn relation(text: &str) -> Relation<'_> {
    let text = text
        .split(['[', '<'])
        .next()
        .filter(|head| !head.contains('(') || head.contains(')'))
        .unwrap_or(text)
        .trim();
    let (name, version) = match text.split_once('(') {
        Some((name, rest)) => {
            let inner = rest.split(')').next().unwrap_or_default().trim();
            let at = inner.find(|c| !"<>=".contains(c)).unwrap_or(inner.len());
            let (relation, version) = inner.split_at(at);
            (name, Some((relation, version.trim())))
        }
        None => (text, None),
    };
    Relation {
        name: name.trim().split(':').next().unwrap_or_default(),
        version,
    }
}

fn parse_one<'a>(suite: &str, paragraph: &'a str) -> Result<Package<'a>, PackagesError> {
    const FIELDS: [&str; 9] = [
        "Package",
        "Version",
        "Architecture",
        "Depends",
        "Pre-Depends",
        "Provides",
        "Filename",
        "Size",
        "SHA256",
    ];
    let mut values = [""; FIELDS.len()];
    for line in paragraph
        .lines()
        .filter(|line| !line.starts_with([' ', '\t']))
    {
        if let Some((key, value)) = line.split_once(':')
            && let Some(at) = FIELDS.iter().position(|field| *field == key)
        {
            values[at] = value.trim();
        }
    }
    let [
        name,
        version,
        architecture,
        depends,
        pre_depends,
        provides,
        filename,
        size,
        sha256,
    ] = values;
    let refuse = |field| PackagesError::Field {
        suite: suite.to_owned(),
        package: name.chars().take(128).collect(),
        field,
    };
    let (size, sha256) = (
        size.parse().map_err(|_| refuse("Size"))?,
        Digest::parse(sha256).map_err(|_| refuse("SHA256"))?,
    );
    match () {
        () if !names::is_name(name) => Err(refuse("Package")),
        () if !names::is_version(version) => Err(refuse("Version")),
        () if !names::is_name(architecture) => Err(refuse("Architecture")),
        () if !names::is_relative(filename) => Err(refuse("Filename")),
        () => Ok(Package {
            name,
            version,
            architecture,
            depends,
            pre_depends,
            provides,
            filename,
            size,
            sha256,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: libc6\nVersion: 2.41-12\nArchitecture: amd64\nDepends: libgcc-s1, a:any (>= 2) | b [amd64] | c (<< 3~)\n\
        Description: x\n more: y\nProvides: libc (= 2.41), libc-bare\nFilename: pool/main/g/libc6_2.41-12_amd64.deb\nSize: 9\n\
        SHA256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n\n";

    #[test]
    fn paragraphs_and_relations() {
        let packages = parse("trixie", TEXT).expect("valid");
        let [package] = packages.as_slice() else {
            panic!("one package")
        };
        assert_eq!(
            (package.name, package.version, package.size),
            ("libc6", "2.41-12", 9)
        );
        let groups: Vec<_> = relations(package.depends).collect();
        let bare = |name| Relation {
            name,
            version: None,
        };
        assert_eq!(groups[0], [bare("libgcc-s1")]);
        let a = Relation {
            name: "a",
            version: Some((">=", "2")),
        };
        let c = Relation {
            name: "c",
            version: Some(("<<", "3~")),
        };
        assert_eq!(groups[1], [a, bare("b"), c]);
    }

    #[test]
    fn provided_names_keep_their_versions() {
        let packages = parse("trixie", TEXT).expect("valid");
        let asks = |text| provides(&packages[0], &relation(text));
        assert!(asks("libc6 (>= 2.38)") && asks("libc (>= 2.4)") && asks("libc-bare"));
        assert!(!asks("libc6 (>= 2.42)") && !asks("libc (>> 2.41)") && !asks("libc-bare (>= 1)"));
    }

    #[test]
    fn bad_fields_are_named() {
        for (from, to, field) in [
            ("Size: 9", "Size: -9", "Size"),
            ("Size: 9", "Sise: 9", "Size"),
            ("SHA256: e3", "SHA256: ", "SHA256"),
            ("pool/", "../", "Filename"),
            ("Package: libc6", "Package: lib c6", "Package"),
            ("2.41-12\n", "\n", "Version"),
        ] {
            let package = if field == "Package" {
                "lib c6"
            } else {
                "libc6"
            }
            .to_owned();
            let error = PackagesError::Field {
                suite: "trixie".to_owned(),
                package,
                field,
            };
            assert_eq!(parse("trixie", &TEXT.replacen(from, to, 1)), Err(error));
        }
    }
}
