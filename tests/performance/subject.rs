//! The engine and model that are measured: an engine of these sources, and the default model as published and as served.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use cocoon_image::build;
use cocoon_image::foreign::Foreign;
use cocoon_image::model::{self, Source};
use cocoon_inputs::report::{self, Reporter};
use cocoon_inputs::{Cache, Fetcher, Keyring, Options as Fetching};
use cocoon_tests::image::{cache, workspace};

use crate::appliance::{self, Setup};

#[derive(Args)]
#[group(skip)]
pub struct Options {
    /// Engine executable [default: the one that the image's build left in the cache]
    #[arg(long)]
    engine: Option<PathBuf>,
    /// GGUF file of the model [default: the default model]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Serve the model file as it is, not as a model volume holds it
    #[arg(long)]
    unchanged: bool,
}

/// An engine and a model.
pub struct Subject {
    /// The model file as published, for other programs.
    pub published: PathBuf,
    /// Note for the table that names the file which is served.
    pub note: String,
    engine: PathBuf,
    folder: PathBuf,
    model: String,
}

impl Subject {
    /// Fetches and unpacks what is missing.
    pub async fn find(options: &Options) -> anyhow::Result<Self> {
        let engine = match &options.engine {
            Some(engine) => engine.clone(),
            None => appliance::engine().await?,
        };
        let (given, unchanged) = (options.model.clone(), options.unchanged);
        let made = tokio::task::spawn_blocking(move || made(given.as_deref(), unchanged));
        let (source, folder) = made.await??;
        let file = source.files.first().context("the model has no file")?;
        let name = |path: &Path| {
            path.file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let served = match unchanged {
            true => name(&file.path),
            false => Some(file.name.clone()),
        };
        Ok(Self {
            note: format!("model as served: {}", served.unwrap_or_default()),
            published: file.path.clone(),
            engine,
            folder,
            model: source.id,
        })
    }

    /// Returns the engine's parameters for this number of concurrent answers.
    pub fn setup(&self, slots: u16) -> Setup {
        Setup {
            engine: self.engine.clone(),
            folder: self.folder.clone(),
            model: self.model.clone(),
            slots,
        }
    }
}

/// Returns the model, and a folder that contains only the file to serve.
fn made(given: Option<&Path>, unchanged: bool) -> anyhow::Result<(Source, PathBuf)> {
    let place = cache()?.join("tests/performance");
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    let lock = File::create(place.join("lock"))?;
    lock.lock()?;
    let source = match given {
        Some(path) => Source::open(path, None)?,
        None => published(&place)?,
    };
    let folder = place.join(if unchanged { "unchanged" } else { "served" });
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir(&folder)?;
    for file in &source.files {
        match unchanged {
            true => {
                let name = file.path.file_name().context("the model has no name")?;
                std::os::unix::fs::symlink(fs::canonicalize(&file.path)?, folder.join(name))?;
            }
            false => {
                model::unpack(file, &folder)?;
            }
        }
    }
    Ok((source, folder))
}

/// Fetches the default model from the locked inputs.
fn published(place: &Path) -> anyhow::Result<Source> {
    let (lock, _) = build::lock(&workspace())?;
    let reporter: Arc<dyn Reporter> = report::stderr();
    let options = Fetching {
        keyring: Keyring::debian(),
        ..Fetching::default()
    };
    let cache = Cache::open(&cache()?)?;
    let fetcher = Fetcher::new(
        lock,
        cache,
        build::mirrors(&[])?,
        options,
        Arc::clone(&reporter),
    );
    let folder = place.join("published");
    fs::create_dir_all(&folder)?;
    Ok(Foreign::new(&fetcher, &*reporter).model(&folder)?)
}
