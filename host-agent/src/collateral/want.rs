//! What evidence asks for: which of a vendor's documents, by the names that vendors file them under.

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

/// One thing that a vendor keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Want {
    /// Intel's TCB info, QE identity and revocation lists for a family of platforms.
    Intel {
        /// The family (FMSPC) in the platform's certificate.
        fmspc: Hex<6>,
        /// Which authority certified the platform.
        ca: PckCa,
    },
    /// AMD's certificates for one chip at its patch levels, with their revocation list.
    Amd {
        /// The processor's generation; nothing in a report that does not say it.
        product: Option<Product>,
        /// The chip's number.
        chip: Hex64,
        /// Patch levels (REPORTED_TCB), as they stand in the report.
        tcb: Hex<8>,
    },
    /// NVIDIA's reference manifest of this name.
    Rim {
        /// Name.
        name: String,
    },
    /// The names of all of NVIDIA's reference manifests for GPUs.
    RimNames,
    /// NVIDIA's word on whether a certificate is revoked.
    Ocsp {
        /// The certificate, DER.
        certificate: Bytes,
        /// Its issuer's, DER.
        issuer: Bytes,
    },
}

/// Bytes in Base64, ordered.
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

/// Intel's authorities for platforms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PckCa {
    /// Of single processors.
    Processor,
    /// Of machines with several.
    Platform,
}

/// Generations of AMD's processors, as its service names them.
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

/// Why nobody can be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantError {
    /// Not a quote with a platform's certificate.
    #[error("the guest's quote names no platform that Intel could be asked about: {0}")]
    Quote(String),
    /// Not a report of SNP.
    #[error("the guest's SNP report has {0} bytes, 1184 are expected")]
    Report(usize),
    /// A report that hides its chip.
    #[error(
        "the guest's SNP report names no chip: unset MaskChipId in the host's SNP configuration, or AMD cannot be asked for its certificate"
    )]
    Masked,
    /// A provider's key.
    #[error(
        "the guest's SNP report is signed with a provider's key (VLEK), which AMD's service does not give out: the host loads the provider's certificate into the firmware (SNP_SET_EXT_CONFIG)"
    )]
    Vlek,
    /// Not a GPU's chain.
    #[error("the certificates of GPU {gpu} are none: {why}")]
    Gpu {
        /// Its place.
        gpu: usize,
        /// What the decoder says.
        why: String,
    },
}

/// What this request asks for, each once; what follows from reference manifests, see [`of_manifest`], comes to it.
///
/// # Errors
/// [`WantError`] for evidence that no vendor could be asked about.
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

/// What is asked about a reference manifest's own certificates; nothing for what is no manifest.
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
    // It may end in a zero byte.
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

/// Fields of a report (AMD 56860, table "ATTESTATION_REPORT Structure").
fn amd(report: &[u8]) -> Result<Want, WantError> {
    let report: &[u8; 1184] = report
        .try_into()
        .map_err(|_| WantError::Report(report.len()))?;
    let version = report[0];
    // Bits 2 to 4: which key signed.
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

/// By family and model, as CPUID combines them.
fn product(family: u8, model: u8) -> Option<Product> {
    Generation::of_cpu(family, model).map(|generation| match generation {
        Generation::Milan => Product::Milan,
        Generation::Genoa => Product::Genoa,
        Generation::Turin => Product::Turin,
    })
}

/// Of NVIDIA's manifests in `list`, a name a line, those of a driver for Hopper and those of a VBIOS, by version.
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
    // Of the board's three numbers in the name only a report tells.
    let vbios = vbios.map(|version| {
        let end = format!("_{}", version.replace('.', "").to_uppercase());
        let of = |found: &str| found.starts_with("NV_GPU_VBIOS_") && found.ends_with(&end);
        (format!("VBIOS {version}"), named(&of))
    });
    driver.into_iter().chain(vbios).collect()
}

impl Product {
    /// As AMD's service spells it.
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
    /// As Intel's service spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }
}

impl Want {
    /// Its number in the store.
    #[must_use]
    pub fn key(&self) -> Hex32 {
        // Names and bytes only: serialisation cannot fail.
        Hex32::sha256(&serde_json::to_vec(self).unwrap_or_default())
    }

    /// As people read it, in one line.
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

    /// The vendor.
    #[must_use]
    pub fn vendor(&self) -> &'static str {
        match self {
            Self::Intel { .. } => "Intel",
            Self::Amd { .. } => "AMD",
            Self::Rim { .. } | Self::RimNames | Self::Ocsp { .. } => "NVIDIA",
        }
    }

    /// Whether this can be a want at all: for those that come from files.
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

/// The common name of a certificate's subject, or that there is none.
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
