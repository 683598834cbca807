//! The collateral beside a quote, as far as the library that verifies it leaves it to its caller: lengths, dates, and what the
//! TCB info says of itself.

use std::fmt::Display;

use dcap_qvl::{QuoteCollateralV3, quote::Quote};
use serde::Deserialize;
use x509_cert::{crl::CertificateList, der::DateTime};

use super::quote::{QuoteError, Refusal};
use crate::der;

/// When collateral was issued, in Unix time, for a caller that limits its age; zero (the oldest) when unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollateralDates {
    /// TCB information: monthly.
    pub tcb_info: u64,
    /// The quoting enclave's identity: monthly.
    pub qe_identity: u64,
    /// Revocation list of the certificates of platforms: monthly.
    pub pck_crl: u64,
    /// Revocation list of the root: yearly.
    pub root_crl: u64,
}

impl CollateralDates {
    pub(super) fn of(collateral: &QuoteCollateralV3) -> Self {
        Self {
            tcb_info: issue_date(&collateral.tcb_info),
            qe_identity: issue_date(&collateral.qe_identity),
            pck_crl: crl_date(&collateral.pck_crl),
            root_crl: crl_date(&collateral.root_ca_crl),
        }
    }
}

/// What a TCB info says of itself (Intel's PCS API version 4, "TCB Info").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stated {
    version: u32,
    /// How levels are compared.
    tcb_type: u32,
    /// The provisioning enclave that certified the platform's key, in hexadecimal.
    pce_id: String,
}

impl Stated {
    pub(super) fn by(tcb_info: &str) -> Result<Self, Refusal> {
        serde_json::from_str(tcb_info).map_err(|error| Refusal::new(&error))
    }

    /// Refuses levels in a form or for an enclave that the library would have taken for another: it looks neither at the
    /// type, nor at versions above the one that it knows, nor at the enclave (0.7.1).
    pub(super) fn check(&self, pce_id: &[u8]) -> Result<(), Refusal> {
        if self.version != 3 {
            let version = self.version;
            return Err(Refusal(format!(
                "TCB info of version {version}, 3 is known"
            )));
        }
        if self.tcb_type != 0 {
            let kind = self.tcb_type;
            return Err(Refusal(format!("TCB info of tcbType {kind}, 0 is known")));
        }
        if hex::decode(&self.pce_id).ok().as_deref() != Some(pce_id) {
            return Err(Refusal(format!(
                "TCB info for PCE {:?}, the platform's certificate is of {}",
                self.pce_id,
                hex::encode_upper(pce_id)
            )));
        }
        Ok(())
    }
}

/// Refuses certificates and lists that would make the library set aside what they claim; see [`der`].
pub(super) fn check_encoding(
    quote: &[u8],
    collateral: &QuoteCollateralV3,
) -> Result<(), QuoteError> {
    let encoding = |part, reason: &dyn Display| QuoteError::Encoding {
        part,
        reason: Refusal::new(&reason),
    };
    let quoted = Quote::parse(quote).ok();
    let quoted = quoted
        .as_ref()
        .and_then(|quote| quote.raw_cert_chain().ok());
    let beside = collateral.pck_certificate_chain.as_deref();
    let chains = [
        ("a chain of platform certificates", quoted),
        (
            "a chain of platform certificates",
            beside.map(str::as_bytes),
        ),
        (
            "an issuer chain of the PCK CRL",
            Some(collateral.pck_crl_issuer_chain.as_bytes()),
        ),
        (
            "an issuer chain of the TCB info",
            Some(collateral.tcb_info_issuer_chain.as_bytes()),
        ),
        (
            "an issuer chain of the QE identity",
            Some(collateral.qe_identity_issuer_chain.as_bytes()),
        ),
    ];
    for (part, chain) in chains {
        for block in
            pem::parse_many(chain.unwrap_or_default()).map_err(|error| encoding(part, &error))?
        {
            der::check(block.contents()).map_err(|error| encoding(part, &error))?;
        }
    }
    for (part, list) in [
        ("a PCK CRL", &collateral.pck_crl),
        ("a root CA CRL", &collateral.root_ca_crl),
    ] {
        der::check(list).map_err(|error| encoding(part, &error))?;
    }
    Ok(())
}

fn issue_date(json: &str) -> u64 {
    #[derive(serde::Deserialize)]
    struct Dated {
        #[serde(rename = "issueDate")]
        issue_date: String,
    }
    let date = serde_json::from_str::<Dated>(json)
        .ok()
        .and_then(|dated| dated.issue_date.parse::<DateTime>().ok());
    date.map_or(0, |date| date.unix_duration().as_secs())
}

fn crl_date(bytes: &[u8]) -> u64 {
    der::decode(bytes).map_or(0, |list: CertificateList| {
        list.tbs_cert_list.this_update.to_unix_duration().as_secs()
    })
}
