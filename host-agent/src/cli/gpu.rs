//! `cocoon-host gpu`: lists GPUs, prepares one for a VM, or returns it to the host.

use std::io::Write as _;
use std::process::ExitCode;

use cocoon_host_agent::doctor::facts::{CcMode, Gpus, Look, Modes};
use cocoon_host_agent::doctor::real::Real;
use cocoon_host_agent::gpu::{Aim, RealHands, carry_out, plan};
use cocoon_qemu::PciAddress;
use serde_json::json;

use super::voice::Voice;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Gpu {
    /// List NVIDIA GPUs, their drivers and whether they are in use
    List {
        /// Ask idle GPUs for their confidential-computing mode; needs root
        ///
        /// Uses NVIDIA's admin tool, which lets the kernel suspend the GPUs again.
        #[arg(long)]
        ask: bool,
    },
    /// Prepare a GPU for a VM: confidential-computing mode, reset, vfio-pci
    ///
    /// Run it once after each start of the machine. Needs root.
    Prepare(Which),
    /// Return a GPU to the host's own driver, without confidential-computing mode
    ///
    /// Needs root.
    Restore(Which),
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// PCI address of the GPU, such as 0000:17:00.0
    address: PciAddress,
    /// Print every step with its reason, and change nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn run(wanted: &Gpu, json: bool) -> anyhow::Result<ExitCode> {
    match wanted {
        Gpu::List { ask } => list(*ask, json)?,
        Gpu::Prepare(which) => change(which, Aim::Prepared, json)?,
        Gpu::Restore(which) => change(which, Aim::Restored, json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(ask: bool, json: bool) -> anyhow::Result<()> {
    let modes = if ask { Modes::Asked } else { Modes::Told };
    let gpus = Gpus::read(&Real, Look::Everywhere, modes);
    let mut out = std::io::stdout().lock();
    if json {
        let all = gpus.all.iter().map(|gpu| {
            json!({
                "address": gpu.address.to_string(),
                "model": gpu.model,
                "driver": gpu.driver,
                "iommu_group": gpu.group,
                "in_use": gpu.in_use,
                "mode": gpu.cc.map(mode),
                "vbios": gpu.vbios,
            })
        });
        writeln!(out, "{}", json!(all.collect::<Vec<_>>()))?;
        return Ok(());
    }
    if gpus.all.is_empty() {
        writeln!(out, "this machine has no GPU of NVIDIA's")?;
    }
    for gpu in &gpus.all {
        let driver = gpu.driver.as_deref().unwrap_or("none");
        let used = if gpu.in_use { ", in use" } else { "" };
        let cc = gpu.cc.map_or("unknown", mode);
        let name = gpu.shown();
        writeln!(out, "{name}: driver {driver}{used}, confidential mode {cc}")?;
    }
    Ok(())
}

fn mode(mode: CcMode) -> &'static str {
    match mode {
        CcMode::Off => "off",
        CcMode::On => "on",
        CcMode::DevTools => "devtools",
    }
}

fn change(which: &Which, aim: Aim, json: bool) -> anyhow::Result<()> {
    let address = which.address;
    // Asking a GPU for its mode runs the admin tool, which a dry run must not do. Its plan sets a mode that is not known.
    let modes = match which.dry_run {
        true => Modes::Told,
        false => Modes::Asked,
    };
    let gpus = Gpus::read(&Real, Look::At(address), modes);
    let steps = plan(&gpus, address, aim)?;
    if which.dry_run {
        let mut out = std::io::stdout().lock();
        if json {
            writeln!(out, "{}", serde_json::to_string(&steps)?)?;
            return Ok(());
        }
        for step in &steps {
            writeln!(out, "{}\n    # {}", step.action, step.reason)?;
        }
        return Ok(());
    }
    let voice = Voice::new(json);
    carry_out(&steps, &RealHands, |step| {
        voice.note(&format!("{} ({})", step.action, step.reason));
    })?;
    let after = Gpus::read(&Real, Look::Nowhere, Modes::Ignored);
    let bound = after
        .all
        .iter()
        .any(|gpu| gpu.address == address && gpu.is_bound());
    anyhow::ensure!(
        bound == (aim == Aim::Prepared),
        "every step was done, and {address} is not as it should be: see `cocoon-host gpu list` and the kernel's log"
    );
    voice.note(match aim {
        Aim::Prepared => "ready for a VM",
        Aim::Restored => "the host's own again",
    });
    Ok(())
}
