//! A soak test: many streams for a long time, with clients that read slowly and clients that leave, and
//! the agent's memory over time.
//!
//! The agent runs in a process of its own, so that only its own memory is measured. Its engine is a stand-in without a
//! model unless the real one is requested.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use cocoon_client::{Address, Verifier};
use cocoon_measurements::policy::Policy;
use cocoon_tests::processes::children;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::appliance::{Appliance, Setup};
use crate::double::{self, Double};
use crate::machine::{policy, trusted};
use crate::soak_streams::{Account, Stream};
use crate::subject::{self, Subject};
use crate::table::Table;

/// Interval between two samples of the memory.
const LOOK: Duration = Duration::from_secs(1);
/// Maximum growth factor of the engine's lowest memory use, which is what it never gives back.
const GROWTH: f64 = 1.1;
/// Time limit for the agent's start, and for the end of all streams when time is up.
const DEADLINE: Duration = Duration::from_secs(180);

#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    subject: subject::Options,
    /// Use the real engine instead of a stand-in
    ///
    /// It gives as many concurrent answers as an appliance by default; other requests are told to come back.
    #[arg(long)]
    real: bool,
    /// Number of clients, each of which has one answer at a time
    #[arg(long, default_value_t = 64)]
    streams: u32,
    /// Duration in seconds
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Maximum growth of the agent's memory after the first third, in KiB per minute
    ///
    /// In the ten minutes of the default, it is less than a hundred bytes for each answer.
    #[arg(long, default_value_t = 64.0)]
    flat: f64,
}

#[derive(Args)]
pub struct Serve {
    /// Executable of the real engine [default: a stand-in]
    #[arg(long)]
    engine: Option<PathBuf>,
    /// Folder with the model
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Name of the model
    #[arg(long, default_value = double::MODEL)]
    model: String,
    /// Number of concurrent answers
    #[arg(long)]
    slots: u16,
}

/// First line that the agent's process prints.
#[derive(Serialize, Deserialize)]
struct Hello {
    address: String,
    today: u64,
    roots: Vec<Vec<u8>>,
}

/// Runs the agent until standard input is closed.
pub async fn serve(options: Serve) -> anyhow::Result<()> {
    let (slots, model) = (options.slots, options.model);
    let appliance = match options.engine {
        Some(engine) => {
            let folder = options.folder;
            Appliance::start(Setup {
                engine,
                folder,
                model,
                slots,
            })
            .await?
        }
        None => Appliance::with(Double::default(), &model, slots).await?,
    };
    let hello = Hello {
        address: appliance.address.to_string(),
        today: crate::appliance::today(),
        roots: policy().development_roots,
    };
    println!("{}", serde_json::to_string(&hello)?);
    // Meanwhile the runtime serves.
    let ended = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
    tokio::task::spawn_blocking(ended).await??;
    Ok(())
}

/// The agent's process, and what a client needs to connect to it.
struct Agent {
    process: Child,
    verifier: Verifier,
    address: Address,
}

pub async fn measure(options: &Options) -> anyhow::Result<Table> {
    let mut agent = start(options).await?;
    let pid = agent.process.id().context("the agent ended")?;
    let model = match options.real {
        true => Subject::find(&options.subject).await?.setup(1).model,
        false => double::MODEL.to_owned(),
    };
    let until = Instant::now() + Duration::from_secs(options.seconds);
    let account = Arc::<Account>::default();
    let mut streams = JoinSet::new();
    for number in 0..options.streams {
        let stream = Stream {
            verifier: agent.verifier.clone(),
            address: agent.address.clone(),
            model: model.clone(),
            account: Arc::clone(&account),
            until,
        };
        streams.spawn(stream.run(u64::from(number)));
    }
    let began = Instant::now();
    let mut looks: Vec<(f64, Memory)> = Vec::new();
    while Instant::now() < until {
        sleep(LOOK).await;
        looks.push((began.elapsed().as_secs_f64(), Memory::of(pid)?));
    }
    let all = async { while streams.join_next().await.is_some() {} };
    let stuck = tokio::time::timeout(DEADLINE, all).await.is_err();
    // A complete answer must still be possible once all streams have ended and released what they held.
    let last = Stream {
        verifier: agent.verifier.clone(),
        address: agent.address.clone(),
        model,
        account: Arc::default(),
        until: Instant::now() + DEADLINE,
    };
    let served = last.once(16).await;
    agent.process.start_kill()?;
    agent.process.wait().await?;

    let mut table = Table::new(
        format!(
            "{} streams for {} s, engine: {}",
            options.streams,
            options.seconds,
            engine(options)
        ),
        &["value"],
    );
    for (name, count) in account.counts() {
        table.row(name, &[count]);
    }
    for why in account.reasons() {
        table.note(why);
    }
    let without_end = if stuck { streams.len() as f64 } else { 0.0 };
    table.goal("streams without an end", without_end, 0.0);
    // The first third fills pools and caches.
    let (middle, last) = (looks.len() / 3, looks.len() * 2 / 3);
    let agent: Vec<(f64, f64)> = looks[middle..]
        .iter()
        .map(|(at, memory)| (*at, memory.agent))
        .collect();
    let most = agent.iter().map(|(_, size)| *size).fold(0.0, f64::max);
    table.row("agent: most memory after a third, MiB", &[most]);
    table.goal(
        "agent: slope after a third, KiB/min",
        slope(&agent) * 60.0 * 1024.0,
        options.flat,
    );
    if options.real {
        // The engine's memory varies with the load. What must not grow is the minimum, which is never given back.
        let sizes: Vec<f64> = looks.iter().map(|(_, memory)| memory.engine).collect();
        let least = |sizes: &[f64]| sizes.iter().copied().fold(f64::INFINITY, f64::min);
        let (before, after) = (least(&sizes[middle..last]), least(&sizes[last..]));
        anyhow::ensure!(before > 0.0, "the engine's memory was not seen");
        let most = sizes[middle..].iter().copied().fold(0.0, f64::max);
        table.row("engine: most memory after a third, MiB", &[most]);
        table.row("engine: least memory in the second third, MiB", &[before]);
        table.goal(
            "engine: least memory in the last third by that of the second",
            after / before,
            GROWTH,
        );
    }
    served.context("after the soak no answer comes")?;
    Ok(table)
}

fn engine(options: &Options) -> &'static str {
    match options.real {
        true => "mistral.rs",
        false => "a stand-in",
    }
}

async fn start(options: &Options) -> anyhow::Result<Agent> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("serve");
    if options.real {
        let setup = Subject::find(&options.subject).await?.setup(16);
        command
            .arg("--engine")
            .arg(&setup.engine)
            .arg("--folder")
            .arg(&setup.folder);
        command.args(["--model", &setup.model, "--slots", "16"]);
    } else {
        command.args(["--slots", &options.streams.to_string()]);
    }
    let mut process = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = process.stdout.take().context("no output")?;
    let mut line = String::new();
    let mut lines = BufReader::new(output);
    let reading = tokio::time::timeout(DEADLINE, lines.read_line(&mut line));
    reading.await.context("the agent does not start")??;
    let hello: Hello = serde_json::from_str(&line).context("the agent does not start")?;
    let policy = Policy {
        development_roots: hello.roots,
        ..Policy::default()
    };
    Ok(Agent {
        process,
        verifier: Verifier::new(trusted(hello.today), policy),
        address: hello.address.parse()?,
    })
}

/// Resident memory in MiB.
struct Memory {
    agent: f64,
    /// Memory of the agent's child processes.
    engine: f64,
}

impl Memory {
    fn of(pid: u32) -> anyhow::Result<Self> {
        // A child that ends meanwhile counts as zero.
        let engine = children(pid)?
            .into_iter()
            .filter_map(|pid| resident(pid).ok());
        Ok(Self {
            agent: resident(pid).context("the agent ended")?,
            engine: engine.sum(),
        })
    }
}

fn resident(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<f64>()? / 1024.0)
}

/// Returns the slope of the least-squares line through the points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = f64::from(u32::try_from(points.len()).unwrap_or(u32::MAX)).max(1.0);
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let both: f64 = points
        .iter()
        .map(|point| (point.0 - x) * (point.1 - y))
        .sum();
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if spread > 0.0 { both / spread } else { 0.0 }
}
