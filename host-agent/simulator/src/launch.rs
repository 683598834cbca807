//! The launch of a simulated confidential VM: measures what QEMU opened as the hardware would, and produces evidence for the
//! life of the VM.

use std::io::Read;
use std::path::PathBuf;

use cocoon_measurements::ccel::{self, LoggedEvent};
use cocoon_measurements::snp::cpu::{CpuModel, UnknownCpu};
use cocoon_measurements::snp::firmware::{SnpFirmware, SnpFirmwareError};
use cocoon_measurements::snp::launch::{
    FEATURE_SNP, KernelHashes, LaunchError, Vcpus, launch_digest,
};
use cocoon_measurements::tdx::mrtd::PageOrder;
use cocoon_measurements::tdx::rtmr0::Machine;
use cocoon_measurements::tdx::{DirectBoot, PredictError, predict};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex64;
use cocoon_protocol::config;
use cocoon_protocol::document::{Collateral, Evidence};

use crate::opened::{MAX_FIRMWARE, Opened};
use crate::roots::Roots;
use crate::snp::{SnpReport, SnpSimulator};
use crate::tdx::{CollateralDates, TcbStatus, TdReport, TdxSimulator};
use crate::x509::X509Error;

/// Why a VM cannot be launched, or why there is no evidence.
#[derive(Debug, thiserror::Error)]
pub enum LaunchFailure {
    /// The firmware, the kernel or the machine cannot be measured for TDX.
    #[error("cannot measure the VM as TDX would")]
    Tdx(#[from] PredictError),
    /// The event log cannot be encoded.
    #[error("cannot write the event log")]
    Log(#[from] ccel::EncodeError),
    /// SNP needs a firmware of its own, and the request names none.
    #[error("no SNP firmware was named: SEV-SNP cannot be imitated without it")]
    NoFirmware,
    /// The SNP firmware cannot be read.
    #[error("cannot read the SNP firmware {path:?}")]
    Firmware {
        /// Path of the firmware.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The SNP firmware is not a valid firmware image.
    #[error("cannot measure the SNP firmware")]
    SnpFirmware(#[from] SnpFirmwareError),
    /// QEMU has no CPU model of this name.
    #[error("cannot measure the virtual processors")]
    Cpu(#[from] UnknownCpu),
    /// The launch digest of these inputs cannot be computed.
    #[error("cannot measure the VM as SEV-SNP would")]
    Snp(#[from] LaunchError),
    /// A report, certificate or collateral cannot be encoded or signed.
    #[error("cannot sign evidence")]
    X509(#[from] X509Error),
}

/// Launch parameters from the host, in addition to what QEMU opened.
#[derive(Debug, Clone)]
pub struct LaunchOptions {
    /// TEE to simulate.
    pub tee: Tee,
    /// Firmware to measure for SNP.
    pub snp_firmware: Option<PathBuf>,
    /// QEMU's CPU model, for SNP.
    pub cpu_model: String,
    /// Canonical bytes of the operator's configuration.
    pub config: Vec<u8>,
}

/// A launched VM. Its measurements are final; report data differs for each request.
#[derive(Debug)]
pub enum Launched<'a> {
    /// A trust domain.
    Tdx {
        /// The simulated platform.
        platform: TdxSimulator<'a>,
        /// The report without report data.
        report: Box<TdReport>,
        /// CCEL event log, encoded.
        event_log: Vec<u8>,
    },
    /// An SNP guest.
    Snp {
        /// The simulated platform.
        platform: SnpSimulator<'a>,
        /// The report without report data.
        report: Box<SnpReport>,
    },
}

impl<'a> Launched<'a> {
    /// Measures `opened` and launches a VM from it.
    ///
    /// # Errors
    /// [`LaunchFailure`] names the artefact that cannot be measured.
    pub fn new(
        opened: &Opened,
        options: &LaunchOptions,
        roots: &'a Roots,
    ) -> Result<Self, LaunchFailure> {
        let config_digest = config::digest(options.tee, &options.config).0;
        match options.tee {
            Tee::Tdx => {
                let (mr_td, rtmr, event_log) = measure_tdx(opened)?;
                let report = Box::new(TdReport::good(mr_td, rtmr, config_digest));
                Ok(Self::Tdx {
                    platform: TdxSimulator::new(&roots.intel),
                    report,
                    event_log,
                })
            }
            Tee::SevSnp => {
                let mut host_data = [0; 32];
                host_data.copy_from_slice(&config_digest[..32]);
                let report = Box::new(SnpReport::good(measure_snp(opened, options)?, host_data));
                Ok(Self::Snp {
                    platform: SnpSimulator::new(&roots.amd),
                    report,
                })
            }
        }
    }

    /// Returns evidence over `report_data`.
    ///
    /// # Errors
    /// [`LaunchFailure::X509`] if encoding fails.
    pub fn evidence(&self, report_data: &Hex64) -> Result<Evidence, LaunchFailure> {
        Ok(match self {
            Self::Tdx {
                platform,
                report,
                event_log,
            } => Evidence::Tdx {
                quote: platform.quote_over(report, report_data)?.into(),
                event_log: event_log.clone().into(),
            },
            Self::Snp { platform, report } => Evidence::SevSnp {
                report: platform.report_over(report, report_data)?.into(),
                certificates: platform
                    .certificates()
                    .into_iter()
                    .map(Into::into)
                    .collect(),
            },
        })
    }

    /// Returns collateral that is valid around `now`, in Unix seconds.
    ///
    /// # Errors
    /// [`LaunchFailure::X509`] if encoding fails.
    pub fn collateral(&self, now: u64) -> Result<Collateral, LaunchFailure> {
        let dates = CollateralDates::around(now);
        Ok(match self {
            Self::Tdx { platform, .. } => Collateral::Tdx {
                json: platform.collateral(dates, TcbStatus::UpToDate)?.into(),
            },
            Self::Snp { platform, .. } => Collateral::SevSnp {
                certificates: platform
                    .certificates()
                    .into_iter()
                    .map(Into::into)
                    .collect(),
                crl: Some(platform.crl(dates.issued, dates.next_update)?.into()),
            },
        })
    }
}

type TdxMeasurements = ([u8; 48], [[u8; 48]; 4], Vec<u8>);

fn measure_tdx(opened: &Opened) -> Result<TdxMeasurements, LaunchFailure> {
    let boot = DirectBoot {
        firmware: &opened.firmware,
        kernel: &opened.kernel,
        initrd: opened.initrd.as_deref(),
        command_line: &opened.append,
    };
    let prediction = predict(
        &boot,
        &Machine::simulated(opened.memory),
        PageOrder::SinglePass,
    )?;
    let log = ccel::encode(prediction.events.iter().map(LoggedEvent::from))?;
    Ok((prediction.mrtd, prediction.registers(), log))
}

fn measure_snp(opened: &Opened, options: &LaunchOptions) -> Result<[u8; 48], LaunchFailure> {
    let path = options
        .snp_firmware
        .as_ref()
        .ok_or(LaunchFailure::NoFirmware)?;
    let mut firmware = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_FIRMWARE + 1).read_to_end(&mut firmware))
        .map_err(|source| LaunchFailure::Firmware {
            path: path.clone(),
            source,
        })?;
    let hashes = KernelHashes::of(&opened.kernel, opened.initrd.as_deref(), &opened.append);
    let model: CpuModel = options.cpu_model.parse()?;
    let vcpus = Vcpus {
        count: opened.vcpus,
        model,
        guest_features: FEATURE_SNP,
    };
    Ok(launch_digest(
        &SnpFirmware::parse(&firmware)?,
        Some(&hashes),
        &vcpus,
    )?)
}
