//! A test server that can show any certificate, sign with any key and give any answer. It records the requests it receives.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use cocoon_client::Address;
use cocoon_protocol::binding::{EXPORTER_LABEL, Freshness};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest, EVIDENCE_OID};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{DerSignature, SigningKey};
use p256::pkcs8::EncodePrivateKey as _;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{HandshakeKind, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use x509_cert::der::Encode as _;
use x509_cert::der::asn1::{BitString, OctetString};
use x509_cert::ext::Extension;
use x509_cert::spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned};
use x509_cert::{Certificate, TbsCertificate, Version};

/// Makes the answer to an attestation request from the nonce and the connection's exporter.
type Answer = Box<dyn Fn(Freshness) -> Vec<u8> + Send + Sync>;

/// What the server shows and answers.
pub struct Script {
    /// Certificate in DER.
    pub certificate: Vec<u8>,
    /// Key that signs the handshake, even if the certificate has another one.
    pub key: SigningKey,
    pub answer: Answer,
}

/// What the server has received.
#[derive(Default)]
pub struct Seen {
    /// Path and body of each request.
    pub requests: Vec<(String, Vec<u8>)>,
    pub handshakes: Vec<HandshakeKind>,
}

/// A server that runs until its runtime ends.
pub struct Rogue {
    pub address: Address,
    seen: Arc<Mutex<Seen>>,
}

impl Rogue {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config(&script)));
        let seen = Arc::<Mutex<Seen>>::default();
        let (script, book) = (Arc::new(script), Arc::clone(&seen));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                // Disables Nagle's algorithm, because measurements compare this server with the appliance.
                let _ = tcp.set_nodelay(true);
                let (acceptor, script, book) =
                    (acceptor.clone(), Arc::clone(&script), Arc::clone(&book));
                tokio::spawn(async move {
                    // Fails when the client refuses the certificate.
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let session = tls.get_ref().1;
                    book.lock()
                        .unwrap()
                        .handshakes
                        .extend(session.handshake_kind());
                    let exporter = session
                        .export_keying_material([0; 32], EXPORTER_LABEL, None)
                        .unwrap();
                    let service = service_fn(move |request| {
                        serve(
                            Arc::clone(&script),
                            Arc::clone(&book),
                            Hex(exporter),
                            request,
                        )
                    });
                    // Clients may close the connection at any time.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service)
                        .await;
                });
            }
        });
        Self { address, seen }
    }

    /// Passes what the server has received so far to `look`.
    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }
}

async fn serve(
    script: Arc<Script>,
    book: Arc<Mutex<Seen>>,
    exporter: Hex32,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked = (path.clone(), body.to_vec());
    book.lock().unwrap().requests.push(asked);
    let answer = if path == ATTEST_PATH {
        let nonce = serde_json::from_slice::<AttestRequest>(&body)
            .unwrap()
            .nonce;
        (script.answer)(Freshness { nonce, exporter })
    } else {
        b"{}".to_vec()
    };
    Ok(Response::new(Full::new(answer.into())))
}

/// Returns the configuration of an ordinary server: rustls defaults, including session tickets.
fn config(script: &Script) -> ServerConfig {
    let provider = Arc::new(rustls_graviola::default_provider());
    let der = PrivatePkcs8KeyDer::from(script.key.to_pkcs8_der().unwrap().as_bytes().to_vec());
    let key = provider.key_provider.load_private_key(der.into()).unwrap();
    let certified = CertifiedKey::new(vec![script.certificate.clone().into()], key);
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
}

/// Returns the P-256 key derived from a number.
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_slice(&[seed; 32]).unwrap()
}

/// Returns the SHA-256 of the key's SubjectPublicKeyInfo.
pub fn spki_sha256(key: &SigningKey) -> Hex32 {
    Hex32::sha256(&spki(key).to_der().unwrap())
}

fn spki(key: &SigningKey) -> SubjectPublicKeyInfoOwned {
    SubjectPublicKeyInfoOwned::from_key(*key.verifying_key()).unwrap()
}

/// Returns the evidence extension with this document, critical or not.
pub fn evidence(critical: bool, document: &[u8]) -> Extension {
    extension(EVIDENCE_OID, critical, document)
}

pub fn extension(oid: &str, critical: bool, value: &[u8]) -> Extension {
    Extension {
        extn_id: ObjectIdentifier::new_unwrap(oid),
        critical,
        extn_value: OctetString::new(value).unwrap(),
    }
}

/// Returns a self-signed certificate in DER with these extensions.
pub fn certificate(key: &SigningKey, extensions: Vec<Extension>) -> Vec<u8> {
    let algorithm = AlgorithmIdentifierOwned {
        oid: ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"),
        parameters: None,
    };
    let year = std::time::Duration::from_secs(365 * 24 * 60 * 60);
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: x509_cert::serial_number::SerialNumber::new(&[1]).unwrap(),
        signature: algorithm.clone(),
        issuer: "CN=cocoon".parse().unwrap(),
        validity: x509_cert::time::Validity::from_now(year).unwrap(),
        subject: "CN=cocoon".parse().unwrap(),
        subject_public_key_info: spki(key),
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions: (!extensions.is_empty()).then_some(extensions),
    };
    let signature: DerSignature = key.sign(&tbs_certificate.to_der().unwrap());
    Certificate {
        tbs_certificate,
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&signature.to_bytes()).unwrap(),
    }
    .to_der()
    .unwrap()
}
