//! Runs the commands: turns arguments into library calls, and results into text or JSON.

pub mod args;
pub mod ending;
mod image;
mod kernels;
mod keys;
mod platform;
mod stock;

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::CommandFactory as _;
use cocoon_image::guest;
use serde::Serialize;

use args::{
    Arguments, CacheCommand, Command, KernelsCommand, ManifestCommand, ModelCommand, Origin,
};

/// Result of a command that did not fail.
pub enum Outcome {
    /// Done, or accepted: exit code 0.
    Done,
    /// Rejected, or different: exit code 1.
    Rejected,
}

/// Runs the command.
///
/// # Errors
/// Something could not be read, written or made: exit code 2.
pub fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let output = Output {
        json: arguments.json,
    };
    match arguments.command {
        Command::Build(arguments) => image::build(&arguments, output),
        Command::Verify(arguments) => image::verify(&arguments, output),
        Command::Model(ModelCommand::Add {
            image,
            model,
            model_id,
            out,
            source,
            jobs,
            dates,
        }) => {
            let addition = image::Addition {
                image: &image,
                model: &model,
                model_id: model_id.as_deref(),
                out: &out,
                source: source.or_else(workspace),
                jobs,
            };
            image::add_model(&addition, &dates, output)
        }
        Command::Manifest(ManifestCommand::Sign { manifest, key }) => {
            keys::sign(&manifest, &key, output)
        }
        Command::Manifest(ManifestCommand::Platform(arguments)) => {
            platform::add(&arguments, output)
        }
        Command::Manifest(ManifestCommand::Keygen { out }) => keys::generate(&out, output),
        Command::Manifest(ManifestCommand::Diff { first, second }) => {
            keys::diff(&first, &second, output)
        }
        Command::Kernels(KernelsCommand::Build {
            out,
            pin,
            release,
            origin,
        }) => kernels::build(&out, pin, release, &origin, output),
        Command::Engine { out, origin } => kernels::engine(&out, &origin, output),
        Command::Kernels(KernelsCommand::Toolkit { out, tools, origin }) => {
            kernels::unpack(&out, &tools, &origin, output)
        }
        Command::Lock(arguments) => stock::lock(&arguments, output),
        Command::Cache(CacheCommand::Gc { origin, guest }) => {
            stock::collect(&origin, guest, output)
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "cocoon-image",
                &mut std::io::stdout(),
            );
            Ok(Outcome::Done)
        }
    }
}

/// Output format: text or JSON.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Prints `value` as JSON or `text` as it is, depending on the format.
    fn print(self, value: &impl Serialize, text: impl std::fmt::Display) -> anyhow::Result<()> {
        let text = if self.json {
            serde_json::to_string_pretty(value)?
        } else {
            text.to_string()
        };
        match writeln!(std::io::stdout(), "{}", text.trim_end()) {
            // The reader, such as `head`, has stopped reading on purpose.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written.context("cannot write to standard output"),
        }
    }
}

/// Returns the workspace around the current folder.
fn workspace() -> Option<PathBuf> {
    guest::find_source(&std::env::current_dir().ok()?)
}

impl Origin {
    fn source(&self) -> anyhow::Result<PathBuf> {
        if let Some(source) = &self.source {
            return Ok(source.clone());
        }
        let here = std::env::current_dir().context("cannot find the current folder")?;
        guest::find_source(&here).with_context(|| {
            format!(
                "{} does not lie in the workspace: go there, or name it with --source DIR",
                here.display()
            )
        })
    }

    fn cache(&self) -> anyhow::Result<PathBuf> {
        match &self.cache {
            Some(cache) => std::path::absolute(cache).context("cannot use the cache's folder"),
            None => Ok(cocoon_inputs::Cache::default_root()?),
        }
    }

    fn keyring(&self) -> cocoon_inputs::Keyring {
        self.keyring
            .as_ref()
            .map_or_else(cocoon_inputs::Keyring::debian, cocoon_inputs::Keyring::file)
    }
}
