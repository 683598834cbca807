//! Requests evidence from a guest as a client does before its first prompt: TLS, a nonce, a document.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cocoon_measurements::der;
use cocoon_protocol::binding::{EXPORTER_LABEL, Freshness};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{
    ATTEST_PATH, AttestRequest, Document, DocumentError, EVIDENCE_OID, MAX_BOOT_DOCUMENT_LEN,
    MAX_DOCUMENT_LEN,
};
use cocoon_protocol::pieces::{
    COLLATERAL_PATH, MAX_PIECES_LEN, Pieces, PiecesError, PiecesRequest,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;
use x509_cert::der::Encode as _;
use x509_cert::spki::ObjectIdentifier;

/// Allowance for everything in a certificate but the boot document, in bytes.
const REST: usize = 2048;

/// The evidence that a guest presented, and the session that it was presented over.
#[derive(Debug, Clone)]
pub struct Shown {
    /// The document, as received.
    pub bytes: Bytes,
    /// The parsed document, with the collateral that it names filled in.
    pub document: Document,
    /// SHA-256 of the SubjectPublicKeyInfo of the key that signed the handshake.
    pub leaf_spki_sha256: Hex32,
    /// GPU digest in the boot document of the leaf certificate.
    pub handshake_gpus: Option<Hex32>,
    /// The nonce that the host sent, and the session's exporter.
    pub fresh: Freshness,
}

/// Why a guest gave no evidence.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The TCP connection failed.
    #[error("the guest's listener cannot be reached")]
    Reach(#[source] io::Error),
    /// The TLS handshake failed.
    #[error("the TLS handshake with the guest failed")]
    Handshake(#[source] io::Error),
    /// The host could not prepare the request, for example for want of randomness.
    #[error("cannot prepare a question to the guest: {0}")]
    Prepare(String),
    /// The connection broke.
    #[error("the connection to the guest broke")]
    Broken(#[source] hyper::Error),
    /// The guest answered with an error status.
    #[error("the guest answered the question for its {of} with status {status}")]
    Status {
        /// What was requested.
        of: &'static str,
        /// HTTP status of the answer.
        status: StatusCode,
    },
    /// The answer is too long, or ended early.
    #[error("the guest's {of} is longer than {limit} bytes, or broke off")]
    TooLong {
        /// What was requested.
        of: &'static str,
        /// Maximum length in bytes.
        limit: usize,
    },
    /// The answer is not an evidence document.
    #[error("the guest's evidence is no document")]
    Document(#[source] DocumentError),
    /// The collateral is not what the document names.
    #[error("the guest's collateral is not what its document names")]
    Collateral(#[source] PiecesError),
    /// The document carries another nonce.
    #[error("the guest answered another nonce than the one it was sent")]
    OtherNonce,
}

/// Requests evidence from the guest at `address`, bound to this TLS session. Sets no deadline; the caller must.
///
/// # Errors
/// Fails with [`GuestError`] if the guest cannot be reached or its answer is unusable.
pub async fn show(address: SocketAddr) -> Result<Shown, GuestError> {
    let tcp = TcpStream::connect(address)
        .await
        .map_err(GuestError::Reach)?;
    let (config, seen) = config()?;
    let name = ServerName::IpAddress(address.ip().into());
    let connector = TlsConnector::from(Arc::new(config));
    let tls = connector
        .connect(name, tcp)
        .await
        .map_err(GuestError::Handshake)?;
    let exporter = tls
        .get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map_err(|error| GuestError::Prepare(error.to_string()))?;
    let leaf = seen
        .take()
        .ok_or_else(|| GuestError::Handshake(io::Error::other("it showed no certificate")))?;
    let mut nonce = Hex32::ZERO;
    getrandom::fill(&mut nonce.0).map_err(|error| GuestError::Prepare(error.to_string()))?;
    let (sender, connection) = http1::handshake(TokioIo::new(tls))
        .await
        .map_err(GuestError::Broken)?;
    // Ends with the last answer; requests report its errors.
    let _connection = crate::running::Task(tokio::spawn(connection));
    let mut guest = Guest { sender, address };
    let request = AttestRequest { nonce };
    let bytes = guest.ask(EVIDENCE, ATTEST_PATH, &request, MAX_DOCUMENT_LEN);
    let bytes = bytes.await?;
    let mut document = Document::parse(&bytes, MAX_DOCUMENT_LEN).map_err(GuestError::Document)?;
    if document.nonce != nonce {
        return Err(GuestError::OtherNonce);
    }
    guest.complete(&mut document).await?;
    Ok(Shown {
        bytes,
        document,
        leaf_spki_sha256: leaf.spki_sha256,
        handshake_gpus: Some(leaf.gpus),
        fresh: Freshness {
            nonce,
            exporter: Hex(exporter),
        },
    })
}

const EVIDENCE: &str = "evidence";
const COLLATERAL: &str = "collateral";

/// An HTTP connection to a guest.
struct Guest {
    sender: http1::SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Guest {
    /// Fills in the collateral that a document names. Keeps no copy, since requests are rare.
    async fn complete(&mut self, document: &mut Document) -> Result<(), GuestError> {
        let names = document.names();
        let mut pieces = Pieces::default();
        if !names.is_empty() {
            let request = PiecesRequest { pieces: names };
            let answer = self.ask(COLLATERAL, COLLATERAL_PATH, &request, MAX_PIECES_LEN);
            let decoded = Pieces::decode(&answer.await?, &request.pieces);
            pieces = decoded.map_err(GuestError::Collateral)?;
        }
        document.fill(&pieces).map_err(GuestError::Collateral)
    }

    async fn ask(
        &mut self,
        of: &'static str,
        path: &str,
        body: &impl serde::Serialize,
        limit: usize,
    ) -> Result<Bytes, GuestError> {
        let prepare = |error: &dyn std::error::Error| GuestError::Prepare(error.to_string());
        let body = serde_json::to_vec(body).map_err(|error| prepare(&error))?;
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| prepare(&error))?;
        let answered = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let response = answered.await.map_err(GuestError::Broken)?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(GuestError::Status { of, status });
        }
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|_| GuestError::TooLong { of, limit })?;
        Ok(body.to_bytes())
    }
}

/// The parts of a leaf certificate that the appraisal needs.
struct Leaf {
    /// SHA-256 of the certificate's SubjectPublicKeyInfo.
    spki_sha256: Hex32,
    /// GPU digest in the certificate's boot document.
    gpus: Hex32,
}

/// The leaf certificate that the handshake presented, once there is one.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Option<Leaf>>>);

impl Seen {
    fn take(&self) -> Option<Leaf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn config() -> Result<(ClientConfig, Seen), GuestError> {
    let provider = Arc::new(rustls_graviola::default_provider());
    let seen = Seen::default();
    let verifier = AnyLeaf {
        algorithms: provider.signature_verification_algorithms,
        seen: seen.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| GuestError::Prepare(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, seen))
}

/// Returns the GPU digest of the boot document in a certificate. A certificate that cannot be parsed commits to no GPU, so
/// that the check `gpu.keys` refuses any GPU shown with it.
fn gpus(leaf: &CertificateDer<'_>) -> Hex32 {
    committed(leaf).unwrap_or(Hex32::ZERO)
}

fn committed(leaf: &CertificateDer<'_>) -> Option<Hex32> {
    let parsed = der::decode::<Certificate>(leaf).ok()?;
    let extensions = parsed.tbs_certificate.extensions?;
    let oid = ObjectIdentifier::new(EVIDENCE_OID).ok()?;
    let evidence = extensions
        .iter()
        .find(|extension| extension.extn_id == oid)?;
    let boot = Document::parse(evidence.extn_value.as_bytes(), MAX_BOOT_DOCUMENT_LEN).ok()?;
    Some(boot.claims.gpu_section_digest)
}

/// Accepts any certificate whose key signs the handshake: the evidence says whose key it is.
#[derive(Clone)]
struct AnyLeaf {
    algorithms: WebPkiSupportedAlgorithms,
    seen: Seen,
}

impl AnyLeaf {
    fn spki(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, rustls::Error> {
        let bad = || rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding);
        if certificate.len() > MAX_BOOT_DOCUMENT_LEN + REST {
            return Err(bad());
        }
        let parsed = der::decode::<Certificate>(certificate).map_err(|_| bad())?;
        let spki = parsed.tbs_certificate.subject_public_key_info;
        spki.to_der().map_err(|_| bad())
    }
}

impl std::fmt::Debug for AnyLeaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnyLeaf")
    }
}

impl ServerCertVerifier for AnyLeaf {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let spki = Self::spki(leaf)?;
        let leaf = Leaf {
            spki_sha256: Hex32::sha256(&spki),
            gpus: gpus(leaf),
        };
        *self.seen.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaf);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::PeerIncompatible(
            rustls::PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ))
    }

    // Verifies with the raw key: the usual check refuses certificates with unknown critical extensions.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = SubjectPublicKeyInfoDer::from(Self::spki(leaf)?);
        verify_tls13_signature_with_raw_key(message, &spki, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_without_a_boot_document_commits_to_no_gpu() {
        let leaf = CertificateDer::from(vec![0x30, 0]);
        assert_eq!(gpus(&leaf), Hex32::ZERO);
    }
}
