//! The daemon with real VMs, as a process `cocoon-host serve`: two VMs at once, a killed QEMU, a killed daemon while
//! both run, both killed together, and a full disk.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cocoon_client::Address;
use cocoon_host_agent::client::Client;
use cocoon_host_agent::daemon::api::{Entry, View};
use cocoon_host_agent::lifecycle::State;
use cocoon_tests::executables::built;
use cocoon_tests::image::{SignedImage, cache};
use cocoon_tests::trial::{self, Model};
use cocoon_tests::{processes, role};
use tokio::time::sleep;

use super::DEADLINE;

/// Interval between polls.
const PAUSE: Duration = Duration::from_millis(50);
/// The NUMA node on which a VM's memory and processors are placed, if the kernel lists it.
const NODE: &str = "/sys/devices/system/node/node0";

/// A running daemon, and the image of its appliances.
struct Kept {
    folder: tempfile::TempDir,
    image: &'static SignedImage,
    host: PathBuf,
    daemon: Child,
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
        let mut text = format!(
            "version = 1\nstatus.listen = \"off\"\n[host]\nstate = {:?}\nsimulator = {simulator:?}\ndevelopment_roots = {:?}\n",
            folder.path().join("state"),
            cache().unwrap().join("development-roots")
        );
        let placed = match Path::new(NODE).exists() {
            true => "placement.numa_nodes = [0]",
            false => "",
        };
        for (name, tee, more) in [("first", "tdx", placed), ("second", "sev-snp", "")] {
            text += &format!(
                "[[appliance]]\nname = {name:?}\nimage = {:?}\nmemory = \"1G\"\nvcpus = 1\ntee = \"simulated-{tee}\"\n\
                 listen = \"127.0.0.1:0\"\nrestart.delay_seconds = 0\n{more}\n",
                image.folder
            );
        }
        std::fs::write(folder.path().join("host.toml"), text).unwrap();
        let host = tokio::task::spawn_blocking(|| built("cocoon-host-agent", "cocoon-host"));
        let host = host.await.unwrap().unwrap();
        let daemon = serve(&host, folder.path());
        Self {
            folder,
            image,
            host,
            daemon,
        }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns the folder of a VM.
    fn vm(&self, name: &str) -> PathBuf {
        self.state().join("vms").join(name)
    }

    /// Kills the daemon and, while it is gone, the processes `with`. Then starts a new daemon.
    fn killed(&mut self, with: &[u32]) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        with.iter().for_each(|pid| kill("KILL", *pid));
        self.daemon = serve(&self.host, self.folder.path());
    }

    fn client(&self) -> Client {
        Client::of(&self.state())
    }

    async fn view(&self, name: &str) -> View {
        let path = format!("/v1/appliances/{name}");
        self.client().get(&path).await.unwrap()
    }

    async fn qemu(&self, name: &str) -> u32 {
        self.view(name).await.report.unwrap().qemu_pid.unwrap()
    }

    /// Returns the journal's entries after number `seq`, or none while no daemon runs.
    async fn events(&self, seq: u64) -> Vec<Entry> {
        let mut found = vec![];
        let path = format!("/v1/events?since={seq}");
        let client = self.client();
        let read = client.lines(&path, |line| {
            found.push(serde_json::from_str(line).unwrap());
            true
        });
        // An error means that no daemon runs yet.
        drop(read.await);
        found
    }

    /// Waits for an entry of the journal after number `seq`. Panics with all entries if one is a failure or none arrives.
    async fn until(&self, seq: u64, name: &str, state: &str) -> Entry {
        let until = Instant::now() + DEADLINE * 2;
        loop {
            let events = self.events(seq).await;
            assert!(
                events.iter().all(|entry| entry.state != "failed"),
                "{events:#?}"
            );
            let such =
                |entry: &&Entry| entry.appliance.as_deref() == Some(name) && entry.state == state;
            if let Some(found) = events.iter().find(such) {
                return found.clone();
            }
            assert!(Instant::now() < until, "{name} is not {state}: {events:#?}");
            sleep(PAUSE).await;
        }
    }

    /// Returns the number of the newest entry.
    async fn now(&self) -> u64 {
        self.events(0).await.last().unwrap().seq
    }

    /// Asserts that the VM serves in its run `run` and in this QEMU, and that a client which trusts only the image and
    /// the development root accepts it.
    async fn serves(&self, name: &str, run: u64, qemu: Option<u32>) {
        let view = self.view(name).await;
        assert_eq!((view.life.state, view.life.run), (State::Serving, run));
        let report = view.report.unwrap();
        assert!(
            qemu.is_none() || qemu == report.qemu_pid,
            "{name} was started again"
        );
        let root = std::fs::read_to_string(report.trust_root.unwrap()).unwrap();
        let address = format!("https://{}", report.endpoint.unwrap());
        let address: Address = address.parse().unwrap();
        let verifier = self.image.verifier(&root).unwrap();
        verifier.connect(&address).await.unwrap();
    }
}

impl Drop for Kept {
    /// Kills everything that the test started. QEMU and the simulator end with their supervisors.
    fn drop(&mut self) {
        // The daemon may have ended already. A killed daemon starts no further processes.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let left = processes::naming(self.folder.path());
            if left.is_empty() || Instant::now() > until {
                return;
            }
            left.into_iter().for_each(|pid| kill("KILL", pid));
            std::thread::yield_now();
        }
    }
}

fn serve(host: &Path, folder: &Path) -> Child {
    let mut command = Command::new(host);
    command
        .args(["serve", "--config"])
        .arg(folder.join("host.toml"));
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

fn kill(signal: &str, pid: u32) {
    // The process may have ended with another that was killed before it.
    let _ = processes::signal(pid, signal);
}

#[tokio::test(flavor = "multi_thread")]
async fn appliances_survive_the_death_of_qemu_and_of_the_daemon() {
    let _turn = trial::turn(2).await;
    let mut kept = Kept::new().await;
    for name in ["first", "second"] {
        kept.until(0, name, "serving").await;
        kept.serves(name, 1, None).await;
    }
    let (first, second) = (kept.qemu("first").await, kept.qemu("second").await);
    assert_ne!(first, second);
    if Path::new(NODE).exists() {
        let log = std::fs::read_to_string(kept.vm("first").join("log.jsonl")).unwrap();
        assert!(
            log.contains("1 virtual CPUs run on the NUMA nodes [0]"),
            "{log}"
        );
    }

    // The daemon is killed: both VMs and their clients continue, and the next daemon takes them over.
    kept.killed(&[]);
    for (name, qemu) in [("first", first), ("second", second)] {
        let note = kept.until(0, name, "note").await;
        assert_eq!(note.text, "found running, and taken over");
        assert!(processes::exists(qemu));
        kept.serves(name, 1, Some(qemu)).await;
    }

    // The daemon and a QEMU are killed together: that appliance is restarted, and the other is left alone.
    kept.killed(&[second]);
    let failed = kept.until(0, "second", "preparing").await;
    let why = "the VM ended by itself while serving";
    assert!(failed.text.contains(why), "{}", failed.text);
    kept.until(0, "second", "serving").await;
    kept.serves("second", 2, None).await;
    assert_eq!(kept.view("second").await.life.failures, 1);
    kept.serves("first", 1, Some(first)).await;
    let second = kept.qemu("second").await;

    // A QEMU is killed while the disk is full for the files that the next run would write but can do without. Each file
    // is first written under its `.partial` name; a log is renamed as soon as it is open.
    let folder = kept.vm("first");
    let (wholes, logs) = (["life.json", "phases.json"], ["serial.log", "log.jsonl"]);
    let partial = |name: &str| folder.join(format!("{name}.partial"));
    for name in wholes.into_iter().chain(logs) {
        // Left by the killed daemons, if it exists.
        let _ = std::fs::remove_file(partial(name));
        symlink("/dev/full", partial(name)).unwrap();
    }
    let seq = kept.now().await;
    kill("KILL", first);
    let failed = kept.until(seq, "first", "preparing").await;
    assert!(failed.text.contains(why), "{}", failed.text);
    kept.until(seq, "first", "serving").await;
    kept.serves("first", 2, None).await;
    kept.serves("second", 2, Some(second)).await;
    let told = format!(
        "its state is not kept: no space left for {:?}: free some, or set COCOON_STATE to a folder on another disk",
        partial("life.json")
    );
    let events = kept.events(seq).await;
    let told = |entry: &Entry| entry.state == "note" && entry.text == told;
    assert!(events.iter().any(told), "{events:#?}");
    for name in logs {
        let path = folder.join(name);
        assert_eq!(std::fs::read_link(&path).unwrap(), Path::new("/dev/full"));
        std::fs::remove_file(path).unwrap();
    }
    for name in wholes {
        std::fs::remove_file(partial(name)).unwrap();
    }

    // Everything shuts down cleanly.
    kill("TERM", kept.daemon.id());
    let until = Instant::now() + DEADLINE;
    let ended = loop {
        if let Some(status) = kept.daemon.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < until, "the daemon does not end");
        sleep(PAUSE).await;
    };
    assert_eq!(ended.code(), Some(0));
    assert_eq!(processes::naming(kept.folder.path()), [0; 0]);
    let kept = std::fs::read_to_string(folder.join("life.json")).unwrap();
    assert!(kept.contains("\"stopped\""), "{kept}");
}
