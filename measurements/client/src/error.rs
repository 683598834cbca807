//! Why no attested connection came about: each refusal has its own name.

use std::time::Duration;

use cocoon_measurements::verdict::{Class, Verdict, steers};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{DocumentError, Kind, MAX_DOCUMENT_LEN};
use cocoon_protocol::pieces::{MAX_PIECES_LEN, PiecesError};

use crate::address::Address;
use crate::certificate::CertificateError;
use crate::collateral::CollateralUse;

/// Longest text of one error, in characters: where several appliances were refused, each has said why.
const MAX_CAUSE: usize = 8000;

/// Longest advice that an error repeats, in characters; the verdict has every one.
const MAX_ADVICE: usize = 300;

/// What the client was doing when it gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening the TCP connection.
    Reach,
    /// The TLS handshake, boot document included.
    Handshake,
    /// The nonce exchange.
    Attest,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Stage::Reach => "opening the connection",
            Stage::Handshake => "the TLS handshake",
            Stage::Attest => "waiting for evidence",
        })
    }
}

/// Why there is no attested connection. No variant has seen a prompt: none is sent before.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection.
    #[error("cannot reach {address}: check the address, and that the appliance is serving")]
    Unreachable {
        /// The appliance.
        address: Address,
        /// From the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A deadline passed.
    #[error("{address} took more than {limit:?} for {stage}: try again, or another appliance")]
    Deadline {
        /// The appliance.
        address: Address,
        /// What took too long.
        stage: Stage,
        /// The deadline.
        limit: Duration,
    },
    /// The TLS handshake failed for another reason than the ones below.
    #[error(
        "TLS handshake with {address} failed: it speaks no TLS 1.3 as Cocoon requires, or something on the way breaks it"
    )]
    Handshake {
        /// The appliance.
        address: Address,
        /// From the TLS library.
        #[source]
        source: std::io::Error,
    },
    /// The certificate carries no usable evidence.
    #[error("{address} shows no usable evidence in its certificate")]
    Certificate {
        /// The appliance.
        address: Address,
        /// What is wrong with the certificate.
        #[source]
        source: CertificateError,
    },
    /// CertificateVerify is not by the certificate's key.
    #[error(
        "{address} does not hold the key of the certificate that it shows: it replays somebody else's evidence"
    )]
    KeyNotHeld {
        /// The appliance.
        address: Address,
    },
    /// The document is about another TLS key.
    #[error(
        "{address} presents evidence about another key: the document names TLS key {document}, the certificate holds {certificate}"
    )]
    OtherKey {
        /// The appliance.
        address: Address,
        /// SHA-256 of the SubjectPublicKeyInfo in the document's claims.
        document: Hex32,
        /// SHA-256 of the certificate's.
        certificate: Hex32,
    },
    /// A document of the wrong kind for its place.
    #[error("{address} presents a {found:?} document where a {expected:?} document belongs")]
    WrongKind {
        /// The appliance.
        address: Address,
        /// Kind that belongs there.
        expected: Kind,
        /// Kind that came.
        found: Kind,
    },
    /// The connection broke, or is not HTTP, during the nonce exchange.
    #[error("{address} broke off the nonce exchange")]
    Broken {
        /// The appliance.
        address: Address,
        /// From the HTTP library.
        #[source]
        source: hyper::Error,
    },
    /// The connection was closed after the verdict, before the first request.
    #[error("{address} closed the connection before the request was sent")]
    Closed {
        /// The appliance.
        address: Address,
        /// From the HTTP library.
        #[source]
        source: hyper::Error,
    },
    /// The appliance answered the nonce with an error.
    #[error("{address} gave no evidence but status {status}: {message}")]
    NoEvidence {
        /// The appliance.
        address: Address,
        /// HTTP status.
        status: u16,
        /// What it said, shortened and stripped of control characters.
        message: String,
    },
    /// The answer to the nonce is longer than any document.
    #[error("{address} sends more than the {MAX_DOCUMENT_LEN} bytes that a document may have")]
    DocumentTooLong {
        /// The appliance.
        address: Address,
    },
    /// The answer to the nonce is not a document.
    #[error("{address} answers the nonce with something else than an attestation document")]
    Document {
        /// The appliance.
        address: Address,
        /// What is wrong with it.
        #[source]
        source: DocumentError,
    },
    /// The document answers another nonce.
    #[error("{address} answers nonce {found} instead of {sent}: the document is a replay")]
    OtherNonce {
        /// The appliance.
        address: Address,
        /// The fresh nonce of this connection.
        sent: Hex32,
        /// The nonce in the document.
        found: Hex32,
    },
    /// The appliance answered the question for its collateral with an error.
    #[error("{address} withholds collateral that its document names: status {status}: {message}")]
    NoCollateral {
        /// The appliance.
        address: Address,
        /// HTTP status.
        status: u16,
        /// What it said, shortened and stripped of control characters.
        message: String,
    },
    /// Its collateral is longer than any.
    #[error("{address} sends more than the {MAX_PIECES_LEN} bytes that collateral may have")]
    CollateralTooLong {
        /// The appliance.
        address: Address,
    },
    /// Its collateral is not what its document names.
    #[error(
        "{address} sends other collateral than its document names: try again, or another appliance"
    )]
    Collateral {
        /// The appliance.
        address: Address,
        /// What is wrong with it.
        #[source]
        source: PiecesError,
    },
    /// This side's TLS session gave no exporter.
    #[error("cannot take the exporter of the TLS session with {address}")]
    Exporter {
        /// The appliance.
        address: Address,
        /// From the TLS library.
        #[source]
        source: rustls::Error,
    },
    /// The operating system's random generator failed.
    #[error("the operating system gives no random bytes for a nonce")]
    Random(#[source] getrandom::Error),
    /// The appraisal itself failed: a fault of this program.
    #[error("the appraisal of {address} ended abnormally, nothing was decided: please report this")]
    Appraisal {
        /// The appliance.
        address: Address,
    },
    /// An appliance that was confidential before is not any more, or runs an older release.
    #[error(
        "{address} was {known} when it was seen before, and is {found} now: if that is right, remove it from known_hosts in the trust file, and start again"
    )]
    Downgrade {
        /// The appliance.
        address: Address,
        /// What is remembered.
        known: String,
        /// What it shows now.
        found: String,
    },
    /// The evidence was judged and refused.
    #[error("{address} was rejected: {}", reasons(verdict))]
    Rejected {
        /// The appliance.
        address: Address,
        /// Whether the boot document (in the handshake) or the session document was refused.
        stage: Stage,
        /// Every check with its reason.
        verdict: Box<Verdict>,
        /// Where the collateral came from; `None` in the handshake, which has none.
        collateral: Option<CollateralUse>,
    },
}

impl ConnectError {
    /// The verdict, when the evidence came as far as being judged.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.judged().map(|(_, verdict)| verdict)
    }

    /// The appliance with its verdict, likewise.
    pub(crate) fn judged(&self) -> Option<(&Address, &Verdict)> {
        match self {
            ConnectError::Rejected {
                address, verdict, ..
            } => Some((address, verdict)),
            _ => None,
        }
    }

    /// Whether the appliance runs another manifest than the one that counts here, or that one counts no more: a newer one
    /// may be had.
    pub(crate) fn is_about_the_manifest(&self) -> bool {
        let about = ["document.manifest", "manifest.time", "manifest.trust"];
        self.verdict()
            .is_some_and(|verdict| verdict.failures().any(|check| about.contains(&check.id)))
    }

    /// Where the collateral came from, when the evidence was judged with some.
    pub fn collateral(&self) -> Option<CollateralUse> {
        match self {
            ConnectError::Rejected { collateral, .. } => *collateral,
            _ => None,
        }
    }

    /// The same, of a verdict that rests on this collateral.
    pub(crate) fn resting_on(mut self, used: CollateralUse) -> Self {
        if let ConnectError::Rejected { collateral, .. } = &mut self {
            *collateral = Some(used);
        }
        self
    }

    /// Whether the appliance was refused for what it showed, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        match self {
            // Busy: its evidence was not seen.
            ConnectError::NoEvidence { status, .. } | ConnectError::NoCollateral { status, .. } => {
                !matches!(status, 429 | 503)
            }
            ConnectError::Certificate { .. }
            | ConnectError::KeyNotHeld { .. }
            | ConnectError::OtherKey { .. }
            | ConnectError::WrongKind { .. }
            | ConnectError::DocumentTooLong { .. }
            | ConnectError::Document { .. }
            | ConnectError::OtherNonce { .. }
            | ConnectError::CollateralTooLong { .. }
            | ConnectError::Collateral { .. }
            | ConnectError::Downgrade { .. }
            | ConnectError::Rejected { .. } => true,
            ConnectError::Unreachable { .. }
            | ConnectError::Deadline { .. }
            | ConnectError::Handshake { .. }
            | ConnectError::Broken { .. }
            | ConnectError::Closed { .. }
            | ConnectError::Exporter { .. }
            | ConnectError::Random(_)
            | ConnectError::Appraisal { .. } => false,
        }
    }
}

/// The failed checks in one line, the way a 502 tells them, and what to do about the first of them.
fn reasons(verdict: &Verdict) -> String {
    let failed: Vec<_> = verdict
        .failures()
        .map(|check| match &check.cause {
            Some(cause) => format!("{} ({})", check.title, cause),
            None => check.title.clone(),
        })
        .collect();
    if failed.is_empty() && verdict.class == Class::Simulated {
        return "its evidence is simulated, and no development root was named".to_owned();
    }
    let mut text = printable(&failed.join("; "), 2000);
    let advice = verdict.failures().find_map(|check| check.advice.as_deref());
    if let Some(advice) = advice.filter(|advice| advice.chars().count() <= MAX_ADVICE) {
        text.push_str("; what to do: ");
        text.push_str(&printable(advice, MAX_ADVICE));
    }
    text
}

/// An error and its causes in one line, without what steers a terminal: libraries repeat what is foreign, such as a field's
/// name in a document. Only what is wrong in TOML, which a person wrote, keeps its lines.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = printable(&error.to_string(), MAX_CAUSE);
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        let said = cause.to_string();
        text.push_str(&match cause.is::<Box<toml::de::Error>>() {
            true => without(&said, MAX_CAUSE, |c| c != '\n' && steers(c)),
            false => printable(&said, MAX_CAUSE),
        });
        next = cause.source();
    }
    text
}

/// Foreign text without characters that steer a terminal or reorder what it shows, cut to `limit`
/// characters.
pub fn printable(text: &str, limit: usize) -> String {
    without(text, limit, steers)
}

fn without(text: &str, limit: usize, unwanted: impl Fn(char) -> bool) -> String {
    let mut out: String = text.chars().filter(|c| !unwanted(*c)).take(limit).collect();
    if text.chars().nth(limit).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A name that a server chose: cleared screen, a line of its own, text that runs backwards.
    const NAME: &str = "\u{1b}[2J\r\nCONFIDENTIAL\u{202e}";

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Said(String, #[source] Option<Box<Said>>);

    #[test]
    fn neither_an_error_nor_its_causes_steer_a_terminal() {
        let error = Said(
            format!("outer {NAME}"),
            Some(Box::new(Said(format!("inner {NAME}"), None))),
        );
        assert_eq!(
            chain(&error),
            "outer [2JCONFIDENTIAL: inner [2JCONFIDENTIAL"
        );
        let long = chain(&Said("a".repeat(MAX_CAUSE + 1), None));
        assert_eq!(long, "a".repeat(MAX_CAUSE) + "…");
    }
}
