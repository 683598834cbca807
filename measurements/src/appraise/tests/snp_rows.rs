//! Checks of SEV-SNP claims by the manifest and the policy.

use cocoon_protocol::manifest::SnpLaunch;

use super::{
    super::snp::{Measured, measurements, platform, verified},
    *,
};
use crate::{
    roots::RootClass,
    snp::report::{
        LaunchIdentity, Product, ReportError, Revocation, SigningKey, SnpClaims, TcbVersion,
    },
};

pub(super) const TCB: TcbVersion = TcbVersion {
    fmc: None,
    bootloader: 4,
    tee: 0,
    snp: 27,
    microcode: 222,
};

pub(super) fn reference(aml_guard: bool) -> TrustedManifest {
    let mut manifest = Manifest {
        aml_guard,
        ..sample()
    };
    for vcpus in [1, 2] {
        let digest = Hex([0x60 + u8::try_from(vcpus).unwrap(); 48]);
        manifest.snp.launch.push(SnpLaunch {
            cpu_model: "EPYC-v4".into(),
            vcpus,
            digest,
        });
    }
    trusted(&manifest)
}

pub(super) fn claims(root: RootClass) -> SnpClaims {
    let config = config::digest(Tee::SevSnp, &OperatorConfig::default().canonical());
    SnpClaims {
        root,
        product: (root == RootClass::Vendor).then_some(Product::Milan),
        cpuid: Some([0x19, 0x01, 1]),
        revocation: Revocation::Checked {
            issued: NOW - 1,
            next_update: NOW + 1,
        },
        valid_until: NOW + 1,
        version: 3,
        signing_key: SigningKey::Vcek,
        measurement: [0x62; 48],
        report_data: [0; 64],
        host_data: config.0[..32].try_into().unwrap(),
        policy: 0x30000,
        guest_svn: 0,
        family_id: [0; 16],
        image_id: [0; 16],
        launched_by: LaunchIdentity::default(),
        report_id: [0; 32],
        chip_id: [7; 64],
        platform_info: 1 << 5,
        reported_tcb: TCB,
        current_tcb: TCB,
        committed_tcb: TCB,
        launch_tcb: TCB,
    }
}

pub(super) fn rows(claims: &SnpClaims, manifest: &TrustedManifest, policy: &Policy) -> Vec<Check> {
    let document = document(Tee::SevSnp, manifest);
    let mut checks = verified(claims, true, manifest, policy, NOW);
    checks.extend(measurements(
        &Measured::from(claims),
        &session(&document),
        manifest,
    ));
    checks
}

#[track_caller]
pub(super) fn refused(claims: &SnpClaims) -> (&'static str, String) {
    let checks = rows(claims, &reference(true), &Policy::default());
    let (id, cause) = only_failure(&checks);
    (id, cause.to_owned())
}

#[test]
fn cocoon_snp_1() {
    let good = claims(RootClass::Vendor);
    let checks = rows(&good, &reference(true), &Policy::default());
    no_failure(&checks);
    let launch = checks
        .iter()
        .find(|check| check.id == "snp.launch")
        .unwrap();
    assert_eq!(launch.found.as_deref(), Some("EPYC-v4 with 2 vCPUs"));
    assert_eq!(
        refused(&SnpClaims { measurement: [1; 48], ..good }),
        (
            "snp.launch",
            "other image, edited command line, wrong initrd, or another CPU model, vCPU count or set of guest features than \
             the manifest lists: one digest covers them all, so it cannot be told which (the manifest assumes guest \
             features 0x1)"
                .to_owned()
        )
    );
}

#[test]
fn cocoon_snp_2() {
    let with = |policy| {
        refused(&SnpClaims {
            policy,
            ..claims(RootClass::Vendor)
        })
    };
    let row = |cause: &str| ("snp.policy", cause.to_owned());
    assert_eq!(
        with(0x30000 | 1 << 19),
        row("a debug guest: the host can read its memory")
    );
    assert_eq!(
        with(0x30000 | 1 << 18),
        row("a guest that a migration agent may move to another machine")
    );
    let odd = row("guest policy bits are set or missing whose meaning this verifier does not know");
    assert_eq!(with(0x10000), odd);
    assert_eq!(with(0x30000 | 1 << 40), odd);
}

#[test]
fn cocoon_snp_3() {
    let foreign = LaunchIdentity {
        id_key_digest: [1; 48],
        ..LaunchIdentity::default()
    };
    assert_eq!(
        refused(&SnpClaims {
            launched_by: foreign,
            ..claims(RootClass::Vendor)
        }),
        (
            "snp.id_key",
            "the launch carries an ID block of a key that this image does not use".to_owned()
        )
    );
    let foreign = LaunchIdentity {
        author_key_digest: [1; 48],
        ..LaunchIdentity::default()
    };
    assert_eq!(
        refused(&SnpClaims {
            launched_by: foreign,
            ..claims(RootClass::Vendor)
        }),
        (
            "snp.author_key",
            "the launch carries an author key that this image does not use".to_owned()
        )
    );
    let vmpl = ReportError::Field {
        field: "VMPL",
        found: "1".into(),
        why: "code of a higher privilege controls the guest",
    };
    let row = evidence::snp_refusal(&vmpl);
    assert_eq!((row.id, row.found.as_deref()), ("snp.vmpl", Some("1")));
    assert_eq!(
        row.cause.unwrap(),
        "SNP report: VMPL is 1: code of a higher privilege controls the guest"
    );
}

#[test]
fn cocoon_snp_4() {
    assert_eq!(
        refused(&SnpClaims {
            host_data: [1; 32],
            ..claims(RootClass::Vendor)
        }),
        (
            "snp.config",
            "the launch was given another configuration than the document shows".to_owned()
        )
    );
}

#[test]
fn cocoon_snp_5() {
    let row = |root, policy: &Policy| {
        let checks = rows(&claims(root), &reference(false), policy);
        checks
            .into_iter()
            .find(|check| check.id == "snp.aml_guard")
            .unwrap()
    };
    let rejected = row(RootClass::Vendor, &Policy::default());
    assert_eq!(
        (rejected.outcome, rejected.cause.as_deref()),
        (
            Outcome::Fail,
            Some(
                "SEV-SNP does not measure ACPI tables, and this image's kernel would run code from them that can read guest memory"
            )
        )
    );
    let accepting = Policy {
        accept_missing_aml_guard: true,
        ..Policy::default()
    };
    assert_eq!(row(RootClass::Vendor, &accepting).outcome, Outcome::Note);
    let simulated = row(RootClass::Development, &Policy::default());
    assert_eq!(
        (simulated.outcome, simulated.cause.as_deref()),
        (
            Outcome::Note,
            Some(
                "this image's kernel lacks the guard: on real SEV-SNP hardware this alone would reject it"
            )
        )
    );
}

#[test]
fn cocoon_snp_6() {
    let unchecked = SnpClaims {
        revocation: Revocation::NotChecked,
        ..claims(RootClass::Vendor)
    };
    assert_eq!(
        refused(&unchecked),
        (
            "evidence.collateral",
            "no revocation list of AMD was presented: a revoked processor could not be told from a good one".to_owned()
        )
    );
    let boot = platform(&unchecked, false, &Policy::default(), NOW);
    assert_eq!(
        boot.iter()
            .find(|check| check.id == "evidence.collateral")
            .unwrap()
            .outcome,
        Outcome::Note
    );
}

#[test]
fn cocoon_snp_7() {
    let firmware = |root| {
        let checks = rows(&claims(root), &reference(true), &Policy::default());
        checks.into_iter().find(|check| check.id == "snp.firmware")
    };
    assert_eq!(firmware(RootClass::Vendor), None);
    assert_eq!(
        firmware(RootClass::Development).unwrap().cause.unwrap(),
        "the measured firmware is not the one that booted: SEV-SNP firmware cannot start without the hardware, so the \
         simulator measured OVMF.snp.fd while the VM ran OVMF.tdx.fd"
    );
}

#[test]
fn cocoon_snp_11() {
    for root in [RootClass::Vendor, RootClass::Development] {
        let unchecked = SnpClaims {
            platform_info: !(1 << 5),
            ..claims(root)
        };
        let (id, cause) = refused(&unchecked);
        assert_eq!(id, "snp.platform");
        assert!(cause.contains("BadRAM, AMD-SB-3015"), "{cause}");
        let accepting = Policy {
            accept_missing_alias_check: true,
            ..Policy::default()
        };
        let checks = rows(&unchecked, &reference(true), &accepting);
        no_failure(&checks);
        let row = checks.iter().find(|check| check.id == "snp.platform");
        let row = row.unwrap();
        assert_eq!(
            (row.outcome, row.found.as_deref()),
            (Outcome::Note, Some("0xffffffffffffffdf"))
        );
    }
}

#[test]
fn certificate_chains_of_nothing_are_empty() {
    for nothing in ["", "\n", "\r\n \n"] {
        assert_eq!(
            crate::snp::report::certificates_from_pem(nothing.as_bytes()),
            Ok(Vec::new())
        );
    }
}
