//! Intel's Provisioning Certification Service, version 4: TCB info, QE identity and revocation lists, in the JSON form that
//! verifiers of quotes read (`QuoteCollateralV3`).

use cocoon_measurements::der;
use cocoon_protocol::bytes::Hex;
use dcap_qvl::QuoteCollateralV3;
use serde::Deserialize;
use serde_json::value::RawValue;
use x509_cert::crl::CertificateList;
use x509_cert::der::DateTime;

use super::http::{Answer, Client, HttpError};
use super::want::PckCa;
use super::{CollateralError, Dates, Services, wrong};

const INTEL: &str = "Intel";
const TCB_INFO: &str = "the TCB info";
const QE_IDENTITY: &str = "the QE identity";
const PCK_CRL: &str = "the revocation list of platforms";
const ROOT_CRL: &str = "the revocation list of the root";
const ALL: &str = "the collateral";
/// Maximum length of a document in bytes. Intel's have up to 20 KB.
const LIMIT: usize = 256 << 10;

/// A signed document. Its text stays as received, because the signature covers it byte for byte.
#[derive(Deserialize)]
struct TcbInfo<'a> {
    #[serde(rename = "tcbInfo", borrow)]
    info: &'a RawValue,
    signature: String,
}

#[derive(Deserialize)]
struct QeIdentity<'a> {
    #[serde(rename = "enclaveIdentity", borrow)]
    identity: &'a RawValue,
    signature: String,
}

/// The fields that are checked in both documents.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issued {
    id: String,
    issue_date: String,
    next_update: String,
    fmspc: Option<String>,
}

/// Requests all four documents.
pub(super) fn fetch(
    client: &Client,
    services: &Services,
    fmspc: &Hex<6>,
    ca: PckCa,
) -> Result<Vec<u8>, CollateralError> {
    let base = services.intel.trim_end_matches('/');
    let get = |url: &str, advice| {
        client.get(url, LIMIT, None).map_err(|error| match error {
            HttpError::Status { url, status: 404 } => CollateralError::None {
                vendor: INTEL,
                url,
                advice,
            },
            other => other.into(),
        })
    };
    let tcb = get(
        &format!("{base}/tdx/certification/v4/tcb?fmspc={fmspc}&update=standard"),
        "Intel knows no such platform for TDX, or the processor is a sample",
    )?;
    let identity = get(
        &format!("{base}/tdx/certification/v4/qe/identity?update=standard"),
        "check the address of the service",
    )?;
    let pck_crl = get(
        &format!(
            "{base}/sgx/certification/v4/pckcrl?ca={}&encoding=der",
            ca.name()
        ),
        "check the address of the service",
    )?;
    let root_crl = get(&services.intel_root_crl, "check the address of the service")?;
    assemble(&tcb, &identity, &pck_crl, root_crl.body)
}

fn assemble(
    tcb: &Answer,
    identity: &Answer,
    pck_crl: &Answer,
    root_ca_crl: Vec<u8>,
) -> Result<Vec<u8>, CollateralError> {
    let not_json = |what| move |error: serde_json::Error| wrong(what, INTEL)(error.to_string());
    let parsed: TcbInfo<'_> = serde_json::from_slice(&tcb.body).map_err(not_json(TCB_INFO))?;
    let qe: QeIdentity<'_> =
        serde_json::from_slice(&identity.body).map_err(not_json(QE_IDENTITY))?;
    let signature = |what, text: &str| {
        let signature: Hex<64> = text
            .parse()
            .map_err(|_| wrong(what, INTEL)("its signature is not 64 bytes".to_owned()))?;
        Ok::<_, CollateralError>(signature.0.to_vec())
    };
    let collateral = QuoteCollateralV3 {
        pck_crl_issuer_chain: chain(pck_crl, &["SGX-PCK-CRL-Issuer-Chain"], PCK_CRL)?,
        root_ca_crl,
        pck_crl: pck_crl.body.clone(),
        tcb_info_issuer_chain: chain(
            tcb,
            &["SGX-TCB-Info-Issuer-Chain", "TCB-Info-Issuer-Chain"],
            TCB_INFO,
        )?,
        tcb_info: parsed.info.get().to_owned(),
        tcb_info_signature: signature(TCB_INFO, &parsed.signature)?,
        qe_identity_issuer_chain: chain(
            identity,
            &["SGX-Enclave-Identity-Issuer-Chain"],
            QE_IDENTITY,
        )?,
        qe_identity: qe.identity.get().to_owned(),
        qe_identity_signature: signature(QE_IDENTITY, &qe.signature)?,
        // TDX quotes carry their own PCK certificate chain.
        pck_certificate_chain: None,
    };
    serde_json::to_vec(&collateral).map_err(not_json(ALL))
}

/// Returns the certificate chain in a header, percent-encoded PEM.
fn chain(
    answer: &Answer,
    names: &[&'static str],
    what: &'static str,
) -> Result<String, CollateralError> {
    let text = answer.header(names)?;
    let text = percent_encoding::percent_decode_str(text)
        .decode_utf8()
        .map_err(|error| wrong(what, INTEL)(error.to_string()))?;
    if !text.starts_with("-----BEGIN CERTIFICATE-----") {
        let why = "its issuers are not certificates in PEM".to_owned();
        return Err(wrong(what, INTEL)(why));
    }
    Ok(text.into_owned())
}

/// Checks that `bytes` are collateral of these platforms, valid at `now`.
pub(super) fn check(bytes: &[u8], fmspc: &Hex<6>, now: u64) -> Result<Dates, CollateralError> {
    let refused = |what| move |error: serde_json::Error| wrong(what, INTEL)(error.to_string());
    let collateral: QuoteCollateralV3 = serde_json::from_slice(bytes).map_err(refused(ALL))?;
    let tcb: Issued = serde_json::from_str(&collateral.tcb_info).map_err(refused(TCB_INFO))?;
    let qe: Issued = serde_json::from_str(&collateral.qe_identity).map_err(refused(QE_IDENTITY))?;
    if tcb.id != "TDX" {
        return Err(wrong(TCB_INFO, INTEL)(format!(
            "it is for {:?}, and TDX was asked for",
            crate::text::plain(&tcb.id, 20)
        )));
    }
    let of = tcb.fmspc.as_deref().unwrap_or_default();
    if !of.eq_ignore_ascii_case(&fmspc.to_string()) {
        return Err(wrong(TCB_INFO, INTEL)(format!(
            "it is for platforms {:?}, and {fmspc} was asked for",
            crate::text::plain(of, 20)
        )));
    }
    let all = [
        issued(&tcb, TCB_INFO)?.hold(TCB_INFO, INTEL, now)?,
        issued(&qe, QE_IDENTITY)?.hold(QE_IDENTITY, INTEL, now)?,
        crl(&collateral.pck_crl, PCK_CRL, INTEL)?.hold(PCK_CRL, INTEL, now)?,
        crl(&collateral.root_ca_crl, ROOT_CRL, INTEL)?.hold(ROOT_CRL, INTEL, now)?,
    ];
    Ok(Dates {
        made: all.iter().map(|dates| dates.made).max().unwrap_or(0),
        due: all.iter().map(|dates| dates.due).min().unwrap_or(0),
    })
}

fn issued(document: &Issued, what: &'static str) -> Result<Dates, CollateralError> {
    let time = |text: &str| {
        text.parse::<DateTime>()
            .map(|time| time.unix_duration().as_secs())
            .map_err(|_| wrong(what, INTEL)("a date in it is none".to_owned()))
    };
    Ok(Dates {
        made: time(&document.issue_date)?,
        due: time(&document.next_update)?,
    })
}

/// Returns the validity period of a revocation list. A list without a next update is valid only at its own time.
pub(super) fn crl(
    list: &[u8],
    what: &'static str,
    vendor: &'static str,
) -> Result<Dates, CollateralError> {
    let list = der::decode::<CertificateList>(list)
        .map_err(|error| wrong(what, vendor)(error.to_string()))?
        .tbs_cert_list;
    let made = list.this_update.to_unix_duration().as_secs();
    let due = list.next_update;
    Ok(Dates {
        made,
        due: due.map_or(made, |time| time.to_unix_duration().as_secs()),
    })
}
