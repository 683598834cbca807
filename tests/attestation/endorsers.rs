//! Each piece of the endorsements is required, and none can be replaced by one of another platform or authority.

use cocoon_measurements::policy::Policy;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::document::Collateral;
use cocoon_simulator::snp::report::CHIP_ID;
use cocoon_simulator::snp::{AmdIdentity, Tcb};
use cocoon_simulator::tdx::{CollateralDates, IntelIdentity, Revoked, TcbStatus, TdxSimulator};
use cocoon_simulator::x509::{self, Identity, KeyKind, PrivateKey};
use serde_json::Value;

use crate::collateral::{DAY, intel, snp_with, tdx_with};
use crate::machine::{Machine, NOW, ROOTS, accepted, judge, refused};
use crate::platform::{Platform, qe_signer, sign_qe_identity, unverified};

/// Every member of Intel's collateral is required: if one is missing or empty, nothing verifies.
#[test]
fn members_of_intels_collateral() {
    let Collateral::Tdx { json } = intel(CollateralDates::around(NOW), TcbStatus::UpToDate) else {
        panic!("TDX has TDX's collateral")
    };
    let good: Value = serde_json::from_slice(&json.0).unwrap();
    let members: Vec<String> = good.as_object().unwrap().keys().cloned().collect();
    assert_eq!(members.len(), 9, "{members:?}");
    for member in &members {
        let mut without = good.clone();
        without.as_object_mut().unwrap().remove(member);
        let verdict = tdx_with(Some(Collateral::Tdx {
            json: without.to_string().into_bytes().into(),
        }));
        let [row] = verdict.failures().collect::<Vec<_>>()[..] else {
            panic!("{member}: {verdict:#?}")
        };
        assert_eq!(row.id, "evidence.signature", "{member}");
        let text =
            format!("TDX collateral is not JSON of the expected schema: missing field `{member}`");
        assert!(
            row.cause
                .as_deref()
                .is_some_and(|cause| cause.starts_with(&text)),
            "{member}: {row:?}"
        );

        // The only member that is not read: the quote's own certificate chain contains the issuer of that list.
        if member == "pck_crl_issuer_chain" {
            continue;
        }
        let mut emptied = good.clone();
        emptied[member] = "".into();
        let verdict = tdx_with(Some(Collateral::Tdx {
            json: emptied.to_string().into_bytes().into(),
        }));
        assert_eq!(verdict.authorizes(), None, "{member}");
        let failed: Vec<_> = verdict.failures().map(|check| check.id).collect();
        assert!(
            failed == ["evidence.signature"] || failed == ["evidence.root"],
            "{member}: {failed:?}"
        );
    }
}

/// Each member as another platform's endorser would sign it, under another root with the same names.
#[test]
fn members_of_another_platforms_collateral() {
    let other = IntelIdentity::generate().unwrap();
    let parse = |identity| -> Value {
        let platform = TdxSimulator::new(identity);
        let json = platform.collateral(CollateralDates::around(NOW), TcbStatus::UpToDate);
        serde_json::from_slice(&json.unwrap()).unwrap()
    };
    let (good, foreign) = (parse(&ROOTS.intel), parse(&other));
    for (member, id, text) in [
        (
            "root_ca_crl",
            "evidence.signature",
            unverified("Failed to parse root CA CRL: InvalidCrlSignatureForPublicKey"),
        ),
        (
            "pck_crl",
            "evidence.signature",
            unverified("Failed to verify certificate chain: InvalidCrlSignatureForPublicKey"),
        ),
        (
            "tcb_info_issuer_chain",
            "evidence.root",
            "development root not named: this TDX quote comes from simulated hardware, and no development root for it was named".into(),
        ),
        (
            "tcb_info_signature",
            "evidence.signature",
            unverified("Signature is invalid for tcb_info in quote_collateral"),
        ),
        (
            "qe_identity_issuer_chain",
            "evidence.signature",
            unverified("Failed to verify certificate chain: InvalidSignatureForPublicKey"),
        ),
        (
            "qe_identity_signature",
            "evidence.signature",
            unverified("Signature is invalid for qe_identity in quote_collateral"),
        ),
    ] {
        println!("{member}");
        let mut mixed = good.clone();
        mixed[member] = foreign[member].clone();
        let json = mixed.to_string().into_bytes().into();
        refused(&tdx_with(Some(Collateral::Tdx { json })), &[(id, &text)]);
    }
}

/// Endorsements of another platform, under another development root that the policy names as well.
#[test]
fn of_another_platform() {
    let other = IntelIdentity::generate().unwrap();
    let json = TdxSimulator::new(&other)
        .collateral(CollateralDates::around(NOW), TcbStatus::UpToDate)
        .unwrap();
    let document = Machine {
        collateral: Some(Collateral::Tdx { json: json.into() }),
        ..Machine::good(Tee::Tdx)
    }
    .document();
    let named = Policy {
        development_roots: vec![
            ROOTS.root(Tee::Tdx).to_vec(),
            other.root.certificate.clone(),
        ],
        ..Policy::default()
    };
    refused(
        &judge(&document, &named),
        &[(
            "evidence.signature",
            "TDX quote does not verify with its collateral under the development root: Failed to verify certificate chain: InvalidSignatureForPublicKey",
        )],
    );

    // A certificate for another TCB of this chip, and then one for another key.
    let old = Tcb {
        snp: 20,
        ..Tcb::CURRENT
    };
    let certificate = ROOTS.amd.certify_vcek(&old, &CHIP_ID).unwrap();
    refused(
        &snp_with(|certificates, _| certificates[0] = certificate.into()),
        &[(
            "evidence.signature",
            "the SNP report and its certificate do not belong together: the SNP firmware of the report is at 27, its \
             certificate is for 20: fetch the certificate for the reported TCB",
        )],
    );
    let copy = |identity: &Identity, kind| Identity {
        key: PrivateKey::from_pem(kind, &identity.key.to_pem().unwrap()).unwrap(),
        certificate: identity.certificate.clone(),
    };
    let stranger = AmdIdentity {
        generation: ROOTS.amd.generation,
        ark: copy(&ROOTS.amd.ark, KeyKind::Rsa),
        ask: copy(&ROOTS.amd.ask, KeyKind::Rsa),
        vcek: Identity {
            key: PrivateKey::generate(KeyKind::P384).unwrap(),
            certificate: Vec::new(),
        },
    };
    let certificate = stranger.certify_vcek(&Tcb::CURRENT, &CHIP_ID).unwrap();
    refused(
        &snp_with(|certificates, _| certificates[0] = certificate.into()),
        &[(
            "evidence.signature",
            "the signature on the SNP report does not hold",
        )],
    );
}

#[test]
fn revocation_lists_are_the_roots_own() {
    refused(
        &snp_with(|_, list| {
            let last = list.as_mut().unwrap().0.last_mut().unwrap();
            *last ^= 1;
        }),
        &[(
            "evidence.signature",
            "the SNP report's certificates do not hold: the signature on the ARK's revocation list does not hold",
        )],
    );
    let asks = x509::crl(&ROOTS.amd.ask, NOW - 1, NOW + DAY, &[]).unwrap();
    refused(
        &snp_with(|_, list| *list = Some(asks.into())),
        &[(
            "evidence.signature",
            "the SNP report's certificates do not hold: the ARK's revocation list names another issuer (CN=SEV-Milan,O=Cocoon Simulator)",
        )],
    );
}

/// Each certificate that Intel can revoke is refused when the list of its own issuer names it. In the list of another
/// authority, the same serial number means another certificate.
#[test]
fn revoked_certificates_of_intel() {
    const REVOKED: &str = "Failed to verify certificate chain: CertRevoked";
    let own = &ROOTS.intel;
    let listing = |revoked: Revoked<'_>| {
        let json = TdxSimulator::new(own)
            .collateral_revoking(CollateralDates::around(NOW), TcbStatus::UpToDate, revoked)
            .unwrap();
        tdx_with(Some(Collateral::Tdx { json: json.into() }))
    };
    let by_root = |certificate: &[u8]| {
        listing(Revoked {
            by_root: &[certificate],
            ..Revoked::default()
        })
    };
    let by_pck_ca = |certificate: &[u8]| {
        listing(Revoked {
            by_pck_ca: &[certificate],
            ..Revoked::default()
        })
    };
    for (what, verdict, reason) in [
        ("PCK", by_pck_ca(&own.pck.certificate), REVOKED),
        ("PCK CA", by_root(&own.pck_ca.certificate), REVOKED),
        (
            "TCB signing",
            by_root(&own.tcb_signing.certificate),
            REVOKED,
        ),
        ("root", by_root(&own.root.certificate), "CertRevoked"),
    ] {
        println!("{what}");
        refused(&verdict, &[("evidence.signature", &unverified(reason))]);
    }
    accepted(&by_root(&own.pck.certificate));
    accepted(&by_pck_ca(&own.pck_ca.certificate));
    accepted(&by_pck_ca(&own.tcb_signing.certificate));
}

/// The QE identity has its own signer, whose chain differs from that of the TCB information.
#[test]
fn a_revoked_signer_of_the_qe_identity() {
    let platform = Platform::good();
    let signer = qe_signer(&platform.identity);
    let signed = |revoked: &[&[u8]]| {
        platform.verdict_on(|collateral| {
            sign_qe_identity(collateral, &signer, &platform.identity);
            let list = x509::crl(&platform.identity.root, NOW - 1, NOW + DAY, revoked);
            collateral["root_ca_crl"] = hex::encode(list.unwrap()).into();
        })
    };
    accepted(&signed(&[]));
    refused(
        &signed(&[&signer.certificate]),
        &[(
            "evidence.signature",
            &unverified("Failed to verify certificate chain: CertRevoked"),
        )],
    );
}
