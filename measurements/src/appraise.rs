//! The appraisal (SPEC.md §7): evidence, manifest and policy in, a verdict with one row for every check out.
//!
//! | module | judges |
//! |---|---|
//! | `binding` | what the document says against what the verifier knows: nonce, TLS key, manifest, report data |
//! | `tdx`, `rtmr` | verified TDX claims against the manifest |
//! | `snp` | verified SEV-SNP claims against the manifest |
//! | `evidence` | signatures and endorsements: it alone turns foreign bytes into claims |
//!
//! Known attacks and the check that stops each:
//!
//! | attack | stopped by |
//! |---|---|
//! | an old answer is replayed | `document.nonce`, `evidence.report_data` |
//! | genuine evidence is relayed by a server that holds another key | `document.leaf_key`, `evidence.report_data` |
//! | genuine evidence is relayed into another TLS session | `evidence.report_data` (exporter) |
//! | the verifier ignores empty report data | `evidence.report_data`: always compared, never optional |
//! | a debug or migratable guest | `tdx.attributes`, `snp.policy` |
//! | a changed variable store under an unchanged MRTD | `tdx.rtmr0` (the store and each secure-boot variable) |
//! | ACPI code from the host | `tdx.rtmr0` (the tables' digests), `snp.aml_guard` |
//! | a rolled-back TCB, or collateral from before its fix | `evidence.tcb`, `evidence.collateral` |
//! | a rolled-back image | `manifest.time`, `manifest.release` |
//! | throw-away keys in place of a vendor's | `evidence.root`: the class follows from the root that verified |
//! | code of the owner runs beside ours | `tdx.rtmr3`, `tdx.owner`, `snp.vmpl`, `snp.id_key` |
//!
//! Not stopped: evidence signed with an attestation key that was extracted from hardware.

use cocoon_protocol::{
    binding::Tee,
    bytes::Hex32,
    document::{Document, Evidence},
};

pub use cocoon_protocol::binding::Freshness;

use crate::{
    manifest::TrustedManifest,
    policy::Policy,
    roots::RootClass,
    verdict::{Check, Class, Verdict},
};

mod binding;
mod evidence;
mod rtmr;
mod snp;
mod tdx;

/// What a server showed, and what the verifier knows of the connection on its own.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The attestation document.
    pub document: &'a Document,
    /// SHA-256 of the SubjectPublicKeyInfo (DER) of the certificate whose key signed this TLS handshake: computed
    /// by the verifier, after it checked that signature.
    pub leaf_spki_sha256: Hex32,
    /// The nonce that the verifier sent and the exporter of its own TLS session. `None` judges a boot document,
    /// which never authorises anything.
    pub fresh: Option<Freshness>,
}

/// Judges `presented` against `manifest` and `policy` at `now`, in seconds since 1970 on the verifier's clock.
///
/// Never stops at the first mismatch: the verdict lists every check that can be made. Measurements are compared only
/// once the evidence's signatures hold, because unsigned values say nothing.
pub fn appraise(
    presented: &Presented<'_>,
    manifest: &TrustedManifest,
    policy: &Policy,
    now: u64,
) -> Verdict {
    let mut checks = binding::manifest(manifest, now);
    checks.extend(binding::document(presented, manifest));
    let session = presented.fresh.is_some();
    let collateral = presented.document.collateral.as_ref();
    let root = match &presented.document.evidence {
        Evidence::Tdx { quote, event_log } => {
            evidence::tdx(quote, collateral, policy, session, now).map(|evidence| {
                let root = evidence.verified.as_ref().map(|claims| claims.root);
                checks.extend(root_rows(root, Tee::Tdx));
                checks.push(binding::report_data(
                    presented,
                    manifest,
                    &evidence.measured.report_data,
                ));
                checks.extend(
                    evidence
                        .verified
                        .iter()
                        .flat_map(|claims| tdx::platform(claims, policy, now)),
                );
                checks.extend(tdx::measurements(
                    &evidence.measured,
                    event_log,
                    presented,
                    manifest,
                    root,
                ));
                root
            })
        }
        Evidence::SevSnp {
            report,
            certificates,
        } => {
            evidence::snp(report, certificates, collateral, policy, session, now).map(|evidence| {
                let verified = evidence.verified.as_ref();
                let root = verified.map(|claims| claims.root);
                checks.extend(root_rows(root, Tee::SevSnp));
                checks.push(binding::report_data(
                    presented,
                    manifest,
                    &evidence.measured.report_data,
                ));
                checks.extend(
                    verified
                        .iter()
                        .flat_map(|claims| snp::platform(claims, session, manifest, policy)),
                );
                checks.extend(snp::measurements(&evidence.measured, presented, manifest));
                root
            })
        }
    };
    let best = match root {
        Ok(Some(RootClass::Vendor)) => Class::Confidential,
        // What no root vouches for is worth no more than what a development root does.
        Ok(Some(RootClass::Development) | None) => Class::Simulated,
        Err(refusal) => {
            checks.push(*refusal);
            checks.push(Check::note(
                "evidence.measurements",
                "measurements",
                NOT_JUDGED,
            ));
            Class::Rejected
        }
    };
    Verdict::of(checks, best, session)
}

fn root_rows(root: Option<RootClass>, tee: Tee) -> Vec<Check> {
    const SIGNATURE: &str = "evidence.signature";
    let (title, root_title) = ("signatures of the evidence", "root of the evidence");
    let good = || Check::pass(SIGNATURE, title, "hold, up to the root");
    match root {
        None => vec![Check::note(SIGNATURE, title, UNVERIFIED)],
        Some(RootClass::Vendor) => {
            vec![
                good(),
                Check::pass(
                    "evidence.root",
                    root_title,
                    format!("the vendor's root for {tee}"),
                ),
            ]
        }
        Some(RootClass::Development) => {
            let found = format!("a development root for {tee}, named by the policy");
            vec![
                good(),
                Check::note("evidence.root", root_title, SIMULATED).found(found),
            ]
        }
    }
}

const NOT_JUDGED: &str = "not judged: the evidence that carries them is not verified";
const SIMULATED: &str = "this is simulated hardware under a development root that you named: everything is checked as on \
     real hardware, but nothing keeps the host from reading what you send";

const UNVERIFIED: &str = "not verified: the certificate's boot document carries no endorsements, so nothing vouches for its \
     values; they are compared to fail early, and the session's document decides";

#[cfg(test)]
mod tests;
