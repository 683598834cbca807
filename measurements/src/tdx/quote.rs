//! Verifies TDX quotes of versions 4 and 5 offline, with their collateral.
//!
//! `dcap-qvl` verifies chains, signatures, revocation, TCB levels and the QE's identity. This module bounds its input, checks
//! the root and the trust domain's attributes, and applies a TCB policy whose refusals have names. The caller compares the
//! registers: a verified quote alone says only *that* some TD runs.

use dcap_qvl::{
    PckCertFlag, QuoteClaims, QuoteCollateralV3, QuotePolicy, TcbStatusWithAdvisory,
    quote::{Quote, Report, TDReport10},
    verify::QuoteVerifier,
};
use thiserror::Error;

pub use super::collateral::CollateralDates;
use super::{
    attributes::{AttributeError, check_attributes, check_company},
    collateral::{PCK_CHAIN, Stated, check_chain, check_encoding},
    crypto::Fast,
    tcb::{TcbError, TcbPolicy, TcbStatus},
};
use crate::{
    roots::{self, RootClass, TrustRoot, ValidityError},
    verdict::one_line,
};

/// Largest quote accepted, in bytes. Real ones have about 5 KB, 8 KB with padding.
pub const MAX_QUOTE: usize = 64 << 10;
/// Largest collateral accepted, in bytes. Real collateral has about 20 KB.
pub const MAX_COLLATERAL: usize = 4 << 20;

/// Pinned SHA-384 of the public key of Intel's SGX root CA, independent of the copy in any library.
pub const INTEL_ROOT_KEY: [u8; 48] = [
    0x46, 0xe4, 0x03, 0xbd, 0x34, 0xf0, 0x5a, 0x3f, 0x28, 0x17, 0xab, 0x9b, 0xad, 0xca, 0xac, 0xc7,
    0xff, 0xc9, 0x8e, 0x0f, 0x26, 0x10, 0x08, 0xcd, 0x30, 0xda, 0xe9, 0x36, 0xca, 0xce, 0x18, 0xd5,
    0xdc, 0xf5, 0x8e, 0xef, 0x31, 0x46, 0x36, 0x13, 0xde, 0x15, 0x70, 0xd5, 0x16, 0x20, 0x09, 0x93,
];

/// Claims of a verified quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxClaims {
    /// Class of the root that vouches for the quote.
    pub root: RootClass,
    /// Version of the quote's format: 4 or 5.
    pub version: u16,
    /// MRTD: digest of the firmware.
    pub mrtd: [u8; 48],
    /// Runtime registers RTMR0 to RTMR3.
    pub rtmr: [[u8; 48]; 4],
    /// MRCONFIGID: the host's 48 bytes of configuration.
    pub mrconfigid: [u8; 48],
    /// MROWNER: identity of the owner, as the host gave it.
    pub mrowner: [u8; 48],
    /// MROWNERCONFIG: the owner's configuration, as the host gave it.
    pub mrownerconfig: [u8; 48],
    /// MRSEAM: digest of the TDX module.
    pub mrseam: [u8; 48],
    /// MRSIGNERSEAM: signer of the TDX module; zero means Intel.
    pub mrsignerseam: [u8; 48],
    /// Attributes of the trust domain, little-endian. The bits of debug, profiling and migration and reserved bits are clear.
    pub td_attributes: [u8; 8],
    /// XFAM: extended processor features that the trust domain may use.
    pub xfam: [u8; 8],
    /// The guest's 64 bytes of report data.
    pub report_data: [u8; 64],
    /// Status of the platform's TCB at launch, including quoting enclave and TDX module.
    pub tcb_status: TcbStatus,
    /// Current status of the TCB, in reports of TDX 1.5: the module can be updated under a running domain.
    pub current_tcb_status: Option<TcbStatus>,
    /// Advisories that apply at this TCB.
    pub advisories: Vec<String>,
    /// Evaluation number of the collateral: the lower of TCB information's and QE identity's.
    pub evaluation_number: u32,
    /// Date of the TCB level, Unix time.
    pub tcb_date: u64,
    /// FMSPC: family, model, platform and stepping.
    pub fmspc: [u8; 6],
    /// Platform provisioning id (PPID) from the PCK certificate: 16 bytes, not encrypted; identifies a machine in
    /// allow-lists.
    pub ppid: Vec<u8>,
    /// Whether hyper-threading is on, if the certificate says.
    pub smt_enabled: Option<bool>,
    /// Whether processor packages can be added, if the certificate says.
    pub dynamic_platform: Option<bool>,
    /// Whether Intel's registration service keeps the platform's keys, if the certificate says.
    pub cached_keys: Option<bool>,
    /// Issue time of the oldest piece of collateral, certificates included, Unix time.
    pub earliest_issue: u64,
    /// Time at which the first piece of collateral expires, Unix time.
    pub earliest_expiration: u64,
    /// Issue dates of the collateral.
    pub issued: CollateralDates,
}

impl TdxClaims {
    /// Returns the statuses that a policy must accept, all of them: the status at launch, and the current one unless it is up
    /// to date.
    pub fn tcb_statuses(&self) -> impl Iterator<Item = TcbStatus> + Clone + use<> {
        let now = self.current_tcb_status;
        let now = now.filter(|status| *status != TcbStatus::UpToDate);
        std::iter::once(self.tcb_status).chain(now)
    }
}

/// Why a quote is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuoteError {
    /// The quote is larger than [`MAX_QUOTE`].
    #[error("TDX quote has {length} bytes, more than {MAX_QUOTE}")]
    TooLarge {
        /// Length of the quote in bytes.
        length: usize,
    },
    /// The bytes are not a quote.
    #[error("TDX quote cannot be decoded")]
    Malformed(#[source] Refusal),
    /// The quote is of another TEE type or version.
    #[error(
        "quote has version {version} and TEE type {tee_type:#x}: a TDX quote (0x81) of version 4 or 5 is needed"
    )]
    NotTdx {
        /// The version found.
        version: u16,
        /// The TEE type found.
        tee_type: u32,
    },
    /// The trust domain's attributes or TDX 1.5 fields break its protection.
    #[error("TDX quote is of a trust domain that must not be trusted")]
    Attributes(#[from] AttributeError),
    /// The collateral is larger than [`MAX_COLLATERAL`].
    #[error("TDX collateral has {length} bytes, more than {MAX_COLLATERAL}")]
    CollateralTooLarge {
        /// Length of the collateral in bytes.
        length: usize,
    },
    /// A certificate or list has invalid lengths, or PEM is malformed.
    #[error("TDX evidence holds {part} that cannot be decoded")]
    Encoding {
        /// Name of the part.
        part: &'static str,
        /// What is wrong, and where.
        #[source]
        reason: Refusal,
    },
    /// The collateral is not JSON of the known schema.
    #[error("TDX collateral is not JSON of the expected schema")]
    Collateral(#[source] Refusal),
    /// The root, or a piece of collateral, is not valid now.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// A chain, signature, revocation list or TCB does not verify.
    #[error("TDX quote does not verify with its collateral under the {root} root")]
    Unverified {
        /// The root that was tried: `vendor's` or `development`.
        root: &'static str,
        /// The verification library's reason.
        #[source]
        reason: Refusal,
    },
    /// The quote verified under a key that is not Intel's, although Intel's root was demanded.
    #[error("TDX quote verified under a root key that is not Intel's")]
    RootKey,
    /// The policy does not accept the platform's TCB.
    #[error(transparent)]
    Tcb(#[from] TcbError),
}

/// A reason for refusal as text, mostly in the library's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// Formats an error on one line with every cause, which the alternate form of the library's errors prints.
    pub(crate) fn new(error: &impl std::fmt::Display) -> Self {
        Self(one_line(format_args!("{error:#}")))
    }
}

/// Verifies `quote` with `collateral` (JSON as Intel's PCS client writes it: `QuoteCollateralV3`) under `root`.
///
/// `now` is Unix time in seconds and is compared with every date in certificates, revocation lists, TCB information
/// and QE identity. Nothing is fetched.
///
/// # Errors
/// [`QuoteError`] with the first reason to refuse the quote.
pub fn verify(
    quote: &[u8],
    collateral: &[u8],
    root: &TrustRoot,
    policy: &TcbPolicy,
    now: u64,
) -> Result<TdxClaims, QuoteError> {
    check(quote)?;
    verify_checked(quote, parse_collateral(collateral)?, root, policy, now)
}

/// As [`verify`], for a quote that passed [`check`] and parsed collateral.
pub(crate) fn verify_checked(
    quote: &[u8],
    collateral: QuoteCollateralV3,
    root: &TrustRoot,
    policy: &TcbPolicy,
    now: u64,
) -> Result<TdxClaims, QuoteError> {
    let issued = CollateralDates::of(&collateral);
    let stated = Stated::by(&collateral.tcb_info);
    let name = match root {
        TrustRoot::Vendor => "vendor's",
        TrustRoot::Development(_) => "development",
    };
    let verified = verifier(root, now)?
        // Our own policy is applied below, so that each of its refusals has a name.
        .verify_with_policy(quote, collateral, now, &QuotePolicy::claims_only(now))
        .map_err(|error| Refusal::new(&error))
        .and_then(|verified| {
            stated?.check(&verified.platform.pck.pce_id)?;
            Ok(verified)
        })
        .map_err(|reason| QuoteError::Unverified { root: name, reason })?;
    if *root == TrustRoot::Vendor && verified.platform.root_key_id != INTEL_ROOT_KEY {
        return Err(QuoteError::RootKey);
    }
    let window = (
        verified.latest_issue_date,
        verified.earliest_expiration_date,
    );
    roots::check_dates("the TDX collateral", window, now)?;
    let claims = claims(&verified, root.class(), issued)?;
    policy.check(
        claims.tcb_statuses(),
        &claims.advisories,
        claims.evaluation_number,
    )?;
    Ok(claims)
}

/// Checks size, type and attributes before any signature, because no signature could make up for them.
pub(crate) fn check(quote: &[u8]) -> Result<(), QuoteError> {
    if quote.len() > MAX_QUOTE {
        return Err(QuoteError::TooLarge {
            length: quote.len(),
        });
    }
    let parsed =
        Quote::parse(quote).map_err(|error| QuoteError::Malformed(Refusal::new(&error)))?;
    let (version, tee_type) = (parsed.header.version, parsed.header.tee_type);
    let report = td_report(&parsed.report).filter(|_| matches!(version, 4 | 5));
    let report = report.ok_or(QuoteError::NotTdx { version, tee_type })?;
    check_attributes(&report.td_attributes)?;
    check_company(&parsed.report)?;
    // The library refuses a quote without a chain.
    parsed
        .raw_cert_chain()
        .map_or(Ok(()), |chain| check_chain(PCK_CHAIN, chain))
}

pub(crate) fn parse_collateral(json: &[u8]) -> Result<QuoteCollateralV3, QuoteError> {
    if json.len() > MAX_COLLATERAL {
        return Err(QuoteError::CollateralTooLarge { length: json.len() });
    }
    let collateral = serde_json::from_slice(json)
        .map_err(|error| QuoteError::Collateral(Refusal::new(&error)))?;
    check_encoding(&collateral)?;
    Ok(collateral)
}

fn verifier(root: &TrustRoot, now: u64) -> Result<QuoteVerifier<Fast>, QuoteError> {
    match root {
        TrustRoot::Vendor => Ok(QuoteVerifier::new_prod().with_config()),
        TrustRoot::Development(root) => {
            roots::check_dates(
                roots::DEVELOPMENT_ROOT,
                roots::validity(root.certificate()),
                now,
            )?;
            let der = root
                .unmarked_der()
                .map_err(|error| QuoteError::Unverified {
                    root: "development",
                    reason: Refusal(format!("the root cannot be encoded: {error}")),
                })?;
            Ok(QuoteVerifier::new_with_config(der))
        }
    }
}

fn claims(
    verified: &QuoteClaims,
    root: RootClass,
    issued: CollateralDates,
) -> Result<TdxClaims, QuoteError> {
    let (version, tee_type) = (verified.header.version, verified.tee_type);
    let report = td_report(&verified.report).ok_or(QuoteError::NotTdx { version, tee_type })?;
    let pck = &verified.platform.pck;
    Ok(TdxClaims {
        root,
        version,
        mrtd: report.mr_td,
        rtmr: [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3],
        mrconfigid: report.mr_config_id,
        mrowner: report.mr_owner,
        mrownerconfig: report.mr_owner_config,
        mrseam: report.mr_seam,
        mrsignerseam: report.mr_signer_seam,
        td_attributes: report.td_attributes,
        xfam: report.xfam,
        report_data: report.report_data,
        tcb_status: verified.tcb.status.into(),
        current_tcb_status: current_status(verified),
        advisories: advisories(verified),
        evaluation_number: verified.tcb.eval_data_number,
        tcb_date: verified.platform.tcb_date_tag,
        fmspc: pck.fmspc,
        ppid: pck.ppid.clone(),
        smt_enabled: flag(pck.smt_enabled),
        dynamic_platform: flag(pck.dynamic_platform),
        cached_keys: flag(pck.cached_keys),
        earliest_issue: verified.earliest_issue_date,
        earliest_expiration: verified.earliest_expiration_date,
        issued,
    })
}

fn td_report(report: &Report) -> Option<&TDReport10> {
    match report {
        Report::TD10(report) => Some(report),
        Report::TD15(report) => Some(&report.base),
        Report::TD15Ex(report) => Some(&report.base.base),
        Report::SgxEnclave(_) => None,
    }
}

/// Returns the current TCB status, merged with the quoting enclave's. The library lets the current level only turn an
/// outdated launch status into "relaunch advised". It does not report a current level that is worse than the one at launch.
fn current_status(verified: &QuoteClaims) -> Option<TcbStatus> {
    let of = |status| TcbStatusWithAdvisory::new(status, Vec::new());
    let level = verified.platform.current_tcb_level.as_ref()?;
    let enclave = of(verified.qe.tcb_level.tcb_status);
    Some(of(level.tcb_status).merge(&enclave).status.into())
}

/// Returns all advisories that apply: at launch, at present (after an update of the TDX module), and to the quoting enclave.
fn advisories(verified: &QuoteClaims) -> Vec<String> {
    let current = verified
        .platform
        .current_tcb_level
        .iter()
        .flat_map(|level| &level.advisory_ids);
    let mut all: Vec<String> = verified
        .tcb
        .advisory_ids
        .iter()
        .chain(current)
        .cloned()
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

const fn flag(flag: PckCertFlag) -> Option<bool> {
    match flag {
        PckCertFlag::True => Some(true),
        PckCertFlag::False => Some(false),
        PckCertFlag::Undefined => None,
    }
}
