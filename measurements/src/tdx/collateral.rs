//! Checks of TDX collateral that the verification library leaves to its caller: lengths, dates, and TCB info metadata.

use std::fmt::Display;

use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;
use x509_cert::{crl::CertificateList, der::DateTime};

use super::quote::{QuoteError, Refusal};
use crate::der;

pub(super) const PCK_CHAIN: &str = "a chain of platform certificates";

/// Issue dates of the collateral, Unix time, for a caller that limits its age. An unreadable date is zero, the oldest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CollateralDates {
    /// Issue date of the TCB information, which is issued monthly.
    pub tcb_info: u64,
    /// Issue date of the quoting enclave's identity, which is issued monthly.
    pub qe_identity: u64,
    /// Issue date of the revocation list of platforms' certificates, which is issued monthly.
    pub pck_crl: u64,
    /// Issue date of the root's revocation list, which is issued yearly.
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

/// Metadata of a TCB info (Intel's PCS API version 4, "TCB Info").
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stated {
    version: u32,
    /// How TCB levels are compared.
    tcb_type: u32,
    /// Id of the provisioning certification enclave (PCE) that certified the platform's key, in hexadecimal.
    pce_id: String,
}

impl Stated {
    pub(super) fn by(tcb_info: &str) -> Result<Self, Refusal> {
        serde_json::from_str(tcb_info).map_err(|error| Refusal::new(&error))
    }

    /// Refuses TCB info of an unknown version or type, or for another PCE. The library (0.7.1) checks neither the type, nor
    /// versions above the one that it knows, nor the PCE, and would misinterpret the levels.
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

/// Refuses a revocation list, or a certificate of a chain, that would make the library allocate what it claims (see [`der`]).
pub(super) fn check_encoding(collateral: &QuoteCollateralV3) -> Result<(), QuoteError> {
    for (part, chain) in [
        (PCK_CHAIN, collateral.pck_certificate_chain.as_deref()),
        (
            "an issuer chain of the PCK CRL",
            Some(&*collateral.pck_crl_issuer_chain),
        ),
        (
            "an issuer chain of the TCB info",
            Some(&*collateral.tcb_info_issuer_chain),
        ),
        (
            "an issuer chain of the QE identity",
            Some(&*collateral.qe_identity_issuer_chain),
        ),
    ] {
        check_chain(part, chain.unwrap_or_default().as_bytes())?;
    }
    for (part, list) in [
        ("a PCK CRL", &collateral.pck_crl),
        ("a root CA CRL", &collateral.root_ca_crl),
    ] {
        der::check(list).map_err(|error| encoding(part, &error))?;
    }
    Ok(())
}

/// Checks certificates in PEM in the same way, as the library reads them.
pub(super) fn check_chain(part: &'static str, chain: &[u8]) -> Result<(), QuoteError> {
    let blocks = pem::parse_many(chain).map_err(|error| encoding(part, &error))?;
    let mut blocks = blocks.iter();
    let checked = blocks.try_for_each(|block| der::check(block.contents()));
    checked.map_err(|error| encoding(part, &error))
}

fn encoding(part: &'static str, reason: &impl Display) -> QuoteError {
    let reason = Refusal::new(reason);
    QuoteError::Encoding { part, reason }
}

fn issue_date(json: &str) -> u64 {
    #[derive(Deserialize)]
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Each piece in turn is a string that claims to have 7.9 MB, and is refused by its name.
    #[test]
    fn lengths_of_every_piece_are_checked() {
        const LIES: [u8; 8] = [0x0c, 0x83, 0x78, 0xd5, 0xdb, 1, 2, 3];
        let chain = || pem::encode(&pem::Pem::new("CERTIFICATE", LIES));
        let sound = QuoteCollateralV3 {
            pck_crl_issuer_chain: String::new(),
            root_ca_crl: Vec::new(),
            pck_crl: Vec::new(),
            tcb_info_issuer_chain: String::new(),
            tcb_info: String::new(),
            tcb_info_signature: Vec::new(),
            qe_identity_issuer_chain: String::new(),
            qe_identity: String::new(),
            qe_identity_signature: Vec::new(),
            pck_certificate_chain: None,
        };
        assert_eq!(check_encoding(&sound), Ok(()));
        type Edit<'a> = &'a dyn Fn(&mut QuoteCollateralV3);
        let edits: [(&str, Edit<'_>); 6] = [
            (PCK_CHAIN, &|c| c.pck_certificate_chain = Some(chain())),
            ("an issuer chain of the PCK CRL", &|c| {
                c.pck_crl_issuer_chain = chain();
            }),
            ("an issuer chain of the TCB info", &|c| {
                c.tcb_info_issuer_chain = chain();
            }),
            ("an issuer chain of the QE identity", &|c| {
                c.qe_identity_issuer_chain = chain();
            }),
            ("a PCK CRL", &|c| c.pck_crl = LIES.to_vec()),
            ("a root CA CRL", &|c| c.root_ca_crl = LIES.to_vec()),
        ];
        for (name, edit) in edits {
            let mut collateral = sound.clone();
            edit(&mut collateral);
            let Err(QuoteError::Encoding { part, reason }) = check_encoding(&collateral) else {
                panic!("{name} is taken")
            };
            assert_eq!(part, name);
            assert!(
                reason
                    .0
                    .ends_with("expected 7919072, actual 8 at DER byte 5"),
                "{reason}"
            );
        }
    }
}
