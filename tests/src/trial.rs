//! A VM for one test: prepared, started by the host agent, and observed from the host's and the client's side.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use cocoon_client::{Address, ChatOptions, Conversation, Upstreams, Verifier};
use cocoon_host_agent::channel::Patience;
use cocoon_host_agent::{Host, RunningVm, UpError, UpOptions};
use cocoon_inputs::report::Silent;
use cocoon_protocol::binding::Tee;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::image::SignedImage;
use crate::seen::Seen;
use crate::vm;

/// Limits the emulated CPUs of one process's tests to two, however many the machine has: the deadlines are chosen for two.
static CPUS: Semaphore = Semaphore::const_new(2);

/// Waits until `cpus` emulated CPUs may run. The permit is held for as long as they do.
pub async fn turn(cpus: u16) -> SemaphorePermit<'static> {
    CPUS.acquire_many(cpus.clamp(1, 2).into())
        .await
        .expect("nobody closes it")
}

/// The model that a test's VM runs.
#[derive(Clone, Copy, Debug)]
pub enum Model {
    /// The default model: takes seconds per token under emulation.
    Real,
    /// The model of [`alphabet`](crate::alphabet).
    Alphabet,
}

/// Returns the shared image with `model`. Safe to call within a runtime.
pub async fn image(model: Model) -> anyhow::Result<&'static SignedImage> {
    let make = match model {
        Model::Real => SignedImage::shared,
        Model::Alphabet => SignedImage::alphabet,
    };
    tokio::task::spawn_blocking(make).await?
}

/// A VM that has not been started yet, so that tests can change its options.
pub struct Trial {
    /// Options for the host agent.
    pub options: UpOptions,
    /// Progress events that the host agent will report.
    pub seen: Seen,
    state: TempDir,
    image: &'static SignedImage,
}

impl Trial {
    /// Prepares a VM of the shared image that simulates `tee`. `executable` plays the simulator.
    pub async fn new(
        executable: &Path,
        name: &str,
        tee: Tee,
        model: Model,
    ) -> anyhow::Result<Self> {
        let image = image(model).await?;
        let state = tempfile::Builder::new().prefix("cocoon-").tempdir()?;
        let mut options = vm::options(
            &image.folder,
            name,
            tee,
            state.path().to_owned(),
            executable,
            Arc::new(Silent),
        )?;
        options.vcpus = 2;
        // Enough for a machine three times slower than an already slow one.
        options.patience = Patience {
            start: Duration::from_secs(300),
            boot: Duration::from_secs(600),
            serve: Duration::from_secs(360),
            drain: Duration::from_secs(120),
        };
        Ok(Self {
            options,
            seen: Seen::new(name),
            state,
            image,
        })
    }

    /// Returns the VM's folder.
    pub fn folder(&self) -> PathBuf {
        self.state.path().join("vms").join(&self.options.name)
    }

    /// Waits for free CPUs and starts the VM.
    ///
    /// # Errors
    /// As for [`Host::up`].
    pub async fn up(self) -> Result<Appliance, UpError> {
        let turn = turn(self.options.vcpus).await;
        let (seen, folder) = (self.seen.clone(), self.folder());
        let vm = Host::up(self.options, move |progress| seen.hear(progress)).await?;
        Ok(Appliance {
            vm,
            seen: self.seen,
            folder,
            image: self.image,
            _state: self.state,
            _turn: turn,
        })
    }

    /// Starts the VM, expects that to fail, and returns the error.
    ///
    /// # Errors
    /// If the VM serves.
    pub async fn refused(self) -> anyhow::Result<UpError> {
        match self.up().await {
            Err(error) => Ok(error),
            Ok(appliance) => {
                appliance.vm.kill().await;
                anyhow::bail!("it serves")
            }
        }
    }
}

/// A VM that is serving.
pub struct Appliance {
    /// The running VM.
    pub vm: RunningVm,
    /// Progress events that the host agent has reported so far and will report.
    pub seen: Seen,
    /// Folder of the VM's state.
    pub folder: PathBuf,
    /// The image that the VM runs.
    pub image: &'static SignedImage,
    _state: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Appliance {
    /// Returns the VM's address, as clients name it.
    pub fn address(&self) -> anyhow::Result<Address> {
        vm::address(&self.vm)
    }

    /// Returns the development root of the VM's evidence, in PEM.
    pub fn root(&self) -> anyhow::Result<&str> {
        let pem = self.vm.trust_root_pem.as_deref();
        pem.context("simulated evidence comes without its root")
    }

    /// Returns a verifier that trusts the image and the development root.
    pub fn verifier(&self) -> anyhow::Result<Verifier> {
        self.image.verifier(self.root()?)
    }

    /// Returns upstreams with that verifier and this VM.
    pub fn upstreams(&self) -> anyhow::Result<Upstreams> {
        Ok(Upstreams::new(self.verifier()?, vec![self.address()?]))
    }

    /// Starts a conversation with answers of at most `max_tokens`, which are deterministic.
    pub fn conversation(&self, max_tokens: u32) -> anyhow::Result<Conversation> {
        let options = ChatOptions {
            model: self.image.manifest.model.id.clone(),
            max_tokens: Some(max_tokens),
            temperature: Some(0.0),
            seed: None,
        };
        // A short system message: without one, the model's chat template inserts thirty tokens of its own.
        Ok(Conversation::new(self.upstreams()?, options, Some("a")))
    }

    /// Returns the text of the console so far.
    pub fn console(&self) -> anyhow::Result<String> {
        let bytes = std::fs::read(&self.vm.serial_log)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
