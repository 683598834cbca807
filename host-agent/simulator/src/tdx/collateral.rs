//! Collateral that Intel's provisioning certification service would serve for the simulated platform: TCB info, quoting
//! enclave identity, revocation lists, and the certificate chains of their signers.

use p256::ecdsa::signature::Signer;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::tdx::enclave::{QE_PROD_ID, QE_SVN, qe_mr_signer};
use crate::tdx::identity::{CPU_SVN, FMSPC, IntelIdentity, PCE_ID, PCE_SVN};
use crate::tdx::quote::TEE_TCB_SVN;
use crate::x509::{self, PrivateKey, X509Error};

/// TCB evaluation data number of the collateral.
pub const TCB_EVALUATION_DATA_NUMBER: u32 = 21;
/// Validity of collateral in seconds: 30 days, like Intel's.
pub const LIFETIME: u64 = 30 * 24 * 60 * 60;

/// Issue date and next update of collateral, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollateralDates {
    /// Issue date.
    pub issued: u64,
    /// Date of the next update.
    pub next_update: u64,
}

impl CollateralDates {
    /// Returns dates with an issue date one hour before `now`, which tolerates small clock differences.
    #[must_use]
    pub fn around(now: u64) -> Self {
        let issued = now.saturating_sub(3600);
        Self {
            issued,
            next_update: issued.saturating_add(LIFETIME),
        }
    }
}

/// TCB status of the platform in the TCB info.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TcbStatus {
    /// The TCB has no known weakness.
    #[default]
    UpToDate,
    /// The TCB has known weaknesses.
    OutOfDate,
    /// The platform's keys are compromised.
    Revoked,
}

impl TcbStatus {
    const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::OutOfDate => "OutOfDate",
            Self::Revoked => "Revoked",
        }
    }
}

/// Revoked certificates, in DER.
#[derive(Debug, Clone, Copy, Default)]
pub struct Revoked<'a> {
    /// Certificates in the root's revocation list.
    pub by_root: &'a [&'a [u8]],
    /// Certificates in the PCK CA's revocation list.
    pub by_pck_ca: &'a [&'a [u8]],
}

/// Returns the collateral as JSON of `dcap_qvl::QuoteCollateralV3`, with binary members in hexadecimal.
pub(super) fn json(
    identity: &IntelIdentity,
    dates: CollateralDates,
    status: TcbStatus,
    revoked: Revoked<'_>,
) -> Result<Vec<u8>, X509Error> {
    let PrivateKey::P256(signer) = &identity.tcb_signing.key else {
        return Err(X509Error::Key {
            operation: "use",
            reason: "the TCB signing key is not on P-256".into(),
        });
    };
    let sign = |text: &str| {
        let signature: p256::ecdsa::Signature = signer.sign(text.as_bytes());
        hex::encode(signature.to_bytes())
    };
    let tcb_info = tcb_info(dates, status)?;
    let qe_identity = qe_identity(dates)?;
    let signer_chain = x509::pem(&[
        &identity.tcb_signing.certificate,
        &identity.root.certificate,
    ])?;
    let crl = |issuer, revoked| {
        let list = x509::crl(issuer, dates.issued, dates.next_update, revoked)?;
        Ok::<_, X509Error>(hex::encode(list))
    };
    let collateral = json!({
        "pck_crl_issuer_chain": x509::pem(&[&identity.pck_ca.certificate, &identity.root.certificate])?,
        "root_ca_crl": crl(&identity.root, revoked.by_root)?,
        "pck_crl": crl(&identity.pck_ca, revoked.by_pck_ca)?,
        "tcb_info_issuer_chain": signer_chain,
        "tcb_info": tcb_info,
        "tcb_info_signature": sign(&tcb_info),
        "qe_identity_issuer_chain": signer_chain,
        "qe_identity": qe_identity,
        "qe_identity_signature": sign(&qe_identity),
    });
    Ok(collateral.to_string().into_bytes())
}

fn tcb_info(dates: CollateralDates, status: TcbStatus) -> Result<String, X509Error> {
    let module = json!({
        "mrsigner": "00".repeat(48),
        "attributes": "00".repeat(8),
        "attributesMask": "FF".repeat(8),
    });
    let module_identity = json!({
        "id": "TDX_01",
        "mrsigner": "00".repeat(48),
        "attributes": "00".repeat(8),
        "attributesMask": "FF".repeat(8),
        "tcbLevels": [{ "tcb": { "isvsvn": TEE_TCB_SVN[0] }, "tcbDate": TCB_DATE, "tcbStatus": "UpToDate" }],
    });
    // Components 0 and 1 of TDX describe the module, which the module identity covers.
    let mut tdx_components = TEE_TCB_SVN;
    tdx_components[1] = 0;
    let components = |svns: [u8; 16]| svns.map(|svn| json!({ "svn": svn }));
    Ok(json!({
        "id": "TDX",
        "version": 3,
        "issueDate": date(dates.issued)?,
        "nextUpdate": date(dates.next_update)?,
        "fmspc": hex::encode_upper(FMSPC),
        "pceId": hex::encode_upper(PCE_ID),
        "tcbType": 0,
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [module_identity],
        "tcbLevels": [{
            "tcb": {
                "sgxtcbcomponents": components(CPU_SVN),
                "pcesvn": PCE_SVN,
                "tdxtcbcomponents": components(tdx_components),
            },
            "tcbDate": TCB_DATE,
            "tcbStatus": status.name(),
        }],
    })
    .to_string())
}

fn qe_identity(dates: CollateralDates) -> Result<String, X509Error> {
    Ok(json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": date(dates.issued)?,
        "nextUpdate": date(dates.next_update)?,
        "tcbEvaluationDataNumber": TCB_EVALUATION_DATA_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": hex::encode_upper(qe_mr_signer()),
        "isvprodid": QE_PROD_ID,
        "tcbLevels": [{ "tcb": { "isvsvn": QE_SVN }, "tcbDate": TCB_DATE, "tcbStatus": "UpToDate" }],
    })
    .to_string())
}

const TCB_DATE: &str = "2025-01-01T00:00:00Z";

fn date(seconds: u64) -> Result<String, X509Error> {
    let time = i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok())
        .ok_or(X509Error::Date(seconds))
}
