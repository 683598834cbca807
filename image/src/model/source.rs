//! What may be a model: one GGUF file, or a folder with `config.json` and safetensors.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::erofs::MAX_NAME;
use super::recode::{self, Recoding};
use crate::cmdline::{self, CmdlineError};
use crate::files::FileError;

/// What a GGUF file begins with; the version follows.
const GGUF: &[u8; 4] = b"GGUF";
/// Versions that engines of today read.
const GGUF_VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// The largest header of a safetensors file, as its reference reader has it.
const MAX_SAFETENSORS_HEADER: u64 = 100_000_000;

/// Files of a model folder that go into the volume, by the end of their name.
const WANTED: &[(&str, &str)] = &[
    (".safetensors", "the weights"),
    (".json", "configuration, tokenizer, index of the weights"),
    (".jinja", "the chat template, where it is a file of its own"),
    ("tokenizer.model", "older tokenizers"),
];

/// A model on this machine, checked as far as its beginning shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Identifier in the API.
    pub id: String,
    /// Where it was found, for messages.
    pub path: PathBuf,
    /// Its files, sorted by name.
    pub files: Vec<SourceFile>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// In the volume.
    pub name: String,
    /// On this machine.
    pub path: PathBuf,
    /// In the volume, in bytes.
    pub size: u64,
    /// Where it is not copied as it is.
    pub recoding: Option<Recoding>,
}

/// Why something is not a model.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A file cannot be read.
    #[error("cannot read the model")]
    File(#[from] FileError),
    /// A file that is not GGUF.
    #[error(
        "{path} is not a GGUF file: it begins with {found:02x?}, expected [47, 47, 55, 46] (\"GGUF\")"
    )]
    NotGguf {
        /// The file.
        path: PathBuf,
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// GGUF of another version.
    #[error("{path} has GGUF version {found}, the engine reads {} and {}", GGUF_VERSIONS.start(), GGUF_VERSIONS.end())]
    GgufVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A folder without what every model has.
    #[error("{path} is not a model folder: it has no {missing}")]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        missing: &'static str,
    },
    /// A file that is not safetensors.
    #[error("{path} is not a safetensors file: {what}")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What is amiss.
        what: &'static str,
    },
    /// A name that the volume or the manifest cannot hold.
    #[error(
        "{path} cannot go into the model volume: its name must be UTF-8 of at most {MAX_NAME} bytes"
    )]
    Name {
        /// The file.
        path: PathBuf,
    },
    /// No identifier.
    #[error("the model needs an identifier")]
    Id(#[from] CmdlineError),
}

impl Source {
    /// The model at `path`; its identifier is `id`, or else follows from the file's or folder's name.
    ///
    /// # Errors
    /// [`SourceError`] when it is no model or cannot be read.
    pub fn open(path: &Path, id: Option<&str>) -> Result<Self, SourceError> {
        let metadata = fs::metadata(path).map_err(FileError::read(path))?;
        let mut files = if metadata.is_dir() {
            folder(path)?
        } else {
            vec![gguf(path)?]
        };
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let id = id.map_or_else(|| id_from(path), str::to_owned);
        cmdline::check_model_id(&id)?;
        Ok(Self {
            id,
            path: path.to_owned(),
            files,
        })
    }
}

fn gguf(path: &Path) -> Result<SourceFile, SourceError> {
    let beginning = beginning(path, 8)?;
    if !beginning.starts_with(GGUF) {
        let found = beginning.into_iter().take(4).collect();
        return Err(SourceError::NotGguf {
            path: path.to_owned(),
            found,
        });
    }
    let version = beginning
        .get(4..8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_le_bytes);
    if !GGUF_VERSIONS.contains(&version) {
        return Err(SourceError::GgufVersion {
            path: path.to_owned(),
            found: version,
        });
    }
    let file = source_file(path)?;
    match Recoding::of(path).map_err(FileError::read(path))? {
        Some(recoding) => Ok(SourceFile {
            name: marked(&file.name).ok_or_else(|| name_error(path))?,
            size: recoding.size,
            recoding: Some(recoding),
            ..file
        }),
        None => Ok(file),
    }
}

/// `Tiny.Q4_1.gguf` is `Tiny.Q4_1+Q8_0.gguf` where its tensors change.
fn marked(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    let marked = format!("{stem}{}.gguf", recode::MARK);
    (marked.len() <= MAX_NAME).then_some(marked)
}

fn folder(path: &Path) -> Result<Vec<SourceFile>, SourceError> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(FileError::read(path))? {
        let file = entry.map_err(FileError::read(path))?.path();
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // Symbolic links are followed: that is how model hubs keep their folders.
        let wanted = WANTED.iter().any(|(end, _)| name.ends_with(end)) && !name.starts_with('.');
        if !wanted
            || !fs::metadata(&file)
                .map_err(FileError::read(&file))?
                .is_file()
        {
            continue;
        }
        if name.ends_with(".safetensors") {
            safetensors(&file)?;
        }
        files.push(source_file(&file)?);
    }
    let has = |end: &str| files.iter().any(|file| file.name.ends_with(end));
    let incomplete = |missing| {
        Err(SourceError::Incomplete {
            path: path.to_owned(),
            missing,
        })
    };
    match (
        files.iter().any(|file| file.name == "config.json"),
        has(".safetensors"),
    ) {
        (false, _) => incomplete("config.json"),
        (_, false) => incomplete("*.safetensors file"),
        _ => Ok(files),
    }
}

/// A safetensors file begins with the length of a JSON object, which begins with a brace.
fn safetensors(path: &Path) -> Result<(), SourceError> {
    let refuse = |what| {
        Err(SourceError::NotSafetensors {
            path: path.to_owned(),
            what,
        })
    };
    let size = fs::metadata(path).map_err(FileError::read(path))?.len();
    let beginning = beginning(path, 9)?;
    let Some((length, rest)) = beginning.split_first_chunk::<8>() else {
        return refuse("it is shorter than its header's length field");
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_SAFETENSORS_HEADER || length > size.saturating_sub(8) {
        return refuse("its header is longer than the file or than any header");
    }
    if rest != b"{" {
        return refuse("its header is not a JSON object");
    }
    Ok(())
}

fn beginning(path: &Path, count: u64) -> Result<Vec<u8>, SourceError> {
    let file = File::open(path).map_err(FileError::read(path))?;
    let mut bytes = Vec::new();
    file.take(count)
        .read_to_end(&mut bytes)
        .map_err(FileError::read(path))?;
    Ok(bytes)
}

fn source_file(path: &Path) -> Result<SourceFile, SourceError> {
    let size = fs::metadata(path).map_err(FileError::read(path))?.len();
    match path.file_name().and_then(|name| name.to_str()) {
        Some(name) if name.len() <= MAX_NAME => Ok(SourceFile {
            name: name.to_owned(),
            path: path.to_owned(),
            size,
            recoding: None,
        }),
        _ => Err(name_error(path)),
    }
}

fn name_error(path: &Path) -> SourceError {
    SourceError::Name {
        path: path.to_owned(),
    }
}

/// `Tiny Llama-Q4.gguf` is `tiny-llama-q4`.
fn id_from(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let name = name.strip_suffix(".gguf").unwrap_or(&name);
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
            c
        } else {
            '-'
        }
    };
    name.chars().map(plain).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::super::gguf;
    use super::*;

    fn written(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_gguf_file_names_itself() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "Tiny Model-Q4_1.gguf", b"GGUF\x03\0\0\0rest");
        let source = Source::open(&path, None).unwrap();
        assert_eq!(
            (source.id.as_str(), source.files[0].size),
            ("tiny-model-q4_1", 12)
        );
        assert_eq!(Source::open(&path, Some("mine")).unwrap().id, "mine");
    }

    #[test]
    fn a_file_with_slow_tensors_is_another_in_the_volume() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = gguf::tests::file(&[("slow", 32, 3, &[0; 20])]);
        let path = written(folder.path(), "Tiny.Q4_1.gguf", &bytes);
        let source = Source::open(&path, None).unwrap();
        let file = &source.files[0];
        assert_eq!(
            (source.id.as_str(), file.name.as_str()),
            ("tiny.q4_1", "Tiny.Q4_1+Q8_0.gguf")
        );
        assert_eq!(file.size, bytes.len() as u64 + 14 + 30);
    }

    #[test]
    fn what_is_not_gguf_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = written(folder.path(), "x.gguf", b"PK\x03\x04");
        let expected = "x.gguf is not a GGUF file: it begins with [50, 4b, 03, 04], expected [47, 47, 55, 46] (\"GGUF\")";
        assert!(
            Source::open(&path, None)
                .unwrap_err()
                .to_string()
                .ends_with(expected)
        );
        let path = written(folder.path(), "old.gguf", b"GGUF\x01\0\0\0");
        let error = Source::open(&path, None).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("old.gguf has GGUF version 1, the engine reads 2 and 3"),
            "{error}"
        );
    }

    #[test]
    fn an_unreadable_model_names_the_file() {
        let error = Source::open(Path::new("/nowhere/model.gguf"), None).unwrap_err();
        assert!(
            matches!(&error, SourceError::File(FileError::Read { path, .. }) if path.ends_with("model.gguf"))
        );
    }

    #[test]
    fn a_folder_takes_what_an_engine_reads() {
        let folder = tempfile::tempdir().unwrap();
        let incomplete = |missing| format!("is not a model folder: it has no {missing}");
        let refused = || {
            Source::open(folder.path(), Some("m"))
                .unwrap_err()
                .to_string()
        };
        assert!(refused().ends_with(&incomplete("config.json")));
        written(folder.path(), "config.json", b"{}");
        assert!(refused().ends_with(&incomplete("*.safetensors file")));
        written(folder.path(), "model.safetensors", b"\x02\0\0\0\0\0\0\0[]");
        assert!(refused().ends_with("is not a safetensors file: its header is not a JSON object"));
        written(folder.path(), "model.safetensors", b"\x02\0\0\0\0\0\0\0{}");
        written(folder.path(), "README.md", b"");
        fs::create_dir(folder.path().join("onnx.json")).unwrap();
        let source = Source::open(folder.path(), Some("m")).unwrap();
        let names: Vec<_> = source.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["config.json", "model.safetensors"]);
    }
}
