//! The commands. Parsing opens nothing; each command says what it does as it does it.

mod tables;
mod voice;

use std::io::{IsTerminal, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory, Parser, Subcommand};
use cocoon_host_agent::{Host, RunningVm, UpOptions, local, log, state};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::config::{MAX_CONFIG_LEN, OperatorConfig};
use cocoon_protocol::manifest::manifest_id;
use cocoon_qemu::accel::Wanted;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use voice::Voice;

/// Runs appliance VMs on this machine.
#[derive(Debug, Parser)]
#[command(name = "cocoon-host", version)]
pub(crate) struct Arguments {
    /// JSON in place of text for people.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot an image and serve it until Ctrl-C.
    Up(Box<Up>),
    /// Stop a VM: running requests finish first.
    Down {
        /// Its name.
        name: String,
    },
    /// List VMs.
    Ps,
    /// Print a VM's console; with --json its lines and the host agent's news as JSON lines of time, source and text.
    Logs {
        /// Its name.
        name: String,
    },
    /// Print the identity of the manifest that a VM publishes.
    Measurements {
        /// Its name.
        name: String,
    },
    /// Compute the ACPI and SMBIOS tables of an image's machine as a trust domain, for those who sign its manifest.
    ///
    /// Needs neither TDX nor KVM. The tables count for the release of QEMU that computed them, and for no other.
    Tables(tables::Tables),
    /// Print completions for a shell.
    Completions {
        /// Which.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
struct Up {
    /// Folder of the image.
    #[arg(long)]
    image: PathBuf,
    /// Name of the VM.
    #[arg(long, default_value = "default")]
    name: String,
    /// Public address.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Imitate this TEE where there is none; clients see it as simulated.
    #[arg(long, value_parser = tee)]
    simulate: Option<Tee>,
    /// Virtual CPUs.
    #[arg(long)]
    vcpus: Option<u16>,
    /// Guest memory, such as 1G or 1536M.
    #[arg(long, default_value = "1G", value_parser = memory)]
    memory: u32,
    /// The operator's configuration, TOML.
    #[arg(long)]
    config: Option<PathBuf>,
    /// auto, kvm or tcg.
    #[arg(long, env = "COCOON_ACCEL", default_value = "auto")]
    accel: Wanted,
    /// QEMU to use.
    #[arg(long, env = "COCOON_QEMU")]
    qemu: Option<PathBuf>,
    /// Simulator to use.
    #[arg(long)]
    simulator: Option<PathBuf>,
    /// Manifest to publish in place of the image's.
    #[arg(long)]
    manifest: Option<PathBuf>,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let json = arguments.json;
    let runtime = tokio::runtime::Runtime::new().context("cannot start")?;
    match arguments.command {
        Command::Up(up) => runtime.block_on(self::up(*up, json)),
        Command::Down { name } => runtime.block_on(down(&name, json)),
        Command::Ps => runtime.block_on(ps(json)),
        Command::Logs { name } => logs(&name, json),
        Command::Measurements { name } => measurements(&name, json),
        Command::Tables(wanted) => runtime.block_on(tables::run(wanted, json)),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "cocoon-host",
                &mut std::io::stdout(),
            );
            Ok(())
        }
    }
}

async fn up(up: Up, json: bool) -> anyhow::Result<()> {
    let mut options = UpOptions::new(up.image, state::root()?);
    options.name = up.name;
    options.listen = up.listen;
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
        options.config = config(&path)?;
    }
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let listener = voice.listener();
    let booted = tokio::select! {
        vm = Host::up(options, move |progress| listener(progress)) => vm,
        // Dropping the future ends all that it started.
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

async fn down(name: &str, json: bool) -> anyhow::Result<()> {
    let socket = state::folder(&state::root()?, name)?.join("ctl");
    let voice = Voice::new(json);
    let waiting = voice.waiting(
        &format!("stopping {name}"),
        "it finishes running requests first",
    );
    let stopped = local::down(&socket, Duration::from_secs(60)).await;
    drop(waiting);
    stopped.with_context(|| format!("cannot stop {name:?}: see `cocoon-host ps` for what runs"))?;
    voice.note(&format!("{name} has stopped"));
    Ok(())
}

async fn ps(json: bool) -> anyhow::Result<()> {
    let root = state::root()?;
    let voice = Voice::new(json);
    let mut all = Vec::new();
    for name in state::names(&root)? {
        let socket = state::folder(&root, &name)?.join("ctl");
        let mut asked = pin!(local::status(&socket));
        // Answers come at once; only one that does not is worth a line.
        let status = match timeout(Duration::from_millis(500), &mut asked).await {
            Ok(status) => status,
            Err(_) if json => asked.await,
            Err(_) => {
                let what = format!("asking {name}");
                let _waiting = voice.waiting(&what, "its process is slow to answer");
                asked.await
            }
        };
        all.push((name, status.ok()));
    }
    let mut out = std::io::stdout().lock();
    if json {
        let list: Vec<_> = all
            .iter()
            .map(|(name, status)| json!({ "name": name, "status": status }))
            .collect();
        writeln!(out, "{}", json!(list))?;
        return Ok(());
    }
    writeln!(
        out,
        "{:<20} {:<24} {:<22} {:<10} {:>8}",
        "NAME", "STATUS", "ENDPOINT", "SIMULATED", "QEMU"
    )?;
    for (name, status) in all {
        let Some(status) = status else {
            writeln!(out, "{name:<20} stopped")?;
            continue;
        };
        let pid = status
            .qemu_pid
            .map(|pid| pid.to_string())
            .unwrap_or_default();
        let simulated = status.simulated.unwrap_or_else(|| "no".into());
        writeln!(
            out,
            "{name:<20} {:<24} {:<22} {simulated:<10} {pid:>8}",
            status.doing, status.endpoint
        )?;
    }
    Ok(())
}

fn logs(name: &str, json: bool) -> anyhow::Result<()> {
    // The file for programs is JSON lines already, and made harmless when it was written.
    let file = if json { log::FILE } else { "serial.log" };
    let path = state::folder(&state::root()?, name)?.join(file);
    let mut log = std::fs::File::open(&path).with_context(|| {
        format!(
            "cannot read {}: has the VM {name:?} ever run?",
            path.display()
        )
    })?;
    let mut out = std::io::stdout().lock();
    if json || !out.is_terminal() {
        std::io::copy(&mut log, &mut out)?;
        return Ok(());
    }
    // The guest's output could steer the terminal.
    let mut text = Vec::new();
    log.take(cocoon_host_agent::up::SERIAL_LIMIT)
        .read_to_end(&mut text)?;
    for line in String::from_utf8_lossy(&text).lines() {
        writeln!(out, "{}", cocoon_host_agent::text::plain(line, 2000))?;
    }
    Ok(())
}

fn measurements(name: &str, json: bool) -> anyhow::Result<()> {
    let path = state::folder(&state::root()?, name)?.join("manifest.json");
    let manifest = std::fs::read(&path).with_context(|| {
        format!(
            "cannot read {}: has the VM {name:?} ever run?",
            path.display()
        )
    })?;
    let id = manifest_id(&manifest);
    if json {
        println!(
            "{}",
            json!({ "name": name, "manifest": path, "manifest_id": id })
        );
    } else {
        println!("{id}  {}", path.display());
    }
    Ok(())
}

fn config(path: &std::path::Path) -> anyhow::Result<OperatorConfig> {
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

fn tee(text: &str) -> Result<Tee, String> {
    match text {
        "tdx" => Ok(Tee::Tdx),
        "sev-snp" => Ok(Tee::SevSnp),
        other => Err(format!("{other:?} cannot be simulated: use tdx or sev-snp")),
    }
}

/// MiB.
fn memory(text: &str) -> Result<u32, String> {
    let wrong = || format!("{text:?} is no amount of memory: write it like 1G or 1536M");
    let (digits, factor) = match text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?
    {
        (digits, "G") => (digits, 1024),
        (digits, "M") => (digits, 1),
        _ => return Err(wrong()),
    };
    digits
        .parse::<u32>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory() {
        assert_eq!(memory("1G"), Ok(1024));
        assert_eq!(memory("1536M"), Ok(1536));
        for wrong in ["", "G", "1", "1T", "-1G", "9999999G", "1é"] {
            assert_eq!(
                memory(wrong),
                Err(format!(
                    "{wrong:?} is no amount of memory: write it like 1G or 1536M"
                ))
            );
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }
}
