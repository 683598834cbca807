//! Reads, writes and compares the lists of pinned digests, such as `kernels/sm90.sha256`. They hold the SHA-256 of each cubin
//! and each source, in the format of `sha256sum`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use cocoon_protocol::bytes::Hex32;
use serde::Serialize;
use thiserror::Error;

use super::sources;
use crate::files::{self, FileError};

/// Largest list or source that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A file whose digest differs from the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Name of the file.
    pub file: String,
    /// Digest in the list; `None` if the file is not listed.
    pub expected: Option<String>,
    /// Digest of the file; `None` if there is no such file.
    pub found: Option<String>,
}

/// Why the digests cannot be compared or written.
#[derive(Debug, Error)]
pub enum PinError {
    /// A line of the list is malformed.
    #[error(
        "line {line} of kernels/{list} is not a digest, two blanks and a name: `cocoon-image kernels build --pin` writes it anew"
    )]
    Line {
        /// Name of the list.
        list: String,
        /// Number of the line, from 1.
        line: usize,
    },
    /// A file cannot be read or written.
    #[error("cannot read or write the kernels' digests")]
    File(#[from] FileError),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_nothing =
            |digest: &Option<String>| digest.as_deref().unwrap_or("nothing").to_owned();
        let (found, expected) = (or_nothing(&self.found), or_nothing(&self.expected));
        write!(formatter, "{}: {found} instead of {expected}", self.file)
    }
}

/// Returns the `cubins` and sources that differ from the `list` in the folder `kernels`.
///
/// # Errors
/// [`PinError`] when the list or a source cannot be read.
pub fn compare(
    kernels: &Path,
    list: &str,
    cubins: &[(String, Vec<u8>)],
) -> Result<Vec<Difference>, PinError> {
    let text = files::read(&kernels.join(list), MAX_FILE)?;
    let mut expected = parse(list, &String::from_utf8_lossy(&text))?;
    let mut differences = Vec::new();
    for (file, found) in digests(kernels, cubins)? {
        let listed = expected.remove(&file);
        if listed.as_ref() != Some(&found) {
            differences.push(Difference {
                file,
                expected: listed,
                found: Some(found),
            });
        }
    }
    differences.extend(expected.into_iter().map(|(file, digest)| Difference {
        file,
        expected: Some(digest),
        found: None,
    }));
    Ok(differences)
}

/// Replaces the `list` in the folder `kernels` with the digests of `cubins` and of the sources.
///
/// # Errors
/// [`PinError::File`] when the list cannot be written or a source cannot be read.
pub fn write(kernels: &Path, list: &str, cubins: &[(String, Vec<u8>)]) -> Result<(), PinError> {
    let lines = digests(kernels, cubins)?;
    let text: String = lines
        .iter()
        .map(|(file, digest)| format!("{digest}  {file}\n"))
        .collect();
    files::write(kernels, list, text.as_bytes())?;
    Ok(())
}

/// Returns names and digests: first the cubins, then the sources, each sorted by name.
fn digests(
    kernels: &Path,
    cubins: &[(String, Vec<u8>)],
) -> Result<Vec<(String, String)>, PinError> {
    let digest = |bytes: &[u8]| Hex32::sha256(bytes).to_string();
    let mut all: Vec<(String, String)> = cubins
        .iter()
        .map(|(name, bytes)| (name.clone(), digest(bytes)))
        .collect();
    all.sort();
    for (name, path) in sources(kernels)? {
        all.push((name, digest(&files::read(&path, MAX_FILE)?)));
    }
    Ok(all)
}

fn parse(list: &str, text: &str) -> Result<BTreeMap<String, String>, PinError> {
    let lines = text.lines().zip(1..).map(|(line, number)| {
        let refused = || PinError::Line {
            list: list.to_owned(),
            line: number,
        };
        let (digest, file) = line.split_once("  ").ok_or_else(refused)?;
        let is_digest = digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_hexdigit());
        match is_digest {
            true => Ok((file.to_owned(), digest.to_owned())),
            false => Err(refused()),
        }
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "sm90.sha256";

    fn kernels() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("cuda")).unwrap();
        for name in ["b.cu", "a.h"] {
            std::fs::write(folder.path().join("cuda").join(name), name).unwrap();
        }
        folder
    }

    fn cubins(bytes: &str) -> Vec<(String, Vec<u8>)> {
        vec![("b.cubin".to_owned(), bytes.as_bytes().to_vec())]
    }

    #[test]
    fn what_was_pinned_is_no_difference_and_anything_else_is_named() {
        let folder = kernels();
        write(folder.path(), LIST, &cubins("one")).unwrap();
        assert_eq!(compare(folder.path(), LIST, &cubins("one")).unwrap(), []);
        let differences = compare(folder.path(), LIST, &cubins("two")).unwrap();
        let (one, two) = (Hex32::sha256(b"one"), Hex32::sha256(b"two"));
        assert_eq!(differences.len(), 1);
        assert_eq!(
            differences[0].to_string(),
            format!("b.cubin: {two} instead of {one}")
        );

        std::fs::write(folder.path().join("cuda/c.h"), "new").unwrap();
        std::fs::remove_file(folder.path().join("cuda/a.h")).unwrap();
        let lines: Vec<String> = compare(folder.path(), LIST, &cubins("one"))
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let (gone, new) = (Hex32::sha256(b"a.h"), Hex32::sha256(b"new"));
        assert_eq!(
            lines,
            [
                format!("cuda/c.h: {new} instead of nothing"),
                format!("cuda/a.h: nothing instead of {gone}")
            ]
        );
    }

    #[test]
    fn the_list_is_in_the_format_of_sha256sum() {
        let folder = kernels();
        write(folder.path(), LIST, &cubins("one")).unwrap();
        std::fs::write(folder.path().join("b.cubin"), "one").unwrap();
        let check = std::process::Command::new("sha256sum")
            .args(["--check", "--strict", "--quiet", LIST])
            .current_dir(folder.path())
            .status()
            .unwrap();
        assert!(check.success());
    }

    #[test]
    fn rubbish_is_named_by_its_line() {
        let good = format!("{}  a\n", Hex32::sha256(b""));
        for bad in ["", "abc  b", &"g".repeat(64)] {
            let error = parse(LIST, &format!("{good}{bad}  b\n")).unwrap_err();
            assert_eq!(
                error.to_string(),
                "line 2 of kernels/sm90.sha256 is not a digest, two blanks and a name: `cocoon-image kernels build --pin` writes it anew"
            );
        }
    }
}
