//! One VM for one test: set up, brought up by the host agent, and looked at from all sides.

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

/// Emulated CPUs that the tests of one process run at once: two, however many the machine has,
/// because deadlines are made for two.
static CPUS: Semaphore = Semaphore::const_new(2);

/// Waits until `cpus` emulated CPUs may run.
pub async fn turn(cpus: u16) -> SemaphorePermit<'static> {
    CPUS.acquire_many(cpus.clamp(1, 2).into())
        .await
        .expect("nobody closes it")
}

/// What a VM of a test runs.
#[derive(Clone, Copy, Debug)]
pub enum Model {
    /// The default model: seconds per token.
    Real,
    /// The one of [`alphabet`](crate::alphabet).
    Alphabet,
}

/// The shared image with `model`, from within a runtime.
pub async fn image(model: Model) -> anyhow::Result<&'static SignedImage> {
    let make = match model {
        Model::Real => SignedImage::shared,
        Model::Alphabet => SignedImage::alphabet,
    };
    tokio::task::spawn_blocking(make).await?
}

/// A VM that is about to be brought up; tests change its options first.
pub struct Trial {
    /// The options.
    pub options: UpOptions,
    /// What the host will hear.
    pub seen: Seen,
    state: TempDir,
    image: &'static SignedImage,
}

impl Trial {
    /// A VM of the shared image that imitates `tee`. `executable` plays the simulator.
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
        // Of a machine three times slower than one that is slow already.
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

    /// The VM's folder.
    pub fn folder(&self) -> PathBuf {
        self.state.path().join("vms").join(&self.options.name)
    }

    /// Brings it up when it is its turn.
    ///
    /// # Errors
    /// As [`Host::up`].
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

    /// Brings it up and expects that it fails; the error as people see it.
    ///
    /// # Errors
    /// When it serves.
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

/// A VM that serves.
pub struct Appliance {
    /// It.
    pub vm: RunningVm,
    /// What the host heard and hears.
    pub seen: Seen,
    /// Its folder of state.
    pub folder: PathBuf,
    /// What it runs.
    pub image: &'static SignedImage,
    _state: TempDir,
    _turn: SemaphorePermit<'static>,
}

impl Appliance {
    /// The address, as clients name it.
    pub fn address(&self) -> anyhow::Result<Address> {
        vm::address(&self.vm)
    }

    /// Development root of its evidence, PEM.
    pub fn root(&self) -> anyhow::Result<&str> {
        let pem = self.vm.trust_root_pem.as_deref();
        pem.context("simulated evidence comes without its root")
    }

    /// A client that believes in the image and in the development root.
    pub fn verifier(&self) -> anyhow::Result<Verifier> {
        self.image.verifier(self.root()?)
    }

    /// What such a client sends requests to.
    pub fn upstreams(&self) -> anyhow::Result<Upstreams> {
        Ok(Upstreams::new(self.verifier()?, vec![self.address()?]))
    }

    /// A conversation with answers of at most `max_tokens`, always the same ones.
    pub fn conversation(&self, max_tokens: u32) -> anyhow::Result<Conversation> {
        let options = ChatOptions {
            model: self.image.manifest.model.id.clone(),
            max_tokens: Some(max_tokens),
            temperature: Some(0.0),
            seed: None,
        };
        // Instructions of its own, short ones: without any the model's template inserts thirty tokens.
        Ok(Conversation::new(self.upstreams()?, options, Some("a")))
    }

    /// The console so far.
    pub fn console(&self) -> anyhow::Result<String> {
        let bytes = std::fs::read(&self.vm.serial_log)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
