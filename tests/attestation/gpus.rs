//! Documents with GPU evidence: a good one is accepted, and each defect is refused in its own row with its own text.

use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Outcome;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{Document, MAX_DOCUMENT_LEN};
use cocoon_protocol::gpu_section::GpuSection;
use cocoon_simulator::nvidia::{Fault, GpuSimulator};

use crate::gpu_machine::{CUDA, believing, gpus, judge, keys_of, launched, shown};
use crate::machine::{FRESH, LEAF, NOW, accepted, refused};

const BOTH: [Tee; 2] = [Tee::Tdx, Tee::SevSnp];
const OTHER_QUESTION: &str = "the report answers another question: an old one, or somebody else's";
const EXCHANGED: &str = "other GPUs than those that the certificate of this connection committed to when the guest started: one was \
    exchanged, reset with other firmware, or another machine's evidence is shown";
const OTHER_EVIDENCE: &str = "nonce and claims fit, but the evidence is of another GPU section than this one, or was made in another TLS \
    session (or for a changed meter key, or another batch): the GPUs' evidence was exchanged, or the connection is \
    relayed by someone who holds the guest's key";

/// Returns the session document of a guest that passes on the evidence of `gpus`.
fn document(tee: Tee, gpus: &GpuSimulator, edit: impl FnOnce(&mut Option<GpuSection>)) -> Document {
    let mut vm = launched(tee, LEAF, &CUDA, NOW);
    shown(&mut vm, &FRESH, gpus, NOW, edit)
}

/// Asserts the verdict on a GPU with this fault, for a boot that committed to the key of GPU 1001.
#[track_caller]
fn faulty(fault: Fault, expected: &[(&str, &str)]) {
    let policy = believing();
    let keys = keys_of("1001", &policy);
    let mut gpus = gpus("1001");
    gpus.fault = Some(fault);
    for tee in BOTH {
        refused(
            &judge(&document(tee, &gpus, |_| ()), keys, &policy),
            expected,
        );
    }
}

#[test]
fn a_simulated_gpu_passes_every_check_and_is_called_simulated() {
    let policy = believing();
    let keys = keys_of("1001", &policy);
    for tee in BOTH {
        let sent = document(tee, &gpus("1001"), |_| ());
        let received = Document::parse(&sent.to_json(), MAX_DOCUMENT_LEN).unwrap();
        assert_eq!(received, sent);
        let verdict = judge(&received, keys, &policy);
        accepted(&verdict);
        let rows = verdict
            .checks
            .iter()
            .filter(|check| check.id.starts_with("gpu."));
        let passed: Vec<_> = rows
            .filter(|check| check.outcome == Outcome::Pass)
            .map(|check| check.id)
            .collect();
        assert_eq!(
            passed,
            [
                "gpu.count",
                "gpu.report",
                "gpu.architecture",
                "gpu.chain",
                "gpu.signature",
                "gpu.firmware_id",
                "gpu.nonce",
                "gpu.device",
                "gpu.mode",
                "gpu.developer_mode",
                "gpu.protected_pcie",
                "gpu.versions",
                "gpu.versions",
                "gpu.revocation",
                "gpu.revocation",
                "gpu.revocation",
                "gpu.rim.driver",
                "gpu.revocation",
                "gpu.revocation",
                "gpu.revocation",
                "gpu.rim.vbios",
                "gpu.measurements",
                "gpu.keys",
                "gpu.class",
            ]
        );
    }
}

#[test]
fn every_bad_form_is_refused_in_its_row() {
    faulty(Fault::WrongNonce, &[("gpu.nonce", OTHER_QUESTION)]);
    let revoked = format!(
        "NVIDIA revoked it at {} (Unix time), for the reason KeyCompromise",
        NOW - 7 * 24 * 60 * 60
    );
    faulty(Fault::Revoked, &[("gpu.revocation", &revoked)]);
    let late = format!(
        "the OCSP response was valid until {} (Unix time), and it is {NOW}: fetch a newer one",
        NOW - 7 * 24 * 60 * 60
    );
    faulty(Fault::Expired, &[("gpu.revocation", late.as_str()); 6]);
    let other = "the GPU runs other firmware, or firmware with other settings, than NVIDIA published for this version";
    faulty(
        Fault::OtherVbios,
        &[("gpu.measurement", other), ("gpu.measurements", other)],
    );
    faulty(
        Fault::DeveloperMode,
        &[(
            "gpu.developer_mode",
            "developer mode: debuggers and profilers can read everything",
        )],
    );
}

/// The guest shows evidence for fewer GPUs than it counts, or for none.
#[test]
fn gpus_that_are_missing() {
    let policy = believing();
    let keys = keys_of("1001", &policy);
    for tee in BOTH {
        let fewer = document(tee, &gpus("1001"), |section| {
            section.as_mut().unwrap().functions = 2
        });
        refused(
            &judge(&fewer, keys, &policy),
            &[(
                "gpu.count",
                "a GPU without evidence could do anything with what it is given",
            )],
        );
        // No policy setting permits this, because the manifest says that there is a GPU.
        let lenient = Policy {
            accept_missing_gpu_revocation: true,
            accept_gpu_developer_mode: true,
            ..believing()
        };
        let none = document(tee, &gpus("1001"), |section| *section = None);
        for policy in [&policy, &lenient] {
            refused(
                &judge(&none, keys, policy),
                &[(
                    "document.gpu",
                    "the manifest is of a GPU image, and the guest shows no evidence of a GPU: prompts would reach one that \
                     nobody has checked",
                )],
            );
        }
    }
}

/// The GPU of another machine: genuine, good, and asked with the nonce of this session.
#[test]
fn swapped_between_two_machines() {
    let policy = believing();
    let keys = keys_of("1001", &policy);
    for tee in BOTH {
        // The guest itself shows another GPU than at boot, which no honest guest does.
        let swapped = document(tee, &gpus("2002"), |_| ());
        refused(&judge(&swapped, keys, &policy), &[("gpu.keys", EXCHANGED)]);
        accepted(&judge(&swapped, keys_of("2002", &policy), &policy));
        // The host exchanges the evidence after the guest made its document: the CPU's evidence does not cover it.
        let honest = document(tee, &gpus("1001"), |_| ());
        let behind = Document {
            gpu: swapped.gpu.clone(),
            gpu_collateral: swapped.gpu_collateral.clone(),
            ..honest
        };
        refused(
            &judge(&behind, keys, &policy),
            &[
                (
                    "document.gpu",
                    "the GPU section is another one than the guest's claims name: it was changed or exchanged on the way",
                ),
                ("gpu.keys", EXCHANGED),
            ],
        );
        let mut claimed = behind;
        claimed.claims.gpu_section_digest = claimed.gpu.as_ref().unwrap().digest();
        refused(
            &judge(&claimed, keys_of("2002", &policy), &policy),
            &[("evidence.report_data", OTHER_EVIDENCE)],
        );
    }
}

/// The policy determines which roots and which devices are trusted, for GPUs as for CPUs.
#[test]
fn roots_and_devices_of_the_policy() {
    let keys = keys_of("1001", &believing());
    let document = document(Tee::Tdx, &gpus("1001"), |_| ());
    let cpu_alone = crate::machine::policy();
    let unnamed = "development root not named: this comes from a simulated GPU, and no development root for it was named";
    refused(
        &judge(&document, keys, &cpu_alone),
        &[
            ("gpu.root", unnamed),
            (
                "gpu.class",
                "no GPU's evidence verified, so nothing vouches for one",
            ),
            ("gpu.keys", EXCHANGED),
        ],
    );
    let only = |device: Hex32| Policy {
        gpus: vec![device],
        ..believing()
    };
    accepted(&judge(
        &document,
        keys,
        &only(gpus("1001").device(0).unwrap()),
    ));
    refused(
        &judge(&document, keys, &only(gpus("2002").device(0).unwrap())),
        &[(
            "gpu.device",
            "a genuine GPU, and none that your policy lists",
        )],
    );
}

/// Policy settings that limit or relax the demands on NVIDIA's OCSP responses and on the GPU's mode.
#[test]
fn other_settings_of_the_policy() {
    const MISSING: &str = "no OCSP response about this certificate was presented: a revoked one could not be told from a good one";
    const STALE: &str = "stale OCSP response: it is still in its time, but older than this client accepts, and may hide a newer revocation";
    let keys = keys_of("1001", &believing());
    for tee in BOTH {
        // The simulated NVIDIA answered an hour ago.
        let good = document(tee, &gpus("1001"), |_| ());
        let at_most = |max_gpu_ocsp_age| Policy {
            max_gpu_ocsp_age,
            ..believing()
        };
        accepted(&judge(&good, keys, &at_most(3600)));
        refused(
            &judge(&good, keys, &at_most(3599)),
            &[("gpu.revocation", STALE); 6],
        );

        let forgiving = Policy {
            accept_missing_gpu_revocation: true,
            ..believing()
        };
        let mut silent = good;
        silent.gpu_collateral.as_mut().unwrap().ocsp.clear();
        refused(
            &judge(&silent, keys, &believing()),
            &[("gpu.revocation", MISSING); 6],
        );
        accepted(&judge(&silent, keys, &forgiving));
        // The setting accepts missing and expired responses, but not a revocation.
        for (fault, rows) in [(Fault::Revoked, 1), (Fault::Expired, 0)] {
            let mut gpus = gpus("1001");
            gpus.fault = Some(fault);
            let verdict = judge(&document(tee, &gpus, |_| ()), keys, &forgiving);
            let failed: Vec<_> = verdict.failures().map(|row| row.id).collect();
            assert_eq!(failed, vec!["gpu.revocation"; rows], "{fault:?}");
        }

        let mut gpus = gpus("1001");
        gpus.fault = Some(Fault::DeveloperMode);
        let debugged = document(tee, &gpus, |_| ());
        let careless = Policy {
            accept_gpu_developer_mode: true,
            ..believing()
        };
        accepted(&judge(&debugged, keys, &careless));
        refused(
            &judge(&debugged, keys, &forgiving),
            &[(
                "gpu.developer_mode",
                "developer mode: debuggers and profilers can read everything",
            )],
        );
    }
}
