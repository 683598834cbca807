//! Targets for AMD's certificates and revocation lists and for Intel's collateral: as foreign bytes, and changed by a script
//! and signed again.

use cocoon_measurements::der;
use cocoon_measurements::roots::{DevelopmentRoot, TrustRoot};
use cocoon_measurements::snp::report::{self, SnpChain, SnpClaims, certificates_from_pem};
use cocoon_measurements::tdx::quote::{self, QuoteError, TdxClaims};
use cocoon_measurements::tdx::tcb::{TcbPolicy, TcbStatus};
use cocoon_protocol::binding::Tee;
use cocoon_simulator::snp::report::CHIP_ID;
use cocoon_simulator::snp::{SnpSimulator, Tcb};
use cocoon_simulator::x509::{self, PrivateKey};
use p256::ecdsa::signature::Signer as _;
use serde_json::Value;
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::asn1::BitString;
use x509_cert::der::{Decode as _, Encode as _};

use crate::edits;
use crate::evidence::{JUDGED, session};
use crate::memory::bounded;
use crate::platform::{
    AMD, AMD_ROOT, EVENT_LOG, INTEL, INTEL_ROOT, NOW, SNP_CRL, SNP_REPORT, TDX_COLLATERAL,
    TDX_QUOTE, tdx_document,
};

/// Memory in bytes, beyond a multiple of the input, that parsing one certificate or list may hold at once.
const READ: usize = 256 << 10;

/// Appraises foreign bytes as a certificate or list in each position that the host controls. The first byte selects the
/// position.
pub fn certificates(data: &[u8]) {
    let Some((place, bytes)) = data.split_first() else {
        return;
    };
    match place % 3 {
        0 => {
            let good = vcek();
            let judged = bounded(JUDGED, || judge(bytes, &AMD.ask.certificate, &SNP_CRL));
            assert!(
                judged.is_none() || same_body(bytes, &good),
                "a foreign VCEK"
            );
        }
        1 => {
            let judged = bounded(JUDGED, || judge(&vcek(), bytes, &SNP_CRL));
            assert!(judged.is_none() || same_body(bytes, &AMD.ask.certificate));
        }
        _ => {
            let judged = bounded(JUDGED, || judge(&vcek(), &AMD.ask.certificate, bytes));
            assert!(judged.is_none() || bytes == *SNP_CRL, "a foreign list");
        }
    }
}

/// Parses foreign bytes as a certificate and as a PEM file. No signature is verified before they are parsed.
pub fn certificates_read(data: &[u8]) {
    let limit = READ + 64 * data.len();
    if let Ok(certificates) = bounded(limit, || certificates_from_pem(data)) {
        assert!(certificates.iter().map(Vec::len).sum::<usize>() <= data.len());
        let reads = |bytes: &Vec<u8>| der::decode::<Certificate>(bytes).is_ok();
        assert!(certificates.iter().all(reads));
    }
    if bounded(limit, || DevelopmentRoot::parse(data)).is_ok() {
        assert!(TrustRoot::development(data).is_ok());
    }
}

/// Appraises a VCEK, ASK or list whose body a script has changed and whose issuer has signed it again. The first byte selects
/// which.
pub fn certificates_signed(data: &[u8]) {
    let Some((which, script)) = data.split_first() else {
        return;
    };
    let (ask, ark) = (&AMD.ask, &AMD.ark);
    let (vcek, intermediate, list) = match which % 3 {
        0 => (
            reissued(&vcek(), script, &ask.key),
            Some(ask.certificate.clone()),
            Some(SNP_CRL.clone()),
        ),
        1 => (
            Some(vcek()),
            reissued(&ask.certificate, script, &ark.key),
            Some(SNP_CRL.clone()),
        ),
        _ => (
            Some(vcek()),
            Some(ask.certificate.clone()),
            relisted(script),
        ),
    };
    let (Some(vcek), Some(intermediate), Some(list)) = (vcek, intermediate, list) else {
        return;
    };
    let judged = bounded(JUDGED, || judge(&vcek, &intermediate, &list));
    let Some(claims) = judged else { return };
    // The chip id and these parts of the TCB in the certificate equal those in the report.
    let stands = |value: &[u8]| vcek.windows(value.len()).any(|window| window == value);
    assert!(stands(&claims.chip_id), "a VCEK of another chip");
    assert_eq!(
        (
            claims.reported_tcb.bootloader,
            claims.reported_tcb.microcode
        ),
        (Tcb::CURRENT.bootloader, Tcb::CURRENT.microcode)
    );
}

/// Parses foreign bytes as Intel's collateral. The time is the Unix epoch, when no root is valid yet. The validity of the root
/// is checked right after the collateral is parsed, so nothing is verified.
pub fn collateral_read(data: &[u8]) {
    let limit = JUDGED + 64 * data.len();
    let judged = bounded(limit, || judge_collateral(data, 0));
    assert!(judged.is_err(), "judged under a root that is not valid");
}

/// Appraises foreign bytes as Intel's collateral. Only bytes that mean the same as the good collateral verify.
pub fn collateral(data: &[u8]) {
    // The pieces are decoded from hexadecimal and PEM, and parsed once more for the text of a refusal.
    let judged = bounded(JUDGED + 64 * data.len(), || judge_collateral(data, NOW));
    if let Ok(claims) = judged {
        assert_eq!(claims.tcb_status, TcbStatus::UpToDate);
        assert_eq!(Ok(claims), judge_collateral(&TDX_COLLATERAL, NOW));
    }
    let document = tdx_document(TDX_QUOTE.clone(), EVENT_LOG.clone(), data.to_vec());
    let accepted = session(&document, Tee::Tdx);
    assert!(!accepted || judge_collateral(data, NOW).is_ok());
}

/// Appraises collateral whose TCB information (first byte even) or QE identity (odd) a script has changed and which is signed
/// again.
pub fn collateral_signed(data: &[u8]) {
    let Some((which, script)) = data.split_first() else {
        return;
    };
    let Ok(mut whole) = serde_json::from_slice::<Value>(&TDX_COLLATERAL) else {
        return;
    };
    let name = if which % 2 == 0 {
        "tcb_info"
    } else {
        "qe_identity"
    };
    let text = whole[name].as_str().unwrap_or_default();
    // Changes that are not UTF-8 are skipped: they would test the JSON decoder only.
    let Ok(changed) = String::from_utf8(edits::edited(script, text.as_bytes())) else {
        return;
    };
    let PrivateKey::P256(key) = &INTEL.tcb_signing.key else {
        return;
    };
    let signature: p256::ecdsa::Signature = key.sign(changed.as_bytes());
    whole[format!("{name}_signature")] = hex::encode(signature.to_bytes()).into();
    whole[name] = changed.into();
    let json = whole.to_string().into_bytes();
    match bounded(JUDGED + 64 * json.len(), || judge_collateral(&json, NOW)) {
        Ok(claims) => {
            assert_ne!(claims.tcb_status, TcbStatus::Revoked);
            assert!(claims.earliest_issue <= NOW && NOW <= claims.earliest_expiration);
        }
        Err(
            QuoteError::TooLarge { .. } | QuoteError::NotTdx { .. } | QuoteError::Attributes(_),
        ) => {
            panic!("the quote is not what changed")
        }
        Err(_) => {}
    }
    let document = tdx_document(TDX_QUOTE.clone(), EVENT_LOG.clone(), json.clone());
    if session(&document, Tee::Tdx) {
        let claims = judge_collateral(&json, NOW);
        assert!(claims.is_ok_and(|claims| claims.tcb_status == TcbStatus::UpToDate));
    } else {
        assert!(script.len() >= 3, "the good collateral is refused");
    }
}

fn judge_collateral(json: &[u8], now: u64) -> Result<TdxClaims, QuoteError> {
    let policy = TcbPolicy::judged_by_caller();
    quote::verify(&TDX_QUOTE, json, &INTEL_ROOT, &policy, now)
}

fn judge(vek: &[u8], intermediate: &[u8], list: &[u8]) -> Option<SnpClaims> {
    let chain = SnpChain {
        vek,
        intermediate,
        crl: Some(list),
    };
    report::verify(&SNP_REPORT, &chain, &AMD_ROOT, NOW).ok()
}

fn vcek() -> Vec<u8> {
    let certificates = SnpSimulator::new(&AMD).certificates();
    certificates.into_iter().next().unwrap_or_default()
}

/// Compares the signed bodies, because a certificate's signature can be encoded in more than one way.
fn same_body(one: &[u8], other: &[u8]) -> bool {
    let body = |der| Some(Certificate::from_der(der).ok()?.tbs_certificate);
    body(one).is_some() && body(one) == body(other)
}

/// Returns the certificate changed by `script` and signed by `issuer`; `None` if the change leaves no certificate.
fn reissued(certificate: &[u8], script: &[u8], issuer: &PrivateKey) -> Option<Vec<u8>> {
    let good = Certificate::from_der(certificate).ok()?.tbs_certificate;
    let changed = edits::edited(script, &good.to_der().ok()?);
    let changed = x509_cert::TbsCertificate::from_der(&changed).ok()?;
    x509::sign_certificate(changed, issuer).ok()
}

/// Returns the revocation list changed by `script` and signed by the root; `None` if the change leaves no list.
fn relisted(script: &[u8]) -> Option<Vec<u8>> {
    let mut list = CertificateList::from_der(&SNP_CRL).ok()?;
    let body = edits::edited(script, &list.tbs_cert_list.to_der().ok()?);
    list.tbs_cert_list = x509_cert::crl::TbsCertList::from_der(&body).ok()?;
    let signature = AMD.ark.key.sign(&list.tbs_cert_list.to_der().ok()?);
    list.signature = BitString::from_bytes(&signature).ok()?;
    list.to_der().ok()
}

/// Returns a VCEK of this chip for the next microcode level. As a seed it fits no report.
#[must_use]
pub fn other_vcek() -> Vec<u8> {
    let tcb = Tcb {
        microcode: Tcb::CURRENT.microcode.wrapping_add(1),
        ..Tcb::CURRENT
    };
    AMD.certify_vcek(&tcb, &CHIP_ID).unwrap_or_default()
}
