//! Revocation checks: one row for each certificate that NVIDIA can revoke.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};
use x509_ocsp::{CertStatus, RevokedInfo};

use super::{
    certificate::{CertificateError, Parsed},
    known::Known,
    ocsp::{Answer, OcspError, Response},
};
use crate::{
    policy::Policy,
    roots::ValidityError,
    verdict::{Check, chain},
};

const ID: &str = "gpu.revocation";

/// The stapled OCSP responses, and the certificates that have been checked against them.
#[derive(Debug)]
pub(super) struct Revocations<'a> {
    responses: Vec<Response>,
    policy: &'a Policy,
    now: u64,
    known: &'a Known,
    told: BTreeSet<[u8; 32]>,
    lapses: usize,
}

impl<'a> Revocations<'a> {
    /// Parses the responses, and returns a failed row for each that cannot be read.
    pub(super) fn new(
        stapled: &[&[u8]],
        policy: &'a Policy,
        now: u64,
        known: &'a Known,
    ) -> (Self, Vec<Check>) {
        let mut responses = Vec::new();
        let mut checks = Vec::new();
        for (place, der) in stapled.iter().enumerate() {
            match Response::parse(der) {
                Ok(response) => responses.push(response),
                Err(error) => {
                    let title = format!("OCSP response {place}");
                    checks.push(Check::fail(ID, title, chain(&error), ANEW));
                }
            }
        }
        let told = BTreeSet::new();
        let revocations = Self {
            responses,
            policy,
            now,
            known,
            told,
            lapses: 0,
        };
        (revocations, checks)
    }

    /// Returns the number of rows that failed only because a response is missing or out of date.
    pub(super) fn lapses(&self) -> usize {
        self.lapses
    }

    /// Checks the certificates of `path`, which is verified, except the last one (the root) and the first `skipped`. A
    /// certificate that already has a row gets no second one.
    pub(super) fn of(&mut self, path: &[Parsed], skipped: usize) -> Vec<Check> {
        let mut checks = Vec::new();
        for pair in path.windows(2).skip(skipped) {
            if let [certificate, issuer] = pair
                && self.told.insert(Sha256::digest(&certificate.der).into())
            {
                checks.push(self.row(certificate, issuer));
            }
        }
        checks
    }

    fn row(&mut self, certificate: &Parsed, issuer: &Parsed) -> Check {
        let subject = &certificate.certificate.tbs_certificate.subject;
        let title = format!("revocation of {}", common_name(&subject.to_string()));
        let answers = self
            .responses
            .iter()
            .filter_map(|response| response.about(certificate, issuer, self.now, self.known));
        // The best response decides, so that an outdated one beside a newer one does no harm. But any that says revoked
        // decides at once.
        let mut best: Option<Result<Answer, OcspError>> = None;
        for answer in answers {
            let revoked = matches!(
                &answer,
                Ok(Answer {
                    status: CertStatus::Revoked(_),
                    ..
                })
            );
            let better = match (&best, &answer) {
                (None, _) | (Some(Err(_)), Ok(_)) => true,
                // An expired response must not excuse a forged one.
                (Some(Err(old)), Err(_)) => ended(old),
                (Some(Ok(_)), Err(_)) => false,
                (Some(Ok(old)), Ok(new)) => new.this_update > old.this_update,
            };
            if revoked {
                best = Some(answer);
                break;
            }
            if better {
                best = Some(answer);
            }
        }
        match best {
            None => self.lapse(title, MISSING.to_owned()),
            Some(Err(error)) if ended(&error) => self.lapse(title, chain(&error)),
            Some(Err(error)) => Check::fail(ID, title, chain(&error), ANEW),
            Some(Ok(answer)) => self.judged(title, &answer),
        }
    }

    /// Returns the row for a missing or outdated response. The policy accepts both or neither, because the host could have
    /// withheld an outdated response.
    fn lapse(&mut self, title: String, cause: String) -> Check {
        if self.policy.accept_missing_gpu_revocation {
            return Check::note(ID, title, format!("{cause}; {ACCEPTED}"));
        }
        self.lapses += 1;
        Check::fail(ID, title, cause, ANEW)
    }

    fn judged(&mut self, title: String, answer: &Answer) -> Check {
        const HOUR: u64 = 60 * 60;
        let most = self.policy.max_gpu_ocsp_age;
        let age = self.now.saturating_sub(answer.this_update);
        let row = match answer.status {
            CertStatus::Good(_) if age > most => return self.lapse(title, STALE.to_owned()),
            CertStatus::Good(_) => Check::pass(ID, title, ""),
            CertStatus::Revoked(info) => {
                return Check::fail(ID, title, revoked(&info), DO_NOT_USE)
                    .expected("good")
                    .found("revoked");
            }
            CertStatus::Unknown(_) => {
                return Check::fail(ID, title, UNKNOWN, DO_NOT_USE)
                    .expected("good")
                    .found("unknown");
            }
        };
        let next = answer.next_update.map_or_else(
            || "newer ones are to be had at any time".to_owned(),
            |due| format!("next answer due at {due}"),
        );
        row.expected(format!("good, said at most {} hours ago", most / HOUR))
            .found(format!(
                "good, said {} hours ago, at {}; {next}",
                age.div_ceil(HOUR),
                answer.this_update,
            ))
    }
}

/// Whether a response was refused only because it, or its responder's certificate, has expired.
fn ended(error: &OcspError) -> bool {
    use ValidityError::Expired;
    matches!(
        error,
        OcspError::Validity(Expired { .. })
            | OcspError::Responder(CertificateError::Validity(Expired { .. }))
    )
}

fn revoked(info: &RevokedInfo) -> String {
    let time = info.revocation_time.0.to_unix_duration().as_secs();
    let reason = info.revocation_reason.map_or_else(
        || "without a reason".to_owned(),
        |reason| format!("for the reason {reason:?}"),
    );
    format!("NVIDIA revoked it at {time} (Unix time), {reason}")
}

/// Returns the common name in a distinguished name, or the whole name if it has none.
fn common_name(subject: &str) -> String {
    let name = subject.split("CN=").nth(1).unwrap_or(subject);
    let name = name.split([',', '+']).next().unwrap_or(name);
    name.chars().filter(|c| !c.is_control()).take(80).collect()
}

const MISSING: &str = "no OCSP response about this certificate was presented: a revoked one could not be told from a good one";
const ACCEPTED: &str = "the certificate may be revoked: accepted because the policy says so";
const STALE: &str = "stale OCSP response: it is still in its time, but older than this client accepts, and may hide a newer revocation";
const UNKNOWN: &str = "NVIDIA does not know this certificate";
const ANEW: &str = "the operator fetches NVIDIA's current OCSP responses (asking with SHA-256 or SHA-384) and staples them; check this machine's clock if it still fails";
const DO_NOT_USE: &str = "do not use it: whoever holds the revoked key may be anybody";
