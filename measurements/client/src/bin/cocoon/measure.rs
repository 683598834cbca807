//! `cocoon measure`: what hardware will report for any artefacts, not only ours.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use cocoon_client::terminal::print;
use cocoon_measurements::snp::cpu::CpuModel;
use cocoon_measurements::snp::firmware::SnpFirmware;
use cocoon_measurements::snp::launch::{FEATURE_SNP, KernelHashes, Vcpus, launch_digest};
use cocoon_measurements::tdx::event::replay;
use cocoon_measurements::tdx::mrtd::{PageOrder, mrtd};
use cocoon_measurements::tdx::rtmr::{Edk2, rtmr1, rtmr2};
use cocoon_measurements::tdx::rtmr0::{Machine, rtmr0};
use cocoon_measurements::tdx::tdvf::Tdvf;
use serde::Serialize;

use crate::Outcome;

/// Largest artefact, in bytes.
const MAX_ARTEFACT: u64 = 4 * 1024 * 1024 * 1024;

/// Compute what hardware will measure for firmware, kernel, initrd and command line
#[derive(clap::Subcommand)]
pub enum Measure {
    /// Intel TDX: MRTD, RTMR1, RTMR2, and RTMR0 of the simulator's platform
    Tdx(Tdx),
    /// AMD SEV-SNP: the launch digest
    Snp(Snp),
}

#[derive(clap::Args)]
struct Artefacts {
    /// Firmware, what QEMU gets as -bios
    #[arg(long, value_name = "FILE")]
    firmware: PathBuf,
    /// Kernel
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// Initrd
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Kernel command line, exactly as after -append
    #[arg(long, value_name = "TEXT", default_value = "")]
    cmdline: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct Tdx {
    #[command(flatten)]
    artefacts: Artefacts,
    /// Number of vCPUs; TDX measures none of them
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Guest memory, such as 4G or 1024M: adds RTMR0 of the simulator's platform
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// Release of the firmware's source
    #[arg(long, value_enum, default_value_t = Release::Stable202508)]
    edk2: Release,
    /// Pages added first and measured afterwards, as stacks older than Linux 6.16 did
    #[arg(long)]
    two_pass: bool,
}

#[derive(clap::Args)]
pub struct Snp {
    #[command(flatten)]
    artefacts: Artefacts,
    /// Number of vCPUs
    #[arg(long, value_name = "N")]
    vcpus: u32,
    /// CPU model, as QEMU names it
    #[arg(long, value_name = "MODEL", default_value = "EPYC-v4")]
    cpu: CpuModel,
    /// SEV_FEATURES of the guest, decimal or 0x…
    #[arg(long, value_name = "BITS", default_value_t = FEATURE_SNP, value_parser = bits)]
    guest_features: u64,
    /// Guest memory; SEV-SNP does not measure it
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Release {
    Stable202411,
    Stable202502,
    Stable202505,
    Stable202508,
}

#[derive(Serialize)]
struct TdxMeasurements {
    mrtd: String,
    /// Of the simulator's platform: hardware measures its own ACPI and SMBIOS tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtmr0_simulated: Option<String>,
    rtmr1: String,
    rtmr2: String,
    rtmr3: String,
}

#[derive(Serialize)]
struct SnpMeasurements {
    launch_digest: String,
}

pub fn run(measure: &Measure) -> anyhow::Result<Outcome> {
    match measure {
        Measure::Tdx(args) => tdx(args)?,
        Measure::Snp(args) => snp(args)?,
    }
    Ok(Outcome::Done)
}

fn tdx(args: &Tdx) -> anyhow::Result<()> {
    let loaded = Loaded::read(&args.artefacts)?;
    let edk2 = match args.edk2 {
        Release::Stable202411 => Edk2::Stable202411,
        Release::Stable202502 => Edk2::Stable202502,
        Release::Stable202505 => Edk2::Stable202505,
        Release::Stable202508 => Edk2::Stable202508,
    };
    let order = if args.two_pass {
        PageOrder::TwoPass
    } else {
        PageOrder::SinglePass
    };
    let firmware =
        Tdvf::parse(&loaded.firmware).context("the firmware is not sound TDX firmware")?;
    let mut events = rtmr1(&loaded.kernel).context("cannot measure the kernel")?;
    events.extend(rtmr2(
        &args.artefacts.cmdline,
        loaded.initrd.as_deref(),
        edk2,
    ));
    let rtmr0_simulated = match args.memory {
        Some(memory) => {
            let machine = Machine {
                edk2,
                ..Machine::simulated(memory)
            };
            events.extend(rtmr0(&firmware, &machine).context("cannot predict RTMR0")?);
            true
        }
        None => false,
    };
    let registers = replay(events.iter().map(|event| (event.rtmr, &event.digest))).map(hex::encode);
    let [rtmr0, rtmr1, rtmr2, rtmr3] = registers;
    let measured = TdxMeasurements {
        mrtd: hex::encode(mrtd(&firmware, order)),
        rtmr0_simulated: rtmr0_simulated.then_some(rtmr0),
        rtmr1,
        rtmr2,
        rtmr3,
    };
    if args.artefacts.json {
        return json(&measured);
    }
    print(format_args!("MRTD   {}\n", measured.mrtd))?;
    if let Some(rtmr0) = &measured.rtmr0_simulated {
        print(format_args!(
            "RTMR0  {rtmr0}  (simulator's platform: hardware measures its own tables)\n"
        ))?;
    }
    print(format_args!(
        "RTMR1  {}\nRTMR2  {}\nRTMR3  {}\n",
        measured.rtmr1, measured.rtmr2, measured.rtmr3
    ))?;
    Ok(())
}

fn snp(args: &Snp) -> anyhow::Result<()> {
    let loaded = Loaded::read(&args.artefacts)?;
    let firmware = SnpFirmware::parse(&loaded.firmware)
        .context("the firmware is not sound SEV-SNP firmware")?;
    let hashes = KernelHashes::of(
        &loaded.kernel,
        loaded.initrd.as_deref(),
        &args.artefacts.cmdline,
    );
    let vcpus = Vcpus {
        count: args.vcpus,
        model: args.cpu.clone(),
        guest_features: args.guest_features,
    };
    let digest = hex::encode(launch_digest(&firmware, Some(&hashes), &vcpus)?);
    if args.artefacts.json {
        return json(&SnpMeasurements {
            launch_digest: digest,
        });
    }
    print(format_args!("launch digest  {digest}\n"))?;
    Ok(())
}

fn json(value: &impl Serialize) -> anyhow::Result<()> {
    print(format_args!("{}\n", serde_json::to_string_pretty(value)?))?;
    Ok(())
}

struct Loaded {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initrd: Option<Vec<u8>>,
}

impl Loaded {
    fn read(artefacts: &Artefacts) -> anyhow::Result<Self> {
        Ok(Self {
            firmware: read(&artefacts.firmware)?,
            kernel: read(&artefacts.kernel)?,
            initrd: artefacts.initrd.as_deref().map(read).transpose()?,
        })
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(context)?.len();
    if length > MAX_ARTEFACT {
        bail!(
            "{} has {length} bytes, more than any kernel, firmware or initrd",
            path.display()
        );
    }
    std::fs::read(path).with_context(context)
}

fn memory(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.trim_end_matches(['B', 'b']).trim_end_matches('i') {
        text if text.ends_with(['G', 'g']) => (&text[..text.len() - 1], 1 << 30),
        text if text.ends_with(['M', 'm']) => (&text[..text.len() - 1], 1 << 20),
        // QEMU's -m counts mebibytes, too.
        text => (text, 1 << 20),
    };
    let size = number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(unit));
    size.filter(|size| *size > 0)
        .ok_or_else(|| "write a size such as 4G, 4GiB, 1024M or 1024 (mebibytes)".to_owned())
}

fn bits(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|error| error.to_string())
}
