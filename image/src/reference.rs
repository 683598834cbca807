//! Computes the manifest's reference values: what hardware must report when it runs the image.

use cocoon_measurements::pe::PeError;
use cocoon_measurements::snp::cpu::{CpuModel, UnknownCpu};
use cocoon_measurements::snp::firmware::{SnpFirmware, SnpFirmwareError};
use cocoon_measurements::snp::launch::{self, FEATURE_SNP, KernelHashes, LaunchError, Vcpus};
use cocoon_measurements::tdx::event::{PredictedEvent, Provenance, Rtmr, replay};
use cocoon_measurements::tdx::mrtd::{self, PageOrder};
use cocoon_measurements::tdx::rtmr;
use cocoon_measurements::tdx::rtmr0::{self, Machine, PlatformDigests, Rtmr0Error};
use cocoon_measurements::tdx::tdvf::{Tdvf, TdvfError};
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{
    PlatformSource, ReferenceEvent, SnpLaunch, SnpReference, TdxPlatform, TdxReference,
};
use thiserror::Error;

/// Sizes of guest memory for which the manifest lists RTMR0, in MiB.
pub const MEMORY_MIB: &[u64] = &[768, 1024, 2048, 4096, 8192];
/// CPU models for which the manifest lists the SNP launch digest: one name per generation, and the oldest model with which
/// QEMU starts SNP guests by default.
pub const CPU_MODELS: &[&str] = &["EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"];
/// Numbers of vCPUs for which the manifest lists the SNP launch digest.
pub const VCPUS: &[u32] = &[1, 2, 4, 8, 16, 32, 48, 64, 96];

/// Artefacts that are measured in addition to the firmware.
#[derive(Debug, Clone, Copy)]
pub struct Boot<'a> {
    /// Content of `vmlinuz`.
    pub kernel: &'a [u8],
    /// Content of `initrd.img`.
    pub initrd: &'a [u8],
    /// Content of `cmdline`.
    pub cmdline: &'a str,
}

/// Why reference values cannot be computed.
#[derive(Debug, Error)]
pub enum ReferenceError {
    /// The TDX firmware is not valid.
    #[error("cannot measure the TDX firmware")]
    TdxFirmware(#[from] TdvfError),
    /// The size of the guest memory does not suit the firmware.
    #[error("cannot predict RTMR0 for {memory_mib} MiB")]
    Rtmr0 {
        /// Guest memory, in MiB.
        memory_mib: u64,
        /// What is wrong with it.
        #[source]
        source: Rtmr0Error,
    },
    /// The kernel is not an EFI executable.
    #[error("cannot measure the kernel")]
    Kernel(#[from] PeError),
    /// The SNP firmware is not valid.
    #[error("cannot measure the SNP firmware")]
    SnpFirmware(#[from] SnpFirmwareError),
    /// QEMU does not know a name in [`CPU_MODELS`].
    #[error("cannot list SNP launch digests")]
    Cpu(#[from] UnknownCpu),
    /// The SNP firmware cannot boot a kernel given by QEMU.
    #[error("cannot predict the SNP launch digest")]
    Launch(#[from] LaunchError),
}

/// Computes the reference values for TDX. The RTMR0 events are those of the simulator, and are marked so.
///
/// # Errors
/// [`ReferenceError`], which names the artefact at fault.
pub fn tdx(firmware: &[u8], boot: &Boot<'_>) -> Result<TdxReference, ReferenceError> {
    let firmware = Tdvf::parse(firmware)?;
    let edk2 = Machine::simulated(0).edk2;
    let mut platforms = Vec::new();
    for &memory_mib in MEMORY_MIB {
        let size = Size {
            memory_mib,
            ..Size::default()
        };
        let events = rtmr0_events(&firmware, &size, None)?;
        platforms.push(TdxPlatform {
            name: format!("simulated, {memory_mib} MiB"),
            memory_mib,
            vcpus: None,
            mmio64_mib: None,
            source: PlatformSource::Simulator,
            rtmr0_events: events.into_iter().map(reference).collect(),
        });
    }
    let mut events = rtmr::rtmr1(boot.kernel)?;
    events.extend(rtmr::rtmr2(boot.cmdline, Some(boot.initrd), edk2));
    let registers = replay(events.iter().map(|event| (event.rtmr, &event.digest)));
    Ok(TdxReference {
        mrtd: Hex(mrtd::mrtd(&firmware, PageOrder::SinglePass)),
        rtmr1: Hex(registers[Rtmr::Rtmr1.index()]),
        rtmr2: Hex(registers[Rtmr::Rtmr2.index()]),
        platforms,
    })
}

/// Size of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Guest memory, in MiB.
    pub memory_mib: u64,
    /// Number of vCPUs, if the tables depend on it.
    pub vcpus: Option<u32>,
    /// Window for the BARs of a GPU in MiB, if there is one.
    pub mmio64_mib: Option<u32>,
}

/// Computes the shape of a real machine with `firmware`. The events of its ACPI and SMBIOS tables have the digests `tables`;
/// all others are predicted.
///
/// # Errors
/// [`ReferenceError`], which names what does not fit.
pub fn platform(
    firmware: &[u8],
    name: &str,
    size: &Size,
    tables: PlatformDigests,
) -> Result<TdxPlatform, ReferenceError> {
    let events = rtmr0_events(&Tdvf::parse(firmware)?, size, Some(tables))?;
    Ok(TdxPlatform {
        name: name.to_owned(),
        memory_mib: size.memory_mib,
        vcpus: size.vcpus,
        mmio64_mib: size.mmio64_mib,
        source: PlatformSource::Computed,
        rtmr0_events: events.into_iter().map(reference).collect(),
    })
}

/// Computes the shape `published` again, as far as it follows from `firmware`: takes over the digests of its tables, and
/// predicts all other events. The result equals `published` if the signers pinned nothing but the tables.
///
/// # Errors
/// [`ReferenceError`], which names what does not fit.
pub fn recomputed(firmware: &[u8], published: &TdxPlatform) -> Result<TdxPlatform, ReferenceError> {
    let size = Size {
        memory_mib: published.memory_mib,
        vcpus: published.vcpus,
        mmio64_mib: published.mmio64_mib,
    };
    let predicted = rtmr0_events(&Tdvf::parse(firmware)?, &size, None)?;
    let mut events: Vec<ReferenceEvent> = Vec::new();
    for (at, event) in predicted.into_iter().enumerate() {
        let pinned = event.provenance == Provenance::Simulated;
        let mut event = reference(event);
        if let (true, Some(published)) = (pinned, published.rtmr0_events.get(at)) {
            event.digest = published.digest;
        }
        events.push(event);
    }
    Ok(TdxPlatform {
        rtmr0_events: events,
        ..published.clone()
    })
}

/// Predicts the RTMR0 events of a machine with this firmware: the simulator, or a machine with `tables`.
fn rtmr0_events(
    firmware: &Tdvf<'_>,
    size: &Size,
    tables: Option<PlatformDigests>,
) -> Result<Vec<PredictedEvent>, ReferenceError> {
    let memory_mib = size.memory_mib;
    // A saturated value exceeds the memory of any machine, and `rtmr0` refuses it.
    let simulated = Machine::simulated(memory_mib.saturating_mul(1 << 20));
    let machine = Machine {
        platform: tables.unwrap_or(simulated.platform),
        fw_cfg: simulated.fw_cfg.with_window(size.mmio64_mib),
        ..simulated
    };
    let events = rtmr0::rtmr0(firmware, &machine);
    events.map_err(|source| ReferenceError::Rtmr0 { memory_mib, source })
}

/// Computes the reference values for SEV-SNP: the launch digest for each CPU model and number of vCPUs.
///
/// # Errors
/// [`ReferenceError`], which names the artefact at fault.
pub fn snp(firmware: &[u8], boot: &Boot<'_>) -> Result<SnpReference, ReferenceError> {
    let firmware = SnpFirmware::parse(firmware)?;
    let hashes = KernelHashes::of(boot.kernel, Some(boot.initrd), boot.cmdline);
    let mut launch = Vec::new();
    for &name in CPU_MODELS {
        let model: CpuModel = name.parse()?;
        for &count in VCPUS {
            let vcpus = Vcpus {
                count,
                model: model.clone(),
                guest_features: FEATURE_SNP,
            };
            let digest = launch::launch_digest(&firmware, Some(&hashes), &vcpus)?;
            launch.push(SnpLaunch {
                cpu_model: name.to_owned(),
                vcpus: count,
                digest: Hex(digest),
            });
        }
    }
    Ok(SnpReference {
        guest_features: FEATURE_SNP,
        launch,
    })
}

fn reference(event: PredictedEvent) -> ReferenceEvent {
    ReferenceEvent {
        name: event.name.into_owned(),
        digest: Hex(event.digest),
    }
}
