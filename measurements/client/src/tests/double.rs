//! A test double of an appliance: a TLS server that follows a script and records every request.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cocoon_protocol::binding::{Claims, EXPORTER_LABEL, Tee};
use cocoon_protocol::bytes::{Blob, Hex, Hex32, Hex48};
use cocoon_protocol::document::{
    ATTEST_PATH, AttestRequest, DOCUMENT_VERSION, Document, EVIDENCE_OID, Evidence, Kind,
    MAX_DOCUMENT_LEN,
};
use cocoon_protocol::pieces::COLLATERAL_PATH;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use p256::ecdsa::{DerSignature, SigningKey, signature::Signer};
use p256::pkcs8::EncodePrivateKey;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use x509_cert::der::Encode;
use x509_cert::der::asn1::{BitString, OctetString};
use x509_cert::ext::Extension;
use x509_cert::spki::{AlgorithmIdentifierOwned, ObjectIdentifier, SubjectPublicKeyInfoOwned};
use x509_cert::{Certificate, TbsCertificate, Version};

use super::receipting::{Receipts, Served, meter_key};
use super::stapling::Stapled;
use crate::address::Address;
use crate::judge::{Judge, Judgement};
use crate::verifier::Verifier;
use cocoon_measurements::appraise::Presented;
use cocoon_measurements::manifest::ManifestRefusal;
use cocoon_measurements::verdict::{Class, Verdict};

pub type Body = BoxBody<Bytes, Infallible>;
/// Path and body of every request.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;
type Answer = Box<dyn Fn() -> Response<Body> + Send + Sync>;

/// How the certificate contains its document.
#[derive(Clone, Copy, PartialEq)]
pub enum Carries {
    Document,
    Nothing,
    Uncritical,
    Twice,
    TooMuch,
    Garbage,
    OtherKey,
    SessionKind,
}

/// The response to the nonce.
pub enum Attests {
    Honestly,
    /// Like `Honestly`, but closes the connection after the response.
    ForNothing,
    WithNonce(Hex32),
    WithOtherKey,
    WithBootKind,
    With(StatusCode, &'static str),
    WithTooMuch,
    ByHanging,
    ByHangingUp,
}

/// A document whose only field has a name that clears the screen and writes on it.
pub const STEERING: &str = r#"{"\u001b[2J\nCONFIDENTIAL":0}"#;

pub struct Script {
    pub carries: Carries,
    pub signs_with_other_key: bool,
    pub attests: Attests,
    /// Whether to close the connection instead of answering requests other than the nonce.
    pub hangs_up: bool,
    pub answers: Answer,
    pub receipts: Receipts,
    /// Collateral that the document names.
    pub stapled: Option<Stapled>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            carries: Carries::Document,
            signs_with_other_key: false,
            attests: Attests::Honestly,
            hangs_up: false,
            answers: Box::new(|| reply(StatusCode::OK, "application/json", "{}")),
            receipts: Receipts::Honest,
            stapled: None,
        }
    }
}

/// A running server, which stops with its runtime.
pub struct Double {
    pub address: Address,
    seen: Seen,
    cut: watch::Sender<()>,
}

impl Double {
    pub async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("https://{}", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let seen = Seen::default();
        let cut = watch::Sender::new(());
        let double = Self {
            address,
            seen: seen.clone(),
            cut: cut.clone(),
        };
        let (config, spki) = server_config(&script);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let script = Arc::new(script);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (acceptor, script, seen) = (acceptor.clone(), script.clone(), seen.clone());
                let mut cut = cut.subscribe();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else {
                        return;
                    };
                    let exporter = tls
                        .get_ref()
                        .1
                        .export_keying_material([0; 32], EXPORTER_LABEL, None)
                        .unwrap();
                    let served = Arc::new(Served::default());
                    let service = service_fn(move |request| {
                        let (script, served) = (script.clone(), served.clone());
                        serve(script, seen.clone(), served, spki, Hex(exporter), request)
                    });
                    let serving = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(tls), service);
                    tokio::select! {
                        _ = serving => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        double
    }

    /// Cuts every connection without notice, and returns when all are cut.
    pub async fn cut(&self) {
        self.cut.send_replace(());
        self.cut.closed().await;
    }

    /// Returns the paths of the requests so far.
    pub fn paths(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|(path, _)| path.clone())
            .collect()
    }

    /// Returns the bodies of the requests so far.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|(_, body)| body.clone())
            .collect()
    }
}

pub fn reply(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", kind)
        .body(Full::new(body.into()).boxed())
        .unwrap()
}

async fn serve(
    script: Arc<Script>,
    seen: Seen,
    served: Arc<Served>,
    spki: Hex32,
    exporter: Hex32,
    request: Request<Incoming>,
) -> Result<Response<Body>, &'static str> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    seen.lock().unwrap().push((path.clone(), body.to_vec()));
    if let Some(stapled) = script.stapled.as_ref().filter(|_| path == COLLATERAL_PATH) {
        return stapled.hand_out(&body);
    }
    if script.hangs_up && path != ATTEST_PATH {
        return Err("hangs up");
    }
    if path != ATTEST_PATH {
        let response = (script.answers)();
        return Ok(match path.ends_with("/completions") {
            true => served.receipted(response, &body, &script.receipts).await,
            false => response,
        });
    }
    let nonce = serde_json::from_slice::<AttestRequest>(&body)
        .unwrap()
        .nonce;
    let document = |kind, key, nonce| {
        let mut document = document(kind, key, nonce, exporter);
        if let Some(stapled) = &script.stapled {
            stapled.name(&mut document);
        }
        let bytes = document.to_json();
        served.attested(nonce, &bytes);
        Ok(reply(StatusCode::OK, "application/json", bytes))
    };
    match &script.attests {
        Attests::Honestly => document(Kind::Session, spki, nonce),
        Attests::ForNothing => document(Kind::Session, spki, nonce).map(|mut response| {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert("connection", close);
            response
        }),
        Attests::WithNonce(old) => document(Kind::Session, spki, *old),
        Attests::WithOtherKey => document(Kind::Session, Hex([9; 32]), nonce),
        Attests::WithBootKind => document(Kind::Boot, spki, nonce),
        Attests::With(status, body) => Ok(reply(*status, "application/json", *body)),
        Attests::WithTooMuch => Ok(reply(
            StatusCode::OK,
            "application/json",
            vec![b' '; MAX_DOCUMENT_LEN + 1],
        )),
        Attests::ByHanging => std::future::pending().await,
        Attests::ByHangingUp => Err("hangs up"),
    }
}

/// Makes a document. The digest of its GPU section is the exporter of the connection, for [`Judges`] to
/// compare.
pub fn document(kind: Kind, key: Hex32, nonce: Hex32, exporter: Hex32) -> Document {
    Document {
        version: DOCUMENT_VERSION,
        kind,
        claims: Claims {
            tee: Tee::Tdx,
            leaf_spki_sha256: key,
            meter_key: meter_key(),
            manifest_id: Hex32::ZERO,
            model_digest: Hex32::ZERO,
            config_digest: Hex48::ZERO,
            gpu_section_digest: exporter,
        },
        nonce,
        evidence: Evidence::Tdx {
            quote: Blob(vec![]),
            event_log: Blob(vec![]),
        },
        config: Blob(vec![]),
        collateral: None,
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
    }
}

/// Returns the same verdict on all documents of a kind, but rejects a session document without this session's
/// exporter.
pub struct Judges {
    pub boot: Class,
    pub session: Class,
}

impl Judge for Judges {
    fn judge(&self, presented: &Presented<'_>, _now: u64) -> Judgement {
        let class = match presented.fresh {
            None => self.boot,
            Some(fresh) if fresh.exporter == presented.document.claims.gpu_section_digest => {
                self.session
            }
            Some(_) => Class::Rejected,
        };
        Judgement {
            authorized: presented.fresh.is_some() && class != Class::Rejected,
            ..said(class)
        }
    }
}

/// Returns a verdict of this class that authorises nothing.
pub fn said(class: Class) -> Judgement {
    let mut verdict = Verdict::from(&ManifestRefusal::NobodyTrusted);
    verdict.class = class;
    Judgement {
        verdict,
        authorized: false,
        holds_until: None,
    }
}

/// Returns a verifier with [`Judges`] that accepts or refuses simulated evidence.
pub fn verifier(boot: Class, session: Class, simulated_accepted: bool) -> Verifier {
    Verifier::with_judge(Arc::new(Judges { boot, session }), simulated_accepted)
}

/// Returns a verifier that accepts every appliance.
pub fn content() -> Verifier {
    verifier(Class::Simulated, Class::Confidential, false)
}

fn server_config(script: &Script) -> (rustls::ServerConfig, Hex32) {
    let key = SigningKey::from_slice(&[7; 32]).unwrap();
    let (certificate, spki) = certificate(&key, script.carries);
    let signing = if script.signs_with_other_key {
        SigningKey::from_slice(&[8; 32]).unwrap()
    } else {
        key
    };
    let provider = Arc::new(crate::tls::provider());
    let der = PrivatePkcs8KeyDer::from(signing.to_pkcs8_der().unwrap().as_bytes().to_vec());
    let signing = provider.key_provider.load_private_key(der.into()).unwrap();
    let resolver = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signing));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    (config, spki)
}

fn certificate(key: &SigningKey, carries: Carries) -> (CertificateDer<'static>, Hex32) {
    let spki = SubjectPublicKeyInfoOwned::from_key(*key.verifying_key()).unwrap();
    let digest = Hex32::sha256(&spki.to_der().unwrap());
    let kind = if carries == Carries::SessionKind {
        Kind::Session
    } else {
        Kind::Boot
    };
    let named = if carries == Carries::OtherKey {
        Hex([9; 32])
    } else {
        digest
    };
    let mut value = document(kind, named, Hex32::ZERO, Hex32::ZERO).to_json();
    match carries {
        Carries::TooMuch => value.resize(16 * 1024 + 1, b' '),
        Carries::Garbage => value = STEERING.as_bytes().to_vec(),
        _ => {}
    }
    let extension = Extension {
        extn_id: ObjectIdentifier::new_unwrap(EVIDENCE_OID),
        critical: carries != Carries::Uncritical,
        extn_value: OctetString::new(value).unwrap(),
    };
    let extensions = match carries {
        Carries::Nothing => None,
        Carries::Twice => Some(vec![extension.clone(), extension]),
        _ => Some(vec![extension]),
    };
    let algorithm = AlgorithmIdentifierOwned {
        oid: ECDSA_SHA256,
        parameters: None,
    };
    let tbs_certificate = TbsCertificate {
        version: Version::V3,
        serial_number: x509_cert::serial_number::SerialNumber::new(&[1]).unwrap(),
        signature: algorithm.clone(),
        issuer: "CN=cocoon".parse().unwrap(),
        validity: x509_cert::time::Validity::from_now(std::time::Duration::from_secs(60)).unwrap(),
        subject: "CN=cocoon".parse().unwrap(),
        subject_public_key_info: spki,
        issuer_unique_id: None,
        subject_unique_id: None,
        extensions,
    };
    let signature: DerSignature = key.sign(&tbs_certificate.to_der().unwrap());
    let certificate = Certificate {
        tbs_certificate,
        signature_algorithm: algorithm,
        signature: BitString::from_bytes(&signature.to_bytes()).unwrap(),
    };
    (certificate.to_der().unwrap().into(), digest)
}

const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
