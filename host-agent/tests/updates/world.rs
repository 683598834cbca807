//! A daemon whose supervisors are the real ones, and whose machines are not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cocoon_host_agent::attest::{Asked, Judge, Judging};
use cocoon_host_agent::client::{Client, ClientError};
use cocoon_host_agent::config::{HostConfig, Machine};
use cocoon_host_agent::daemon::api::{UpdateRequest, View};
use cocoon_host_agent::daemon::journal::{Entry, Journal};
use cocoon_host_agent::daemon::{Daemon, End};
use cocoon_host_agent::lifecycle::Deadlines;
use cocoon_measurements::manifest::public_key;
use cocoon_protocol::bytes::Hex;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::{image, machine};

/// Of a machine that is slow and busy.
pub const DEADLINE: Duration = Duration::from_secs(120);

/// Asks the stand-in guest what it is to be told; waits while it is held.
#[derive(Clone, Default)]
pub struct ToldJudge {
    pub held: Arc<watch::Sender<bool>>,
}

impl Judge for ToldJudge {
    fn judge(&self, asked: Asked) -> Judging {
        let held = Arc::clone(&self.held);
        Box::pin(async move {
            // Its sender lives with the world.
            let _ = held.subscribe().wait_for(|held| !held).await;
            assert!(asked.manifest.ends_with("manifest.json") && asked.manifest.is_file());
            match line(&asked.guest.to_string(), "judge").await {
                Ok(answer) if answer == "accepted" => Ok("the tests' judge accepts it".to_owned()),
                Ok(answer) => Err(answer),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

pub struct World {
    folder: TempDir,
    running: Option<(JoinHandle<()>, watch::Sender<Option<End>>)>,
    deadlines: Deadlines,
    pub judge: ToldJudge,
    pub journal: Arc<Journal>,
}

impl World {
    /// With one appliance, called `first`, that runs an image of these words; `more` stands in its table.
    pub async fn new(words: &str, more: &str) -> Self {
        Self::of(&[("first", words)], more, Deadlines::default()).await
    }

    /// With these appliances, each by name and words.
    pub async fn of(parts: &[(&str, &str)], more: &str, deadlines: Deadlines) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("cocoon-")
            .tempdir()
            .unwrap();
        let (qemu, simulator) = machine::programs(folder.path());
        let mut text = format!(
            "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\ncache = {:?}\nqemu = {qemu:?}\n\
             simulator = {simulator:?}\nmemory_reserve = \"1M\"\n\
             [updates]\nsigners = [\"{}\"]\nproving_seconds = 1\nstart_seconds = 60\n",
            folder.path().join("state"),
            folder.path().join("cache"),
            Hex(public_key(&image::SIGNER)),
        );
        for (name, words) in parts {
            let image = image::make(
                folder.path(),
                &format!("image-{name}"),
                words,
                5,
                &image::SIGNER,
            );
            text += &format!(
                "[[appliance]]\nname = {name:?}\nimage = {image:?}\nmemory = \"256M\"\nvcpus = 1\ntee = \"simulated-tdx\"\n\
                 accelerator = \"tcg\"\nlisten = \"127.0.0.1:0\"\n{more}\n",
            );
        }
        std::fs::write(folder.path().join("host.toml"), text).unwrap();
        let mut world = Self {
            folder,
            running: None,
            deadlines,
            judge: ToldJudge::default(),
            journal: Arc::default(),
        };
        world.begin();
        world
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn root(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn client(&self) -> Client {
        Client::of(&self.root())
    }

    /// Changes the daemon's file, for the next daemon.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.path().join("host.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// A daemon of the same folder and file.
    pub fn begin(&mut self) {
        let machine = Machine {
            memory_mib: None,
            processors: 64,
            ..Machine::this()
        };
        let file = self.path().join("host.toml");
        let config = HostConfig::load(&file, &machine).unwrap();
        let daemon = Daemon::take(config, &file)
            .unwrap()
            .with_program(env!("CARGO_BIN_EXE_cocoon-host").into())
            .with_deadlines(self.deadlines)
            .with_judge(Arc::new(self.judge.clone()));
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

    pub async fn end(&mut self, how: End) {
        let (task, end) = self.running.take().unwrap();
        end.send(Some(how)).unwrap();
        timeout(DEADLINE, task).await.unwrap().unwrap();
    }

    pub async fn show(&self, name: &str) -> View {
        let path = format!("/v1/appliances/{name}");
        self.client().get(&path).await.unwrap()
    }

    /// An image of these words and this release, signed by whom the file pins.
    pub fn image(&self, name: &str, words: &str, release: u64) -> PathBuf {
        image::make(self.path(), name, words, release, &image::SIGNER)
    }

    /// Asks for an update of `first` to `image`, and waits for its end if `wait`.
    pub async fn update(
        &self,
        image: &Path,
        drain_first: bool,
        wait: bool,
    ) -> Result<View, ClientError> {
        let request = UpdateRequest {
            manifest: image.join("manifest.json"),
            image: None,
            drain_first,
        };
        let path = format!("/v1/appliances/first/update?wait={wait}");
        let client = self.client();
        let asked = client.post_with(&path, &request);
        timeout(DEADLINE, asked).await.unwrap()
    }

    pub async fn post(&self, path: &str) -> Result<View, ClientError> {
        let path = format!("/v1/appliances/{path}");
        let client = self.client();
        timeout(DEADLINE, client.post(&path)).await.unwrap()
    }

    /// Waits until the view is such.
    pub async fn until(&self, name: &str, such: impl Fn(&View) -> bool) -> View {
        let waited = async {
            loop {
                let view = self.show(name).await;
                if such(&view) {
                    return view;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match timeout(DEADLINE, waited).await {
            Ok(view) => view,
            Err(_) => panic!("{:#?}\n{:#?}", self.show(name).await, self.told()),
        }
    }

    /// Waits until the update is in that phase.
    pub async fn phase(&self, phase: &str) -> View {
        self.until("first", |view| {
            let update = view.update.as_ref();
            update.is_some_and(|update| update.update.phase.name() == phase)
        })
        .await
    }

    pub async fn serving(&self, name: &str) -> View {
        self.until(name, |view| view.life.state.name() == "serving")
            .await
    }

    /// What the journal says.
    pub fn told(&self) -> Vec<Entry> {
        self.journal.after(0).0
    }

    pub fn says(&self, text: &str) -> bool {
        self.told().iter().any(|entry| entry.text.contains(text))
    }
}

/// The answer to one line over a connection of its own.
pub async fn line(address: &str, line: &str) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let mut answer = String::new();
    if stream.read_line(&mut answer).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().to_owned())
}

impl Drop for World {
    /// Nothing that a test started outlives it: machines and simulators die with their supervisors.
    fn drop(&mut self) {
        if let Some((task, _)) = self.running.take() {
            task.abort();
        }
        for root in [self.root(), self.root().join("b")] {
            for folder in std::fs::read_dir(root.join("vms"))
                .into_iter()
                .flatten()
                .flatten()
            {
                if let Ok(text) = std::fs::read_to_string(folder.path().join("supervisor.pid"))
                    && let Ok(pid) = text.trim().parse()
                {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            }
        }
    }
}
