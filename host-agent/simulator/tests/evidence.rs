//! The simulator's evidence passes independent verification libraries under the development root and fails under the
//! vendors' roots.

use std::sync::LazyLock;

use cocoon_protocol::document::DEVELOPMENT_ROOT_OID;
use cocoon_simulator::Roots;
use cocoon_simulator::snp::{SnpReport, SnpSimulator, Tcb};
use cocoon_simulator::tdx::{CollateralDates, TcbStatus, TdReport, TdxSimulator};
use cocoon_simulator::x509;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use sev::certs::snp::{Certificate as SevCertificate, Chain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use x509_cert::Certificate;
use x509_cert::der::{Decode, Encode};

const NOW: u64 = 1_800_000_000;

static ROOTS: LazyLock<Roots> =
    LazyLock::new(|| Roots::generate(&mut |_| ()).expect("development roots"));

/// Removes the development mark from Intel's root. `dcap-qvl` rejects every unknown critical extension, so a verifier checks
/// the mark itself and passes on a root without it. The library uses the root's name, key and serial number, never its
/// signature.
fn unmarked_root() -> Vec<u8> {
    let mut root = Certificate::from_der(&ROOTS.intel.root.certificate).expect("DER");
    let extensions = root
        .tbs_certificate
        .extensions
        .as_mut()
        .expect("extensions");
    extensions.retain(|extension| extension.extn_id.to_string() != DEVELOPMENT_ROOT_OID);
    root.to_der().expect("DER")
}

fn collateral(
    platform: &TdxSimulator<'_>,
    dates: CollateralDates,
    status: TcbStatus,
) -> QuoteCollateralV3 {
    serde_json::from_slice(&platform.collateral(dates, status).expect("collateral"))
        .expect("the library's JSON")
}

fn td_report() -> TdReport {
    let mut report = TdReport::good([1; 48], [[2; 48], [3; 48], [4; 48], [0; 48]], [5; 48]);
    report.report_data = [6; 64];
    report
}

fn verify_tdx(
    root: Vec<u8>,
    report: &TdReport,
    dates: CollateralDates,
    status: TcbStatus,
) -> Result<String, String> {
    let platform = TdxSimulator::new(&ROOTS.intel);
    let quote = platform.quote(report).expect("quote");
    let verified =
        QuoteVerifier::new(root).verify(&quote, &collateral(&platform, dates, status), NOW);
    verified
        .map(|verified| verified.status)
        .map_err(|error| format!("{error:#}"))
}

#[test]
fn tdx_quote_verifies_and_says_what_was_measured() {
    let platform = TdxSimulator::new(&ROOTS.intel);
    let report = td_report();
    let quote = platform.quote(&report).unwrap();
    let collateral = collateral(&platform, CollateralDates::around(NOW), TcbStatus::UpToDate);
    let verified = QuoteVerifier::new(unmarked_root())
        .verify(&quote, &collateral, NOW)
        .unwrap();
    assert_eq!(
        (verified.status.as_str(), verified.advisory_ids.len()),
        ("UpToDate", 0)
    );
    let body = verified.report.as_td10().unwrap();
    assert_eq!(
        (body.mr_td, body.rt_mr0, body.rt_mr3),
        ([1; 48], [2; 48], [0; 48])
    );
    assert_eq!((body.mr_config_id, body.report_data), ([5; 48], [6; 64]));
    assert_eq!(
        (body.td_attributes, body.mr_owner),
        ([0, 0, 0, 0x10, 0, 0, 0, 0], [0; 48])
    );
}

#[test]
fn tdx_quote_is_refused_under_intels_root() {
    let intel = TdxSimulator::new(&ROOTS.intel);
    let quote = intel.quote(&td_report()).unwrap();
    let collateral = collateral(&intel, CollateralDates::around(NOW), TcbStatus::UpToDate);
    let error = QuoteVerifier::new_prod()
        .verify(&quote, &collateral, NOW)
        .unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "Failed to parse root CA CRL: InvalidCrlSignatureForPublicKey"
    );
}

#[test]
fn tdx_forgeries_are_what_they_claim() {
    let dates = CollateralDates::around(NOW);
    let verify =
        |report: &TdReport, dates, status| verify_tdx(unmarked_root(), report, dates, status);
    let good = td_report();
    assert_eq!(
        verify(&good, dates, TcbStatus::OutOfDate).unwrap(),
        "OutOfDate"
    );
    assert_eq!(
        verify(&good, dates, TcbStatus::Revoked).unwrap_err(),
        "TCB status is invalid: Revoked"
    );
    let debug = TdReport {
        td_attributes: good.td_attributes | 1,
        ..good.clone()
    };
    assert_eq!(
        verify(&debug, dates, TcbStatus::UpToDate).unwrap_err(),
        "Debug mode is enabled"
    );
    let late = CollateralDates {
        issued: NOW - 100,
        next_update: NOW - 1,
    };
    assert_eq!(
        verify(&good, late, TcbStatus::UpToDate).unwrap_err(),
        format!(
            "CrlExpired {{ time: UnixTime({NOW}), next_update: UnixTime({}) }}",
            NOW - 1
        )
    );
    let early = CollateralDates {
        issued: NOW + 1,
        next_update: NOW + 100,
    };
    assert_eq!(
        verify(&good, early, TcbStatus::UpToDate).unwrap_err(),
        "TCBInfo issue date is in the future"
    );
}

#[test]
fn roots_carry_the_critical_development_mark() {
    for root in [&ROOTS.intel.root.certificate, &ROOTS.amd.ark.certificate] {
        let extensions = Certificate::from_der(root)
            .unwrap()
            .tbs_certificate
            .extensions
            .unwrap();
        let mark = extensions
            .iter()
            .find(|e| e.extn_id.to_string() == DEVELOPMENT_ROOT_OID)
            .unwrap();
        assert!(mark.critical);
        assert_eq!(mark.extn_value.as_bytes(), [5, 0]);
    }
}

fn snp_chain(ark: SevCertificate, ask: SevCertificate) -> Chain {
    let vek = SevCertificate::from_der(&ROOTS.amd.vcek.certificate).unwrap();
    Chain {
        ca: ca::Chain { ark, ask },
        vek,
    }
}

fn development_ca() -> (SevCertificate, SevCertificate) {
    let read = |identity: &x509::Identity| SevCertificate::from_der(&identity.certificate).unwrap();
    (read(&ROOTS.amd.ark), read(&ROOTS.amd.ask))
}

#[test]
fn snp_report_verifies_and_says_what_was_measured() {
    let report = SnpReport {
        report_data: [6; 64],
        ..SnpReport::good([1; 48], [2; 32])
    };
    let bytes = SnpSimulator::new(&ROOTS.amd).report(&report).unwrap();
    assert_eq!(bytes.len(), 1184);
    let parsed = AttestationReport::from_bytes(&bytes).unwrap();
    assert_eq!((parsed.version, parsed.vmpl, parsed.guest_svn), (3, 0, 0));
    assert_eq!(
        (&parsed.measurement[..], &parsed.host_data[..]),
        (&[1; 48][..], &[2; 32][..])
    );
    assert_eq!(
        (&parsed.report_data[..], parsed.policy.debug_allowed()),
        (&[6; 64][..], false)
    );
    assert_eq!(
        (parsed.reported_tcb.snp, parsed.reported_tcb.microcode),
        (Tcb::CURRENT.snp, Tcb::CURRENT.microcode)
    );
    let (ark, ask) = development_ca();
    (&snp_chain(ark, ask), &parsed).verify().unwrap();
}

#[test]
fn snp_report_is_refused_under_amds_root_and_when_changed() {
    let report = SnpReport::good([1; 48], [2; 32]);
    let bytes = SnpSimulator::new(&ROOTS.amd).report(&report).unwrap();
    let parsed = AttestationReport::from_bytes(&bytes).unwrap();
    let vendor = snp_chain(
        builtin::milan::ark().unwrap(),
        builtin::milan::ask().unwrap(),
    );
    let error = (&vendor, &parsed).verify().unwrap_err().to_string();
    assert_eq!(
        error,
        "Signer certificate does not RSA sign signee certificate: signature error: verification error"
    );

    let mut changed = bytes;
    changed[0x90] ^= 1;
    let (ark, ask) = development_ca();
    let error = (
        &snp_chain(ark, ask),
        &AttestationReport::from_bytes(&changed).unwrap(),
    )
        .verify()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("VEK does not sign the attestation report"),
        "{error}"
    );
}

#[test]
fn snp_revocation_list_is_signed_by_the_ark() {
    use rsa::signature::Verifier;
    let list = SnpSimulator::new(&ROOTS.amd).crl(NOW, NOW + 100).unwrap();
    let list = x509_cert::crl::CertificateList::from_der(&list).unwrap();
    let ark = Certificate::from_der(&ROOTS.amd.ark.certificate)
        .unwrap()
        .tbs_certificate;
    assert_eq!(list.tbs_cert_list.issuer, ark.subject);
    let key = rsa::RsaPublicKey::try_from(
        x509_cert::spki::SubjectPublicKeyInfoRef::from_der(
            &ark.subject_public_key_info.to_der().unwrap(),
        )
        .unwrap(),
    );
    let signature = rsa::pss::Signature::try_from(list.signature.raw_bytes()).unwrap();
    let key = rsa::pss::VerifyingKey::<sha2::Sha384>::new(key.unwrap());
    key.verify(&list.tbs_cert_list.to_der().unwrap(), &signature)
        .unwrap();
}

#[test]
fn roots_are_kept_private_and_used_again() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots");
    let mut made = Vec::new();
    let first = Roots::open(&roots, &mut |text| made.push(text.to_owned())).unwrap();
    assert_eq!(
        made.len(),
        2,
        "one line of progress for each RSA key: {made:?}"
    );
    let second = Roots::open(&roots, &mut |text| panic!("made again: {text}")).unwrap();
    assert_eq!(first.intel.root.certificate, second.intel.root.certificate);
    assert_eq!(first.amd.ark.certificate, second.amd.ark.certificate);
    for file in std::fs::read_dir(&roots).unwrap() {
        let file = file.unwrap();
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{file:?}"
        );
    }
    std::fs::write(roots.join("amd-ark.key"), "rubbish").unwrap();
    let error = Roots::open(&roots, &mut |_| ()).unwrap_err().to_string();
    let path = roots.join("amd-ark.key");
    assert_eq!(
        error,
        format!("{path:?} is damaged; remove the folder to have new development roots made")
    );
    std::fs::set_permissions(&roots, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Roots::open(&roots, &mut |_| ()).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{roots:?} is open to other users (mode 755); run `chmod 700` on it, or name another folder"
        )
    );
}
