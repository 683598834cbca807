//! A client of HTTP/2 that says how much of each answer it takes before it has read any of it.

use std::net::SocketAddr;
use std::sync::Arc;

use cocoon_protocol::document::ATTEST_PATH;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::common::MODEL;
use crate::common::client::DEADLINE;

#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 was negotiated".into()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// One connection. It answers pings whatever else it does.
pub struct Framed {
    sender: SendRequest<Full<Bytes>>,
    ended: JoinHandle<()>,
}

impl Framed {
    /// A connection that has evidence, though it may have no room to read it: so many bytes of each
    /// answer.
    pub async fn attested(address: SocketAddr, window: u32) -> Self {
        let provider = Arc::new(rustls_graviola::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("cocoon").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        let tls = timeout(DEADLINE, connecting).await.unwrap().unwrap();
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (sender, connection) = builder.handshake(TokioIo::new(tls)).await.unwrap();
        // The server may cut it: that is what the tests are about.
        let ended = tokio::spawn(async move { drop(connection.await) });
        let mut client = Self { sender, ended };
        let nonce = format!("{{\"nonce\":\"{}\"}}", "09".repeat(32));
        assert_eq!(client.post(ATTEST_PATH, nonce).await.status(), 200);
        client
    }

    /// The head of the answer to a request.
    async fn post(&mut self, path: &str, body: String) -> Response<Incoming> {
        let request = Request::post(format!("https://cocoon{path}"))
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        timeout(DEADLINE, self.sender.send_request(request))
            .await
            .expect("answer in time")
            .unwrap()
    }

    /// A streamed chat with one message.
    pub async fn chat(&mut self, prompt: &str) -> Response<Incoming> {
        let body = serde_json::json!({
            "model": MODEL,
            "messages": [{ "role": "user", "content": prompt }],
            "stream": true,
        });
        self.post("/v1/chat/completions", body.to_string()).await
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(&mut self) {
        timeout(DEADLINE, &mut self.ended)
            .await
            .expect("closed in time")
            .unwrap();
    }
}
