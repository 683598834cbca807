//! `cocoon-host doctor`: what this machine has, what it lacks, and whether clients would accept it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use cocoon_host_agent::collateral::Store;
use cocoon_host_agent::collateral::keeper::clock;
use cocoon_host_agent::config::values::mebibytes;
use cocoon_host_agent::doctor::clients::{self, Artefacts, Shape};
use cocoon_host_agent::doctor::collateral::{self, Kept, Versions};
use cocoon_host_agent::doctor::policy::PolicyFile;
use cocoon_host_agent::doctor::real::Real;
use cocoon_host_agent::doctor::{self, Facts, Mode, Report, Tried, Wanted, judge};
use cocoon_host_agent::image::Image;
use cocoon_host_agent::tables::{Size, compute as computed};
use cocoon_host_agent::{UpOptions, qemu};
use cocoon_inputs::Cache;
use cocoon_qemu::find::{MINIMUM_TDX, Search};
use cocoon_qemu::tables::Tables;
use cocoon_qemu::{Accel, Qemu};

use super::voice::Voice;

/// Check whether this machine is ready for TDX, SEV-SNP or simulation
///
/// Says what the machine lacks and how to get it. With --image, also says whether clients would accept the machine.
///
/// Changes nothing, and sends nothing beyond this machine. Exits with 1 if the machine is ready for none of the requested modes
/// or, with --image, if clients would refuse it in all of them.
#[derive(Debug, clap::Args)]
pub(super) struct Doctor {
    /// Folder of an image to check the machine for
    ///
    /// Predicts what this machine will measure, tries KVM with the image's kernel, and checks whether clients would accept it.
    #[arg(long)]
    image: Option<PathBuf>,
    /// Policy file of the clients, TOML [default: the clients' defaults]
    #[arg(long, requires = "image")]
    policy: Option<PathBuf>,
    /// Mode to check [default: all]
    #[arg(long = "for", value_name = "MODE")]
    mode: Option<For>,
    /// Check for an image that needs a GPU
    ///
    /// Asks idle GPUs for their confidential-computing mode, which needs root.
    #[arg(long)]
    gpu: bool,
    /// VBIOS version of this machine's GPUs, such as 96.00.5E.00.01
    ///
    /// Needed if no NVIDIA driver holds the GPUs: only the driver reports the version.
    #[arg(long, requires = "image")]
    vbios: Option<String>,
    /// Guest memory, such as 1G or 1536M
    #[arg(long, default_value = "1G", value_parser = mebibytes)]
    memory: u32,
    /// Number of virtual CPUs [default: 1, 2 or 4, by the machine's processors]
    #[arg(long)]
    vcpus: Option<u16>,
    /// QEMU's CPU model for SEV-SNP guests
    #[arg(long, default_value = cocoon_host_agent::up::CPU_MODEL)]
    cpu: String,
    /// Address and port of the public listener
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// QEMU executable to use
    #[arg(long, env = "COCOON_QEMU")]
    qemu: Option<PathBuf>,
}

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum For {
    /// TDX hardware
    Tdx,
    /// SEV-SNP hardware
    Snp,
    /// Simulated evidence, under KVM or emulation
    Simulated,
}

impl For {
    fn modes(self) -> &'static [Mode] {
        match self {
            Self::Tdx => &[Mode::Tdx],
            Self::Snp => &[Mode::SevSnp],
            Self::Simulated => &[Mode::SimulatedKvm, Mode::SimulatedEmulated],
        }
    }
}

pub(super) async fn run(asked: Doctor, json: bool) -> anyhow::Result<ExitCode> {
    let voice = Voice::new(json);
    // Errors in the arguments are reported before the machine is examined.
    let policy = match &asked.policy {
        Some(path) => PolicyFile::load(path)?,
        None => PolicyFile::default(),
    };
    let artefacts = match &asked.image {
        Some(folder) => Some(Artefacts::read(folder)?),
        None => None,
    };
    let claims_gpu = artefacts
        .as_ref()
        .is_some_and(|image| image.manifest.variant != "cpu");
    let wanted = Wanted {
        memory_mib: asked.memory,
        listen: Some(asked.listen),
        gpu: asked.gpu || claims_gpu,
        examine: true,
        cache: Cache::default_root().ok(),
    };
    let qemu = doctor::qemu(&Real, asked.qemu.as_deref()).await;
    let tried = tried(
        asked.image.as_deref(),
        asked.qemu.as_deref(),
        (!json).then_some(&voice),
    )
    .await?;
    let waiting = (!json).then(|| voice.waiting("asking kernel, firmware and devices", "seconds"));
    let facts = {
        let wanted = wanted.clone();
        tokio::task::spawn_blocking(move || Facts::read(&Real, &wanted, qemu, tried))
            .await
            .context("the examination was interrupted")?
    };
    drop(waiting);
    let findings = judge::judge(&facts, &wanted, &policy.policy);
    let said = match artefacts {
        Some(image) => {
            let vcpus = asked.vcpus.unwrap_or_else(default_vcpus);
            let tables = match clients::wants_tables(&image.manifest, &wanted, vcpus) {
                true => tables(&asked, vcpus, (!json).then_some(&voice)).await?,
                false => None,
            };
            let cpu_model = asked.cpu.clone();
            let shape = Shape {
                vcpus,
                cpu_model,
                tables,
            };
            let mut said = clients::judge(&image, &policy, &facts, &wanted, &shape);
            // Without a cache folder nothing is kept.
            let root = Store::default_root();
            let kept = root
                .map(|root| Kept::of(&Store::reading(&root)))
                .unwrap_or_default();
            let versions = Versions {
                driver: image.manifest.gpu.as_ref().map(|gpu| gpu.driver.as_str()),
                vbios: asked.vbios.as_deref(),
            };
            said.extend(collateral::findings(&kept, &facts, versions, clock()));
            Some(said)
        }
        None => None,
    };
    let modes = asked.mode.map_or(&Mode::ALL[..], For::modes);
    let report = Report::new(findings, said, modes);
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(ExitCode::from(u8::from(!report.accepted())))
}

/// The number of vCPUs that `up` takes by default.
fn default_vcpus() -> u16 {
    UpOptions::new(PathBuf::new(), PathBuf::new()).vcpus
}

/// Tries KVM with the image's kernel, if an image is named and this machine has a usable QEMU.
async fn tried(
    image: Option<&Path>,
    named: Option<&Path>,
    voice: Option<&Voice>,
) -> anyhow::Result<Tried> {
    let Some(folder) = image else {
        return Ok(Tried::NoImage);
    };
    let Some(found) = here(named).await else {
        return Ok(Tried::NoQemu);
    };
    let image = Image::open(folder, None)?;
    // With `--json` the report holds the trial's outcome, so nothing is printed here.
    let note = |text: &str| {
        if let Some(voice) = voice {
            voice.note(text);
        }
    };
    // The operator wants the current state, so an earlier trial's result is not reused.
    let choice = qemu::choose_anew(&found, &image, note).await?;
    Ok(Tried::Yes {
        works: choice.accel == Accel::Kvm,
        reason: choice.reason,
    })
}

/// Computes the tables of the machine as a TDX trust domain without a GPU, if this machine has a QEMU that supports TDX. Runs
/// the firmware under emulation.
async fn tables(
    asked: &Doctor,
    vcpus: u16,
    voice: Option<&Voice>,
) -> anyhow::Result<Option<Tables>> {
    let Some(folder) = &asked.image else {
        return Ok(None);
    };
    let found = here(asked.qemu.as_deref()).await;
    let Some(qemu) = found.filter(|qemu| qemu.version >= MINIMUM_TDX) else {
        return Ok(None);
    };
    let _waiting = voice.map(|voice| {
        let hint = "seconds on an idle core, minutes on a busy one: its firmware is emulated";
        voice.waiting("the machine's firmware reads its tables", hint)
    });
    let opened = Image::open(folder, None)?;
    let size = Size {
        vcpus,
        memory_mib: asked.memory,
        mmio64_mib: None,
    };
    let computed = computed(opened, size, &qemu).await?;
    Ok(Some(computed.tables))
}

/// Returns this machine's QEMU if it is usable; fetches nothing.
async fn here(named: Option<&Path>) -> Option<Qemu> {
    match qemu::here(named).await {
        Ok(Search::Found { qemu, .. }) => Some(qemu),
        Ok(Search::Unusable { .. }) | Err(_) => None,
    }
}
