//! Connects to an appliance and verifies it: TCP, then TLS 1.3 with the boot document appraised in
//! the handshake, then a fresh nonce that a session document must answer over the same TLS session.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::appraise::Presented;
use cocoon_measurements::receipt::Expected;
use cocoon_protocol::binding::{EXPORTER_LABEL, Freshness};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest, Document, Kind, MAX_DOCUMENT_LEN};
use cocoon_protocol::openai::ErrorBody;
use http::{Method, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::address::Address;
use crate::attested::{AttestedConnection, Channel, MAX_CONNECTION_AGE};
use crate::certificate::Leaf;
use crate::dial::dial;
use crate::error::{ConnectError, Stage, printable};
use crate::judge::Judgement;
use crate::moment::Moment;
use crate::receipts::Session;
use crate::tls::{self, Handshake, check_kind_and_key};
use crate::verifier::Verifier;

/// Longest error body that is read before the verdict, in bytes.
pub(crate) const MAX_ERROR_LEN: usize = 16 * 1024;

impl Verifier {
    /// Connects to an appliance and verifies it. There is no other way to get an
    /// [`AttestedConnection`].
    ///
    /// Only a random nonce and, if needed, a request for collateral are sent before the verdict.
    ///
    /// # Errors
    /// [`ConnectError`] says at which step the appliance failed. If evidence was appraised,
    /// [`ConnectError::verdict`] contains every check.
    pub async fn connect(&self, address: &Address) -> Result<AttestedConnection, ConnectError> {
        let established = Moment::now();
        let tcp = self.reach(address).await?;
        let (tls, leaf) = self.handshake(address, tcp).await?;
        let exporter = exporter(address, &tls)?;
        let mut channel = open(address, tls, established).await?;

        let nonce = nonce()?;
        let limit = self.deadlines.attest;
        let until = Instant::now() + limit;
        let late = |_| deadline(address, Stage::Attest, limit);
        let exchanged = timeout_at(until, exchange(&mut channel, address, nonce));
        let (mut document, bytes) = exchanged.await.map_err(late)??;
        check_kind_and_key(address, &leaf, &document, Kind::Session)?;
        if document.nonce != nonce {
            return Err(ConnectError::OtherNonce {
                address: address.clone(),
                sent: nonce,
                found: document.nonce,
            });
        }
        let completed = timeout_at(until, self.complete(&mut channel, address, &mut document));
        let gathered = completed.await.map_err(late)??;
        let fresh = Freshness { nonce, exporter };
        let (judgement, document) = self.appraise(address, document, &leaf, fresh).await?;
        let used = gathered.used;
        let accepted = self.accept(address, Stage::Attest, judgement);
        let verdict = accepted.map_err(|error| error.resting_on(used))?;
        let session = Session {
            expected: Expected::of(&document, &bytes),
            document: bytes,
            collateral: self.keep(gathered).await,
            leaf_spki_sha256: leaf.spki_sha256,
            exporter,
        };
        Ok(AttestedConnection::new(
            channel,
            address.clone(),
            verdict,
            document.claims,
            session,
            used,
            established,
        ))
    }

    async fn reach(&self, address: &Address) -> Result<TcpStream, ConnectError> {
        let limit = self.deadlines.reach;
        dial(address.host(), address.port(), limit)
            .await
            .map_err(|_| deadline(address, Stage::Reach, limit))?
            .map_err(|source| ConnectError::Unreachable {
                address: address.clone(),
                source,
            })
    }

    async fn handshake(
        &self,
        address: &Address,
        tcp: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Leaf), ConnectError> {
        let broken = |source| ConnectError::Handshake {
            address: address.clone(),
            source,
        };
        let provider = self.provider();
        let handshake = Arc::new(Handshake::new(address.clone(), self.clone(), &provider));
        let config = tls::config(handshake.clone(), provider)
            .map_err(|e| broken(std::io::Error::other(e)))?;
        let connector = TlsConnector::from(Arc::new(config));
        let limit = self.deadlines.handshake;
        let outcome = timeout(limit, connector.connect(address.server_name(), tcp))
            .await
            .map_err(|_| deadline(address, Stage::Handshake, limit))?;
        let found = handshake.take();
        match (outcome, found.refusal, found.leaf) {
            (Ok(tls), None, Some(leaf)) => Ok((tls, leaf)),
            (_, Some(refusal), _) => Err(refusal),
            (Err(source), None, _) => Err(broken(source)),
            (Ok(_), None, None) => Err(broken(std::io::Error::other(
                rustls::Error::NoCertificatesPresented,
            ))),
        }
    }

    /// Appraises a session document on a blocking thread: signature chains take milliseconds of CPU
    /// time, which would delay the threads that serve streams.
    async fn appraise(
        &self,
        address: &Address,
        document: Document,
        leaf: &Leaf,
        fresh: Freshness,
    ) -> Result<(Judgement, Document), ConnectError> {
        let verifier = self.clone();
        let leaf_spki_sha256 = leaf.spki_sha256;
        let handshake_gpus = Some(leaf.document.claims.gpu_section_digest);
        tokio::task::spawn_blocking(move || {
            let presented = Presented {
                document: &document,
                leaf_spki_sha256,
                fresh: Some(fresh),
                handshake_gpus,
            };
            (verifier.judge(&presented), document)
        })
        .await
        .map_err(|_| ConnectError::Appraisal {
            address: address.clone(),
        })
    }
}

fn exporter(address: &Address, tls: &TlsStream<TcpStream>) -> Result<Hex32, ConnectError> {
    tls.get_ref()
        .1
        .export_keying_material([0; 32], EXPORTER_LABEL, None)
        .map(Hex)
        .map_err(|source| ConnectError::Exporter {
            address: address.clone(),
            source,
        })
}

fn nonce() -> Result<Hex32, ConnectError> {
    let mut nonce = Hex32::ZERO;
    getrandom::fill(&mut nonce.0).map_err(ConnectError::Random)?;
    Ok(nonce)
}

fn deadline(address: &Address, stage: Stage, limit: Duration) -> ConnectError {
    ConnectError::Deadline {
        address: address.clone(),
        stage,
        limit,
    }
}

async fn open(
    address: &Address,
    tls: TlsStream<TcpStream>,
    established: Moment,
) -> Result<Channel, ConnectError> {
    let (sender, connection) = hyper::client::conn::http1::Builder::new()
        .handshake(TokioIo::new(tls))
        .await
        .map_err(|source| ConnectError::Broken {
            address: address.clone(),
            source,
        })?;
    // The task ends when the sender is dropped, when the appliance closes the connection, or when
    // the connection reaches its largest age.
    tokio::spawn(async move {
        tokio::select! {
            _ = connection => {}
            () = established.reaches(MAX_CONNECTION_AGE) => {}
        }
    });
    Ok(Channel {
        sender,
        authority: address.authority(),
    })
}

async fn exchange(
    channel: &mut Channel,
    address: &Address,
    nonce: Hex32,
) -> Result<(Document, Bytes), ConnectError> {
    let broken = |source| ConnectError::Broken {
        address: address.clone(),
        source,
    };
    // A struct of one hexadecimal string: serialisation cannot fail.
    let body = serde_json::to_vec(&AttestRequest { nonce }).unwrap_or_default();
    let request = channel.request(Method::POST, ATTEST_PATH, Bytes::from(body));
    let response = channel.sender.send_request(request).await.map_err(broken)?;
    let status = response.status();
    if status != StatusCode::OK {
        let body = collect(response, MAX_ERROR_LEN)
            .await
            .map_err(broken)?
            .unwrap_or_default();
        let message = refusal_text(&body);
        return Err(ConnectError::NoEvidence {
            address: address.clone(),
            status: status.as_u16(),
            message,
        });
    }
    let body = collect(response, MAX_DOCUMENT_LEN)
        .await
        .map_err(broken)?
        .ok_or_else(|| ConnectError::DocumentTooLong {
            address: address.clone(),
        })?;
    let document = Document::parse(&body, MAX_DOCUMENT_LEN);
    let document = document.map_err(|source| ConnectError::Document {
        address: address.clone(),
        source,
    })?;
    Ok((document, Bytes::from(body)))
}

/// Reads a body; returns `None` if it is longer than `limit` bytes.
pub(crate) async fn collect(
    response: Response<impl Body<Data = Bytes, Error = hyper::Error> + Unpin>,
    limit: usize,
) -> Result<Option<Vec<u8>>, hyper::Error> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if bytes.len() + data.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Some(bytes))
}

pub(crate) fn refusal_text(body: &[u8]) -> String {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) => printable(&body.error.message, 300),
        Err(_) => "no error message that this program understands".to_owned(),
    }
}
