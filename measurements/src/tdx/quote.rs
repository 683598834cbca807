//! TDX quotes, version 4 and 5, verified offline with their collateral.
//!
//! Chains, signatures, revocation, TCB matching and the QE's identity are `dcap-qvl`'s work. Ours are the bounds on
//! what it is given, the root, the trust domain's attributes, and a TCB policy whose refusals have names. What the
//! registers must hold is for the caller to compare: a verified quote alone says only *that* some TD runs.

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

/// The largest quote read; real ones have about 5 KB, 8 KB with padding.
pub const MAX_QUOTE: usize = 64 << 10;
/// The largest collateral read; real one has about 20 KB.
pub const MAX_COLLATERAL: usize = 4 << 20;

/// SHA-384 of the public key of Intel's SGX root CA: the pin, independent of the copy in any library.
pub const INTEL_ROOT_KEY: [u8; 48] = [
    0x46, 0xe4, 0x03, 0xbd, 0x34, 0xf0, 0x5a, 0x3f, 0x28, 0x17, 0xab, 0x9b, 0xad, 0xca, 0xac, 0xc7,
    0xff, 0xc9, 0x8e, 0x0f, 0x26, 0x10, 0x08, 0xcd, 0x30, 0xda, 0xe9, 0x36, 0xca, 0xce, 0x18, 0xd5,
    0xdc, 0xf5, 0x8e, 0xef, 0x31, 0x46, 0x36, 0x13, 0xde, 0x15, 0x70, 0xd5, 0x16, 0x20, 0x09, 0x93,
];

/// What a verified quote says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TdxClaims {
    /// Whose root vouches for it.
    pub root: RootClass,
    /// Version of the quote's format: 4 or 5.
    pub version: u16,
    /// Digest of the firmware.
    pub mrtd: [u8; 48],
    /// The runtime registers.
    pub rtmr: [[u8; 48]; 4],
    /// The host's 48 bytes of configuration.
    pub mrconfigid: [u8; 48],
    /// Identity of the owner, as the host gave it.
    pub mrowner: [u8; 48],
    /// The owner's configuration, as the host gave it.
    pub mrownerconfig: [u8; 48],
    /// Digest of the TDX module.
    pub mrseam: [u8; 48],
    /// Signer of the TDX module; zero means Intel.
    pub mrsignerseam: [u8; 48],
    /// Attributes of the trust domain, little-endian; debug, profiling, migration, reserved bits are clear.
    pub td_attributes: [u8; 8],
    /// Extended processor features that the trust domain may use.
    pub xfam: [u8; 8],
    /// The guest's 64 bytes.
    pub report_data: [u8; 64],
    /// Status of the platform's TCB at the launch, quoting enclave and TDX module included.
    pub tcb_status: TcbStatus,
    /// Status of the TCB that runs now, in reports of TDX 1.5: the module can be exchanged under a running domain.
    pub current_tcb_status: Option<TcbStatus>,
    /// Advisories that apply at this TCB.
    pub advisories: Vec<String>,
    /// Number of the collateral's evaluation, the lower of TCB information and QE identity.
    pub evaluation_number: u32,
    /// Date of the TCB level, Unix time.
    pub tcb_date: u64,
    /// Family, model, platform and stepping.
    pub fmspc: [u8; 6],
    /// Identity of the platform (PPID) as the PCK certificate states it: 16 bytes, not encrypted; names a machine in
    /// allow-lists.
    pub ppid: Vec<u8>,
    /// Whether hyper-threading is on, if the certificate says.
    pub smt_enabled: Option<bool>,
    /// Whether processor packages can be added, if the certificate says.
    pub dynamic_platform: Option<bool>,
    /// Whether Intel's registration service keeps the platform's keys, if the certificate says.
    pub cached_keys: Option<bool>,
    /// The oldest piece of collateral, certificates included: when it was issued, Unix time.
    pub earliest_issue: u64,
    /// When the first piece of collateral expires, Unix time.
    pub earliest_expiration: u64,
    /// When each piece of collateral was issued.
    pub issued: CollateralDates,
}

impl TdxClaims {
    /// The statuses that a policy has to accept, each of them: of the launch, and of what runs now unless nothing is wrong
    /// with that.
    pub fn tcb_statuses(&self) -> impl Iterator<Item = TcbStatus> + Clone + use<> {
        let now = self.current_tcb_status;
        let now = now.filter(|status| *status != TcbStatus::UpToDate);
        std::iter::once(self.tcb_status).chain(now)
    }
}

/// Why a quote is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum QuoteError {
    /// Larger than any quote.
    #[error("TDX quote has {length} bytes, more than {MAX_QUOTE}")]
    TooLarge {
        /// Bytes given.
        length: usize,
    },
    /// Not a quote.
    #[error("TDX quote cannot be decoded")]
    Malformed(#[source] Refusal),
    /// A quote of another technology or version.
    #[error(
        "quote has version {version} and TEE type {tee_type:#x}: a TDX quote (0x81) of version 4 or 5 is needed"
    )]
    NotTdx {
        /// The version found.
        version: u16,
        /// The TEE type found.
        tee_type: u32,
    },
    /// The trust domain runs in a mode that breaks its promise.
    #[error("TDX quote is of a trust domain that must not be trusted")]
    Attributes(#[from] AttributeError),
    /// Larger than any collateral.
    #[error("TDX collateral has {length} bytes, more than {MAX_COLLATERAL}")]
    CollateralTooLarge {
        /// Bytes given.
        length: usize,
    },
    /// A certificate or list whose lengths do not hold, or PEM that is none.
    #[error("TDX evidence holds {part} that cannot be decoded")]
    Encoding {
        /// Which part.
        part: &'static str,
        /// Where and why.
        #[source]
        reason: Refusal,
    },
    /// Not JSON of the known schema.
    #[error("TDX collateral is not JSON of the expected schema")]
    Collateral(#[source] Refusal),
    /// The root, or a piece of collateral, is not valid now.
    #[error(transparent)]
    Validity(#[from] ValidityError),
    /// A chain, signature, revocation list or TCB did not hold.
    #[error("TDX quote does not verify with its collateral under the {root} root")]
    Unverified {
        /// Under whose root it was tried.
        root: &'static str,
        /// The verification library's reason.
        #[source]
        reason: Refusal,
    },
    /// It verified under a key that is not Intel's, though Intel's root was asked for.
    #[error("TDX quote verified under a root key that is not Intel's")]
    RootKey,
    /// The platform's TCB is not good enough.
    #[error(transparent)]
    Tcb(#[from] TcbError),
}

/// A reason in the words of the library that found it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Refusal(pub String);

impl Refusal {
    /// With every cause, which the alternate form of the library's errors prints, on one line.
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
/// [`QuoteError`]: the first reason not to believe the quote.
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

/// As [`verify`], for a quote that passed [`check`].
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
        // The policy is ours (below), so that each of its refusals has a name.
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

/// Refuses early what no signature could redeem.
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
    // One without a chain is the library's to refuse.
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

/// The status of what runs now, with the quoting enclave's. The library lets it only soften a launch's that is out of date,
/// into "relaunch advised": one that is worse than the launch's it would not tell.
fn current_status(verified: &QuoteClaims) -> Option<TcbStatus> {
    let of = |status| TcbStatusWithAdvisory::new(status, Vec::new());
    let level = verified.platform.current_tcb_level.as_ref()?;
    let enclave = of(verified.qe.tcb_level.tcb_status);
    Some(of(level.tcb_status).merge(&enclave).status.into())
}

/// All that apply: at launch, at present (after an update of the TDX module), and to the quoting enclave.
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
