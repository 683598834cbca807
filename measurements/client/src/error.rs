//! Errors of connecting: each reason why there is no attested connection has its own variant.

use std::time::Duration;

use cocoon_measurements::verdict::{Class, Verdict, steers};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{DocumentError, Kind, MAX_DOCUMENT_LEN};
use cocoon_protocol::pieces::{MAX_PIECES_LEN, PiecesError};

use crate::address::Address;
use crate::certificate::CertificateError;
use crate::collateral::CollateralUse;

/// Longest text of one error, in characters. It has room for the reasons of several refused
/// appliances.
const MAX_CAUSE: usize = 8000;

/// Longest advice that an error repeats, in characters; the verdict contains all advice.
const MAX_ADVICE: usize = 300;

/// Stage of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Opening the TCP connection.
    Reach,
    /// The TLS handshake, in which the boot document is appraised.
    Handshake,
    /// The nonce exchange, in which the session document is appraised.
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

/// Why there is no attested connection. No prompt was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No TCP connection was established.
    #[error("cannot reach {address}: check the address, and that the appliance is serving")]
    Unreachable {
        /// Address of the appliance.
        address: Address,
        /// Error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// A stage took longer than its deadline.
    #[error("{address} took more than {limit:?} for {stage}: try again, or another appliance")]
    Deadline {
        /// Address of the appliance.
        address: Address,
        /// The stage that took too long.
        stage: Stage,
        /// The deadline.
        limit: Duration,
    },
    /// The TLS handshake failed for a reason that has no variant of its own.
    #[error(
        "TLS handshake with {address} failed: it speaks no TLS 1.3 as Cocoon requires, or something on the way breaks it"
    )]
    Handshake {
        /// Address of the appliance.
        address: Address,
        /// Error of the TLS library.
        #[source]
        source: std::io::Error,
    },
    /// The certificate contains no usable evidence.
    #[error("{address} shows no usable evidence in its certificate")]
    Certificate {
        /// Address of the appliance.
        address: Address,
        /// What is wrong with the certificate.
        #[source]
        source: CertificateError,
    },
    /// CertificateVerify was not signed with the certificate's key.
    #[error(
        "{address} does not hold the key of the certificate that it shows: it replays somebody else's evidence"
    )]
    KeyNotHeld {
        /// Address of the appliance.
        address: Address,
    },
    /// The document is bound to another TLS key.
    #[error(
        "{address} presents evidence about another key: the document names TLS key {document}, the certificate holds {certificate}"
    )]
    OtherKey {
        /// Address of the appliance.
        address: Address,
        /// SHA-256 of the SubjectPublicKeyInfo in the document's claims.
        document: Hex32,
        /// SHA-256 of the certificate's SubjectPublicKeyInfo.
        certificate: Hex32,
    },
    /// A boot document was sent in place of a session document, or the reverse.
    #[error("{address} presents a {found:?} document where a {expected:?} document belongs")]
    WrongKind {
        /// Address of the appliance.
        address: Address,
        /// Kind that is required here.
        expected: Kind,
        /// Kind that was sent.
        found: Kind,
    },
    /// The connection broke during the nonce exchange, or the response is not HTTP.
    #[error("{address} broke off the nonce exchange")]
    Broken {
        /// Address of the appliance.
        address: Address,
        /// Error of the HTTP library.
        #[source]
        source: hyper::Error,
    },
    /// The connection was closed after the verdict, before the first request.
    #[error("{address} closed the connection before the request was sent")]
    Closed {
        /// Address of the appliance.
        address: Address,
        /// Error of the HTTP library.
        #[source]
        source: hyper::Error,
    },
    /// The appliance answered the nonce with an error.
    #[error("{address} gave no evidence but status {status}: {message}")]
    NoEvidence {
        /// Address of the appliance.
        address: Address,
        /// HTTP status of the response.
        status: u16,
        /// The appliance's error message, shortened and without control characters.
        message: String,
    },
    /// The answer to the nonce is longer than any document.
    #[error("{address} sends more than the {MAX_DOCUMENT_LEN} bytes that a document may have")]
    DocumentTooLong {
        /// Address of the appliance.
        address: Address,
    },
    /// The answer to the nonce is not a document.
    #[error("{address} answers the nonce with something else than an attestation document")]
    Document {
        /// Address of the appliance.
        address: Address,
        /// What is wrong with the document.
        #[source]
        source: DocumentError,
    },
    /// The document answers another nonce.
    #[error("{address} answers nonce {found} instead of {sent}: the document is a replay")]
    OtherNonce {
        /// Address of the appliance.
        address: Address,
        /// The fresh nonce that was sent on this connection.
        sent: Hex32,
        /// The nonce in the document.
        found: Hex32,
    },
    /// The appliance answered the request for its collateral with an error.
    #[error("{address} withholds collateral that its document names: status {status}: {message}")]
    NoCollateral {
        /// Address of the appliance.
        address: Address,
        /// HTTP status of the response.
        status: u16,
        /// The appliance's error message, shortened and without control characters.
        message: String,
    },
    /// The collateral is longer than the limit.
    #[error("{address} sends more than the {MAX_PIECES_LEN} bytes that collateral may have")]
    CollateralTooLong {
        /// Address of the appliance.
        address: Address,
    },
    /// The collateral is not the one that the document names.
    #[error(
        "{address} sends other collateral than its document names: try again, or another appliance"
    )]
    Collateral {
        /// Address of the appliance.
        address: Address,
        /// What is wrong with the collateral.
        #[source]
        source: PiecesError,
    },
    /// The TLS library provided no exporter.
    #[error("cannot take the exporter of the TLS session with {address}")]
    Exporter {
        /// Address of the appliance.
        address: Address,
        /// Error of the TLS library.
        #[source]
        source: rustls::Error,
    },
    /// The operating system's random generator failed.
    #[error("the operating system gives no random bytes for a nonce")]
    Random(#[source] getrandom::Error),
    /// The appraisal task failed, which is a bug in this program.
    #[error("the appraisal of {address} ended abnormally, nothing was decided: please report this")]
    Appraisal {
        /// Address of the appliance.
        address: Address,
    },
    /// An appliance that was confidential before is now simulated, or runs an older release.
    #[error(
        "{address} was {known} when it was seen before, and is {found} now: if that is right, remove it from known_hosts in the trust file, and start again"
    )]
    Downgrade {
        /// Address of the appliance.
        address: Address,
        /// Class and release that are remembered of it.
        known: String,
        /// Class or release that it presents now.
        found: String,
    },
    /// The evidence was appraised and rejected.
    #[error("{address} was rejected: {}", reasons(verdict))]
    Rejected {
        /// Address of the appliance.
        address: Address,
        /// Stage that tells which document was rejected: the boot document (handshake) or the
        /// session document.
        stage: Stage,
        /// Verdict with the result of every check.
        verdict: Box<Verdict>,
        /// Origin of the collateral; `None` in the handshake, which uses none.
        collateral: Option<CollateralUse>,
    },
}

impl ConnectError {
    /// Returns the verdict, if evidence was appraised.
    pub fn verdict(&self) -> Option<&Verdict> {
        self.judged().map(|(_, verdict)| verdict)
    }

    /// Returns the appliance and its verdict, if evidence was appraised.
    pub(crate) fn judged(&self) -> Option<(&Address, &Verdict)> {
        match self {
            ConnectError::Rejected {
                address, verdict, ..
            } => Some((address, verdict)),
            _ => None,
        }
    }

    /// Returns whether the appliance was refused because it runs another manifest than the trusted
    /// one, or because that one is no longer valid. A newer manifest may then be available.
    pub(crate) fn is_about_the_manifest(&self) -> bool {
        let about = ["document.manifest", "manifest.time", "manifest.trust"];
        self.verdict()
            .is_some_and(|verdict| verdict.failures().any(|check| about.contains(&check.id)))
    }

    /// Returns the origin of the collateral, if evidence was appraised with any.
    pub fn collateral(&self) -> Option<CollateralUse> {
        match self {
            ConnectError::Rejected { collateral, .. } => *collateral,
            _ => None,
        }
    }

    /// Sets the origin of the collateral on which the verdict is based.
    pub(crate) fn resting_on(mut self, used: CollateralUse) -> Self {
        if let ConnectError::Rejected { collateral, .. } = &mut self {
            *collateral = Some(used);
        }
        self
    }

    /// Returns whether the appliance was refused for what it presented, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        match self {
            // The appliance is busy; its evidence was not appraised.
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

/// Returns the failed checks in one line, as in the body of a 502 response, and the first advice if
/// it is short.
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

/// Returns an error and its causes in one line, without characters that control a terminal:
/// libraries repeat foreign text, such as field names of a document. Only TOML errors keep their
/// line breaks, because they quote a file that a person wrote.
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

/// Returns foreign text without characters that control a terminal or reorder its text, cut to
/// `limit` characters.
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

    /// A name chosen by a server that clears the screen, starts a new line and reverses the text
    /// direction.
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
