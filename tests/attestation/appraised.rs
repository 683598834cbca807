//! Evidence judged without a manifest, as by `cocoon appraise`. Values that a verdict refuses under every manifest are
//! refused here as well, in a row of their own.

use cocoon_measurements::appraise::{snp_platform, tdx_platform};
use cocoon_measurements::roots::TrustRoot;
use cocoon_measurements::snp::report::{self, SnpChain};
use cocoon_measurements::tdx::quote;
use cocoon_measurements::tdx::tcb::TcbPolicy;
use cocoon_measurements::verdict::{Check, Outcome};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::document::{Collateral, Document, Evidence};

use crate::machine::{NOW, ROOTS, policy};
use crate::{tampered_snp, tampered_tdx};

/// Returns the rows about evidence whose signatures are valid.
fn rows(document: &Document) -> Vec<Check> {
    let root = |tee| TrustRoot::development(ROOTS.root(tee)).unwrap();
    match (&document.evidence, &document.collateral) {
        (Evidence::Tdx { quote, .. }, Some(Collateral::Tdx { json })) => {
            let believed = TcbPolicy::judged_by_caller();
            let claims = quote::verify(&quote.0, &json.0, &root(Tee::Tdx), &believed, NOW);
            tdx_platform(&claims.unwrap(), &policy(), NOW)
        }
        (Evidence::SevSnp { report, .. }, Some(Collateral::SevSnp { certificates, crl })) => {
            let chain = SnpChain {
                vek: &certificates[0].0,
                intermediate: &certificates[1].0,
                crl: crl.as_ref().map(|crl| crl.0.as_slice()),
            };
            let claims = report::verify(&report.0, &chain, &root(Tee::SevSnp), NOW);
            snp_platform(&claims.unwrap(), &policy(), NOW)
        }
        _ => panic!("evidence without its endorsements"),
    }
}

/// Returns id, cause and found value of each failed row.
fn failed(document: &Document) -> Vec<(&'static str, String, String)> {
    let rows = rows(document).into_iter();
    rows.filter(|row| row.outcome == Outcome::Fail)
        .map(|row| (row.id, row.cause.unwrap(), row.found.unwrap()))
        .collect()
}

fn ids(document: &Document) -> Vec<&'static str> {
    rows(document).iter().map(|row| row.id).collect()
}

#[test]
fn a_trust_domain_with_odd_features_is_refused() {
    let good = tampered_tdx::tampered_document(|_| ());
    assert_eq!(failed(&good), []);
    let ids = ids(&good);
    assert_eq!(
        ids[ids.len() - 3..],
        ["tdx.attributes", "tdx.xfam", "tdx.module"]
    );
    let cause = "processor features are enabled that this verifier does not know, or basic ones are missing";
    let cases: [(tampered_tdx::Edit, &str); 2] = [
        (|r| r.xfam = 3 | 1 << 62, "0x4000000000000003"),
        (|r| r.xfam = 1 | 1 << 2, "0x0000000000000005"),
    ];
    for (edit, found) in cases {
        let document = tampered_tdx::tampered_document(edit);
        assert_eq!(
            failed(&document),
            [("tdx.xfam", cause.to_owned(), found.to_owned())]
        );
    }
}

#[test]
fn a_guest_of_an_odd_policy_is_refused() {
    let good = tampered_snp::tampered_document(|_| ());
    assert_eq!(failed(&good), []);
    assert_eq!(ids(&good).last(), Some(&"snp.policy"));
    let cause = "guest policy bits are set or missing whose meaning this verifier does not know";
    let cases: [(tampered_snp::Edit, &str); 2] = [
        (|r| r.policy = 0x30000 | 1 << 26, "0x4030000"),
        (|r| r.policy = 0x10000, "0x10000"),
    ];
    for (edit, found) in cases {
        let document = tampered_snp::tampered_document(edit);
        assert_eq!(
            failed(&document),
            [("snp.policy", cause.to_owned(), found.to_owned())]
        );
    }
}
