//! The command line of `cocoon-host`. Parsing it opens no file; each command reports its steps as it takes them.

mod collateral;
mod config;
mod daemon;
mod doctor;
mod gpu;
mod tables;
mod top;
mod update;
mod vms;
mod voice;

use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::RangedU64ValueParser;
use clap::{CommandFactory, Parser, Subcommand};
use cocoon_host_agent::config::values::mebibytes;
use cocoon_host_agent::{Host, RunningVm, UpOptions, state};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::config::{MAX_CONFIG_LEN, OperatorConfig};
use cocoon_qemu::PciAddress;
use cocoon_qemu::accel::Wanted;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use voice::Voice;

/// Run appliance VMs on this machine
#[derive(Debug, Parser)]
#[command(
    name = "cocoon-host",
    version,
    after_long_help = "Exit status:
  0    Done
  1    Refused, or a check failed; the reasons are printed
  2    Wrong usage or a system error
  129  SIGHUP ended `serve`, and its appliances keep running"
)]
pub(crate) struct Arguments {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot an image and serve it until Ctrl-C
    Up(Box<Up>),
    /// Stop a VM after its running requests have finished
    ///
    /// A second `down` on a VM that `up` started does not wait for them.
    Down {
        /// Name of the VM
        name: String,
    },
    /// List VMs
    Ps,
    /// Watch the state, evidence, tokens per second and memory of the daemon's appliances
    Top(top::Top),
    /// Print the console output of a VM
    ///
    /// With --json, prints the console's lines and the host agent's messages as JSON lines of time, source and text.
    Logs {
        /// Name of the VM
        name: String,
        /// Keep printing new lines, including the host agent's messages, until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    Serve(daemon::Serve),
    /// Start an appliance of the daemon and wait until it serves
    ///
    /// The command stops waiting, and exits with 1, when the appliance is given up or its start was refused five times in a
    /// row. After refusals the daemon keeps trying.
    Start {
        /// Name of the appliance
        name: String,
    },
    /// Restart an appliance of the daemon after its running requests have finished
    ///
    /// The appliance starts as the daemon's file describes it. The command waits as `start` does.
    Restart {
        /// Name of the appliance
        name: String,
    },
    Update(update::Update),
    Rollback(update::Rollback),
    /// Show the details of an appliance of the daemon
    Show {
        /// Name of the appliance
        name: String,
    },
    /// Print recent events of the daemon's appliances
    Events {
        /// Keep printing new events until Ctrl-C
        #[arg(long, short)]
        follow: bool,
    },
    /// Supervise one VM of the daemon, which starts this process
    #[command(hide = true)]
    Supervise {
        /// Folder of the daemon's state
        root: PathBuf,
        /// Name of the VM
        name: String,
        /// Number of the run
        run: u64,
    },
    /// Print the identity (SHA-256) of the manifest that a VM publishes
    Measurements {
        /// Name of the VM
        name: String,
    },
    Tables(tables::Tables),
    Doctor(Box<doctor::Doctor>),
    /// List GPUs, prepare one for a VM, or return it to the host
    #[command(subcommand)]
    Gpu(gpu::Gpu),
    /// Fetch, list, export or import the vendors' endorsements of this machine's evidence
    ///
    /// `export` and `import` carry them to a machine without a network.
    Collateral(collateral::Collateral),
    /// Check the daemon's configuration file, or print an example
    #[command(subcommand)]
    Config(config::Config),
    /// Print the manual page
    Man,
    /// Print a completion script for a shell
    Completions {
        /// Shell to print the script for
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
struct Up {
    /// Folder of the image
    #[arg(long)]
    image: PathBuf,
    /// Name of the VM
    #[arg(long, default_value = "default")]
    name: String,
    /// Address and port of the public listener; port 0 lets the system choose one
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Maximum connections from one IPv4 address or IPv6 /64 network, 1 to 65536 [default: by memory]
    ///
    /// A connection above the limit is closed at once. Loopback has no limit. The default is half of the connections that the
    /// guest keeps for clients that have not attested: 16 to 1024, depending on the memory that the model leaves.
    #[arg(long, value_name = "N", value_parser = per_address())]
    connections_per_address: Option<usize>,
    /// TEE to start the VM in: tdx or snp
    ///
    /// The start is refused, with the reason, if the machine lacks something. No TEE host has run it yet.
    #[arg(long, value_parser = real_tee, conflicts_with = "simulate")]
    tee: Option<Tee>,
    /// QEMU's CPU model for SEV-SNP guests; part of their measurement
    #[arg(long, default_value = cocoon_host_agent::up::CPU_MODEL)]
    cpu: String,
    /// PCI address of a GPU to give to the VM
    ///
    /// Prepare the GPU with `cocoon-host gpu prepare`, once after each start of the machine.
    #[arg(long)]
    gpu: Option<PciAddress>,
    /// TEE to simulate where there is none: tdx or sev-snp; clients see it as simulated
    #[arg(long, value_parser = tee)]
    simulate: Option<Tee>,
    /// Number of virtual CPUs [default: 1, 2 or 4, by the machine's processors]
    ///
    /// SNP measurements are published for 1, 2, 4, 8, 16, 32, 48, 64 and 96.
    #[arg(long)]
    vcpus: Option<u16>,
    /// Guest memory, such as 1G or 1536M
    ///
    /// TDX measurements are published for 768M, 1G, 2G, 4G and 8G.
    #[arg(long, default_value = "1G", value_parser = mebibytes)]
    memory: u32,
    /// TOML file with the operator's configuration
    #[arg(long)]
    config: Option<PathBuf>,
    /// Accelerator: auto (KVM where it works), kvm or tcg
    #[arg(long, env = "COCOON_ACCEL", default_value = "auto")]
    accel: Wanted,
    /// QEMU executable to use
    #[arg(long, env = "COCOON_QEMU")]
    qemu: Option<PathBuf>,
    /// Simulator executable to use [default: cocoon-simulator beside this program]
    #[arg(long)]
    simulator: Option<PathBuf>,
    /// Manifest to publish instead of the image's
    #[arg(long)]
    manifest: Option<PathBuf>,
}

/// Worker threads of the daemon. It mostly waits, and one thread may be blocked by a disk write.
const DAEMON_THREADS: usize = 2;

/// How long blocking threads get to release what a command has dropped: QEMU is killed and its folder cleaned up.
const LEAVING: Duration = Duration::from_secs(3);

/// Runs a command. Exit code 1 is a refusal with reasons; 2 is wrong usage or a system error.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (mut runtime, leaving) = match arguments.command {
        // These commands ask one question or wait for one VM, and there may be many supervisors: one thread is enough. Their
        // tasks are dropped on this thread, so there is nothing to wait for at the end.
        Command::Ps | Command::Show { .. } | Command::Events { .. } | Command::Supervise { .. } => {
            let builder = tokio::runtime::Builder::new_current_thread();
            (builder, Duration::ZERO)
        }
        _ => (tokio::runtime::Builder::new_multi_thread(), LEAVING),
    };
    if let Command::Serve(_) = arguments.command {
        // One thread for each processor of a large server would take more memory than the daemon's own data.
        runtime.worker_threads(DAEMON_THREADS);
    }
    let runtime = runtime.enable_all().build().context("cannot start")?;
    finish(runtime, leaving, |runtime| command(runtime, arguments))
}

/// Runs `work`, then abandons threads that are still blocked. A request to a vendor or a download may take minutes, and a
/// supervisor whose VM has ended must not delay the next one.
fn finish<T>(runtime: Runtime, leaving: Duration, work: impl FnOnce(&Runtime) -> T) -> T {
    let done = work(&runtime);
    runtime.shutdown_timeout(leaving);
    done
}

fn command(runtime: &Runtime, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    match arguments.command {
        Command::Up(up) => runtime.block_on(self::up(*up, json))?,
        Command::Down { name } => runtime.block_on(vms::down(&name, json))?,
        Command::Ps => runtime.block_on(vms::ps(json))?,
        Command::Top(wanted) => runtime.block_on(top::run(wanted, json))?,
        Command::Logs { name, follow } => runtime.block_on(vms::logs(&name, follow, json))?,
        Command::Serve(wanted) => return runtime.block_on(daemon::serve(wanted, json)),
        Command::Start { name } => return runtime.block_on(daemon::act(&name, "start", json)),
        Command::Restart { name } => return runtime.block_on(daemon::act(&name, "restart", json)),
        Command::Update(wanted) => return runtime.block_on(update::update(wanted, json)),
        Command::Rollback(wanted) => return runtime.block_on(update::rollback(wanted, json)),
        Command::Show { name } => runtime.block_on(daemon::show(&name, json))?,
        Command::Events { follow } => runtime.block_on(daemon::events(follow, json))?,
        Command::Supervise { root, name, run } => {
            runtime.block_on(daemon::supervise(&root, &name, run))?;
        }
        Command::Measurements { name } => runtime.block_on(vms::measurements(&name, json))?,
        Command::Tables(wanted) => runtime.block_on(tables::run(wanted, json))?,
        Command::Doctor(wanted) => return runtime.block_on(doctor::run(*wanted, json)),
        Command::Gpu(wanted) => return gpu::run(&wanted, json),
        Command::Collateral(wanted) => return collateral::run(&wanted, json),
        Command::Config(wanted) => return config::run(&wanted, json),
        Command::Man => {
            clap_mangen::Man::new(Arguments::command()).render(&mut std::io::stdout())?
        }
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "cocoon-host",
                &mut std::io::stdout(),
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn up(up: Up, json: bool) -> anyhow::Result<()> {
    let mut options = UpOptions::new(up.image, state::root()?);
    options.name = up.name;
    options.listen = up.listen;
    options.limits.per_address = up.connections_per_address;
    options.tee = up.tee;
    options.cpu_model = up.cpu;
    options.gpu = up.gpu;
    options.simulate = up.simulate;
    options.vcpus = up.vcpus.unwrap_or(options.vcpus);
    options.memory_mib = up.memory;
    options.accel = up.accel;
    options.qemu = up.qemu;
    options.simulator = up.simulator;
    options.manifest = up.manifest;
    let voice = Voice::new(json);
    options.reporter = voice.reporter();
    if let Some(path) = up.config {
        options.config = operator(&path)?;
    }
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let listener = voice.listener();
    let booted = tokio::select! {
        vm = Host::up(options, move |progress| listener(progress)) => vm,
        // Dropping the future stops everything that it has started.
        _ = interrupt.recv() => anyhow::bail!("interrupted before the VM served"),
        _ = terminate.recv() => anyhow::bail!("terminated before the VM served"),
    };
    let mut vm: RunningVm = booted?;
    if let Some(path) = &vm.trust_root {
        voice.note(&format!(
            "development root for clients: --trust-root {}",
            path.display()
        ));
    }
    tokio::select! {
        ended = vm.wait() => return Ok(ended?),
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    let _waiting = voice.waiting(
        "finishing running requests; again to stop at once",
        "a long answer takes its time",
    );
    tokio::select! {
        ended = vm.shutdown() => Ok(ended?),
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    }
}

fn operator(path: &std::path::Path) -> anyhow::Result<OperatorConfig> {
    let what = || {
        format!(
            "cannot read the operator's configuration {}",
            path.display()
        )
    };
    let mut text = String::new();
    let limit = u64::try_from(MAX_CONFIG_LEN)? + 1;
    std::fs::File::open(path)
        .with_context(what)?
        .take(limit)
        .read_to_string(&mut text)
        .with_context(what)?;
    toml::from_str(&text).with_context(what)
}

/// The same range as in the daemon's file.
fn per_address() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=65_536)
}

fn real_tee(text: &str) -> Result<Tee, String> {
    match text {
        "tdx" => Ok(Tee::Tdx),
        "snp" | "sev-snp" => Ok(Tee::SevSnp),
        other => Err(format!("{other:?} is no TEE: use tdx or snp")),
    }
}

fn tee(text: &str) -> Result<Tee, String> {
    match text {
        "tdx" => Ok(Tee::Tdx),
        "sev-snp" => Ok(Tee::SevSnp),
        other => Err(format!("{other:?} cannot be simulated: use tdx or sev-snp")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocked thread would never end by itself: its sender is dropped only after the check.
    #[test]
    fn what_blocks_a_thread_does_not_keep_a_command_from_ending() {
        let (never, wait) = std::sync::mpsc::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let done = finish(runtime, Duration::ZERO, |runtime| {
                runtime.spawn_blocking(move || wait.recv());
                runtime.block_on(async { 7 })
            });
            ended.send(done).unwrap();
        });
        assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(7));
        drop(never);
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
