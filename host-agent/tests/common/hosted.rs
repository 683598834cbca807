//! A daemon in this process, with its folder and its file: what the tests of lives and those of updates have in common.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cocoon_host_agent::client::Client;
use cocoon_host_agent::config::HostConfig;
use cocoon_host_agent::daemon::api::View;
use cocoon_host_agent::daemon::journal::Journal;
use cocoon_host_agent::daemon::{Daemon, End};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::hardware::roomy;

/// Of a machine that is slow and busy.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// The daemon, while it runs.
pub struct Hosted {
    folder: TempDir,
    running: Option<(JoinHandle<()>, watch::Sender<Option<End>>)>,
    pub journal: Arc<Journal>,
}

impl Hosted {
    /// A folder, and no daemon yet.
    pub fn new() -> Self {
        let mut folder = tempfile::Builder::new();
        let folder = folder.prefix("cocoon-").tempdir().unwrap();
        Self {
            folder,
            running: None,
            journal: Arc::default(),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn file(&self) -> PathBuf {
        self.path().join("host.toml")
    }

    pub fn client(&self) -> Client {
        Client::of(&self.root())
    }

    /// A daemon of the folder and its file, made ready by `with`.
    pub fn start(&mut self, with: impl FnOnce(Daemon) -> Daemon) {
        let config = HostConfig::load(&self.file(), &roomy()).unwrap();
        let daemon = with(Daemon::take(config, &self.file()).unwrap());
        self.journal = daemon.journal();
        let (end, ended) = watch::channel(None);
        self.running = Some((tokio::spawn(daemon.run(ended)), end));
    }

    /// As `kill -9` would: nothing more is done, and nobody is told.
    pub async fn kill(&mut self) {
        let (task, _end) = self.running.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    /// Told to end, and not waited for.
    pub fn tell(&self, how: End) {
        let (_, end) = self.running.as_ref().unwrap();
        end.send(Some(how)).unwrap();
    }

    /// In good order.
    pub async fn end(&mut self, how: End) {
        self.tell(how);
        let (task, _end) = self.running.take().unwrap();
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    /// Nothing is started any more.
    pub fn abort(&mut self) {
        if let Some((task, _)) = self.running.take() {
            task.abort();
        }
    }

    pub async fn show(&self, name: &str) -> View {
        let path = format!("/v1/appliances/{name}");
        self.client().get(&path).await.unwrap()
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        self.abort();
    }
}
