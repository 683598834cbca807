//! Every field of the policy and of the manifest, changed one at a time: either the row of that field fails, or the
//! test shows that the field does not affect the verdict.

use std::collections::BTreeMap;

use cocoon_measurements::appraise::appraise;
use cocoon_measurements::manifest::{ManifestRefusal, ManifestTrust, public_key, sign, trust};
use cocoon_measurements::policy::{GpuRequirement, Policy};
use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex;
use cocoon_protocol::manifest::{GpuImage, MAX_MANIFEST_LIFE, Manifest, PlatformSource, Runtime};
use cocoon_simulator::tdx::TdReport;

use crate::collateral::STALE;
use crate::machine::{IMAGE, Machine, NOW, SIGNER, accepted, judge, policy, refused, session};

const TDX: &[Tee] = &[Tee::Tdx];
const SNP: &[Tee] = &[Tee::SevSnp];
const BOTH: &[Tee] = &[Tee::Tdx, Tee::SevSnp];

type Row = (&'static str, &'static str);

#[test]
fn fields_of_the_policy() {
    type Edit = fn(&mut Policy);
    let table: &[(&str, Edit, &[Tee], Option<Row>)] = &[
        (
            "accepted_tcb_statuses",
            |p| p.accepted_tcb_statuses.clear(),
            TDX,
            Some((
                "evidence.tcb",
                "the platform's firmware or microcode lacks fixes that Intel has published",
            )),
        ),
        (
            "max_collateral_age",
            |p| p.max_collateral_age = 3599,
            TDX,
            Some(STALE),
        ),
        (
            "max_collateral_age, met",
            |p| p.max_collateral_age = 3600,
            TDX,
            None,
        ),
        (
            "max_intel_root_crl_age",
            |p| p.max_intel_root_crl_age = 3599,
            TDX,
            Some(STALE),
        ),
        (
            "max_amd_crl_age",
            |p| p.max_amd_crl_age = 3599,
            SNP,
            Some(STALE),
        ),
        (
            "max_amd_crl_age, met",
            |p| p.max_amd_crl_age = 3600,
            SNP,
            None,
        ),
        (
            "machines: others",
            |p| p.machines = vec![format!("amd-chip:{}", "11".repeat(64)).parse().unwrap()],
            BOTH,
            Some((
                "evidence.machine",
                "genuine evidence, of a machine that your policy does not list",
            )),
        ),
        (
            "machines: these",
            |p| {
                p.machines = vec![
                    format!("intel-ppid:{}", "c0".repeat(16)).parse().unwrap(),
                    format!("amd-chip:{}", "c0".repeat(64)).parse().unwrap(),
                ];
            },
            BOTH,
            None,
        ),
        (
            "tdx_modules: others",
            |p| p.tdx_modules = vec![Hex([0x11; 48])],
            TDX,
            Some((
                "tdx.module",
                "the platform runs a build of the TDX module (MRSEAM) that your policy does not list",
            )),
        ),
        (
            "tdx_modules: this",
            |p| {
                p.tdx_modules = vec![
                    Hex([0x11; 48]),
                    Hex(TdReport::good([0; 48], [[0; 48]; 4], [0; 48]).mr_seam),
                ]
            },
            TDX,
            None,
        ),
        (
            "gpu",
            |p| p.gpu = GpuRequirement::Required,
            BOTH,
            Some((
                "document.gpu",
                "your policy requires a GPU, and this image has none",
            )),
        ),
        (
            "development_roots, TDX",
            |p| p.development_roots.clear(),
            TDX,
            Some((
                "evidence.root",
                "development root not named: this TDX quote comes from simulated hardware, and no development root for it was named",
            )),
        ),
        (
            "development_roots, SNP",
            |p| p.development_roots.clear(),
            SNP,
            Some((
                "evidence.root",
                "development root not named: this SEV-SNP report comes from simulated hardware, and no development root for it was named",
            )),
        ),
        // Intel's evaluation number, and fields that only relax: none of these affects a good simulated machine.
        (
            "min_tcb_evaluation",
            |p| p.min_tcb_evaluation = u32::MAX,
            BOTH,
            None,
        ),
        (
            "accepted_advisories",
            |p| p.accepted_advisories = vec!["INTEL-SA-00001".into()],
            BOTH,
            None,
        ),
        (
            "accept_missing_alias_check",
            |p| p.accept_missing_alias_check = true,
            BOTH,
            None,
        ),
        (
            "accept_missing_aml_guard",
            |p| p.accept_missing_aml_guard = true,
            BOTH,
            None,
        ),
        (
            "snp_tcb_floor",
            |p| p.snp_tcb_floor.milan.snp = 255,
            BOTH,
            None,
        ),
    ];
    for (field, edit, tees, expected) in table {
        for tee in *tees {
            println!("{field} {tee}");
            let mut edited = policy();
            edit(&mut edited);
            let verdict = judge(&Machine::good(*tee).document(), &edited);
            match expected {
                Some(row) => refused(&verdict, &[*row]),
                None => accepted(&verdict),
            }
        }
    }
}

fn believing() -> ManifestTrust {
    ManifestTrust {
        signers: vec![public_key(&SIGNER)],
        release_floor: 5,
        ..ManifestTrust::default()
    }
}

/// Returns the verdict on a guest of the good image that was given the edited manifest, signed again.
fn under(edit: impl FnOnce(&mut Manifest), tee: Tee) -> Result<Verdict, ManifestRefusal> {
    let mut manifest = IMAGE.manifest(NOW);
    edit(&mut manifest);
    let bytes = manifest.to_json();
    let envelope = sign(&bytes, &SIGNER).unwrap();
    let trusted = trust(&bytes, Some(&envelope), &believing(), NOW)?;
    let mut vm = Machine::good(tee);
    vm.claims.manifest_id = trusted.id();
    let document = vm.document();
    Ok(appraise(&session(&document), &trusted, &policy(), NOW))
}

#[test]
fn fields_of_the_manifest_that_are_compared() {
    type Edit = fn(&mut Manifest);
    const SHAPE: &str = "another machine than the manifest's shapes";
    const LAUNCH: &str = "other image, edited command line, wrong initrd, or another CPU model";
    let table: &[(&str, Edit, Tee, &[Row])] = &[
        (
            "variant",
            |m| m.variant = "cuda".into(),
            Tee::Tdx,
            &[(
                "document.gpu",
                "the manifest is of a GPU image, and the guest shows no evidence of a GPU",
            )],
        ),
        (
            "cmdline, which explains RTMR2 and is not itself compared",
            |m| m.cmdline.push('x'),
            Tee::Tdx,
            &[],
        ),
        (
            "model.verity_root",
            |m| m.model.verity_root.0[0] ^= 1,
            Tee::SevSnp,
            &[(
                "document.model",
                "another model volume is mounted than the manifest's",
            )],
        ),
        (
            "tdx.mrtd",
            |m| m.tdx.mrtd.0[0] ^= 1,
            Tee::Tdx,
            &[("tdx.mrtd", "other image")],
        ),
        (
            "tdx.rtmr1",
            |m| m.tdx.rtmr1.0[0] ^= 1,
            Tee::Tdx,
            &[("tdx.rtmr1", "another kernel than the manifest's vmlinuz")],
        ),
        (
            "tdx.rtmr2",
            |m| m.tdx.rtmr2.0[0] ^= 1,
            Tee::Tdx,
            &[("tdx.rtmr2", "wrong initrd")],
        ),
        (
            "tdx.platforms: none",
            |m| m.tdx.platforms.clear(),
            Tee::Tdx,
            &[("tdx.rtmr0", "the manifest names no machine shape for TDX")],
        ),
        (
            "tdx.platforms: an event's digest",
            |m| {
                for platform in &mut m.tdx.platforms {
                    platform.rtmr0_events[3].digest.0[0] ^= 1;
                }
            },
            Tee::Tdx,
            &[("tdx.rtmr0", SHAPE), ("tdx.rtmr0.event", "")],
        ),
        (
            "snp.launch: none",
            |m| m.snp.launch.clear(),
            Tee::SevSnp,
            &[(
                "snp.launch",
                "the manifest lists no launch digest: this image is not released for SEV-SNP",
            )],
        ),
        (
            "snp.launch: digests",
            |m| {
                m.snp
                    .launch
                    .iter_mut()
                    .for_each(|entry| entry.digest.0[0] ^= 1)
            },
            Tee::SevSnp,
            &[("snp.launch", LAUNCH)],
        ),
    ];
    for (field, edit, tee, expected) in table {
        println!("{field}");
        let verdict = under(edit, *tee).unwrap();
        let found: Vec<_> = verdict.failures().collect();
        assert_eq!(found.len(), expected.len(), "{field}: {found:#?}");
        for (check, (id, cause)) in found.iter().zip(*expected) {
            assert_eq!(check.id, *id, "{field}");
            assert!(
                check.cause.as_deref().unwrap().starts_with(cause),
                "{field}: {check:#?}"
            );
        }
    }
}

fn gpu_image() -> GpuImage {
    GpuImage {
        driver: "550.163.01".into(),
        runtime: Runtime {
            verity_root: Hex([1; 32]),
            verity_salt: Hex([2; 32]),
            verity_data_blocks: 3,
            files: BTreeMap::new(),
        },
        without: BTreeMap::new(),
    }
}

/// Fields that verifiers cannot see in evidence; they inform people, and those who rebuild the image. A change that
/// makes a verdict depend on one of them must also change this test.
#[test]
fn fields_of_the_manifest_that_are_not_judged() {
    let edits: [fn(&mut Manifest); 19] = [
        |m| m.release += 1,
        |m| m.source_revision = "1".repeat(40),
        |m| m.not_before += 1,
        |m| m.not_after -= 1,
        |m| m.inputs_lock.0[0] ^= 1,
        |m| m.artefacts.clear(),
        |m| m.model.id = "other".into(),
        |m| m.model.verity_salt.0[0] ^= 1,
        |m| m.model.verity_data_blocks += 1,
        |m| m.tdx.platforms[0].name = "other".into(),
        |m| m.tdx.platforms[0].memory_mib += 1,
        |m| m.tdx.platforms[0].vcpus = Some(64),
        |m| m.tdx.platforms[0].mmio64_mib = Some(1 << 18),
        // Matters only under a vendor's root.
        |m| m.tdx.platforms[0].source = PlatformSource::Computed,
        |m| m.snp.guest_features = 0x21,
        |m| m.snp.launch[0].cpu_model = "EPYC-Turin".into(),
        |m| m.snp.launch[0].vcpus += 1,
        |m| m.model.files.clear(),
        // Whether a GPU is required depends on the variant.
        |m| m.gpu = Some(gpu_image()),
    ];
    for edit in edits {
        for tee in BOTH {
            accepted(&under(edit, *tee).unwrap());
        }
    }
}

#[test]
fn fields_of_the_manifest_that_decide_whether_it_counts() {
    let refusal = |edit: fn(&mut Manifest)| under(edit, Tee::Tdx).unwrap_err();
    // Signing tools refuse these two, but no signature is needed here: they are refused before signatures are checked.
    let malformed: [fn(&mut Manifest); 2] = [
        |m| m.version = 2,
        |m| m.not_after = m.not_before + MAX_MANIFEST_LIFE + 1,
    ];
    for edit in malformed {
        let mut manifest = IMAGE.manifest(NOW);
        edit(&mut manifest);
        let refusal = trust(&manifest.to_json(), None, &believing(), NOW).unwrap_err();
        assert!(
            matches!(refusal, ManifestRefusal::Malformed(_)),
            "{refusal}"
        );
    }
    assert!(matches!(
        refusal(|m| m.release = 4),
        ManifestRefusal::ReleaseFloor {
            release: 4,
            floor: 5,
            ..
        }
    ));
    assert!(matches!(
        refusal(|m| m.not_before = NOW + 9),
        ManifestRefusal::NotYetValid { ahead: 9, .. }
    ));
    assert!(matches!(
        refusal(|m| m.not_after = NOW - 9),
        ManifestRefusal::Expired { ago: 9, .. }
    ));
    assert!(matches!(
        refusal(|m| m.unlocked = vec!["linux".into()]),
        ManifestRefusal::Unlocked { count: 1, .. }
    ));
    // Only shown under a development root. Under AMD's root, a manifest without the guard would be refused.
    let guarded = under(|m| m.aml_guard = true, Tee::SevSnp).unwrap();
    accepted(&guarded);
    assert_eq!(
        guarded
            .checks
            .iter()
            .find(|check| check.id == "snp.aml_guard")
            .unwrap()
            .found
            .as_deref(),
        Some("the manifest's kernel has the guard")
    );
}
