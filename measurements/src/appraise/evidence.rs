//! Verification of the evidence: which root is tried, and why evidence is refused.
//!
//! If the presented chain contains a development root, only that root is tried, and only if the policy names it. So the
//! chain selects the root to try, and the root that verifies decides the class.

use std::error::Error;

use cocoon_protocol::{
    binding::Tee,
    bytes::{Blob, Hex},
    document::Collateral,
};
use dcap_qvl::{
    QuoteCollateralV3,
    quote::{Quote, Report},
};

use super::{snp, tdx, untimely};
use crate::{
    policy::Policy,
    roots::{DevelopmentRoot, TrustRoot},
    snp::report::{self, ChainError, ReportError, SnpChain, SnpClaims, certificates_from_pem},
    tdx::{
        quote::{self, MAX_COLLATERAL, MAX_QUOTE, QuoteError, Refusal, TdxClaims},
        tcb::TcbPolicy,
    },
    verdict::{Check, chain},
};

/// Decoded evidence. `verified` is `None` for boot evidence without endorsements, whose values only allow an early failure.
pub(super) struct Evidence<Measured, Claims> {
    pub(super) measured: Measured,
    pub(super) verified: Option<Claims>,
    /// Last second, from this appraisal on, at which the result would be the same; `None` if it is unknown.
    pub(super) holds_until: Option<u64>,
}

/// Verifies a TDX quote. In a boot document without collateral, it is only decoded.
pub(super) fn tdx(
    quote: &Blob,
    collateral: Option<&Collateral>,
    policy: &Policy,
    session: bool,
    now: u64,
) -> Result<Evidence<tdx::Measured, TdxClaims>, Box<Check>> {
    let json = match collateral {
        Some(Collateral::Tdx { json }) => json,
        Some(Collateral::SevSnp { .. }) => {
            return Err(no_endorsements(OTHER_VENDOR));
        }
        None if session => {
            return Err(no_endorsements(MISSING));
        }
        None => {
            return Ok(Evidence {
                measured: unverified_tdx(quote)?,
                verified: None,
                holds_until: Some(u64::MAX),
            });
        }
    };
    let refusal = |error| Box::new(tdx_refusal(&error, &quote.0, &json.0, now));
    // The quote comes first, because its faults do not depend on endorsements.
    quote::check(&quote.0).map_err(refusal)?;
    let collateral = quote::parse_collateral(&json.0).map_err(refusal)?;
    let root = choose_root(policy, presented_tdx_roots(&collateral), Tee::Tdx)?;
    let policy = TcbPolicy::judged_by_caller();
    let claims =
        quote::verify_checked(&quote.0, collateral, &root, &policy, now).map_err(refusal)?;
    Ok(Evidence {
        measured: (&claims).into(),
        verified: Some(claims),
        // The library that verifies Intel's chains does not report when the first of their certificates ends.
        holds_until: None,
    })
}

/// Verifies an SEV-SNP report. Certificates in the collateral take precedence over the firmware's, which may be older.
pub(super) fn snp(
    report: &Blob,
    certificates: &[Blob],
    collateral: Option<&Collateral>,
    policy: &Policy,
    session: bool,
    now: u64,
) -> Result<Evidence<snp::Measured, SnpClaims>, Box<Check>> {
    let (stapled, crl): (&[Blob], Option<&Blob>) = match collateral {
        Some(Collateral::SevSnp { certificates, crl }) => (certificates, crl.as_ref()),
        Some(Collateral::Tdx { .. }) => {
            return Err(no_endorsements(OTHER_VENDOR));
        }
        None => (&[], None),
    };
    let certificates = if stapled.is_empty() {
        certificates
    } else {
        stapled
    };
    let [vek, intermediate, rest @ ..] = certificates else {
        if session {
            return Err(no_endorsements(MISSING));
        }
        return Ok(Evidence {
            measured: snp::Measured::parse_unverified(&report.0)?,
            verified: None,
            holds_until: Some(u64::MAX),
        });
    };
    let root = choose_root(
        policy,
        rest.iter().map(|der| der.0.clone()).collect(),
        Tee::SevSnp,
    )?;
    let presented = SnpChain {
        vek: &vek.0,
        intermediate: &intermediate.0,
        crl: crl.map(|crl| crl.0.as_slice()),
    };
    let claims = report::verify(&report.0, &presented, &root, now)
        .map_err(|error| Box::new(snp_refusal(&error)))?;
    Ok(Evidence {
        measured: (&claims).into(),
        holds_until: Some(snp::holds_until(&claims, policy)),
        verified: Some(claims),
    })
}

fn no_endorsements(cause: &str) -> Box<Check> {
    Box::new(Check::fail(COLLATERAL, ENDORSEMENTS, cause, ASK_OPERATOR))
}

/// Returns the vendor's root, or the development root in the presented chain if the policy names it.
pub(super) fn choose_root(
    policy: &Policy,
    presented: Vec<Vec<u8>>,
    tee: Tee,
) -> Result<TrustRoot, Box<Check>> {
    let title = "root of the evidence";
    let Some(marked) = presented
        .into_iter()
        .find(|der| DevelopmentRoot::parse(der).is_ok())
    else {
        return Ok(TrustRoot::Vendor);
    };
    let cause = match tee {
        Tee::Tdx => TDX_ROOT_NOT_NAMED,
        Tee::SevSnp => SNP_ROOT_NOT_NAMED,
    };
    if !policy.development_roots.contains(&marked) {
        let expected = format!("the vendor's root for {tee}");
        return Err(Check::fail("evidence.root", title, cause, NAME_ROOT)
            .expected(expected)
            .found(fingerprint(&marked))
            .into());
    }
    TrustRoot::development(&marked)
        .map_err(|error| Check::fail("evidence.root", title, chain(&error), NAME_ROOT).into())
}

fn fingerprint(der: &[u8]) -> String {
    format!(
        "development root with SHA-256 {}",
        cocoon_protocol::bytes::Hex32::sha256(der)
    )
}

/// Returns the last certificate of each chain in the TDX collateral. Intel's chains and the simulator's end in the root.
fn presented_tdx_roots(collateral: &QuoteCollateralV3) -> Vec<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    let chains = [
        Some(&collateral.tcb_info_issuer_chain),
        Some(&collateral.pck_crl_issuer_chain),
        collateral.pck_certificate_chain.as_ref(),
    ];
    // Usually all chains end in the same PEM text. It is decoded only once, because decoding takes most of the time.
    let mut lasts: Vec<&str> = Vec::new();
    for pem in chains.into_iter().flatten() {
        let last = pem.rfind(BEGIN).and_then(|start| pem.get(start..));
        if let Some(last) = last.map(str::trim_end)
            && !lasts.contains(&last)
        {
            lasts.push(last);
        }
    }
    lasts
        .iter()
        .flat_map(|pem| certificates_from_pem(pem.as_bytes()).unwrap_or_default())
        .collect()
}

fn parse_collateral(json: &[u8]) -> Option<QuoteCollateralV3> {
    if json.len() > MAX_COLLATERAL {
        None
    } else {
        serde_json::from_slice(json).ok()
    }
}

pub(super) fn tdx_refusal(error: &QuoteError, quote: &[u8], collateral: &[u8], now: u64) -> Check {
    let part = || {
        parse_collateral(collateral).and_then(|collateral| untimely::part(quote, &collateral, now))
    };
    let mut cause = chain(error);
    let untimely = match error {
        // This error concerns the collateral as a whole. The expired part may still be found.
        QuoteError::Validity(validity) if !validity.is_of_root() => part().or(Some(*validity)),
        QuoteError::Validity(validity) => Some(*validity),
        QuoteError::Attributes(_) => {
            return Check::fail("tdx.attributes", "TD attributes", cause, LAUNCH);
        }
        QuoteError::Unverified { reason, .. } if untimely::is_reason(reason) => part(),
        // An invalid signature is invalid at any time, so the dates are mentioned in addition, not instead.
        QuoteError::Unverified { .. } | QuoteError::Encoding { .. } => {
            if let Some(validity) = part() {
                cause = format!("{cause}; {ALSO_UNTIMELY} {}", chain(&validity));
            }
            None
        }
        _ => None,
    };
    if let Some(validity) = untimely {
        return out_of_time(&validity, Tee::Tdx);
    }
    Check::fail(
        SIGNATURE,
        "signatures of the TDX quote",
        cause,
        BAD_SIGNATURE,
    )
}

pub(super) fn snp_refusal(error: &ReportError) -> Check {
    match error {
        ReportError::Chain(ChainError::Validity(validity)) => out_of_time(validity, Tee::SevSnp),
        ReportError::Field { field, found, .. } => {
            let (id, title) = match *field {
                "policy" => ("snp.policy", "guest policy"),
                "VMPL" => ("snp.vmpl", "privilege level (VMPL)"),
                "ID key digest" => ("snp.id_key", "ID key (unused)"),
                "author key digest" => ("snp.author_key", "author key (unused)"),
                _ => (SIGNATURE, "signature of the SEV-SNP report"),
            };
            Check::fail(id, title, chain(error), LAUNCH).found(found)
        }
        _ => Check::fail(
            SIGNATURE,
            "signature of the SEV-SNP report",
            chain(error),
            BAD_SIGNATURE,
        ),
    }
}

fn out_of_time(error: &dyn Error, tee: Tee) -> Check {
    Check::fail(
        COLLATERAL,
        ENDORSEMENTS,
        format!("{OUT_OF_TIME} {tee}: {}", chain(error)),
        OUT_OF_TIME_ADVICE,
    )
}

fn unverified_tdx(quote: &Blob) -> Result<tdx::Measured, Box<Check>> {
    let unreadable =
        |cause: String| Box::new(Check::fail(SIGNATURE, "TDX quote", cause, BAD_SIGNATURE));
    if quote.0.len() > MAX_QUOTE {
        return Err(unreadable(chain(&QuoteError::TooLarge {
            length: quote.0.len(),
        })));
    }
    let parsed = Quote::parse(&quote.0)
        .map_err(|error| unreadable(chain(&QuoteError::Malformed(Refusal::new(&error)))))?;
    let report = match &parsed.report {
        Report::TD10(report) => report,
        Report::TD15(report) => &report.base,
        Report::TD15Ex(report) => &report.base.base,
        Report::SgxEnclave(_) => {
            let (version, tee_type) = (parsed.header.version, parsed.header.tee_type);
            return Err(unreadable(chain(&QuoteError::NotTdx { version, tee_type })));
        }
    };
    Ok(tdx::Measured {
        mrtd: Hex(report.mr_td),
        rtmr: [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3].map(Hex),
        mr_config_id: Hex(report.mr_config_id),
        mr_owner: Hex(report.mr_owner),
        mr_owner_config: Hex(report.mr_owner_config),
        mr_seam: Hex(report.mr_seam),
        mr_signer_seam: Hex(report.mr_signer_seam),
        td_attributes: u64::from_le_bytes(report.td_attributes),
        xfam: u64::from_le_bytes(report.xfam),
        report_data: Hex(report.report_data),
    })
}

const SIGNATURE: &str = "evidence.signature";
pub(super) const COLLATERAL: &str = "evidence.collateral";
const ENDORSEMENTS: &str = "endorsements (collateral)";
const OTHER_VENDOR: &str = "the endorsements are another vendor's than the evidence";
const MISSING: &str = "missing collateral: without the vendor's certificates and revocation data nothing vouches for the evidence";
const OUT_OF_TIME: &str = "expired collateral, or this machine's clock is wrong; for";
const ALSO_UNTIMELY: &str = "besides, something is out of its time:";
const OUT_OF_TIME_ADVICE: &str = "check this machine's clock; if it is right, the operator fetches the vendor's current collateral";
pub(super) const ASK_OPERATOR: &str =
    "the operator fetches the vendor's current collateral and staples it";
const BAD_SIGNATURE: &str = "the evidence was changed, or its endorsements do not belong to it: the operator fetches the collateral of this machine anew; if that does not help, do not use it";
const LAUNCH: &str =
    "the operator starts the VM with this release's cocoon-host, without settings of their own";
const TDX_ROOT_NOT_NAMED: &str = "development root not named: this TDX quote comes from simulated hardware, and no development root for it was named";
const SNP_ROOT_NOT_NAMED: &str = "development root not named: this SEV-SNP report comes from simulated hardware, and no development root for it was named";
const NAME_ROOT: &str = "use a machine with real hardware; to try a simulated one, name its root with --trust-root, knowing that nothing keeps its host from reading what you send";
