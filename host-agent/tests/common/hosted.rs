//! A daemon in the test's own process, with its folder and configuration file. Shared by the tests of `daemon` and `updates`.

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

/// Deadline of each wait, generous enough for a slow and busy machine.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// A daemon that can be started and ended several times in the same folder.
pub struct Hosted {
    folder: TempDir,
    running: Option<(JoinHandle<()>, watch::Sender<Option<End>>)>,
    pub journal: Arc<Journal>,
}

impl Hosted {
    /// Creates the folder, without a daemon.
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

    /// Starts a daemon for the folder and its configuration file, after `with` has adapted it.
    pub fn start(&mut self, with: impl FnOnce(Daemon) -> Daemon) {
        let config = HostConfig::load(&self.file(), &roomy()).unwrap();
        let daemon = with(Daemon::take(config, &self.file()).unwrap());
        self.journal = daemon.journal();
        let (end, ended) = watch::channel(None);
        self.running = Some((tokio::spawn(daemon.run(ended)), end));
    }

    /// Ends the daemon as `kill -9` would: it does nothing more and tells nobody.
    pub async fn kill(&mut self) {
        let (task, _end) = self.running.take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    /// Asks the daemon to end, without waiting for it.
    pub fn tell(&self, how: End) {
        let (_, end) = self.running.as_ref().unwrap();
        end.send(Some(how)).unwrap();
    }

    /// Ends the daemon in good order and waits for it.
    pub async fn end(&mut self, how: End) {
        self.tell(how);
        let (task, _end) = self.running.take().unwrap();
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    /// Ends the daemon at once, if it runs, so that it starts nothing more.
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
