//! A daemon with appliances that play parts, in a folder of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cocoon_host_agent::client::Client;
use cocoon_host_agent::config::{HostConfig, Machine};
use cocoon_host_agent::daemon::api::View;
use cocoon_host_agent::daemon::journal::Journal;
use cocoon_host_agent::daemon::{Daemon, End};
use cocoon_host_agent::lifecycle::Deadlines;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Of a machine that is slow and busy.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Nobody has long to finish.
pub fn impatient() -> Deadlines {
    Deadlines {
        draining: Duration::from_millis(300),
        ..Deadlines::default()
    }
}

pub struct World {
    folder: TempDir,
    running: Option<(JoinHandle<()>, watch::Sender<Option<End>>)>,
    pub journal: Arc<Journal>,
}

impl World {
    /// With these appliances, each by name and part; `more` stands in each one's table.
    pub async fn new(parts: &[(&str, &str)], more: &str, deadlines: Deadlines) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("cocoon-")
            .tempdir()
            .unwrap();
        let mut world = Self {
            folder,
            running: None,
            journal: Arc::default(),
        };
        // Tests run at once, and the status page has one usual place.
        let mut text = format!(
            "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\n",
            world.root()
        );
        for (index, (name, part)) in parts.iter().enumerate() {
            let folder = world.root().join("vms").join(name);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join("part"), part).unwrap();
            text += &format!(
                "[[appliance]]\nname = {name:?}\nimage = {:?}\nmemory = \"256M\"\nvcpus = 1\n\
                 tee = \"simulated-tdx\"\nlisten = \"127.0.0.1:{}\"\n{more}\n",
                world.root(),
                8443 + index
            );
        }
        std::fs::write(world.file(), text).unwrap();
        world.begin(deadlines).await;
        world
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("host.toml")
    }

    pub fn client(&self) -> Client {
        Client::of(&self.root())
    }

    /// A daemon of the same folder and file.
    pub async fn begin(&mut self, deadlines: Deadlines) {
        let machine = Machine {
            memory_mib: None,
            processors: 64,
            nodes: vec![],
            hugepages: |_| None,
            has_folder: Path::is_dir,
            has_file: Path::is_file,
        };
        let config = HostConfig::load(&self.file(), &machine).unwrap();
        let daemon = Daemon::take(config, &self.file())
            .unwrap()
            .with_program(crate::stand_in::program())
            .with_deadlines(deadlines);
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

    /// In good order.
    pub async fn end(&mut self, how: End) {
        let (task, end) = self.running.take().unwrap();
        end.send(Some(how)).unwrap();
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    pub async fn show(&self, name: &str) -> View {
        let path = format!("/v1/appliances/{name}");
        self.client().get(&path).await.unwrap()
    }

    /// Commands are waited for.
    pub async fn act(&self, name: &str, verb: &str) -> View {
        let path = format!("/v1/appliances/{name}/{verb}?wait=true");
        let client = self.client();
        let acted = timeout(DEADLINE, client.post(&path));
        acted.await.unwrap().unwrap()
    }

    /// Waits until the journal holds such an entry; its number.
    pub async fn until(&self, name: &str, state: &str) -> u64 {
        self.until_after(0, name, state).await
    }

    /// The same, among the entries after number `seq`.
    pub async fn until_after(&self, seq: u64, name: &str, state: &str) -> u64 {
        let (mut kept, mut coming) = self.journal.after(seq);
        let found = async {
            loop {
                for entry in kept.drain(..) {
                    if entry.appliance.as_deref() == Some(name) && entry.state == state {
                        return entry.seq;
                    }
                }
                kept.push(coming.recv().await.unwrap());
            }
        };
        match timeout(DEADLINE, found).await {
            Ok(seq) => seq,
            Err(_) => panic!(
                "{name} never came to {state}: {:#?}",
                self.journal.after(0).0
            ),
        }
    }

    /// Its state once it serves.
    pub async fn serving(&self, name: &str) -> View {
        self.until(name, "serving").await;
        self.show(name).await
    }
}

impl Drop for World {
    /// Nothing that a test started outlives it.
    fn drop(&mut self) {
        let names = std::fs::read_dir(self.root().join("vms"));
        for folder in names.into_iter().flatten().flatten() {
            // A stand-in ends when its socket's other ends are gone and it is told to drain; the quick way is its number.
            if let Ok(text) = std::fs::read_to_string(folder.path().join("pid"))
                && let Ok(pid) = text.parse()
            {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
    }
}
