//! What may be a model: one GGUF file, or a folder with `config.json` and safetensors.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::erofs::MAX_NAME;
use super::recode::{self, Recoding};
use super::whole;
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
    /// A GGUF file of which something is missing.
    #[error("{path} cannot be loaded: {what}: fetch or convert it again")]
    NotWhole {
        /// The file.
        path: PathBuf,
        /// What is amiss.
        what: String,
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
        what: String,
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
    if let Some(what) = whole::gguf(path).map_err(FileError::read(path))? {
        return Err(SourceError::NotWhole {
            path: path.to_owned(),
            what,
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

/// A safetensors file begins with the length of a JSON object, which says where its tensors lie.
fn safetensors(path: &Path) -> Result<(), SourceError> {
    let size = fs::metadata(path).map_err(FileError::read(path))?.len();
    let length = beginning(path, 8)?.try_into().map(u64::from_le_bytes);
    let what = match length {
        Err(_) => Some("it is shorter than its header's length field".to_owned()),
        Ok(length) if length > MAX_SAFETENSORS_HEADER || length > size.saturating_sub(8) => {
            Some("its header is longer than the file or than any header".to_owned())
        }
        Ok(length) => {
            let all = beginning(path, 8 + length)?;
            whole::safetensors(all.get(8..).unwrap_or_default(), size)
        }
    };
    match what {
        None => Ok(()),
        Some(what) => Err(SourceError::NotSafetensors {
            path: path.to_owned(),
            what,
        }),
    }
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
mod tests;
