//! What the daemon costs an operator: the latency of commands, the resources of the daemon while two VMs serve, and the time
//! until a killed VM serves again. QEMU and the guest are stand-ins that boot in negligible time.
//!
//! Run it with `cargo bench -p cocoon-host-agent`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cocoon_host_agent::client::Client;
use cocoon_host_agent::daemon::api::{List, View};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "../tests/common/image.rs"]
mod image;
#[path = "../tests/updates/machine.rs"]
mod machine;

/// How long the resource use of the idle daemon is measured.
const IDLE: Duration = Duration::from_secs(20);
/// Number of times that a VM is killed.
const KILLS: usize = 10;
/// Longest wait for an appliance to serve, generous enough for a slow and busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A daemon in its own process, which ends with the benchmark.
struct Daemon {
    process: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("cocoon-")
            .tempdir()
            .unwrap();
        let (qemu, simulator) = machine::programs(folder.path());
        let state = folder.path().join("state");
        let mut text = format!(
            "version = 1\nstatus.listen = \"127.0.0.1:0\"\n[host]\nstate = {state:?}\ncache = {:?}\nqemu = {qemu:?}\n\
             simulator = {simulator:?}\nmemory_reserve = \"1M\"\n",
            folder.path().join("cache")
        );
        for name in ["first", "second"] {
            let words = format!("tells {name}");
            let image = image::make(folder.path(), name, &words, 1, &image::SIGNER);
            text += &format!(
                "[[appliance]]\nname = {name:?}\nimage = {image:?}\nmemory = \"256M\"\nvcpus = 1\ntee = \"simulated-tdx\"\n\
                 accelerator = \"tcg\"\nlisten = \"127.0.0.1:0\"\nrestart.delay_seconds = 0\nrestart.max_failures = 1000\n"
            );
        }
        let file = folder.path().join("host.toml");
        std::fs::write(&file, text).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
            .args(["serve", "--config"])
            .arg(&file)
            .env("COCOON_STATE", &state)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, folder }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn client(&self) -> Client {
        Client::of(&self.state())
    }

    fn ps(&self) -> Duration {
        let began = Instant::now();
        let output = Command::new(env!("CARGO_BIN_EXE_cocoon-host"))
            .arg("ps")
            .env("COCOON_STATE", self.state())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        began.elapsed()
    }

    async fn view(&self, name: &str) -> Option<View> {
        self.client()
            .get(&format!("/v1/appliances/{name}"))
            .await
            .ok()
    }

    async fn serving(&self, name: &str, run: u64) -> View {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(view) = self.view(name).await
                && view.life.run >= run
                && view.life.state.name() == "serving"
            {
                return view;
            }
            assert!(Instant::now() < until, "{name} does not serve");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.process.wait();
    }
}

/// Resource use of a process.
struct Costs {
    /// Resident memory (RSS) in KiB.
    resident: u64,
    /// Proportional share of the resident memory (PSS) in KiB. The shares of several processes can be added up.
    share: u64,
    /// Processor time used so far, in ticks.
    ticks: u64,
}

fn costs(pid: u32) -> Costs {
    let read = |name: &str| {
        std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name)).unwrap()
    };
    let memory = read("smaps_rollup");
    let kibibytes = |name: &str| -> u64 {
        let line = memory.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap().trim().strip_suffix(" kB").unwrap();
        line.trim().parse().unwrap()
    };
    let stat = read("stat");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks = |index: usize| fields[index].parse::<u64>().unwrap();
    Costs {
        resident: kibibytes("Rss:"),
        share: kibibytes("Pss:"),
        ticks: ticks(11) + ticks(12),
    }
}

fn row(what: &str, mut times: Vec<Duration>, goal: &str) {
    times.sort();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    println!(
        "| {what} | {:.1} ms | {:.1} ms | {:.1} ms | {goal} |",
        at(50),
        at(90),
        at(100)
    );
}

fn main() {
    // Plays QEMU and exits if the stand-in's script started this process.
    machine::play();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let daemon = Daemon::start();
    for name in ["first", "second"] {
        daemon.serving(name, 1).await;
    }
    println!("| | median | 90 % | most | goal |\n|---|---|---|---|---|");
    let mut answers = vec![];
    for _ in 0..500 {
        let began = Instant::now();
        let list: List = daemon.client().get("/v1/appliances").await.unwrap();
        assert_eq!(list.appliances.len(), 2);
        answers.push(began.elapsed());
    }
    row("`GET /v1/appliances`", answers, "");
    row(
        "`cocoon-host ps`, with its process",
        (0..100).map(|_| daemon.ps()).collect(),
        "50 ms",
    );

    let mut again = vec![];
    for _ in 0..KILLS {
        let view = daemon.view("first").await.unwrap();
        let qemu = view.report.unwrap().qemu_pid.unwrap();
        let began = Instant::now();
        kill(Pid::from_raw(i32::try_from(qemu).unwrap()), Signal::SIGKILL).unwrap();
        daemon.serving("first", view.life.run + 1).await;
        again.push(began.elapsed());
    }
    row("from `kill -9` of QEMU to serving again", again, "1 s");

    // The daemon and the supervisors of its two VMs. QEMU is not counted.
    let mut processes = vec![("daemon", daemon.process.id())];
    for name in ["first", "second"] {
        let view = daemon.view(name).await.unwrap();
        processes.push(("supervisor", view.report.unwrap().pid));
    }
    let before: Vec<u64> = processes.iter().map(|(_, pid)| costs(*pid).ticks).collect();
    tokio::time::sleep(IDLE).await;
    // A tick is a hundredth of a second on all current Linux systems, so ticks per second are per cent of a core.
    let percent = |ticks: u64| ticks as f64 / IDLE.as_secs_f64();
    let megabytes = |kibibytes: u64| kibibytes as f64 * 1024.0 / 1e6;
    println!(
        "\n| two VMs serve, the status page is on, guests tell their counters every 10 s | resident | of it its own share (PSS) | of a core |\n|---|---|---|---|"
    );
    let line = |what: &str, resident: u64, share: u64, ticks: u64| {
        println!(
            "| {what} | {:.1} MB | {:.1} MB | {:.2} % |",
            megabytes(resident),
            megabytes(share),
            percent(ticks)
        );
    };
    let (mut share, mut ticks) = (0, 0);
    for ((what, pid), before) in processes.into_iter().zip(before) {
        let costs = costs(pid);
        line(what, costs.resident, costs.share, costs.ticks - before);
        share += costs.share;
        ticks += costs.ticks - before;
    }
    println!(
        "| all three together (goal: 20 MB, 0.5 %) | | {:.1} MB | {:.2} % |",
        megabytes(share),
        percent(ticks)
    );
}
