//! The items of collateral that evidence needs, identified as in the vendors' services.

use cocoon_measurements::der;
use cocoon_measurements::nvidia::fetching::{self, Revocable};
use cocoon_measurements::snp::report::Product as Generation;
use cocoon_protocol::bytes::{Blob, Hex, Hex32, Hex64};
use cocoon_protocol::document::Evidence;
use cocoon_protocol::gpu::{CollateralRequest, rim_name};
use dcap_qvl::intel::parse_pck_extension_from_pem;
use dcap_qvl::quote::Quote;
use serde::{Deserialize, Serialize};
use x509_cert::Certificate;

/// An item of collateral.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Want {
    /// Intel's TCB info, QE identity and revocation lists for a family of platforms.
    Intel {
        /// Family of the platform (FMSPC), from its PCK certificate.
        fmspc: Hex<6>,
        /// Authority that issued the platform's PCK certificate.
        ca: PckCa,
    },
    /// AMD's certificates for one chip at its patch levels, with their revocation list.
    Amd {
        /// Generation of the processor; `None` if the report does not say it.
        product: Option<Product>,
        /// Identifier of the chip.
        chip: Hex64,
        /// Patch levels (REPORTED_TCB), as in the report.
        tcb: Hex<8>,
    },
    /// A reference manifest (RIM) of NVIDIA's.
    Rim {
        /// Name of the manifest.
        name: String,
    },
    /// The names of all NVIDIA reference manifests for GPUs.
    RimNames,
    /// NVIDIA's OCSP response about a certificate.
    Ocsp {
        /// The certificate, DER.
        certificate: Bytes,
        /// Certificate of the issuer, DER.
        issuer: Bytes,
    },
}

/// Bytes, serialised in Base64, with an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bytes(pub Blob);

impl PartialOrd for Bytes {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bytes {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.0.cmp(&other.0.0)
    }
}

/// Intel's authorities that issue PCK certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PckCa {
    /// Authority for single-processor platforms.
    Processor,
    /// Authority for multi-processor platforms.
    Platform,
}

/// Generations of AMD's EPYC processors, as its service names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

/// Why no vendor can be asked about some evidence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantError {
    /// The TDX quote has no PCK certificate chain.
    #[error("the guest's quote names no platform that Intel could be asked about: {0}")]
    Quote(String),
    /// The SNP report has the wrong length.
    #[error("the guest's SNP report has {0} bytes, 1184 are expected")]
    Report(usize),
    /// The SNP report hides its chip.
    #[error(
        "the guest's SNP report names no chip: unset MaskChipId in the host's SNP configuration, or AMD cannot be asked for its certificate"
    )]
    Masked,
    /// The SNP report is signed with a provider's key (VLEK).
    #[error(
        "the guest's SNP report is signed with a provider's key (VLEK), which AMD's service does not give out: the host loads the provider's certificate into the firmware (SNP_SET_EXT_CONFIG)"
    )]
    Vlek,
    /// The GPU's certificate chain cannot be parsed.
    #[error("the certificates of GPU {gpu} are none: {why}")]
    Gpu {
        /// Index of the GPU.
        gpu: usize,
        /// The decoder's error.
        why: String,
    },
}

/// Returns the items that a request needs, without duplicates. Reference manifests then need more: see [`of_manifest`].
///
/// # Errors
/// Fails with [`WantError`] for evidence that no vendor can be asked about.
pub fn of(request: &CollateralRequest) -> Result<Vec<Want>, WantError> {
    let mut wants = match &request.evidence {
        Some(Evidence::Tdx { quote, .. }) => vec![intel(&quote.0)?],
        Some(Evidence::SevSnp { report, .. }) => vec![amd(&report.0)?],
        None => Vec::new(),
    };
    for (gpu, needs) in request.gpus.iter().enumerate() {
        for name in [&needs.driver_rim, &needs.vbios_rim] {
            wants.push(Want::Rim { name: name.clone() });
        }
        let chain = fetching::revocable_of_gpu(needs.chain.as_bytes());
        let why = |error: cocoon_measurements::nvidia::CertificateError| WantError::Gpu {
            gpu,
            why: crate::text::chain(&error),
        };
        wants.extend(chain.map_err(why)?.into_iter().map(ocsp));
    }
    wants.sort();
    wants.dedup();
    Ok(wants)
}

/// Returns the OCSP items for a reference manifest's own certificates; nothing if it cannot be parsed.
#[must_use]
pub fn of_manifest(manifest: &[u8]) -> Vec<Want> {
    let pairs = fetching::revocable_of_manifest(manifest).unwrap_or_default();
    pairs.into_iter().map(ocsp).collect()
}

fn ocsp((certificate, issuer): Revocable) -> Want {
    Want::Ocsp {
        certificate: Bytes(Blob(certificate)),
        issuer: Bytes(Blob(issuer)),
    }
}

fn intel(quote: &[u8]) -> Result<Want, WantError> {
    let refused = |error: &dyn std::fmt::Display| WantError::Quote(error.to_string());
    let quote = Quote::parse(quote).map_err(|error| refused(&error))?;
    let chain = quote.raw_cert_chain().map_err(|error| refused(&error))?;
    // The chain may end in a zero byte.
    let text = chain.strip_suffix(&[0]).unwrap_or(chain);
    let certificates = der::certificates(text).map_err(|error| refused(&error))?;
    let leaf = certificates
        .first()
        .ok_or_else(|| refused(&"no certificate"))?;
    let leaf: Certificate = der::decode(leaf).map_err(|error| refused(&error))?;
    let extension = parse_pck_extension_from_pem(chain).map_err(|error| refused(&error))?;
    let issuer = leaf.tbs_certificate.issuer.to_string();
    Ok(Want::Intel {
        fmspc: Hex(extension.fmspc),
        ca: match issuer.contains("Platform CA") {
            true => PckCa::Platform,
            false => PckCa::Processor,
        },
    })
}

/// Reads the fields of a report (AMD 56860, table "ATTESTATION_REPORT Structure").
fn amd(report: &[u8]) -> Result<Want, WantError> {
    let report: &[u8; 1184] = report
        .try_into()
        .map_err(|_| WantError::Report(report.len()))?;
    let version = report[0];
    // Bits 2 to 4 name the signing key; 1 is the VLEK.
    if (report[0x48] >> 2) & 7 == 1 {
        return Err(WantError::Vlek);
    }
    let mut tcb = [0; 8];
    tcb.copy_from_slice(&report[0x180..0x188]);
    let mut chip = [0; 64];
    chip.copy_from_slice(&report[0x1a0..0x1e0]);
    if chip == [0; 64] {
        return Err(WantError::Masked);
    }
    Ok(Want::Amd {
        product: (version >= 3)
            .then(|| product(report[0x188], report[0x189]))
            .flatten(),
        chip: Hex(chip),
        tcb: Hex(tcb),
    })
}

/// Maps the CPUID family and model, each combined with its extended part, to a generation.
fn product(family: u8, model: u8) -> Option<Product> {
    Generation::of_cpu(family, model).map(|generation| match generation {
        Generation::Milan => Product::Milan,
        Generation::Genoa => Product::Genoa,
        Generation::Turin => Product::Turin,
    })
}

/// Selects the manifests in `list` (one name per line) that belong to a Hopper driver or to a VBIOS of these versions.
#[must_use]
pub fn names_of(
    list: &str,
    driver: Option<&str>,
    vbios: Option<&str>,
) -> Vec<(String, Vec<String>)> {
    let named = |wanted: &dyn Fn(&str) -> bool| {
        list.lines()
            .filter(|name| wanted(name))
            .map(str::to_owned)
            .collect::<Vec<String>>()
    };
    let driver = driver.map(|version| {
        let name = format!("NV_GPU_DRIVER_GH100_{}", version.to_uppercase());
        (format!("driver {version}"), named(&|found| found == name))
    });
    // The name also has three numbers of the board, which only a GPU's report contains.
    let vbios = vbios.map(|version| {
        let end = format!("_{}", version.replace('.', "").to_uppercase());
        let of = |found: &str| found.starts_with("NV_GPU_VBIOS_") && found.ends_with(&end);
        (format!("VBIOS {version}"), named(&of))
    });
    driver.into_iter().chain(vbios).collect()
}

impl Product {
    /// The spelling of AMD's service.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

impl PckCa {
    /// The spelling of Intel's service.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }
}

impl Want {
    /// Name of the item's files in the store.
    #[must_use]
    pub fn key(&self) -> Hex32 {
        // Serialisation of names and bytes cannot fail.
        Hex32::sha256(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// One line that names the item for people.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Intel { fmspc, ca } => format!("Intel, platforms {fmspc} ({})", ca.name()),
            Self::Amd { product, chip, tcb } => {
                let product = product.map_or("of unknown generation", Product::name);
                let chip = chip.to_string();
                format!("AMD, chip {}… {product}, TCB {tcb}", &chip[..12])
            }
            Self::Rim { name } => format!("NVIDIA, manifest {name}"),
            Self::RimNames => "NVIDIA, names of manifests".to_owned(),
            Self::Ocsp { certificate, .. } => {
                format!("NVIDIA, revocation of {}", subject(&certificate.0.0))
            }
        }
    }

    /// Name of the item's vendor.
    #[must_use]
    pub fn vendor(&self) -> &'static str {
        match self {
            Self::Intel { .. } => "Intel",
            Self::Amd { .. } => "AMD",
            Self::Rim { .. } | Self::RimNames | Self::Ocsp { .. } => "NVIDIA",
        }
    }

    /// Whether the item can be requested; for items that come from files.
    #[must_use]
    pub fn is_wellformed(&self) -> bool {
        match self {
            Self::Rim { name } => rim_name("characters of the name", name).is_ok(),
            Self::Ocsp {
                certificate,
                issuer,
            } => fetching::request(&certificate.0.0, &issuer.0.0).is_ok(),
            Self::Intel { .. } | Self::Amd { .. } | Self::RimNames => true,
        }
    }
}

/// Common name of a certificate's subject, or "a certificate" if it has none.
fn subject(certificate: &[u8]) -> String {
    let name = der::decode::<Certificate>(certificate)
        .map(|certificate| certificate.tbs_certificate.subject.to_string())
        .unwrap_or_default();
    let name = name.split("CN=").nth(1).unwrap_or("a certificate");
    let name = name.split([',', '+']).next().unwrap_or(name);
    crate::text::plain(name, 80)
}

#[cfg(test)]
mod tests;
