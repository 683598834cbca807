//! A daemon with real supervisors and stand-ins for the machines.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_host_agent::attest::{Asked, Judge, Judging};
use cocoon_host_agent::client::ClientError;
use cocoon_host_agent::daemon::api::{UpdateRequest, View};
use cocoon_host_agent::daemon::journal::Entry;
use cocoon_host_agent::lifecycle::Deadlines;
use cocoon_measurements::manifest::public_key;
use cocoon_protocol::bytes::Hex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

pub use crate::hosted::DEADLINE;
use crate::hosted::Hosted;
use crate::{image, machine};

/// Asks the stand-in guest for its verdict. Waits while `held` is true.
#[derive(Clone, Default)]
pub struct ToldJudge {
    pub held: Arc<watch::Sender<bool>>,
    /// The policies that it was asked to judge by.
    pub policies: Arc<Mutex<Vec<Option<PathBuf>>>>,
}

impl Judge for ToldJudge {
    fn judge(&self, asked: Asked) -> Judging {
        let held = Arc::clone(&self.held);
        self.policies.lock().unwrap().push(asked.policy.clone());
        Box::pin(async move {
            // The sender lives as long as the world.
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
    hosted: Hosted,
    deadlines: Deadlines,
    pub judge: ToldJudge,
}

impl Deref for World {
    type Target = Hosted;

    fn deref(&self) -> &Hosted {
        &self.hosted
    }
}

impl DerefMut for World {
    fn deref_mut(&mut self) -> &mut Hosted {
        &mut self.hosted
    }
}

impl World {
    /// Starts a daemon with one appliance, `first`, whose image has this command line. `more` is added to its table.
    pub async fn new(words: &str, more: &str) -> Self {
        Self::of(&[("first", words)], more, Deadlines::default()).await
    }

    /// Starts a daemon with these appliances, given as name and command line.
    pub async fn of(parts: &[(&str, &str)], more: &str, deadlines: Deadlines) -> Self {
        let hosted = Hosted::new();
        let (qemu, simulator) = machine::programs(hosted.path());
        let mut text = format!(
            "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\ncache = {:?}\nqemu = {qemu:?}\n\
             simulator = {simulator:?}\nmemory_reserve = \"1M\"\n\
             [updates]\nsigners = [\"{}\"]\nproving_seconds = 1\nstart_seconds = 60\n",
            hosted.root(),
            hosted.path().join("cache"),
            Hex(public_key(&image::SIGNER)),
        );
        for (name, words) in parts {
            let image = image::make(
                hosted.path(),
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
        std::fs::write(hosted.file(), text).unwrap();
        let mut world = Self {
            hosted,
            deadlines,
            judge: ToldJudge::default(),
        };
        world.begin();
        world
    }

    /// Edits the configuration file for the next daemon.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.file();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from));
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Starts a daemon for the same folder and file.
    pub fn begin(&mut self) {
        let (deadlines, judge) = (self.deadlines, Arc::new(self.judge.clone()));
        self.start(|daemon| {
            daemon
                .with_program(env!("CARGO_BIN_EXE_cocoon-host").into())
                .with_deadlines(deadlines)
                .with_judge(judge)
        });
    }

    /// Makes an image with this command line and release, signed with the pinned key.
    pub fn image(&self, name: &str, words: &str, release: u64) -> PathBuf {
        image::make(self.path(), name, words, release, &image::SIGNER)
    }

    /// Requests an update of `first` to `image`, and waits for its end if `wait`.
    pub async fn update(
        &self,
        image: &Path,
        drain_first: bool,
        wait: bool,
    ) -> Result<View, ClientError> {
        let request = UpdateRequest {
            manifest: image.join("manifest.json"),
            drain_first,
            ..UpdateRequest::default()
        };
        self.ask(request, wait).await
    }

    /// Requests an update of `first`, and waits for its end if `wait`.
    pub async fn ask(&self, request: UpdateRequest, wait: bool) -> Result<View, ClientError> {
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

    /// Waits until the appliance's view matches.
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

    /// Waits until the update is in this phase.
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

    /// Returns the entries of the journal.
    pub fn told(&self) -> Vec<Entry> {
        self.journal.after(0).0
    }

    pub fn says(&self, text: &str) -> bool {
        self.told().iter().any(|entry| entry.text.contains(text))
    }
}

/// Sends one line over a new connection, and returns the answer.
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
    /// Ensures that nothing that a test started outlives it. Machines and simulators die with their supervisors.
    fn drop(&mut self) {
        // The daemon ends first, so that it does not start the supervisors again.
        self.abort();
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
