//! Known attacks on confidential inference, the appraisal check that stops each one, and the test that shows it.
//!
//! Checks are named by the ids of SPEC.md §7, tests by file and function. The crate's tests fail when a row names a check or
//! test that does not exist. [`crate::appraise`] describes what each check compares; SPEC.md states what a second verifier
//! must do.
//!
//! ## Replayed, relayed and borrowed evidence
//!
//! | attack | seen | stopped by | shown by |
//! |---|---|---|---|
//! | An old answer is shown again, with the TLS key of a machine that was broken into since | private inference on SNP, audit of 2026: no freshness, so a stolen key could replay | `document.nonce` `evidence.report_data` | `bindings::replayed_documents` |
//! | Genuine evidence is relayed into another TLS session, by whoever holds any guest's key | CVE-2026-33697: evidence inside the handshake binds a key, not a session | `evidence.report_data` | `bindings::relayed_into_another_session` |
//! | Genuine evidence is shown by a server with another key | relay and diversion of RA-TLS | `document.leaf_key` `evidence.report_data` | `bindings::shown_by_a_server_with_another_key` |
//! | Both sides use one exporter, and one side's evidence is reflected | mutual attested TLS | `document.leaf_key` | `bindings::shown_by_a_server_with_another_key` |
//! | The boot's evidence is passed off as a session's | it carries no challenge | `document.kind` `document.nonce` `evidence.report_data` | `bindings::the_certificates_own_document_as_an_answer` `bindings::boot_and_session_documents_in_each_others_place` |
//! | Report data are missing or zero, and the verifier takes that for "nothing to compare" | a verifier that skipped empty report data | `evidence.report_data` | `binding_rows::cocoon_bind_5` `tampered_tdx::each_compared_field_fails_in_its_own_row_alone` |
//! | Claims are edited beside good evidence | whatever stands outside the report data | `evidence.report_data` | `bindings::claims_edited_on_the_way` |
//! | Evidence comes from hardware whose key was taken out of it | bus interposers of 2025 | `evidence.machine`, where the policy lists machines | `platform_rows::cocoon_verdict_8` |
//!
//! ## Genuine hardware, another guest
//!
//! | attack | seen | stopped by | shown by |
//! |---|---|---|---|
//! | A debug guest: the host reads and writes its memory | sample quotes with the bit set pass signature checks | `tdx.attributes` `snp.policy` | `tdx_rows::cocoon_tdx_8` `snp_rows::cocoon_snp_2` |
//! | A guest that may be migrated, to a machine that nobody judged | | `tdx.attributes` `snp.policy` | `tdx_rows::cocoon_tdx_8` `snp_rows::cocoon_snp_2` |
//! | Another variable store under the same firmware: MRTD does not cover it | OVMF leaves it out of MRTD | `tdx.rtmr0` | `launches::other_variable_store_under_the_same_firmware` |
//! | ACPI tables with code that reads the guest's memory | "BadAML", 2025; audits of 2026 | `tdx.rtmr0` `snp.aml_guard` | `event_logs::honest_changes_of_the_machine_are_named_by_place` `snp_rows::cocoon_snp_5` |
//! | The command line is edited: another root, another model, a shell | QEMU takes it from the host | `tdx.rtmr2` `snp.launch` | `launches::edited_command_line` |
//! | Another kernel or initrd | | `tdx.rtmr1` `tdx.rtmr2` `snp.launch` | `launches::other_kernel` `launches::other_initrd` |
//! | Settings from outside the measurement change what runs, such as an environment file with a library to load | private inference on SNP, audit of 2026 | `document.config` `document.config_digest` `tdx.config` `snp.config` | `launches::configuration_swapped_after_the_launch` `launches::non_canonical_configuration` |
//! | The event log lies: a reading of its texts would believe it | logs are the host's | `tdx.event_log` `tdx.rtmr0` | `event_logs::lies_are_found_in_every_register` `event_logs::types_and_texts_decide_nothing` |
//! | Code of the host's choice runs at a higher privilege, or measures itself in | VMPL, service domains, RTMR3 | `snp.vmpl` `tdx.rtmr3` | `snp_rows::cocoon_snp_3` `tdx_rows::cocoon_tdx_6` |
//! | The launch is vouched for by a key of the host's | ID blocks, MROWNER | `snp.id_key` `snp.author_key` `tdx.owner` `tdx.owner_config` | `snp_rows::cocoon_snp_3` `tdx_rows::cocoon_tdx_6` |
//! | A TDX module that Intel did not sign | | `tdx.module` `evidence.signature` | `tdx_rows::cocoon_tdx_6` `tdx_module::each_field_of_what_is_said_of_the_module` |
//! | A quote that another enclave of the same genuine processor signed: the host's own, a debug one, an outdated one | the host may load any enclave | `evidence.signature` | `quoting::each_field_of_the_quoting_enclaves_report` `statements::of_the_quoting_enclave` |
//! | A service domain is bound to the guest, such as one that migrates it, and reads its state | service domains of TDX 1.5 | `tdx.attributes` | `version_5::a_service_td_is_none_of_ours` `version_5::what_nobody_judges_is_refused` |
//! | Another model is mounted | | `document.model` `tdx.rtmr2` `snp.launch` | `binding_rows::cocoon_doc_5` |
//! | A GPU is claimed, or needed, and nobody proves it | | `document.gpu` | `gpu_rows::cocoon_verdict_9` `gpus::gpus_that_are_missing` |
//!
//! ## GPUs that are not what they claim to be
//!
//! | attack | seen | stopped by | shown by |
//! |---|---|---|---|
//! | An old report, or one that answers somebody else | | `gpu.nonce` | `reports::cocoon_gpu_5` `gpu_rows::cocoon_gpu_18` |
//! | Another machine's GPU, genuine and good, answers the very nonce of this session | a report names no VM | `gpu.keys` | `gpus::swapped_between_two_machines` `gpu_rows::cocoon_gpu_19` |
//! | The GPUs' evidence is exchanged after the guest has shown it | | `document.gpu` `evidence.report_data` | `gpus::swapped_between_two_machines` |
//! | One GPU is shown, and another works | | `gpu.count` | `gpus::gpus_that_are_missing` `gpu_rows::cocoon_gpu_18` |
//! | Firmware that NVIDIA did not publish for this version, or measured with other settings | | `gpu.measurement` `gpu.measurements` | `manifests::cocoon_gpu_10` |
//! | An attestation key that other firmware holds | | `gpu.firmware_id` `gpu.chain` | `chains::cocoon_gpu_4` `chains::cocoon_gpu_3` |
//! | A debugging GPU | NVML calls it "devtools", and its report is genuine | `gpu.developer_mode` `gpu.mode` | `sets::cocoon_gpu_13` |
//! | Several GPUs under protected PCIe, one of them given to the guest and the rest, with the switches between them, kept | NVLink is in clear in that mode | `gpu.protected_pcie` | `sets::protected_pcie_is_refused` |
//! | NVIDIA's manifest is withheld from a guest that serves, so that changed measurements are compared with nothing | | `gpu.measurements` | `lapses::what_lapses_fails_sessions_and_nothing_else` |
//! | One GPU stands for several | | `gpu.distinct` `gpu.count` | `sets::cocoon_gpu_12` |
//! | A manifest with measurements beside the signed ones, or read otherwise than signed | signature wrapping in SAML | `gpu.rim` `gpu.rim.driver` | `manifest_forms::a_manifest_has_one_signature_at_its_end` `manifests::cocoon_gpu_8` |
//! | A revoked device or signer, and the answer about it left out | verifiers that go on when nobody answers | `gpu.revocation` | `revoked::cocoon_gpu_11` |
//! | A simulated GPU, alone or beside a real CPU | mock roots that reach production | `gpu.root` `gpu.class` | `chains::cocoon_gpu_14` `gpu_rows::cocoon_gpu_20` |
//!
//! ## Outdated platforms, collateral and releases
//!
//! | attack | seen | stopped by | shown by |
//! |---|---|---|---|
//! | The platform's firmware or microcode is rolled back to one with a published weakness | | `evidence.tcb` `evidence.advisories` | `tdx_rows::cocoon_tdx_9` `platform_rows::cocoon_snp_8` |
//! | A module with a published weakness is put under a running guest, or the guest was started on one that has been updated since | TDX 1.5 updates the module in place | `evidence.tcb` `evidence.signature` | `version_5::the_tcb_of_now_is_judged_like_that_of_the_launch` |
//! | The patch level is taken from the report's own words instead of the certificate's | private inference on SNP, audit of 2026 | `evidence.signature` | `endorsers::of_another_platform` |
//! | A memory module lies about its size, so that two addresses share its memory | "BadRAM", 2024 | `snp.platform` | `snp_rows::cocoon_snp_11` |
//! | Collateral from before a fix, still in its time | | `evidence.collateral` `evidence.tcb_evaluation` | `collateral::stale` `tdx_rows::cocoon_tdx_9` |
//! | An old piece of collateral is named that the client still has from another time | what is kept outlives what it says | `evidence.collateral` | `kept::cocoon_collateral_3` |
//! | Revocation data are left out | verifiers that fetch, and go on when that fails | `evidence.collateral` | `collateral::stripped` `snp_rows::cocoon_snp_6` |
//! | The clock is turned, on either side | | `evidence.collateral` `manifest.time` | `collateral::expired` `collateral::too_early` `manifests::expired_and_not_yet_valid` |
//! | An old image with a known hole | releases without a floor | `manifest.release` `manifest.time` | `manifests::release_below_the_floor` |
//! | An image that nobody can rebuild | | `manifest.locked` | `manifests::unlocked_without_permission` |
//!
//! ## False authorities
//!
//! | attack | seen | stopped by | shown by |
//! |---|---|---|---|
//! | Any self-signed root is taken for AMD's | a library that checks signatures and leaves the pin to its caller | `evidence.signature` | `snp_report::a_chain_of_other_certificates_is_refused` |
//! | Evidence of a simulator is passed off as hardware | mock roots that reach production | `evidence.root` | `roots::each_vendor_refuses_a_development_root_that_is_not_named` `rtmr_rows::cocoon_verdict_5` |
//! | A field's name, a status or a file's text moves the cursor and writes a verdict of its own | | `document.form` `evidence.signature` | `verdict::foreign_words_stay_on_their_line` |
//! | The guest or the host brings its own manifest or signer | | `manifest.trust` `document.manifest` | `manifests::signed_by_another_key` `manifests::the_guest_was_started_with_another` |
//! | A signature over one manifest is put beside another | | `manifest.trust` | `manifests::changed_after_signing` |
//! | Bytes that one parser reads so and another otherwise, or that stop the verifier | | `document.form` `evidence.signature` | `malformed::documents_of_no_form` `malformed::quotes` `corpus::no_input_breaks_what_must_hold` |
//!
//! ## Not stopped
//!
//! Evidence signed with a key that was extracted from genuine hardware, unless the policy lists machines; with a list, such
//! evidence from the owner of a listed machine. Published work of 2026 claims to read the root seed of Milan (EPYC 7003),
//! from which every key of a chip is derived, by software alone. Such an attacker signs any report of that chip, at any TCB.
//! The only defences are a list of machines, whose reports are signed by a VCEK, or a policy that refuses the part (`milan =
//! { microcode = 255 }`, and the same for `milan_x`).
//!
//! A host that relays a GPU's challenges, live and from the guest's start on, to another genuine GPU. The evidence is
//! genuine, and is that GPU's. Work also runs on that GPU, because the driver encrypts to the GPU that holds the attestation
//! key (SPEC.md §2.2); no machine available to this project could show this. A policy can list the accepted GPUs (`gpus`).
//!
//! Processor side channels, page-access patterns, and denial of service by the host.

#[cfg(test)]
mod tests {
    #![expect(
        clippy::disallowed_methods,
        reason = "this test reads the repository; the crate itself reads nothing"
    )]

    use std::{
        collections::BTreeMap,
        fs,
        path::{Path, PathBuf},
    };

    /// Columns: attack, seen, stopped by, shown by.
    fn rows() -> Vec<Vec<&'static str>> {
        include_str!("attacks.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | ")?.strip_suffix('|'))
            .map(|line| line.split('|').map(str::trim).collect())
            .filter(|row: &Vec<_>| row[0] != "attack")
            .collect()
    }

    fn quoted(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn every_check_named_here_is_one_of_the_specification_and_of_the_code() {
        let specified = specified();
        let code: String = sources(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
            .into_iter()
            .filter(|(path, _)| !path.ends_with("attacks.rs"))
            .map(|(_, text)| text)
            .collect();
        assert!(rows().len() > 25, "the page has lost its rows");
        for row in rows() {
            let [attack, _, checks, _] = row[..] else {
                panic!("four columns: {row:?}")
            };
            assert!(!quoted(checks).is_empty(), "{attack}: no check");
            for id in quoted(checks) {
                assert!(specified.iter().any(|known| known == id), "{attack}: {id}");
                assert!(code.contains(&format!("\"{id}\"")), "{attack}: {id}");
            }
        }
    }

    #[test]
    fn every_test_named_here_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for folder in ["measurements", "guest-agent", "tests"] {
            for (path, text) in sources(root.join(folder)) {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                files.entry(name).or_default().push_str(&text);
            }
        }
        for row in rows() {
            let [attack, _, _, tests] = row[..] else {
                panic!("four columns: {row:?}")
            };
            assert!(!quoted(tests).is_empty(), "{attack}: no test");
            for test in quoted(tests) {
                let (file, function) = test.split_once("::").unwrap();
                let found = files
                    .get(file)
                    .is_some_and(|text| text.contains(&format!("fn {function}(")));
                assert!(found, "{attack}: {test}");
            }
        }
    }

    /// The ids of SPEC.md §7: `a.b` `.c` stands for `a.b` and `a.c`.
    fn specified() -> Vec<String> {
        let spec = include_str!("../SPEC.md");
        let table = spec.lines().skip_while(|line| *line != "| id | compares |");
        let mut ids = Vec::new();
        for row in table.skip(2).take_while(|line| line.starts_with('|')) {
            let mut group = "";
            for id in quoted(row.split('|').nth(1).unwrap()) {
                match id.split_once('.') {
                    Some(("", own)) => ids.push(format!("{group}.{own}")),
                    Some((first, _)) => {
                        group = first;
                        ids.push(id.to_owned());
                    }
                    None => panic!("{id} is no id"),
                }
            }
        }
        assert!(ids.len() > 30, "{ids:?}");
        ids
    }

    /// Returns every source file below `folder`, without build output and hidden folders.
    fn sources(folder: PathBuf) -> Vec<(PathBuf, String)> {
        let mut found = Vec::new();
        let mut folders = vec![folder];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                if path.is_dir() && !name.starts_with('.') && name != "target" {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    found.push((path, text));
                }
            }
        }
        found
    }
}
