//! The platform: its patch levels, the machine's identity, and the age of the vendor's collateral.

use super::{
    super::{platform::age as age_row, tdx::platform},
    snp_rows::{TCB, claims, reference, refused, rows},
    *,
};
use crate::{
    policy::SnpTcbFloors,
    roots::RootClass,
    snp::report::{Product, Revocation, SigningKey, SnpClaims, TcbVersion},
    tdx::quote::TdxClaims,
};

/// Reported, committed and launch level are compared with the floor of the processor's part.
#[test]
fn cocoon_snp_8() {
    let row = |edit: &dyn Fn(&mut SnpClaims), root| {
        let mut edited = claims(root);
        edit(&mut edited);
        let checks = rows(&edited, &reference(true), &Policy::default());
        let others = checks.iter().filter(|check| check.id != "evidence.tcb");
        no_failure(&others.cloned().collect::<Vec<_>>());
        checks
            .into_iter()
            .find(|check| check.id == "evidence.tcb")
            .unwrap()
    };
    let good = row(&|_| (), RootClass::Vendor);
    let shown = "boot loader 4, TEE 0, SNP 27, microcode 222";
    assert_eq!(
        (good.outcome, good.found.as_deref(), good.expected),
        (
            Outcome::Pass,
            Some(shown),
            Some(format!("at least {shown} (Milan)"))
        )
    );
    let lower = |edit: fn(&mut TcbVersion)| {
        let mut tcb = TCB;
        edit(&mut tcb);
        tcb
    };
    let (boot_loader, snp, microcode) = (
        lower(|tcb| tcb.bootloader = 3),
        lower(|tcb| tcb.snp = 26),
        lower(|tcb| tcb.microcode = 221),
    );
    let update = "the operator updates BIOS, SEV firmware and microcode, and reports their level (SNP_CONFIG)";
    let commit = "the operator commits the newer firmware (SNP_COMMIT), so that the older one cannot come back";
    let again = "the operator starts the VM again: it was started before the platform was updated";
    type Lowered<'a> = (&'a dyn Fn(&mut SnpClaims), &'a str, &'a str);
    let edits: [Lowered<'_>; 5] = [
        (
            &|c| c.reported_tcb = boot_loader,
            "reported: boot loader 3 instead of 4",
            update,
        ),
        (
            &|c| c.reported_tcb = microcode,
            "reported: microcode 221 instead of 222",
            update,
        ),
        (
            &|c| c.committed_tcb = snp,
            "committed: SNP firmware 26 instead of 27",
            commit,
        ),
        (
            &|c| c.launch_tcb = snp,
            "launch: SNP firmware 26 instead of 27",
            again,
        ),
        (
            &|c| (c.reported_tcb, c.committed_tcb) = (snp, boot_loader),
            "reported: SNP firmware 26 instead of 27; committed: boot loader 3 instead of 4",
            update,
        ),
    ];
    for (edit, low, advice) in edits {
        let failed = row(edit, RootClass::Vendor);
        let cause =
            format!("the platform's firmware or microcode is older than the policy's floor: {low}");
        assert_eq!(
            (failed.outcome, failed.cause, failed.advice.as_deref()),
            (Outcome::Fail, Some(cause), Some(advice))
        );
        // The simulator's levels reject nothing. The row says so, and how real hardware would be judged.
        let simulated = row(edit, RootClass::Development);
        let cause = format!(
            "simulated: no hardware stands behind these numbers, so they reject nothing; on hardware they would be below \
             the policy's floor: {low}"
        );
        assert_eq!(
            (simulated.outcome, simulated.cause),
            (Outcome::Note, Some(cause))
        );
    }
    // The current level is not compared, because it adds nothing to the committed one.
    let current = row(&|c| c.current_tcb = snp, RootClass::Vendor);
    assert_eq!(current.outcome, Outcome::Pass);
    // Another part of the same generation has its own count of microcode levels.
    let milan_x = |claims: &mut SnpClaims| {
        claims.cpuid = Some([0x19, 0x01, 2]);
        for tcb in [
            &mut claims.reported_tcb,
            &mut claims.committed_tcb,
            &mut claims.launch_tcb,
        ] {
            tcb.microcode = 71;
        }
    };
    assert_eq!(row(&milan_x, RootClass::Vendor).outcome, Outcome::Pass);
    let simulated = row(&|_| (), RootClass::Development);
    assert_eq!(
        simulated.cause.as_deref(),
        Some(
            "simulated: no hardware stands behind these numbers, so they reject nothing; on hardware they would be good enough"
        )
    );
}

/// Turin's TCB has one more component, with a floor of its own.
#[test]
fn turins_first_code_has_its_floor() {
    let tcb = |fmc| TcbVersion {
        fmc: Some(fmc),
        bootloader: 1,
        tee: 1,
        snp: 4,
        microcode: 82,
    };
    let turin = |fmc| SnpClaims {
        product: Some(Product::Turin),
        cpuid: Some([0x1a, 0x02, 1]),
        reported_tcb: tcb(fmc),
        committed_tcb: tcb(fmc),
        launch_tcb: tcb(fmc),
        ..claims(RootClass::Vendor)
    };
    let good = rows(&turin(1), &reference(true), &Policy::default());
    no_failure(&good);
    let row = good
        .iter()
        .find(|check| check.id == "evidence.tcb")
        .unwrap();
    assert_eq!(
        row.expected.as_deref(),
        Some("at least FMC 1, boot loader 1, TEE 1, SNP 4, microcode 81 (Turin)")
    );
    assert_eq!(
        refused(&turin(0)),
        (
            "evidence.tcb",
            "the platform's firmware or microcode is older than the policy's floor: reported: FMC 0 instead of 1; committed: \
             FMC 0 instead of 1; launch: FMC 0 instead of 1"
                .to_owned()
        )
    );
}

/// A policy with a stricter floor refuses what the default accepts.
#[test]
fn a_policy_raises_the_floor() {
    let mut floors = SnpTcbFloors::default();
    floors.milan.tee = 1;
    let strict = Policy {
        snp_tcb_floor: floors,
        ..Policy::default()
    };
    let checks = rows(&claims(RootClass::Vendor), &reference(true), &strict);
    let (id, cause) = only_failure(&checks);
    assert_eq!(id, "evidence.tcb");
    assert!(
        cause.contains("reported: TEE 0 instead of 1; committed: TEE 0"),
        "{cause}"
    );
}

/// A revocation list that AMD issued long ago is refused, even before its `nextUpdate`.
#[test]
fn amds_revocation_list_has_its_age() {
    const DAY: u64 = 24 * 60 * 60;
    let issued = |issued| SnpClaims {
        revocation: Revocation::Checked {
            issued,
            next_update: NOW + 1,
        },
        ..claims(RootClass::Vendor)
    };
    let edge = issued(NOW - 400 * DAY);
    no_failure(&rows(&edge, &reference(true), &Policy::default()));
    let stale = "stale collateral: it is still in its time, but older than this client accepts, and may hide newer revocations";
    assert_eq!(
        refused(&issued(NOW - 400 * DAY - 1)),
        ("evidence.collateral", stale.to_owned())
    );
    let strict = Policy {
        max_amd_crl_age: 30 * DAY,
        ..Policy::default()
    };
    let checks = rows(&issued(NOW - 31 * DAY), &reference(true), &strict);
    assert_eq!(only_failure(&checks), ("evidence.collateral", stale));
}

#[test]
fn chips_are_told_apart() {
    let listed = |chip: u8| Policy {
        machines: vec![
            format!("amd-chip:{}", hex::encode([chip; 64]))
                .parse()
                .unwrap(),
        ],
        ..Policy::default()
    };
    let judge = |claims: &SnpClaims, policy: &Policy| rows(claims, &reference(true), policy);
    let good = claims(RootClass::Vendor);
    no_failure(&judge(&good, &listed(7)));
    assert_eq!(
        only_failure(&judge(&good, &listed(8))),
        (
            "evidence.machine",
            "genuine evidence, of a machine that your policy does not list"
        )
    );
    // With a provider's key (VLEK), the host may mask the chip id.
    let masked = SnpClaims {
        chip_id: [0; 64],
        signing_key: SigningKey::Vlek,
        ..good
    };
    no_failure(&judge(&masked, &Policy::default()));
    assert_eq!(
        only_failure(&judge(&masked, &listed(7))),
        (
            "evidence.machine",
            "the evidence does not prove which machine made it, so it cannot be one of your policy's list"
        )
    );
    // A chip id in the report does not count either: a provider's key is for any of its chips.
    let shown = SnpClaims {
        chip_id: [7; 64],
        ..masked
    };
    no_failure(&judge(&shown, &Policy::default()));
    let checks = judge(&shown, &listed(7));
    assert_eq!(
        only_failure(&checks),
        (
            "evidence.machine",
            "the evidence does not prove which machine made it, so it cannot be one of your policy's list"
        )
    );
    let row = checks.iter().find(|check| check.id == "evidence.machine");
    assert_eq!(row.unwrap().found.as_deref(), Some("not proven"));
}

/// Ages are shown in the unit of the limit, so that a refused age never looks like an accepted one.
#[test]
fn ages_have_the_unit_of_their_limit() {
    const HOUR: u64 = 60 * 60;
    let row = |age, most| {
        let row = age_row("age", ("the list", NOW - age), most, NOW);
        (row.outcome, row.found.unwrap(), row.expected.unwrap())
    };
    let told = |outcome, found: &str, expected: &str| {
        let found = format!("{found} (the list)");
        (outcome, found, format!("at most {expected}"))
    };
    let (pass, fail) = (Outcome::Pass, Outcome::Fail);
    let most = 36 * HOUR;
    assert_eq!(row(40 * HOUR, most), told(fail, "40 hours", "36 hours"));
    assert_eq!(row(most, most), told(pass, "36 hours", "36 hours"));
    assert_eq!(row(most + 1, most), told(fail, "37 hours", "36 hours"));
    assert_eq!(row(40 * HOUR, 48 * HOUR), told(pass, "2 days", "2 days"));
    assert_eq!(row(49 * HOUR, 48 * HOUR), told(fail, "3 days", "2 days"));
    assert_eq!(row(91, 90), told(fail, "91 seconds", "90 seconds"));
}

/// If the policy lists machines, no other machine of either vendor is accepted.
#[test]
fn cocoon_verdict_8() {
    let judge = |ppid: &[u8], machines: &[&str]| {
        let policy = Policy {
            machines: machines.iter().map(|id| id.parse().unwrap()).collect(),
            ..Policy::default()
        };
        let claims = TdxClaims {
            ppid: ppid.to_vec(),
            ..tdx_boot::claims(&tdx_boot::boot(), RootClass::Vendor)
        };
        let rows = platform(&claims, &policy, NOW);
        rows.into_iter()
            .find(|check| check.id == "evidence.machine")
            .unwrap()
    };
    let (own, other) = (
        format!("intel-ppid:{}", "c0".repeat(16)),
        format!("intel-ppid:{}", "c1".repeat(16)),
    );
    let amd = format!("amd-chip:{}", "c0".repeat(64));
    let any = judge(&[0xc0; 16], &[]);
    assert_eq!(
        (any.outcome, any.expected.as_deref(), any.found),
        (Outcome::Pass, Some("any"), Some(own.clone()))
    );
    assert_eq!(judge(&[], &[]).outcome, Outcome::Pass);
    assert_eq!(judge(&[0xc0; 16], &[&other, &own]).outcome, Outcome::Pass);
    let foreign = "genuine evidence, of a machine that your policy does not list";
    for list in [&[&*other][..], &[&amd]] {
        let row = judge(&[0xc0; 16], list);
        assert_eq!(
            (row.outcome, row.cause.as_deref()),
            (Outcome::Fail, Some(foreign))
        );
    }
    // A machine without a readable identity is not on the list, whatever the list contains.
    for ppid in [&[][..], &[0xc0; 15], &[0; 16]] {
        let row = judge(ppid, &[&own]);
        let masked = "the evidence does not prove which machine made it, so it cannot be one of your policy's list";
        assert_eq!(
            (row.outcome, row.cause.as_deref(), row.found.as_deref()),
            (Outcome::Fail, Some(masked), Some("not proven"))
        );
    }
}
