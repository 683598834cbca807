//! AMD's collateral for a real chip: its report, its certificate and its authorities are real. The revocation list is made
//! here, with valid dates and a dummy signature, which the host does not verify.

use cocoon_host_agent::collateral::{Want, want};
use cocoon_host_agent::text::chain;
use cocoon_protocol::bytes::{Blob, Hex};
use cocoon_protocol::document::{Collateral, Evidence};
use cocoon_protocol::gpu::CollateralRequest;
use x509_cert::Certificate;
use x509_cert::crl::{CertificateList, TbsCertList};
use x509_cert::der::asn1::{BitString, UtcTime};
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::time::Time;

use super::double::{Double, Reply};
use super::{keeper, vector};

const NOW: u64 = 1_750_000_000;

struct Real {
    report: Vec<u8>,
    vcek: Vec<u8>,
    chain: Vec<u8>,
}

fn real() -> Option<Real> {
    let text = String::from_utf8(vector("snp/sev_report_milan.hex")?).unwrap();
    let text: String = text.split_whitespace().collect();
    let report = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16));
    Some(Real {
        report: report.collect::<Result<_, _>>().unwrap(),
        vcek: vector("snp/sev_vcek_milan.der")?,
        chain: vector("snp/sev_cert_chain_milan")?,
    })
}

fn list(vcek: &[u8], made: u64, due: u64) -> Vec<u8> {
    let seconds = std::time::Duration::from_secs;
    let time = |at| Time::UtcTime(UtcTime::from_unix_duration(seconds(at)).unwrap());
    let certificate = Certificate::from_der(vcek).unwrap();
    let algorithm = certificate.signature_algorithm;
    let list = CertificateList {
        tbs_cert_list: TbsCertList {
            version: x509_cert::certificate::Version::V2,
            signature: algorithm.clone(),
            issuer: certificate.tbs_certificate.issuer,
            this_update: time(made),
            next_update: Some(time(due)),
            revoked_certificates: None,
            crl_extensions: None,
        },
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&[0; 512]).unwrap(),
    };
    list.to_der().unwrap()
}

fn request(report: &[u8]) -> CollateralRequest {
    CollateralRequest {
        evidence: Some(Evidence::SevSnp {
            report: Blob(report.to_vec()),
            certificates: Vec::new(),
        }),
        gpus: Vec::new(),
    }
}

/// Starts a double of AMD's service that knows this one chip.
fn double(real: &Real) -> Double {
    let (vcek, chain) = (real.vcek.clone(), real.chain.clone());
    let crl = list(&vcek, NOW - 1000, NOW + 86_400 * 30);
    Double::start(
        move |asked| match asked.line.trim_start_matches("GET /vcek/v1/Milan/") {
            "cert_chain" => Reply::body(chain.clone()),
            "crl" => Reply::body(crl.clone()),
            path if path.contains("?blSPL=") && !path.contains('/') => Reply::body(vcek.clone()),
            _ => Reply::Status(404),
        },
    )
}

#[test]
fn a_chips_collateral_is_gathered_by_number_and_levels() {
    let Some(real) = real() else { return };
    let double = double(&real);
    let (_folder, keeper) = keeper(&double, Default::default());
    let gathered = keeper.gather(&request(&real.report), NOW).unwrap();
    assert_eq!(gathered.missing, []);
    let Some(Collateral::SevSnp { certificates, crl }) = gathered.collateral else {
        panic!("no collateral");
    };
    assert_eq!((certificates.len(), &certificates[0].0), (3, &real.vcek));
    assert!(crl.is_some());
    let wants = want::of(&request(&real.report)).unwrap();
    let [Want::Amd { chip, tcb, .. }] = &wants[..] else {
        panic!("not AMD's");
    };
    let [b0, b1, .., b6, b7] = tcb.0;
    let expected = [
        format!("GET /vcek/v1/Milan/{chip}?blSPL={b0}&teeSPL={b1}&snpSPL={b6}&ucodeSPL={b7}"),
        "GET /vcek/v1/Milan/cert_chain".to_owned(),
        "GET /vcek/v1/Milan/crl".to_owned(),
    ];
    assert_eq!(double.lines(), expected);
    assert_eq!(gathered.next, NOW + 2 * 86_400);
}

#[test]
fn another_chips_certificate_and_an_old_list_are_refused() {
    let Some(real) = real() else { return };
    let double = double(&real);
    let (_folder, keeper) = keeper(&double, Default::default());
    let mut other = real.report.clone();
    other[0x1a0] ^= 1;
    let wants = want::of(&request(&other)).unwrap();
    assert_eq!(
        chain(&keeper.fetch(&wants[0], NOW).unwrap_err()),
        "the chip's certificate from AMD is not what it should be: it is another chip's, or names none"
    );
    let late = NOW + 86_400 * 31;
    let wants = want::of(&request(&real.report)).unwrap();
    let error = chain(&keeper.fetch(&wants[0], late).unwrap_err());
    assert_eq!(
        error,
        format!(
            "the revocation list from AMD is good from {} to {} (Unix time), and it is {late}: check this machine's clock, or \
             ask again later",
            NOW - 1000,
            NOW + 86_400 * 30
        )
    );
}

/// If the report does not name the generation, Milan and Genoa are tried, whose older reports lack it.
#[test]
fn an_unknown_chip_is_said_to_be_unknown() {
    let double = Double::start(|_| Reply::Status(404));
    let (_folder, keeper) = keeper(&double, Default::default());
    let want = Want::Amd {
        product: None,
        chip: Hex([0xab; 64]),
        tcb: Hex([1; 8]),
    };
    let error = chain(&keeper.fetch(&want, NOW).unwrap_err());
    let lines = double.lines();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with("GET /vcek/v1/Milan/abab"), "{lines:?}");
    assert!(lines[1].starts_with("GET /vcek/v1/Genoa/abab"), "{lines:?}");
    assert!(error.starts_with("AMD has none: "), "{error}");
    assert!(
        error.ends_with(
            " answers 404; AMD knows no such chip at these patch levels: a firmware newer than its certificate, or a chip of \
             another generation"
        ),
        "{error}"
    );
}
