//! Weights in a folder.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use mistralrs_core::{
    GGUFLoaderBuilder, GGUFSpecificConfig, Loader, NormalLoaderBuilder, NormalSpecificConfig,
};

/// Format of the weights.
pub(super) enum Source {
    Gguf(String),
    Safetensors,
}

impl Source {
    pub(super) fn find(folder: &Path) -> anyhow::Result<Self> {
        let mut gguf: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder)
            .with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry
                .with_context(|| format!("cannot list {}", folder.display()))?
                .path();
            if path
                .extension()
                .is_some_and(|extension| extension == "gguf")
            {
                gguf.push(path);
            }
        }
        match gguf.as_slice() {
            [one] => {
                let name = one
                    .file_name()
                    .and_then(|name| name.to_str())
                    .context("the GGUF file's name is not UTF-8")?;
                Ok(Self::Gguf(name.to_owned()))
            }
            [] if folder.join("config.json").is_file() => Ok(Self::Safetensors),
            [] => bail!(
                "{} holds neither a .gguf file nor a config.json",
                folder.display()
            ),
            _ => bail!(
                "{} holds several .gguf files: a model volume holds one",
                folder.display()
            ),
        }
    }

    pub(super) fn loader(&self, folder: &Path) -> anyhow::Result<Box<dyn Loader>> {
        let folder = folder
            .to_str()
            .context("the model folder's name is not UTF-8")?
            .to_owned();
        Ok(match self {
            Self::Gguf(file) => GGUFLoaderBuilder::new(
                None,
                None,
                folder,
                vec![file.clone()],
                GGUFSpecificConfig { topology: None },
                false,
                None,
            )
            .build(),
            Self::Safetensors => NormalLoaderBuilder::new(
                NormalSpecificConfig::default(),
                None,
                None,
                Some(folder),
                false,
                None,
            )
            .build(None)?,
        })
    }

    /// Returns the weight format, which is usually part of the file's name.
    pub(super) fn quantization(&self) -> String {
        match self {
            Self::Gguf(file) => {
                let stem = file.trim_end_matches(".gguf");
                let word = stem.rsplit(['.', '-']).next().unwrap_or(stem);
                word.to_uppercase()
            }
            Self::Safetensors => "none".to_owned(),
        }
    }
}
