//! Endorsements that the host attaches to the evidence. A host may withhold them, keep them for too long, or take
//! another vendor's.

use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Blob;
use cocoon_protocol::document::Collateral;
use cocoon_simulator::snp::SnpSimulator;
use cocoon_simulator::tdx::{CollateralDates, TcbStatus, TdxSimulator};

use crate::machine::{Machine, NOW, ROOTS, accepted, judge, policy, refused};

pub const DAY: u64 = 24 * 60 * 60;
const MISSING: (&str, &str) = (
    "evidence.collateral",
    "missing collateral: without the vendor's certificates and revocation data nothing vouches for the evidence",
);
const NO_CRL: (&str, &str) = (
    "evidence.collateral",
    "no revocation list of AMD was presented: a revoked processor could not be told from a good one",
);

pub const STALE: (&str, &str) = (
    "evidence.collateral",
    "stale collateral: it is still in its time, but older than this client accepts, and may hide newer revocations",
);

const REVOKED: &str = "TDX quote does not verify with its collateral under the development root: TCB status is invalid: Revoked";

fn dates(issued: u64, next_update: u64) -> CollateralDates {
    CollateralDates {
        issued,
        next_update,
    }
}

pub fn tdx_with(collateral: Option<Collateral>) -> Verdict {
    Machine {
        collateral,
        ..Machine::good(Tee::Tdx)
    }
    .verdict()
}

pub fn intel(dates: CollateralDates, status: TcbStatus) -> Collateral {
    let json = TdxSimulator::new(&ROOTS.intel)
        .collateral(dates, status)
        .unwrap();
    Collateral::Tdx { json: json.into() }
}

pub fn snp_with(edit: impl FnOnce(&mut Vec<Blob>, &mut Option<Blob>)) -> Verdict {
    let mut vm = Machine::good(Tee::SevSnp);
    let Some(Collateral::SevSnp { certificates, crl }) = &mut vm.collateral else {
        panic!("SNP has SNP's collateral")
    };
    edit(certificates, crl);
    vm.verdict()
}

fn crl(issued: u64, next_update: u64) -> Blob {
    SnpSimulator::new(&ROOTS.amd)
        .crl(issued, next_update)
        .unwrap()
        .into()
}

#[test]
fn expired() {
    let text = |what: &str, end: u64| {
        format!(
            "expired collateral, or this machine's clock is wrong; for {what} was valid until {end} (Unix time), and it is {NOW}: fetch a newer one"
        )
    };
    // Intel's revocation lists are expired from the second of their nextUpdate. The text names the TCB information, the
    // first part with that date.
    for end in [NOW - 1, NOW] {
        let verdict = tdx_with(Some(intel(dates(NOW - DAY, end), TcbStatus::UpToDate)));
        refused(
            &verdict,
            &[(
                "evidence.collateral",
                &text("tdx: the TCB information", end),
            )],
        );
    }
    accepted(&tdx_with(Some(intel(
        dates(NOW - DAY, NOW + 1),
        TcbStatus::UpToDate,
    ))));

    let end = NOW - 1;
    let verdict = snp_with(|_, list| *list = Some(crl(NOW - DAY, end)));
    refused(
        &verdict,
        &[(
            "evidence.collateral",
            &text("sev-snp: the ARK's revocation list", end),
        )],
    );
    accepted(&snp_with(|_, list| *list = Some(crl(NOW - DAY, NOW))));
}

#[test]
fn too_early() {
    let begin = NOW + 1;
    let text = |what: &str| {
        format!(
            "expired collateral, or this machine's clock is wrong; for {what} is valid from {begin} (Unix time), and it is {NOW}: check the clock"
        )
    };
    let verdict = tdx_with(Some(intel(dates(begin, NOW + DAY), TcbStatus::UpToDate)));
    refused(
        &verdict,
        &[("evidence.collateral", &text("tdx: the TCB information"))],
    );
    accepted(&tdx_with(Some(intel(
        dates(NOW, NOW + DAY),
        TcbStatus::UpToDate,
    ))));

    let verdict = snp_with(|_, list| *list = Some(crl(begin, NOW + DAY)));
    refused(
        &verdict,
        &[(
            "evidence.collateral",
            &text("sev-snp: the ARK's revocation list"),
        )],
    );
    accepted(&snp_with(|_, list| *list = Some(crl(NOW, NOW + DAY))));
}

/// Collateral that has not expired, but is old enough to hide later revocations.
#[test]
fn stale() {
    let issued = |days: u64| {
        tdx_with(Some(intel(
            dates(NOW - days * DAY, NOW + DAY),
            TcbStatus::UpToDate,
        )))
    };
    accepted(&issued(30));
    refused(&issued(31), &[STALE]);

    // AMD issues its list yearly, so a larger maximum age applies to it.
    let listed = |days: u64| snp_with(|_, list| *list = Some(crl(NOW - days * DAY, NOW + DAY)));
    accepted(&listed(400));
    refused(&listed(401), &[STALE]);
}

#[test]
fn stripped() {
    refused(&tdx_with(None), &[MISSING]);
    // The firmware supplies SNP's certificates with the report, so only the revocation list is missing.
    let snp = Machine {
        collateral: None,
        ..Machine::good(Tee::SevSnp)
    };
    refused(&snp.verdict(), &[NO_CRL]);
    refused(&snp_with(|_, list| *list = None), &[NO_CRL]);
    // Neither the firmware nor the host supplies certificates.
    let mut document = snp.document();
    let cocoon_protocol::document::Evidence::SevSnp { certificates, .. } = &mut document.evidence
    else {
        panic!("SNP evidence was made")
    };
    certificates.clear();
    refused(&judge(&document, &policy()), &[MISSING]);
    // A chain without its root ends in an issuer that is not trusted.
    refused(
        &snp_with(|certificates, _| certificates.truncate(2)),
        &[(
            "evidence.signature",
            "the SNP report's certificates do not hold: the ASK names another issuer (CN=ARK-Milan,O=Cocoon Simulator)",
        )],
    );
}

#[test]
fn of_another_vendor() {
    let other = "the endorsements are another vendor's than the evidence";
    let (tdx, snp) = (Machine::good(Tee::Tdx), Machine::good(Tee::SevSnp));
    let (intels, amds) = (tdx.collateral.clone(), snp.collateral.clone());
    for vm in [
        Machine {
            collateral: amds,
            ..tdx
        },
        Machine {
            collateral: intels,
            ..snp
        },
    ] {
        refused(&vm.verdict(), &[("evidence.collateral", other)]);
    }
}

#[test]
fn tcb_levels() {
    let with = |status| tdx_with(Some(intel(CollateralDates::around(NOW), status)));
    refused(
        &with(TcbStatus::OutOfDate),
        &[(
            "evidence.tcb",
            "the platform's firmware or microcode lacks fixes that Intel has published",
        )],
    );
    refused(
        &with(TcbStatus::Revoked),
        &[("evidence.signature", REVOKED)],
    );
    // A policy that accepts a TCB status accepts that one, but never `Revoked`.
    let lenient = Policy {
        accepted_tcb_statuses: ["OutOfDate", "Revoked"]
            .map(|name| name.parse().unwrap())
            .into(),
        ..policy()
    };
    let document = |status| {
        Machine {
            collateral: Some(intel(CollateralDates::around(NOW), status)),
            ..Machine::good(Tee::Tdx)
        }
        .document()
    };
    accepted(&judge(&document(TcbStatus::OutOfDate), &lenient));
    refused(
        &judge(&document(TcbStatus::Revoked), &lenient),
        &[("evidence.signature", REVOKED)],
    );
}
