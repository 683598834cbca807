//! The appraisal (SPEC.md §7): judges evidence by a manifest and a policy, and returns a verdict with one row per check.
//!
//! | module | judges |
//! |---|---|
//! | `binding` | the document, by what the verifier knows: nonce, TLS key, manifest |
//! | `report_data` | the binding that the evidence commits to |
//! | `tdx`, `rtmr` | verified TDX claims, by the manifest |
//! | `snp`, `snp_tcb` | verified SEV-SNP claims, by the manifest, and patch levels, by the floor |
//! | `events`, `cmdline`, `untimely`, [`explain`] | nothing: they explain failed rows |
//! | `gpu` | the GPUs: presence, link to this session, and class compared with the CPU's |
//! | `platform` | the machine, by the policy's list, and the age of the collateral |
//! | `evidence` | signatures and endorsements. It alone turns untrusted bytes into claims |
//!
//! [`attacks`](crate::attacks) lists known attacks with the checks that stop them.

use cocoon_protocol::{
    binding::Tee,
    bytes::Hex32,
    document::{Document, Evidence},
};

pub use cocoon_protocol::binding::Freshness;

use crate::{
    manifest::TrustedManifest,
    nvidia::Known,
    policy::Policy,
    roots::RootClass,
    snp::report::SnpClaims,
    tdx::quote::TdxClaims,
    verdict::{Check, Class, Verdict},
};

mod binding;
mod cmdline;
mod events;
mod evidence;
pub mod explain;
mod gpu;
mod platform;
mod report_data;
mod rtmr;
mod snp;
mod snp_tcb;
mod tdx;
mod untimely;

/// A server's attestation document, and what the verifier itself knows about the connection.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The attestation document.
    pub document: &'a Document,
    /// SHA-256 of the SubjectPublicKeyInfo (DER) in the TLS certificate. The verifier computes it after it checked that
    /// the certificate's key signed this handshake.
    pub leaf_spki_sha256: Hex32,
    /// The nonce that the verifier sent, and the exporter of its own TLS session. `None` for a boot document, which
    /// never authorises anything.
    pub fresh: Option<Freshness>,
    /// The GPU digest in the boot document of this connection's certificate, which the session's GPUs must match. `None`
    /// for a boot document, or for a document that is no longer on its connection.
    pub handshake_gpus: Option<Hex32>,
}

/// Appraises `presented` by `manifest` and `policy` at `now`, in seconds since 1970 on the verifier's clock.
///
/// Makes every check that is possible, even after one failed. Measurements are compared only if the evidence's signatures
/// hold, because unsigned values prove nothing.
pub fn appraise(
    presented: &Presented<'_>,
    manifest: &TrustedManifest,
    policy: &Policy,
    now: u64,
) -> Verdict {
    appraise_knowing(presented, manifest, policy, now, &Known::default())
}

/// Like [`appraise`], with a cache of NVIDIA's signatures that were verified before. The verdict is the same, but faster.
pub fn appraise_knowing(
    presented: &Presented<'_>,
    manifest: &TrustedManifest,
    policy: &Policy,
    now: u64,
    known: &Known,
) -> Verdict {
    let mut checks = binding::manifest(manifest, now);
    checks.extend(binding::document(presented, manifest, policy));
    let session = presented.fresh.is_some();
    let collateral = presented.document.collateral.as_ref();
    let mut holds_until = None;
    let root = match &presented.document.evidence {
        Evidence::Tdx { quote, event_log } => {
            evidence::tdx(quote, collateral, policy, session, now).map(|evidence| {
                holds_until = evidence.holds_until;
                let root = evidence.verified.as_ref().map(|claims| claims.root);
                checks.extend(root_rows(root, Tee::Tdx));
                checks.push(report_data::report_data(
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
                holds_until = evidence.holds_until;
                let verified = evidence.verified.as_ref();
                let root = verified.map(|claims| claims.root);
                checks.extend(root_rows(root, Tee::SevSnp));
                checks.push(report_data::report_data(
                    presented,
                    manifest,
                    &evidence.measured.report_data,
                ));
                checks.extend(
                    verified
                        .iter()
                        .flat_map(|claims| snp::verified(claims, session, manifest, policy, now)),
                );
                checks.extend(snp::measurements(&evidence.measured, presented, manifest));
                root
            })
        }
    };
    let (gpus, rows) = match presented.fresh {
        Some(fresh) => {
            let cpu = root.as_ref().ok().copied().flatten();
            gpu::session(presented, fresh, cpu, policy, now, known)
        }
        None => (None, Vec::new()),
    };
    let best = match (root, gpus) {
        (Ok(Some(RootClass::Vendor)), None | Some(RootClass::Vendor)) => Class::Confidential,
        // Evidence without a verified root is worth no more than evidence under a development root.
        (Ok(_), _) => Class::Simulated,
        (Err(refusal), _) => {
            checks.push(*refusal);
            checks.push(Check::note(
                "evidence.measurements",
                "measurements",
                NOT_JUDGED,
            ));
            Class::Rejected
        }
    };
    checks.extend(rows);
    // Only for boot documents, in which no GPU is judged: a session's verdict is never used again.
    let holds_until = holds_until.filter(|_| !session);
    Verdict::of(checks, best, session)
        .holding_until(holds_until.map(|until| until.min(manifest.not_after)))
}

/// Returns the rows on a verified quote that need no manifest. They cover the platform (TCB level, advisories, machine,
/// collateral, TDX module) and the creation of the trust domain (attributes, extended features).
#[must_use]
pub fn tdx_platform(claims: &TdxClaims, policy: &Policy, now: u64) -> Vec<Check> {
    let mut checks = tdx::platform(claims, policy, now);
    checks.extend(tdx::domain(&claims.into()));
    checks
}

/// Returns the rows on a verified report that need no manifest. They cover the platform (TCB level, alias check, machine,
/// revocation) and the launch of the guest (VMPL, launch identity, guest policy).
#[must_use]
pub fn snp_platform(claims: &SnpClaims, policy: &Policy, now: u64) -> Vec<Check> {
    let mut checks = snp::platform(claims, true, policy, now);
    checks.push(snp::guest_policy(claims.policy));
    checks
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
