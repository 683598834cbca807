//! The validity of each dated piece, one at a time: each certificate, revocation list and statement is refused by name
//! before its first second and after its last, and accepted in between. All other pieces stay valid.

use std::sync::LazyLock;

use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::bytes::Blob;
use cocoon_protocol::document::{Collateral, Document, Evidence};
use cocoon_simulator::launch::Launched;
use cocoon_simulator::snp::{Provider, SigningKey, SnpReport, SnpSimulator};
use cocoon_simulator::tdx::{CollateralDates, IntelIdentity, TcbStatus, TdxSimulator};
use cocoon_simulator::x509::{Identity, KeyKind, PrivateKey, sign_certificate};
use serde_json::Value;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::time::{Time, Validity};

use crate::collateral::DAY;
use crate::machine::{Machine, NOW, ROOTS, accepted, judge, policy, refused};
use crate::platform::{Platform, qe_signer, sign_qe_identity};

/// First and last second of validity.
pub type Span = (u64, u64);

const EARLY: Span = (NOW + 1, NOW + DAY);
const LATE: Span = (NOW - DAY, NOW - 1);
/// A certificate is valid in its first and in its last second.
const IN_TIME: [Span; 2] = [(NOW, NOW + DAY), (NOW - DAY, NOW)];

fn text(vendor: &str, what: &str, (from, until): Span) -> String {
    let what = if from > NOW {
        format!("{what} is valid from {from} (Unix time), and it is {NOW}: check the clock")
    } else {
        format!("{what} was valid until {until} (Unix time), and it is {NOW}: fetch a newer one")
    };
    format!("expired collateral, or this machine's clock is wrong; for {vendor}: {what}")
}

/// Returns the same certificate with other dates, signed again.
pub fn redated(certificate: &[u8], (from, until): Span, signer: &PrivateKey) -> Vec<u8> {
    let time = |seconds: u64| {
        let since = std::time::Duration::from_secs(seconds);
        Time::UtcTime(x509_cert::der::asn1::UtcTime::from_unix_duration(since).unwrap())
    };
    let mut body = Certificate::from_der(certificate).unwrap().tbs_certificate;
    body.validity = Validity {
        not_before: time(from),
        not_after: time(until),
    };
    sign_certificate(body, signer).unwrap()
}

/// Returns the verdict on a good SNP guest whose certificate number `at` (VCEK, ASK, ARK) has other dates.
fn amd(at: usize, span: Span) -> Verdict {
    let amd = &ROOTS.amd;
    let signer = if at == 0 { &amd.ask.key } else { &amd.ark.key };
    let mut vm = Machine::good(Tee::SevSnp);
    let mut named = policy();
    let Some(Collateral::SevSnp { certificates, .. }) = &mut vm.collateral else {
        panic!("SNP has SNP's collateral")
    };
    certificates[at] = redated(&certificates[at].0, span, signer).into();
    if at == 2 {
        // A root with other dates is another certificate, so the policy must name that one.
        named.development_roots = vec![certificates[2].0.clone()];
    }
    judge(&vm.document(), &named)
}

/// Returns the verdict on a good SNP guest with a provider's key, whose certificate number `at` (VLEK, ASVK, ARK) has
/// other dates.
fn provider(at: usize, span: Span) -> Verdict {
    static PROVIDER: LazyLock<Provider> = LazyLock::new(|| ROOTS.amd.provider().unwrap());
    let platform = SnpSimulator::of_provider(&ROOTS.amd, &PROVIDER);
    let mut certificates = platform.certificates();
    let signer = if at == 0 {
        &PROVIDER.asvk.key
    } else {
        &ROOTS.amd.ark.key
    };
    certificates[at] = redated(&certificates[at], span, signer);
    let named = Policy {
        development_roots: vec![certificates[2].clone()],
        ..policy()
    };
    let vm = Machine::good(Tee::SevSnp);
    let Launched::Snp { report, .. } = &vm.vm else {
        panic!("an SNP guest was launched")
    };
    let report = SnpReport {
        signing_key: SigningKey::Vlek,
        ..SnpReport::clone(report)
    };
    let bound = binding::report_data(&binding::session(&vm.claims, &vm.fresh));
    let certificates: Vec<Blob> = certificates.into_iter().map(Into::into).collect();
    let document = Document {
        evidence: Evidence::SevSnp {
            report: platform.report_over(&report, &bound).unwrap().into(),
            certificates: certificates.clone(),
        },
        collateral: Some(Collateral::SevSnp {
            certificates,
            crl: Some(platform.crl(NOW - 3600, NOW + DAY).unwrap().into()),
        }),
        ..vm.document()
    };
    judge(&document, &named)
}

/// Tests each of AMD's three certificates before, during and after its validity.
fn each_in_its_time(verdict: impl Fn(usize, Span) -> Verdict) {
    let names = ["the VCEK or VLEK", "the ASK", "the ARK"];
    for (at, what) in names.into_iter().enumerate() {
        for span in [EARLY, LATE] {
            println!("{what} {span:?}");
            let text = text("sev-snp", what, span);
            refused(&verdict(at, span), &[("evidence.collateral", &text)]);
        }
        for span in IN_TIME {
            accepted(&verdict(at, span));
        }
    }
}

#[test]
fn a_providers_certificates() {
    each_in_its_time(provider);
}

#[test]
fn amds_certificates() {
    each_in_its_time(amd);
}

/// Returns the verdict on a good trust domain on the simulator's platform, whose certificates `edit` changed.
fn intel(edit: impl FnOnce(&mut IntelIdentity)) -> Verdict {
    let mut platform = Platform::good();
    edit(&mut platform.identity);
    platform.verdict()
}

#[test]
fn intels_certificates() {
    type Redate = fn(&mut IntelIdentity, Span);
    let certificates: [(&str, Redate); 4] = [
        ("the platform's PCK certificate", |identity, span| {
            identity.pck.certificate =
                redated(&identity.pck.certificate, span, &identity.pck_ca.key);
        }),
        ("the authority of PCK certificates", |identity, span| {
            identity.pck_ca.certificate =
                redated(&identity.pck_ca.certificate, span, &identity.root.key);
        }),
        (
            "the certificate that signs TCB information",
            |identity, span| {
                identity.tcb_signing.certificate =
                    redated(&identity.tcb_signing.certificate, span, &identity.root.key);
            },
        ),
        ("the development root", |identity, span| {
            identity.root.certificate =
                redated(&identity.root.certificate, span, &identity.root.key);
        }),
    ];
    for (what, redate) in certificates {
        for span in [EARLY, LATE] {
            println!("{what} {span:?}");
            let verdict = intel(|identity| redate(identity, span));
            let text = text("tdx", what, span);
            refused(&verdict, &[("evidence.collateral", &text)]);
        }
        for span in IN_TIME {
            println!("{what} {span:?}");
            accepted(&intel(|identity| redate(identity, span)));
        }
    }
}

/// The QE identity has its own signer, whose chain differs from that of the TCB information.
#[test]
fn intels_signer_of_the_qe_identity() {
    let platform = Platform::good();
    let signer = qe_signer(&platform.identity);
    let signed = |span| {
        let redated = Identity {
            key: PrivateKey::from_pem(KeyKind::P256, &signer.key.to_pem().unwrap()).unwrap(),
            certificate: redated(&signer.certificate, span, &platform.identity.root.key),
        };
        platform.verdict_on(|collateral| {
            sign_qe_identity(collateral, &redated, &platform.identity);
        })
    };
    for span in [EARLY, LATE] {
        println!("{span:?}");
        let text = text("tdx", "the certificate that signs TCB information", span);
        refused(&signed(span), &[("evidence.collateral", &text)]);
    }
    for span in IN_TIME {
        accepted(&signed(span));
    }
}

/// Returns the verdict on a good trust domain whose collateral has `members` with other dates, signed by the same keys.
fn dated(members: &[&str], (issued, next_update): Span) -> Verdict {
    let at = |dates| -> Value {
        let platform = TdxSimulator::new(&ROOTS.intel);
        let json = platform.collateral(dates, TcbStatus::UpToDate).unwrap();
        serde_json::from_slice(&json).unwrap()
    };
    let mut mixed = at(CollateralDates::around(NOW));
    let other = at(CollateralDates {
        issued,
        next_update,
    });
    for member in members {
        mixed[*member] = other[*member].clone();
    }
    let json = Blob::from(mixed.to_string().into_bytes());
    let vm = Machine {
        collateral: Some(Collateral::Tdx { json }),
        ..Machine::good(Tee::Tdx)
    };
    vm.verdict()
}

#[test]
fn intels_statements_and_lists() {
    const STALE: &str = "stale collateral: it is still in its time, but older than this client accepts, and may hide newer revocations";
    let pieces: [(&str, &[&str], u64); 4] = [
        (
            "the TCB information",
            &["tcb_info", "tcb_info_signature"],
            30,
        ),
        (
            "the QE identity",
            &["qe_identity", "qe_identity_signature"],
            30,
        ),
        ("the platforms' revocation list", &["pck_crl"], 30),
        ("the root's revocation list", &["root_ca_crl"], 400),
    ];
    for (what, members, most) in pieces {
        for span in [EARLY, LATE] {
            println!("{what} {span:?}");
            let text = text("tdx", what, span);
            refused(&dated(members, span), &[("evidence.collateral", &text)]);
        }
        accepted(&dated(members, (NOW, NOW + 1)));
        // Still valid, but too old for the policy.
        accepted(&dated(members, (NOW - most * DAY, NOW + DAY)));
        let old = dated(members, (NOW - most * DAY - 1, NOW + DAY));
        refused(&old, &[("evidence.collateral", STALE)]);
        let row = old.failures().next().unwrap();
        assert_eq!(
            row.found.as_deref(),
            Some(format!("{} days ({what})", most + 1).as_str())
        );
    }
}
