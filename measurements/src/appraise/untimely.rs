//! Finds the part of Intel's collateral that is out of date, where the verifying library reports only that one is.
//!
//! The dates read here are not verified. They only explain a refusal that is already certain.

use dcap_qvl::{QuoteCollateralV3, quote::Quote};
use x509_cert::{Certificate, crl::CertificateList, der::DateTime, time::Time};

use crate::{
    der::decode,
    roots::{ValidityError, validity},
    snp::report::certificates_from_pem,
    tdx::quote::Refusal,
};

/// Whether the library's `reason` concerns a date, so that dates can explain the refusal. An unknown reason is taken for an
/// invalid signature, never the other way round.
pub(super) fn is_reason(reason: &Refusal) -> bool {
    const STATEMENTS: [&str; 4] = [
        "TCBInfo issue date is in the future",
        "TCBInfo expired",
        "QE Identity issue date is in the future",
        "QE Identity expired",
    ];
    const CHAINS: [&str; 3] = ["CertExpired {", "CertNotValidYet {", "CrlExpired {"];
    // For the root's revocation list, the library omits the prefix.
    let text = reason.0.as_str();
    let error = text.strip_prefix("Failed to verify certificate chain: ");
    let error = error.unwrap_or(text);
    STATEMENTS.contains(&text) || CHAINS.iter().any(|start| error.starts_with(start))
}

/// A dated part of the collateral: its name, and its dates in Unix time if they can be read.
struct Part {
    name: &'static str,
    begin: Option<u64>,
    /// First second at which the part is no longer valid.
    end: Option<u64>,
    /// End of validity as stated by the part.
    last: Option<u64>,
}

/// Returns the first part that is not yet valid, or else the one that expired first.
pub(super) fn part(
    quote: &[u8],
    collateral: &QuoteCollateralV3,
    now: u64,
) -> Option<ValidityError> {
    let mut parts = vec![
        statement("the TCB information", &collateral.tcb_info),
        statement("the QE identity", &collateral.qe_identity),
        list("the platforms' revocation list", &collateral.pck_crl),
        list("the root's revocation list", &collateral.root_ca_crl),
    ];
    let quote = Quote::parse(quote).ok();
    let platform = (quote.as_ref()).and_then(|quote| quote.raw_cert_chain().ok());
    parts.extend(chain(
        [
            "the platform's PCK certificate",
            "the authority of PCK certificates",
            "the root certificate",
        ],
        platform.unwrap_or_default(),
    ));
    let signer = |pem: &str| {
        let names = [
            "the certificate that signs TCB information",
            "the root certificate",
        ];
        chain(names, pem.as_bytes())
    };
    parts.extend(signer(&collateral.tcb_info_issuer_chain));
    parts.extend(signer(&collateral.qe_identity_issuer_chain));
    early(&parts, now).or_else(|| late(&parts, now))
}

fn early(parts: &[Part], now: u64) -> Option<ValidityError> {
    parts.iter().find_map(|part| {
        let not_before = part.begin.filter(|begin| now < *begin)?;
        Some(ValidityError::NotYetValid {
            certificate: part.name,
            not_before,
            now,
        })
    })
}

fn late(parts: &[Part], now: u64) -> Option<ValidityError> {
    let over = parts
        .iter()
        .filter_map(|part| Some((part.name, part.end.filter(|end| now >= *end)?, part.last?)));
    let (certificate, _, not_after) = over.min_by_key(|(_, end, _)| *end)?;
    Some(ValidityError::Expired {
        certificate,
        not_after,
        now,
    })
}

fn statement(name: &'static str, json: &str) -> Part {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Dated {
        issue_date: Option<String>,
        next_update: Option<String>,
    }
    let dated: Dated = serde_json::from_str(json).unwrap_or_default();
    let seconds = |text: Option<String>| {
        let date: DateTime = text?.parse().ok()?;
        Some(date.unix_duration().as_secs())
    };
    let end = seconds(dated.next_update);
    Part {
        name,
        begin: seconds(dated.issue_date),
        end,
        last: end,
    }
}

/// Reads the dates of a revocation list, which is no longer valid at the very second of its `nextUpdate`.
fn list(name: &'static str, der: &[u8]) -> Part {
    let list = decode::<CertificateList>(der).ok();
    let seconds = |time: Time| time.to_unix_duration().as_secs();
    let end = list
        .as_ref()
        .and_then(|list| list.tbs_cert_list.next_update.map(seconds));
    Part {
        name,
        begin: list
            .as_ref()
            .map(|list| seconds(list.tbs_cert_list.this_update)),
        end,
        last: end,
    }
}

/// Reads the dates of certificates in PEM, the leaf first, each with its name. They are valid during their last second.
fn chain<const N: usize>(names: [&'static str; N], pem: &[u8]) -> Vec<Part> {
    // A quote's chain may end in a zero byte.
    let pem = pem.strip_suffix(&[0]).unwrap_or(pem);
    let certificates = certificates_from_pem(pem).unwrap_or_default();
    let parts = names.into_iter().zip(certificates);
    let part = |(name, der): (&'static str, Vec<u8>)| {
        let certificate = decode::<Certificate>(&der).ok()?;
        let (begin, last) = validity(&certificate);
        Some(Part {
            name,
            begin: Some(begin),
            end: last.checked_add(1),
            last: Some(last),
        })
    };
    parts.filter_map(part).collect()
}
