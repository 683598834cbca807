//! Offline verification of SEV-SNP attestation reports, versions 2 to 5, with their certificates.
//!
//! The `sev` crate parses reports and verifies their signatures. This module adds what the crate leaves to its caller:
//! pinned roots, dates and revocation (`chain`), the match of TCB and chip in certificate and report (`endorsement`), and
//! the guest policy. The caller must compare measurement, report data and host data.

use sev::{
    certs::snp::{Certificate as SevCertificate, Verifiable as _},
    firmware::guest::AttestationReport,
    parser::ByteParser as _,
};
use thiserror::Error;

use super::{chain, endorsement};
pub use super::{
    chain::{ChainError, Product, Revocation, SnpChain, certificates_from_pem},
    endorsement::EndorsementError,
};
use crate::{
    roots::{RootClass, TrustRoot},
    verdict::one_line,
};

/// Length of a report in bytes, signature included.
pub const REPORT_LENGTH: usize = 1184;

/// Signature algorithm ECDSA on P-384 with SHA-384, the only one defined.
const ECDSA_P384: u32 = 1;
const SIGNED: usize = 0x2a0;
const UNEXPECTED_KEY: &str = "it is not the key that was expected to vouch for the launch";

/// Patch levels of the TCB components.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcbVersion {
    /// First mutable code (FMC), on Turin only.
    pub fmc: Option<u8>,
    /// Boot loader of the secure processor.
    pub bootloader: u8,
    /// Operating system of the secure processor.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Lowest microcode level of all cores.
    pub microcode: u8,
}

/// Kind of the key that signed a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SigningKey {
    /// The chip's own key.
    Vcek,
    /// A cloud provider's key, loaded into the chip.
    Vlek,
}

/// Claims of a verified report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnpClaims {
    /// Class of the root that vouches for the report.
    pub root: RootClass,
    /// Generation of the processor; `None` under a development root.
    pub product: Option<Product>,
    /// Family, model and stepping of the processor; `None` in reports of version 2.
    pub cpuid: Option<[u8; 3]>,
    /// Whether revocation was checked.
    pub revocation: Revocation,
    /// Last second at which all certificates and the revocation list are valid, in Unix time.
    pub valid_until: u64,
    /// Version of the report format: 2 to 5.
    pub version: u32,
    /// Kind of the key that signed the report.
    pub signing_key: SigningKey,
    /// The launch digest.
    pub measurement: [u8; 48],
    /// REPORT_DATA: 64 bytes chosen by the guest.
    pub report_data: [u8; 64],
    /// HOST_DATA: 32 bytes chosen by the host at launch.
    pub host_data: [u8; 32],
    /// Guest policy. Debugging and migration are off.
    pub policy: u64,
    /// Security version number of the guest.
    pub guest_svn: u32,
    /// Family of the guest, as named by its owner.
    pub family_id: [u8; 16],
    /// Image of the guest, as named by its owner.
    pub image_id: [u8; 16],
    /// Keys that vouched for the launch, which are those that the caller expected.
    pub launched_by: LaunchIdentity,
    /// Identifier of this run of the guest.
    pub report_id: [u8; 32],
    /// Identifier of the processor; zero if masked, which is possible only with a VLEK.
    pub chip_id: [u8; 64],
    /// PLATFORM_INFO: settings of the platform.
    pub platform_info: u64,
    /// TCB from which the signing key was derived.
    pub reported_tcb: TcbVersion,
    /// TCB that is running.
    pub current_tcb: TcbVersion,
    /// TCB below which the platform cannot be downgraded.
    pub committed_tcb: TcbVersion,
    /// TCB at the launch of the guest.
    pub launch_tcb: TcbVersion,
}

/// Why a report is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReportError {
    /// The report has the wrong length.
    #[error("SNP report has {length} bytes, {REPORT_LENGTH} expected")]
    Length {
        /// Length found, in bytes.
        length: usize,
    },
    /// The version of the report is not supported.
    #[error("SNP report has version {version}, 2 to 5 expected")]
    Version {
        /// Version found.
        version: u32,
    },
    /// The report cannot be decoded.
    #[error("SNP report cannot be decoded: {reason}")]
    Malformed {
        /// The decoder's error.
        reason: String,
    },
    /// A field has a value that makes the report untrustworthy.
    #[error("SNP report: {field} is {found}: {why}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value of the field.
        found: String,
        /// Why the value is refused.
        why: &'static str,
    },
    /// The certificates are refused.
    #[error("the SNP report's certificates do not hold")]
    Chain(#[from] ChainError),
    /// The certificate is not for this report.
    #[error("the SNP report and its certificate do not belong together")]
    Endorsement(#[from] EndorsementError),
    /// The signature of the report does not verify.
    #[error("the signature on the SNP report does not hold")]
    Signature,
}

/// Digests (SHA-384) of the keys with which a guest's owner vouches for its launch. Zero (the default) means no such key.
///
/// The holder of such a key chose what was launched, so an unexpected key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchIdentity {
    /// Digest of the key that signed the ID block.
    pub id_key_digest: [u8; 48],
    /// Digest of the key that signed the ID key.
    pub author_key_digest: [u8; 48],
}

impl Default for LaunchIdentity {
    fn default() -> Self {
        Self {
            id_key_digest: [0; 48],
            author_key_digest: [0; 48],
        }
    }
}

/// Verifies `report` (1184 bytes) of a guest that was launched without ID block, with its certificates under `root`.
///
/// Refuses debugging, migration, a VMPL other than 0, and any ID or author key. `now`, in Unix time, is compared with every
/// date in certificates and revocation list. Nothing is fetched.
///
/// # Errors
/// [`ReportError`] is the first reason to refuse the report.
pub fn verify(
    report: &[u8],
    chain: &SnpChain<'_>,
    root: &TrustRoot,
    now: u64,
) -> Result<SnpClaims, ReportError> {
    verify_launched_by(&LaunchIdentity::default(), report, chain, root, now)
}

/// Like [`verify`], for a guest that was launched with an ID block under the keys of `identity`.
///
/// # Errors
/// [`ReportError`] is the first reason to refuse the report.
pub fn verify_launched_by(
    identity: &LaunchIdentity,
    report: &[u8],
    chain: &SnpChain<'_>,
    root: &TrustRoot,
    now: u64,
) -> Result<SnpClaims, ReportError> {
    let (parsed, policy) = parse(report)?;
    let key = check_fields(&parsed, policy, identity)?;
    let chain = chain::verify(chain, root, now)?;
    (&SevCertificate::from(chain.vek.clone()), &parsed)
        .verify()
        .map_err(|_| ReportError::Signature)?;
    let reported_tcb = tcb(&parsed.reported_tcb);
    let cpuid = cpuid(&parsed);
    endorsement::check_generation(chain.product, cpuid, &reported_tcb)?;
    endorsement::check(&chain.vek, key, &reported_tcb, &parsed.chip_id)?;
    Ok(SnpClaims {
        root: chain.root,
        product: chain.product,
        cpuid,
        revocation: chain.revocation,
        valid_until: chain.valid_until,
        version: parsed.version,
        signing_key: key,
        measurement: parsed.measurement,
        report_data: parsed.report_data,
        host_data: parsed.host_data,
        policy,
        guest_svn: parsed.guest_svn,
        family_id: parsed.family_id,
        image_id: parsed.image_id,
        launched_by: *identity,
        report_id: parsed.report_id,
        chip_id: parsed.chip_id,
        platform_info: parsed.plat_info.into(),
        reported_tcb,
        current_tcb: tcb(&parsed.current_tcb),
        committed_tcb: tcb(&parsed.committed_tcb),
        launch_tcb: tcb(&parsed.launch_tcb),
    })
}

/// Decodes the report. Returns the guest policy separately, as it was received: the `sev` crate sets a reserved bit in it.
fn parse(report: &[u8]) -> Result<(AttestationReport, u64), ReportError> {
    let Some((head, _)) = report
        .split_first_chunk::<0x10>()
        .filter(|_| report.len() == REPORT_LENGTH)
    else {
        return Err(ReportError::Length {
            length: report.len(),
        });
    };
    // VERSION at 0x00, GUEST_SVN at 0x04, POLICY at 0x08 (SEV-SNP firmware ABI 56860, "ATTESTATION_REPORT").
    let [v0, v1, v2, v3, _, _, _, _, policy @ ..] = *head;
    let version = u32::from_le_bytes([v0, v1, v2, v3]);
    if !(2..=5).contains(&version) {
        return Err(ReportError::Version { version });
    }
    let malformed = |error: std::io::Error| ReportError::Malformed {
        reason: one_line(error),
    };
    let parsed = AttestationReport::from_bytes(report).map_err(malformed)?;
    // The crate verifies the signature over its own encoding of the report, which must therefore equal the bytes received.
    let understood = parsed.to_bytes().map_err(malformed)?;
    if let Some(offset) = (0..SIGNED).find(|&at| understood.get(at) != report.get(at)) {
        return Err(ReportError::Malformed {
            reason: format!(
                "it has bits at offset {offset:#x} that are of no field of its version"
            ),
        });
    }
    Ok((parsed, u64::from_le_bytes(policy)))
}

/// Refuses reports that no signature can make acceptable, and returns the kind of the key that signed.
fn check_fields(
    report: &AttestationReport,
    policy: u64,
    identity: &LaunchIdentity,
) -> Result<SigningKey, ReportError> {
    let field = |field, found: String, why| Err(ReportError::Field { field, found, why });
    let policy = || format!("{policy:#x}");
    if report.policy.debug_allowed() {
        return field(
            "policy",
            policy(),
            "debugging is allowed, so the host can read the guest's memory",
        );
    }
    if report.policy.migrate_ma_allowed() {
        return field(
            "policy",
            policy(),
            "migration is allowed, so the guest's memory can leave this machine",
        );
    }
    if report.vmpl != 0 {
        return field(
            "VMPL",
            report.vmpl.to_string(),
            "code of a higher privilege controls the guest",
        );
    }
    if report.id_key_digest != identity.id_key_digest {
        return field(
            "ID key digest",
            hex::encode(report.id_key_digest),
            UNEXPECTED_KEY,
        );
    }
    if report.author_key_digest != identity.author_key_digest {
        return field(
            "author key digest",
            hex::encode(report.author_key_digest),
            UNEXPECTED_KEY,
        );
    }
    if report.sig_algo != ECDSA_P384 {
        return field(
            "signature algorithm",
            report.sig_algo.to_string(),
            "only ECDSA P-384 with SHA-384 (1) exists",
        );
    }
    match report.key_info.signing_key() {
        0 => Ok(SigningKey::Vcek),
        1 => Ok(SigningKey::Vlek),
        other => field(
            "signing key",
            other.to_string(),
            "neither a VCEK (0) nor a VLEK (1) signed it",
        ),
    }
}

fn cpuid(report: &AttestationReport) -> Option<[u8; 3]> {
    Some([
        report.cpuid_fam_id?,
        report.cpuid_mod_id?,
        report.cpuid_step?,
    ])
}

const fn tcb(version: &sev::firmware::host::TcbVersion) -> TcbVersion {
    TcbVersion {
        fmc: version.fmc,
        bootloader: version.bootloader,
        tee: version.tee,
        snp: version.snp,
        microcode: version.microcode,
    }
}
