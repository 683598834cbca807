//! Checks of TDX claims by the manifest and the policy, with and without an event log.

use cocoon_protocol::{bytes::Hex48, manifest::PlatformSource};

use super::{
    super::tdx::{Measured, measurements, platform},
    tdx_boot::{DAY, after, boot, claims, one, reference, rows},
    *,
};
use crate::{
    policy::MIN_TCB_EVALUATION,
    roots::RootClass,
    tdx::{quote::TdxClaims, tcb::TcbStatus},
};

#[track_caller]
fn refused(edit: impl FnOnce(&mut TdxClaims)) -> (&'static str, String) {
    let mut edited = claims(&boot(), RootClass::Vendor);
    edit(&mut edited);
    let checks = rows(&edited, &boot().log(), &reference(PlatformSource::Computed));
    let (id, cause) = only_failure(&checks);
    (id, cause.to_owned())
}

#[test]
fn cocoon_tdx_1() {
    let boot = boot();
    no_failure(&after(&boot));
    assert_eq!(
        refused(|c| c.mrtd[0] ^= 1),
        (
            "tdx.mrtd",
            "other image: the VM was started with another firmware than the manifest's OVMF.tdx.fd, or on a host whose KVM \
             adds pages in the older order (before 6.16)"
                .to_owned()
        )
    );
}

#[test]
fn cocoon_tdx_6() {
    let row = |id, cause: &str| (id, cause.to_owned());
    assert_eq!(
        refused(|c| c.mrowner[0] = 1),
        row(
            "tdx.owner",
            "the launch names an owner (MROWNER), which this image does not use"
        )
    );
    assert_eq!(
        refused(|c| c.mrownerconfig[47] = 1),
        row(
            "tdx.owner_config",
            "the launch has an owner's configuration (MROWNERCONFIG), which this image does not use"
        )
    );
    let manifest = reference(PlatformSource::Computed);
    let mut used = claims(&boot(), RootClass::Vendor);
    used.rtmr[3] = [1; 48];
    let log = Blob::default();
    let document = document(Tee::Tdx, &manifest);
    let presented = Presented {
        fresh: None,
        ..session(&document)
    };
    assert_eq!(
        one(&measurements(
            &Measured::from(&used),
            &log,
            &presented,
            &manifest,
            None
        )),
        row(
            "tdx.rtmr3",
            "something measured itself into RTMR3, which this image never uses: other code ran in the guest"
        )
    );
    assert_eq!(
        refused(|c| c.mrsignerseam[0] = 1),
        row("tdx.module", "the TDX module is not signed by Intel")
    );
    let build = |modules: Vec<Hex48>| {
        let policy = Policy {
            tdx_modules: modules,
            ..Policy::default()
        };
        let rows = platform(&claims(&boot(), RootClass::Vendor), &policy, NOW);
        let mut rows = rows.into_iter().filter(|row| row.id == "tdx.module");
        let row = rows.next();
        assert!(rows.next().is_none());
        row
    };
    assert!(build(vec![]).is_none());
    let listed = build(vec![Hex([2; 48]), Hex([1; 48])]).unwrap();
    assert_eq!(listed.outcome, Outcome::Pass);
    let other = build(vec![Hex([2; 48])]).unwrap();
    assert_eq!(
        (other.outcome, other.cause.as_deref()),
        (
            Outcome::Fail,
            Some(
                "the platform runs a build of the TDX module (MRSEAM) that your policy does not list"
            )
        )
    );
}

#[test]
fn cocoon_tdx_7() {
    assert_eq!(
        refused(|c| c.mrconfigid[0] ^= 1),
        (
            "tdx.config",
            "the launch was given another configuration than the document shows".to_owned()
        )
    );
}

#[test]
fn cocoon_tdx_8() {
    const GOOD: u64 = 1 << 28;
    let attributes = |value: u64| refused(|c| c.td_attributes = value.to_le_bytes());
    let row = |cause: &str| ("tdx.attributes", cause.to_owned());
    assert_eq!(
        attributes(GOOD | 1),
        row("a debug or profiled guest: the host can read its memory")
    );
    assert_eq!(
        attributes(GOOD | 1 << 4),
        row("a debug or profiled guest: the host can read its memory")
    );
    assert_eq!(
        attributes(GOOD | 1 << 29),
        row("a guest that the host may move to another machine")
    );
    assert_eq!(
        attributes(0),
        row(
            "SEPT_VE_DISABLE is off: the host can raise exceptions inside the guest by taking its pages"
        )
    );
    assert_eq!(
        attributes(GOOD | 1 << 40),
        row("an attribute is set whose meaning this verifier does not know")
    );
    let odd = "processor features are enabled that this verifier does not know, or basic ones are missing";
    for xfam in [0_u64, 1, 3 | 1 << 62] {
        assert_eq!(
            refused(|c| c.xfam = xfam.to_le_bytes()),
            ("tdx.xfam", odd.to_owned())
        );
    }
}

#[test]
fn cocoon_tdx_9() {
    let row = |id, cause: &str| (id, cause.to_owned());
    assert_eq!(
        refused(|c| c.tcb_status = TcbStatus::OutOfDate),
        row(
            "evidence.tcb",
            "the platform's firmware or microcode lacks fixes that Intel has published"
        )
    );
    for status in [TcbStatus::OutOfDate, TcbStatus::Revoked] {
        assert_eq!(
            refused(|c| c.current_tcb_status = Some(status)),
            row(
                "evidence.tcb",
                "the TDX module that runs now is older than the one that the VM was started on, and lacks fixes that Intel has published"
            )
        );
    }
    let relaunch = |accepted: &[TcbStatus], now| {
        let policy = Policy {
            accepted_tcb_statuses: accepted.to_vec(),
            ..Policy::default()
        };
        let claims = TdxClaims {
            tcb_status: TcbStatus::TdRelaunchAdvised,
            current_tcb_status: Some(now),
            ..claims(&boot(), RootClass::Vendor)
        };
        platform(&claims, &policy, NOW)
    };
    let advised = [TcbStatus::TdRelaunchAdvised];
    let good = relaunch(&advised, TcbStatus::UpToDate);
    assert!(
        good.iter().all(|row| row.outcome != Outcome::Fail),
        "nothing is wrong with what runs now"
    );
    assert_eq!(
        only_failure(&relaunch(&advised, TcbStatus::SwHardeningNeeded)),
        (
            "evidence.tcb",
            "the TDX module was updated since the VM was started, and the platform as it is now has a status that the policy does not accept"
        )
    );
    assert_eq!(
        refused(|c| c.advisories = vec!["INTEL-SA-00001".into()]),
        row(
            "evidence.advisories",
            "Intel's advisories apply to this platform"
        )
    );
    assert_eq!(
        refused(|c| c.evaluation_number = MIN_TCB_EVALUATION - 1),
        row(
            "evidence.tcb_evaluation",
            "the host presents TCB information from before Intel's newer findings"
        )
    );
    let everything = Policy {
        accepted_tcb_statuses: vec![TcbStatus::Revoked],
        ..Policy::default()
    };
    let revoked = TdxClaims {
        tcb_status: TcbStatus::Revoked,
        ..claims(&boot(), RootClass::Vendor)
    };
    assert_eq!(
        only_failure(&platform(&revoked, &everything, NOW)).0,
        "evidence.tcb",
        "revoked is never accepted"
    );
}

#[test]
fn cocoon_tdx_10() {
    let stale = "stale collateral: it is still in its time, but older than this client accepts, and may hide newer revocations";
    let pieces: [fn(&mut TdxClaims) -> &mut u64; 3] = [
        |c| &mut c.issued.tcb_info,
        |c| &mut c.issued.qe_identity,
        |c| &mut c.issued.pck_crl,
    ];
    for piece in pieces {
        assert_eq!(
            refused(|c| *piece(c) = NOW - 30 * DAY - 1),
            ("evidence.collateral", stale.to_owned())
        );
        let mut edge = claims(&boot(), RootClass::Vendor);
        *piece(&mut edge) = NOW - 30 * DAY;
        no_failure(&platform(&edge, &Policy::default(), NOW));
    }
    // The root's list is issued yearly, and has its own limit.
    let with_root_list = |age| {
        let mut edited = claims(&boot(), RootClass::Vendor);
        edited.issued.root_crl = NOW - age;
        platform(&edited, &Policy::default(), NOW)
    };
    no_failure(&with_root_list(400 * DAY));
    let old = with_root_list(400 * DAY + 1);
    assert_eq!(only_failure(&old), ("evidence.collateral", stale));
    let row = old
        .iter()
        .find(|check| check.outcome == Outcome::Fail)
        .unwrap();
    assert_eq!(
        (row.title.as_str(), row.found.as_deref()),
        (
            "age of the root's revocation list",
            Some("401 days (the root's revocation list)")
        )
    );
}
