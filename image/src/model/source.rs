//! Opens and checks models: one GGUF file, or a folder with `config.json` and safetensors.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::erofs::MAX_NAME;
use super::recode::{self, Recoding};
use super::whole;
use crate::cmdline::{self, CmdlineError};
use crate::files::FileError;

/// Magic of a GGUF file; the version follows.
const GGUF: &[u8; 4] = b"GGUF";
/// Versions of GGUF that the engine reads.
const GGUF_VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;
/// Largest header of a safetensors file, in bytes. The reference implementation has the same limit.
const MAX_SAFETENSORS_HEADER: u64 = 100_000_000;

/// Files of a model folder that go into the volume: the end of their name, and their purpose.
const WANTED: &[(&str, &str)] = &[
    (".safetensors", "the weights"),
    (".json", "configuration, tokenizer, index of the weights"),
    (".jinja", "the chat template, where it is a file of its own"),
    ("tokenizer.model", "older tokenizers"),
];

/// A model on this machine. Headers and sizes of its files have been checked, the weights themselves have not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Identifier in the API.
    pub id: String,
    /// Path of the file or folder, for messages.
    pub path: PathBuf,
    /// Files of the model, sorted by name.
    pub files: Vec<SourceFile>,
}

/// One file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Name in the volume.
    pub name: String,
    /// Path on this machine.
    pub path: PathBuf,
    /// Size in the volume, in bytes.
    pub size: u64,
    /// How to convert the file; `None` to copy it as it is.
    pub recoding: Option<Recoding>,
}

/// Why a model cannot be used.
#[derive(Debug, Error)]
pub enum SourceError {
    /// A file cannot be read.
    #[error("cannot read the model")]
    File(#[from] FileError),
    /// The file is not GGUF.
    #[error(
        "{path} is not a GGUF file: it begins with {found:02x?}, expected [47, 47, 55, 46] (\"GGUF\")"
    )]
    NotGguf {
        /// Path of the file.
        path: PathBuf,
        /// First bytes of the file.
        found: Vec<u8>,
    },
    /// The engine does not read this version of GGUF.
    #[error("{path} has GGUF version {found}, the engine reads {} and {}", GGUF_VERSIONS.start(), GGUF_VERSIONS.end())]
    GgufVersion {
        /// Path of the file.
        path: PathBuf,
        /// Version of the file.
        found: u32,
    },
    /// The GGUF file is incomplete or contradicts itself.
    #[error("{path} cannot be loaded: {what}: fetch or convert it again")]
    NotWhole {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The folder lacks a file that every model has.
    #[error("{path} is not a model folder: it has no {missing}")]
    Incomplete {
        /// Path of the folder.
        path: PathBuf,
        /// Name of the missing file.
        missing: &'static str,
    },
    /// The file is not safetensors, or is incomplete.
    #[error("{path} is not a safetensors file: {what}")]
    NotSafetensors {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The name of a file is too long or not UTF-8.
    #[error(
        "{path} cannot go into the model volume: its name must be UTF-8 of at most {MAX_NAME} bytes"
    )]
    Name {
        /// Path of the file.
        path: PathBuf,
    },
    /// The model's identifier is not valid.
    #[error("the model needs an identifier")]
    Id(#[from] CmdlineError),
}

impl Source {
    /// Opens the model at `path`. Its identifier is `id` or, if that is `None`, follows from the name of the file or folder.
    ///
    /// # Errors
    /// [`SourceError`] when it is not a model or cannot be read.
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

/// Returns the name in the volume of a converted file: `Tiny.Q4_1+Q8_0.gguf` for `Tiny.Q4_1.gguf`.
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
        // Symbolic links are followed, because tools that download models keep the files elsewhere and link to them.
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

/// Checks a safetensors file. It begins with the length of a JSON object, which says where the tensors are.
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

/// Derives an identifier from a path: `tiny-llama-q4` from `Tiny Llama-Q4.gguf`.
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
