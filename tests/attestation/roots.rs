//! Which roots are trusted: development roots only if they are named and marked, each for its own vendor only, and
//! never in place of a vendor's root.

use std::str::FromStr as _;

use cocoon_client::trust::development_roots;
use cocoon_measurements::policy::Policy;
use cocoon_measurements::roots::{RootError, TrustRoot};
use cocoon_protocol::binding::{self, Tee};
use cocoon_protocol::document::{Collateral, DEVELOPMENT_ROOT_OID, Document, Evidence};
use cocoon_simulator::tdx::{CollateralDates, IntelIdentity, TcbStatus, TdReport, TdxSimulator};
use cocoon_simulator::x509::{self, Identity, KeyKind, PrivateKey};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::ext::Extension;

use crate::machine::{FRESH, Machine, NOW, ROOTS, accepted, judge, policy, refused};

const TDX_NOT_NAMED: &str = "development root not named: this TDX quote comes from simulated hardware, and no development root for it was named";
const SNP_NOT_NAMED: &str = "development root not named: this SEV-SNP report comes from simulated hardware, and no development root for it was named";
const UNMARKED: &str = "TDX quote does not verify with its collateral under the vendor's root: Failed to parse root CA CRL: InvalidCrlSignatureForPublicKey";

fn naming(roots: &[&[u8]]) -> Policy {
    Policy {
        development_roots: roots.iter().map(|root| root.to_vec()).collect(),
        ..Policy::default()
    }
}

#[test]
fn each_vendor_refuses_a_development_root_that_is_not_named() {
    let (tdx, snp) = (
        Machine::good(Tee::Tdx).document(),
        Machine::good(Tee::SevSnp).document(),
    );
    let nobody = Policy::default();
    refused(&judge(&tdx, &nobody), &[("evidence.root", TDX_NOT_NAMED)]);
    refused(&judge(&snp, &nobody), &[("evidence.root", SNP_NOT_NAMED)]);
    // A development root of one vendor is not accepted for the other.
    let intel = naming(&[ROOTS.root(Tee::Tdx)]);
    accepted(&judge(&tdx, &intel));
    refused(&judge(&snp, &intel), &[("evidence.root", SNP_NOT_NAMED)]);
    let amd = naming(&[ROOTS.root(Tee::SevSnp)]);
    accepted(&judge(&snp, &amd));
    refused(&judge(&tdx, &amd), &[("evidence.root", TDX_NOT_NAMED)]);
}

/// Returns the root with the same name and key, but with `marks` in place of its mark: all certificates below it still
/// verify.
fn remarked(root: &Identity, marks: &[Extension]) -> Vec<u8> {
    let mut tbs = Certificate::from_der(&root.certificate)
        .unwrap()
        .tbs_certificate;
    let extensions = tbs.extensions.as_mut().unwrap();
    extensions.retain(|extension| extension.extn_id.to_string() != DEVELOPMENT_ROOT_OID);
    extensions.extend(marks.iter().cloned());
    x509::sign_certificate(tbs, &root.key).unwrap()
}

fn mark(critical: bool, value: &[u8]) -> Extension {
    let oid = ObjectIdentifier::from_str(DEVELOPMENT_ROOT_OID).unwrap();
    x509::raw_extension(oid, critical, value.to_vec()).unwrap()
}

#[test]
fn a_root_without_the_exact_mark_is_none() {
    const NULL: [u8; 2] = [5, 0];
    for root in [&ROOTS.intel.root, &ROOTS.amd.ark] {
        let as_root = |marks: &[Extension]| TrustRoot::development(&remarked(root, marks));
        assert!(as_root(&[mark(true, &NULL)]).is_ok());
        assert_eq!(as_root(&[]).unwrap_err(), RootError::NotDevelopment);
        for marks in [
            &[mark(false, &NULL)][..],
            &[mark(true, &[4, 0])],
            &[mark(true, &NULL), mark(true, &NULL)],
        ] {
            assert_eq!(as_root(marks).unwrap_err(), RootError::ExtensionForm);
        }
        let unmarked = remarked(root, &[]);
        assert_eq!(
            TrustRoot::development(&unmarked).unwrap_err().to_string(),
            format!(
                "root certificate lacks the development extension {DEVELOPMENT_ROOT_OID}: only the simulator's root may be named"
            )
        );
        // The command-line option refuses such a root as well.
        let pem = x509::pem(&[&unmarked]).unwrap();
        assert_eq!(
            development_roots(pem.as_bytes()).unwrap_err().to_string(),
            format!(
                "it lacks the critical extension of development roots ({DEVELOPMENT_ROOT_OID}): only a simulator's root can be named, never one for real hardware"
            )
        );
    }
}

fn copied(identity: &Identity, kind: KeyKind) -> Identity {
    Identity {
        key: PrivateKey::from_pem(kind, &identity.key.to_pem().unwrap()).unwrap(),
        certificate: identity.certificate.clone(),
    }
}

/// A policy cannot make any certificate a root: evidence that ends in an unmarked certificate is verified under the
/// vendor's root, whatever the policy names.
#[test]
fn a_named_certificate_without_the_mark_never_stands_in_for_the_vendors() {
    let unmarked = remarked(&ROOTS.intel.root, &[]);
    let copy = |identity| copied(identity, KeyKind::P256);
    let identity = IntelIdentity {
        root: Identity {
            certificate: unmarked.clone(),
            ..copy(&ROOTS.intel.root)
        },
        pck_ca: copy(&ROOTS.intel.pck_ca),
        pck: copy(&ROOTS.intel.pck),
        tcb_signing: copy(&ROOTS.intel.tcb_signing),
    };
    let platform = TdxSimulator::new(&identity);
    let good = Machine::good(Tee::Tdx).document();
    let mut vm = Machine::good(Tee::Tdx);
    let report: TdReport = vm.td().clone();
    let data = binding::report_data(&binding::session(&good.claims, &FRESH));
    let json = platform
        .collateral(CollateralDates::around(NOW), TcbStatus::UpToDate)
        .unwrap();
    let document = Document {
        evidence: Evidence::Tdx {
            quote: platform.quote_over(&report, &data).unwrap().into(),
            event_log: vm.event_log().clone().into(),
        },
        collateral: Some(Collateral::Tdx { json: json.into() }),
        ..good
    };
    let both = naming(&[&unmarked, ROOTS.root(Tee::Tdx)]);
    for policy in [Policy::default(), naming(&[&unmarked]), both] {
        refused(
            &judge(&document, &policy),
            &[("evidence.signature", UNMARKED)],
        );
    }

    let unmarked = remarked(&ROOTS.amd.ark, &[]);
    let mut document = Machine::good(Tee::SevSnp).document();
    let Some(Collateral::SevSnp { certificates, .. }) = &mut document.collateral else {
        panic!("SNP has SNP's collateral")
    };
    certificates[2] = unmarked.clone().into();
    for policy in [Policy::default(), naming(&[&unmarked]), policy()] {
        refused(
            &judge(&document, &policy),
            &[(
                "evidence.signature",
                "the SNP report's certificates do not hold: the ASK names another issuer (CN=ARK-Milan,O=Cocoon Simulator)",
            )],
        );
    }
}

/// A marked root with the name of the real one but another key does not verify what the real key signed.
#[test]
fn a_marked_root_vouches_only_for_what_it_signed() {
    let stranger = PrivateKey::generate(KeyKind::P256).unwrap();
    let impostor = x509::issue(
        &stranger,
        "CN=ARK-Milan,O=Cocoon Simulator",
        x509::Role::Root,
        None,
        vec![],
    )
    .unwrap();
    let mut document = Machine::good(Tee::SevSnp).document();
    let Some(Collateral::SevSnp { certificates, .. }) = &mut document.collateral else {
        panic!("SNP has SNP's collateral")
    };
    certificates[2] = impostor.clone().into();
    let verdict = judge(&document, &naming(&[&impostor]));
    refused(
        &verdict,
        &[(
            "evidence.signature",
            "the SNP report's certificates do not hold: the signature on the ASK does not hold",
        )],
    );
    let named = naming(&[ROOTS.root(Tee::SevSnp)]);
    refused(
        &judge(&document, &named),
        &[("evidence.root", SNP_NOT_NAMED)],
    );
}
