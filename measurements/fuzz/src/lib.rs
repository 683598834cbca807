//! Fuzz targets for every parser of foreign bytes and for every verdict.
//!
//! A target is a function of bytes that asserts what must hold for any input: no panic, bounded memory, the same value after
//! encoding and parsing again, and above all that nothing is accepted which should not be. Targets come in pairs. One takes
//! foreign bytes as they are and tests the code up to the signature check. Its partner (`_signed`, `_pinned`, `_bound`,
//! `_batched`, `_applied`) changes a valid input by a script and signs it again with the simulator's keys. It tests the code
//! after the signature check.
//!
//! | structure | as foreign bytes | past the signatures |
//! |---|---|---|
//! | TDX firmware (TDVF metadata), SNP firmware | `firmware_tdx`, `firmware_snp` | nothing signs them |
//! | kernel (PE) | `pe` | nothing signs it |
//! | CCEL event log | `event_log` | `quote_signed` |
//! | TDX quote, versions 4 and 5 | `quote_shown`, `quote` | `quote_signed` |
//! | SEV-SNP report | `report_shown`, `report` | `report_signed` |
//! | AMD's certificates and revocation list | `certificates_read`, `certificates` | `certificates_signed` |
//! | Intel's collateral | `collateral_read`, `collateral` | `collateral_signed` |
//! | GPU report (SPDM, opaque data) | `gpu_report_read`, `gpu_report` | `gpu_report_signed` |
//! | reference manifest (RIM) | `rim_read`, `rim` | `rim_signed` |
//! | OCSP response | `ocsp_read`, `ocsp` | `ocsp_signed` |
//! | manifest | `manifest` | `manifest_pinned` |
//! | DSSE envelope, in-toto statement | `envelope_read`, `envelope` | `envelope_signed` |
//! | attestation document | `document_read`, `document` | `document_bound`, `document_batched` |
//! | collateral that a document names | `collateral_pieces` | nothing signs it |
//! | control channel, engine's and collector's sockets | `control_frames`, `engine_frames`, `collector_frames` | `control_message` |
//! | receipt of an answer | `receipt_read`, `receipt` | `receipt_signed` |
//! | policy | `policy` | `policy_applied` |
//! | operator's configuration | `configuration` | nothing signs it |
//!
//! `cargo test` runs each target on its seeds, on truncations and bit flips of them, and on inputs that fuzzing has found
//! (`corpus/`). The script `run` in this crate's folder fuzzes for a given time and records the results. To run a target by
//! hand, `cargo-fuzz` and the workspace's toolchain suffice:
//!
//! ```text
//! cargo run -p cocoon-fuzz --example seeds -- FOLDER TARGET
//! cd measurements && cargo fuzz run --sanitizer none --features libfuzzer TARGET FOLDER
//! ```

mod edits;
mod endorsements;
mod evidence;
mod gpu;
mod manifests;
pub mod memory;
mod messages;
mod platform;
mod receipts;
mod seeds;
mod signed;
mod signer;
mod structures;

pub use evidence::good_evidence_is_accepted;

/// A fuzz target with its seeds.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name of the target and of its libFuzzer binary.
    pub name: &'static str,
    /// Runs the target on one input. Panics if an assertion fails.
    pub run: fn(&[u8]),
    /// Returns inputs that reach far into the code, as a start for mutation.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Cost of one run, which decides how often a test can run the target.
    pub cost: Cost,
}

/// Cost of one run of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Microseconds: the target only parses.
    Parses,
    /// Milliseconds: the target makes or verifies signatures.
    Verifies,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    parses(
        "firmware_tdx",
        structures::firmware_tdx,
        seeds::firmware_tdx,
    ),
    parses(
        "firmware_snp",
        structures::firmware_snp,
        seeds::firmware_snp,
    ),
    parses("pe", structures::pe, seeds::pe),
    parses("event_log", structures::event_log, seeds::event_log),
    parses("quote_shown", evidence::quote_shown, seeds::quote),
    verifies("quote", evidence::quote, seeds::quote),
    verifies("quote_signed", signed::quote_signed, seeds::quote_script),
    parses("report_shown", evidence::report_shown, seeds::report),
    verifies("report", evidence::report, seeds::report),
    verifies("report_signed", signed::report_signed, seeds::report_script),
    parses(
        "certificates_read",
        endorsements::certificates_read,
        seeds::certificates_read,
    ),
    verifies(
        "certificates",
        endorsements::certificates,
        seeds::certificates,
    ),
    verifies(
        "certificates_signed",
        endorsements::certificates_signed,
        seeds::certificate_script,
    ),
    parses(
        "collateral_read",
        endorsements::collateral_read,
        seeds::collateral,
    ),
    verifies("collateral", endorsements::collateral, seeds::collateral),
    verifies(
        "collateral_signed",
        endorsements::collateral_signed,
        seeds::collateral_script,
    ),
    parses("gpu_report_read", gpu::gpu_report_read, gpu::seeds::report),
    verifies("gpu_report", gpu::gpu_report, gpu::seeds::report),
    verifies(
        "gpu_report_signed",
        gpu::gpu_report_signed,
        gpu::seeds::report_script,
    ),
    parses("rim_read", gpu::rim_read, gpu::seeds::rim),
    verifies("rim", gpu::rim, gpu::seeds::rim),
    verifies("rim_signed", gpu::rim_signed, gpu::seeds::rim_script),
    parses("ocsp_read", gpu::ocsp_read, gpu::seeds::ocsp),
    verifies("ocsp", gpu::ocsp, gpu::seeds::ocsp),
    verifies("ocsp_signed", gpu::ocsp_signed, gpu::seeds::ocsp_script),
    parses("manifest", manifests::manifest, seeds::manifest),
    verifies(
        "manifest_pinned",
        manifests::manifest_pinned,
        seeds::manifest,
    ),
    parses("envelope_read", manifests::envelope_read, seeds::envelope),
    verifies("envelope", manifests::envelope, seeds::envelope),
    verifies(
        "envelope_signed",
        manifests::envelope_signed,
        seeds::statement,
    ),
    parses("document_read", messages::document_read, seeds::document),
    verifies("document", messages::document, seeds::document),
    verifies(
        "document_bound",
        messages::document_bound,
        seeds::binding_script,
    ),
    verifies(
        "document_batched",
        messages::document_batched,
        seeds::place_script,
    ),
    parses(
        "control_frames",
        messages::control_frames,
        seeds::control_frames,
    ),
    parses(
        "control_message",
        messages::control_message,
        seeds::control_messages,
    ),
    parses(
        "engine_frames",
        messages::engine_frames,
        seeds::engine_frames,
    ),
    parses(
        "collector_frames",
        messages::collector_frames,
        seeds::collector_frames,
    ),
    parses(
        "collateral_pieces",
        messages::collateral_pieces,
        seeds::collateral_pieces,
    ),
    parses(
        "receipt_read",
        receipts::receipt_read,
        receipts::receipt_seeds,
    ),
    verifies("receipt", receipts::receipt, receipts::receipt_seeds),
    verifies(
        "receipt_signed",
        receipts::receipt_signed,
        receipts::receipt_script,
    ),
    parses("policy", manifests::policy, seeds::policy),
    verifies("policy_applied", manifests::policy_applied, seeds::policy),
    parses(
        "configuration",
        manifests::configuration,
        seeds::configuration,
    ),
];

const fn parses(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    let cost = Cost::Parses;
    Target {
        name,
        run,
        seeds,
        cost,
    }
}

const fn verifies(name: &'static str, run: fn(&[u8]), seeds: fn() -> Vec<Vec<u8>>) -> Target {
    let cost = Cost::Verifies;
    Target {
        name,
        run,
        seeds,
        cost,
    }
}

/// Makes the keys, the good evidence and other data that are made once. Called first, so that no memory measurement includes
/// them.
///
/// # Panics
/// Panics if the good evidence is refused, because then no target would test anything.
pub fn warm() {
    assert!(good_evidence_is_accepted(), "the good evidence is refused");
    signed::warm();
    gpu::warm();
}

/// Runs the target `name` on `data`. Entry point of the libFuzzer binaries.
///
/// # Panics
/// Panics if an assertion of the target fails, or if there is no such target.
pub fn run(name: &str, data: &[u8]) {
    static WARM: std::sync::Once = std::sync::Once::new();
    let target = TARGETS.iter().find(|target| target.name == name);
    let Some(target) = target else {
        panic!("{name} is none of the targets");
    };
    if target.cost == Cost::Verifies {
        WARM.call_once(warm);
    }
    (target.run)(data);
}
