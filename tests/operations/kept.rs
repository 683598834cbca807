//! The daemon with real VMs: two at once, one whose QEMU is killed, and a daemon that is killed under both.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cocoon_client::Address;
use cocoon_host_agent::client::Client;
use cocoon_host_agent::config::{HostConfig, Machine};
use cocoon_host_agent::daemon::api::{List, View};
use cocoon_host_agent::daemon::journal::{Entry, Journal};
use cocoon_host_agent::daemon::{Daemon, End};
use cocoon_host_agent::lifecycle::State;
use cocoon_tests::image::{SignedImage, cache};
use cocoon_tests::trial::{self, Model};
use cocoon_tests::{processes, role};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::DEADLINE;

/// A daemon, and what its appliances run.
struct Kept {
    folder: tempfile::TempDir,
    image: &'static SignedImage,
    supervisor: PathBuf,
    journal: Arc<Journal>,
    running: Running,
}

impl Kept {
    async fn new() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("cocoon-")
            .tempdir()
            .unwrap();
        let image = trial::image(Model::Alphabet).await.unwrap();
        let executable = Path::new(env!("CARGO_BIN_EXE_demo"));
        let simulator = role::simulator_link(executable, folder.path()).unwrap();
        let supervisor = role::supervisor_link(executable, folder.path()).unwrap();
        let mut text = format!(
            "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\nsimulator = {simulator:?}\ndevelopment_roots = {:?}\n",
            folder.path().join("state"),
            cache().unwrap().join("development-roots")
        );
        for (name, tee) in [("first", "tdx"), ("second", "sev-snp")] {
            text += &format!(
                "[[appliance]]\nname = {name:?}\nimage = {:?}\nmemory = \"1G\"\nvcpus = 1\ntee = \"simulated-{tee}\"\n\
                 listen = \"127.0.0.1:0\"\nrestart.delay_seconds = 0\n",
                image.folder
            );
        }
        std::fs::write(folder.path().join("host.toml"), text).unwrap();
        let (journal, running) = begin(folder.path(), &supervisor);
        Self {
            folder,
            image,
            supervisor,
            journal,
            running,
        }
    }

    /// As `kill -9` of the daemon, and a new one.
    async fn killed(&mut self) {
        self.running.0.abort();
        assert!((&mut self.running.0).await.unwrap_err().is_cancelled());
        (self.journal, self.running) = begin(self.folder.path(), &self.supervisor);
    }

    fn client(&self) -> Client {
        Client::of(&self.folder.path().join("state"))
    }

    async fn view(&self, name: &str) -> View {
        let path = format!("/v1/appliances/{name}");
        self.client().get(&path).await.unwrap()
    }

    /// Waits for an entry of the journal after number `seq`; what came instead is worth reading.
    async fn until(&self, seq: u64, name: &str, state: &str) -> Entry {
        let (mut kept, mut coming) = self.journal.after(seq);
        let found = async {
            loop {
                for entry in kept.drain(..) {
                    assert_ne!(entry.state, "failed", "{entry:?}");
                    if entry.appliance.as_deref() == Some(name) && entry.state == state {
                        return entry;
                    }
                }
                kept.push(coming.recv().await.unwrap());
            }
        };
        let found = timeout(DEADLINE * 2, found).await;
        found.unwrap_or_else(|_| panic!("{name} is not {state}: {:#?}", self.journal.after(0).0))
    }

    /// A client that trusts nothing but the image and the development root accepts it.
    async fn is_verified(&self, name: &str) {
        let report = self.view(name).await.report.unwrap();
        let root = std::fs::read_to_string(report.trust_root.unwrap()).unwrap();
        let address = format!("https://{}", report.endpoint.unwrap());
        let address: Address = address.parse().unwrap();
        let verifier = self.image.verifier(&root).unwrap();
        verifier.connect(&address).await.unwrap();
    }
}

impl Drop for Kept {
    /// Nothing that the test started outlives it: QEMU and the simulator die with their supervisors.
    fn drop(&mut self) {
        self.running.0.abort();
        let until = Instant::now() + Duration::from_secs(30);
        // An aborted daemon ends at its next step, and may start one more until then.
        loop {
            let left = processes::naming(self.folder.path());
            if (left.is_empty() && self.running.0.is_finished()) || Instant::now() > until {
                return;
            }
            left.into_iter().for_each(kill);
            std::thread::yield_now();
        }
    }
}

/// A daemon's task, and how it is told to end.
type Running = (JoinHandle<()>, watch::Sender<Option<End>>);

fn begin(folder: &Path, supervisor: &Path) -> (Arc<Journal>, Running) {
    let file = folder.join("host.toml");
    let config = HostConfig::load(&file, &Machine::this()).unwrap();
    let daemon = Daemon::take(config, &file).unwrap();
    let daemon = daemon.with_program(supervisor.to_owned());
    let (end, ended) = watch::channel(None);
    let journal = daemon.journal();
    (journal, (tokio::spawn(daemon.run(ended)), end))
}

fn kill(pid: u32) {
    let kill = format!("kill -KILL {pid}");
    // It may be gone already, with another that was killed before it.
    let _ = Command::new("sh").args(["-c", &kill]).status();
}

#[tokio::test(flavor = "multi_thread")]
async fn appliances_survive_the_death_of_qemu_and_of_the_daemon() {
    let _turn = trial::turn(2).await;
    let mut kept = Kept::new().await;
    for name in ["first", "second"] {
        kept.until(0, name, "serving").await;
        kept.is_verified(name).await;
    }
    let list: List = kept.client().get("/v1/appliances").await.unwrap();
    let qemus: Vec<u32> = list
        .appliances
        .iter()
        .map(|view| view.report.as_ref().unwrap().qemu_pid.unwrap())
        .collect();
    assert_ne!(qemus[0], qemus[1]);

    // The daemon dies: both go on, their clients too, and the next one knows them.
    kept.killed().await;
    for (name, qemu) in ["first", "second"].into_iter().zip(&qemus) {
        kept.until(0, name, "note").await;
        let view = kept.view(name).await;
        assert_eq!((view.life.state, view.life.run), (State::Serving, 1));
        assert!(processes::exists(*qemu));
        kept.is_verified(name).await;
    }

    // QEMU dies: that appliance is started again, and the other one is left alone.
    let seq = kept.journal.after(0).0.last().unwrap().seq;
    kill(qemus[0]);
    let failed = kept.until(seq, "first", "preparing").await;
    assert!(
        failed.text.contains("the VM ended by itself while serving"),
        "{}",
        failed.text
    );
    kept.until(seq, "first", "serving").await;
    let (first, second) = (kept.view("first").await, kept.view("second").await);
    assert_eq!((first.life.run, first.life.failures), (2, 1));
    assert_eq!((second.life.state, second.life.run), (State::Serving, 1));
    assert_eq!(second.report.unwrap().qemu_pid, Some(qemus[1]));
    kept.is_verified("first").await;

    // And everything ends in good order.
    kept.running.1.send(Some(End::Halt)).unwrap();
    let ended = timeout(DEADLINE, &mut kept.running.0).await;
    ended.unwrap().unwrap();
    assert!(processes::naming(kept.folder.path()).is_empty());
}
