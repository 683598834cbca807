//! `cocoon measure tdx`: predicts the measurement registers of a trust domain, and their events.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use cocoon_client::terminal::print;
use cocoon_measurements::tdx::boot_variables::BootApplications;
use cocoon_measurements::tdx::event::{PredictedEvent, replay};
use cocoon_measurements::tdx::mrtd::{self, mrtd};
use cocoon_measurements::tdx::rtmr::{Edk2, rtmr1_of, rtmr2};
use cocoon_measurements::tdx::rtmr0::{
    Machine, PlatformDigests, PlatformTables, SecureBoot, rtmr0,
};
use cocoon_measurements::tdx::setup_header::{self, Loading};
use cocoon_measurements::tdx::smbios::ProcessorId;
use cocoon_measurements::tdx::tdvf::Tdvf;
use serde::Serialize;

use super::{Artefacts, Loaded, bits32, json, memory, read};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    artefacts: Artefacts,
    /// Number of virtual CPUs, which TDX measures only through the tables
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,
    /// Guest memory, such as 4G or 1024M; adds RTMR0
    ///
    /// RTMR0 is that of the simulator's platform or, with --tables, of the machine with these tables.
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<u64>,
    /// edk2 release of the firmware, or the last listed one before it
    #[arg(long, value_enum, default_value_t = Release::Stable202508)]
    edk2: Release,
    /// Order in which KVM and QEMU add and measure the firmware's pages
    #[arg(long, value_enum, default_value_t = PageOrder::SinglePass)]
    page_order: PageOrder,
    /// Form in which the firmware gets the kernel; `patched` needs --memory
    #[arg(long, value_enum, default_value_t = KernelForm::Unchanged, requires_if("patched", "memory"))]
    kernel_form: KernelForm,
    /// Firmware is built without secure boot: the variable is absent instead of zero
    #[arg(long)]
    no_secure_boot: bool,
    /// Applications of the firmware that are boot options
    #[arg(long, value_enum, default_value_t = Applications::Usual)]
    applications: Applications,
    /// Folder with the machine's acpi-loader.bin, acpi-rsdp.bin, acpi-tables.bin and smbios.bin
    ///
    /// They must be computed on an emulated machine of the same shape. Never take them from the machine that is to be judged.
    #[arg(long, value_name = "DIR", requires_all = ["memory", "cpu_signature", "cpu_features"])]
    tables: Option<PathBuf>,
    /// Window for a GPU's BARs in MiB [default: the firmware's own]
    ///
    /// The firmware gets it from fw_cfg (opt/ovmf/X-PciMmio64Mb), and measures it from edk2 stable202505 on.
    #[arg(long, value_name = "MIB", requires = "memory", value_parser = clap::value_parser!(u32).range(1..))]
    mmio64_mib: Option<u32>,
    /// CPUID.1:EAX of the guest, such as 0x806f8; measured as part of SMBIOS
    #[arg(long, value_name = "BITS", value_parser = bits32)]
    cpu_signature: Option<u32>,
    /// CPUID.1:EDX of the guest; measured as part of SMBIOS
    #[arg(long, value_name = "BITS", value_parser = bits32)]
    cpu_features: Option<u32>,
    /// Print every event as well
    #[arg(long)]
    events: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Release {
    /// and earlier
    Stable202408,
    Stable202411,
    Stable202502,
    Stable202505,
    /// and later
    Stable202508,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PageOrder {
    /// Add and measure each page in turn: Linux 6.16 or later with QEMU 10.1 or later
    SinglePass,
    /// Add all pages of a section, then measure them: older stacks outside the upstream trees
    TwoPass,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum KernelForm {
    /// File as it is: QEMU 10.0 or later with edk2 stable202502 or later
    Unchanged,
    /// File with the boot loader's fields filled in by QEMU: anything older
    Patched,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Applications {
    /// UiApp up to stable202502, the boot manager's menu later
    Usual,
    /// Only UiApp
    UiApp,
    /// Boot manager's menu and UiApp
    MenuAndUiApp,
    /// Only the boot manager's menu
    Menu,
}

#[derive(Serialize)]
struct Measurements {
    mrtd: String,
    /// RTMR0 of the machine with the given tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtmr0: Option<String>,
    /// RTMR0 of the simulator's platform; hardware measures its own ACPI and SMBIOS tables.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtmr0_simulated: Option<String>,
    rtmr1: String,
    rtmr2: String,
    rtmr3: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<PredictedEvent>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let loaded = Loaded::read(&args.artefacts)?;
    let edk2 = args.edk2.into();
    let firmware =
        Tdvf::parse(&loaded.firmware).context("the firmware is not sound TDX firmware")?;
    let loading = Loading {
        memory: args.memory.unwrap_or_default(),
        initrd: loaded.initrd.as_ref().map(|initrd| initrd.len() as u64),
        command_line: &args.artefacts.cmdline,
    };
    let kernel = setup_header::measured(&loaded.kernel, args.kernel_form.into(), &loading)
        .context("cannot tell how QEMU changes the kernel")?;
    let mut events = match args.memory {
        Some(memory) => {
            let machine = machine(args, memory, edk2)?;
            rtmr0(&firmware, &machine).context("cannot predict RTMR0")?
        }
        None => Vec::new(),
    };
    events.extend(rtmr1_of(&kernel, edk2).context("cannot measure the kernel")?);
    events.extend(rtmr2(
        &args.artefacts.cmdline,
        loaded.initrd.as_deref(),
        edk2,
    ));
    let registers = replay(events.iter().map(|event| (event.rtmr, &event.digest))).map(hex::encode);
    let [rtmr0, rtmr1, rtmr2, rtmr3] = registers;
    let rtmr0 = args.memory.map(|_| rtmr0);
    let (rtmr0, rtmr0_simulated) = match args.tables {
        Some(_) => (rtmr0, None),
        None => (None, rtmr0),
    };
    let measured = Measurements {
        mrtd: hex::encode(mrtd(&firmware, args.page_order.into())),
        rtmr0,
        rtmr0_simulated,
        rtmr1,
        rtmr2,
        rtmr3,
        events: if args.events { events } else { Vec::new() },
    };
    drop(loaded.measuring);
    if args.artefacts.json {
        return json(&measured);
    }
    show(&measured)
}

fn machine(args: &Args, memory: u64, edk2: Edk2) -> anyhow::Result<Machine> {
    let simulated = Machine::simulated(memory);
    let processor = args.cpu_signature.zip(args.cpu_features);
    let platform = match (&args.tables, processor) {
        (Some(folder), Some((signature, features))) => {
            let processor = ProcessorId {
                signature,
                features,
            };
            digests(folder, processor)?
        }
        _ => simulated.platform,
    };
    Ok(Machine {
        edk2,
        fw_cfg: simulated.fw_cfg.with_window(args.mmio64_mib),
        secure_boot: if args.no_secure_boot {
            SecureBoot::NotBuilt
        } else {
            SecureBoot::Off
        },
        boot_applications: args.applications.of(edk2),
        platform,
        ..simulated
    })
}

fn digests(folder: &Path, processor: ProcessorId) -> anyhow::Result<PlatformDigests> {
    let [loader, rsdp, tables, smbios] = PlatformTables::FILES.map(|name| read(&folder.join(name)));
    let (loader, rsdp, tables, smbios) = (loader?, rsdp?, tables?, smbios?);
    let tables = PlatformTables {
        acpi_loader: &loader,
        acpi_rsdp: &rsdp,
        acpi_tables: &tables,
        smbios: &smbios,
    };
    PlatformDigests::of_tables(&tables, processor)
        .with_context(|| format!("cannot measure the tables in {}", folder.display()))
}

fn show(measured: &Measurements) -> anyhow::Result<()> {
    print(format_args!("MRTD   {}\n", measured.mrtd))?;
    if let Some(rtmr0) = &measured.rtmr0 {
        print(format_args!("RTMR0  {rtmr0}\n"))?;
    }
    if let Some(rtmr0) = &measured.rtmr0_simulated {
        print(format_args!(
            "RTMR0  {rtmr0}  (simulator's platform: hardware measures its own tables)\n"
        ))?;
    }
    print(format_args!(
        "RTMR1  {}\nRTMR2  {}\nRTMR3  {}\n",
        measured.rtmr1, measured.rtmr2, measured.rtmr3
    ))?;
    for event in &measured.events {
        print(format_args!(
            "RTMR{}  {}  {}\n",
            event.rtmr.index(),
            hex::encode(event.digest),
            event.name
        ))?;
    }
    Ok(())
}

impl From<Release> for Edk2 {
    fn from(release: Release) -> Self {
        match release {
            Release::Stable202408 => Self::Stable202408,
            Release::Stable202411 => Self::Stable202411,
            Release::Stable202502 => Self::Stable202502,
            Release::Stable202505 => Self::Stable202505,
            Release::Stable202508 => Self::Stable202508,
        }
    }
}

impl From<PageOrder> for mrtd::PageOrder {
    fn from(order: PageOrder) -> Self {
        match order {
            PageOrder::SinglePass => Self::SinglePass,
            PageOrder::TwoPass => Self::TwoPass,
        }
    }
}

impl From<KernelForm> for setup_header::KernelForm {
    fn from(form: KernelForm) -> Self {
        match form {
            KernelForm::Unchanged => Self::Unchanged,
            KernelForm::Patched => Self::SetupHeaderPatched,
        }
    }
}

impl Applications {
    fn of(self, edk2: Edk2) -> BootApplications {
        match self {
            Self::Usual => BootApplications::usual(edk2),
            Self::UiApp => BootApplications::UiApp,
            Self::MenuAndUiApp => BootApplications::BootManagerMenuAndUiApp,
            Self::Menu => BootApplications::BootManagerMenu,
        }
    }
}
