//! A client that verifies nothing, because its tests are about the service and not about verification.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::binding::EXPORTER_LABEL;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::document::{ATTEST_PATH, Document, MAX_DOCUMENT_LEN};
use cocoon_protocol::openai::ErrorBody;
use cocoon_protocol::pieces::{COLLATERAL_PATH, Pieces, PiecesRequest};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::anyone::believing_anyone;

/// Far longer than anything in these tests takes.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Opens a TLS session without HTTP.
pub async fn handshake(address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    negotiate(address, b"http/1.1").await
}

/// Opens a TLS session that offers the protocol `alpn`.
pub async fn negotiate(address: SocketAddr, alpn: &[u8]) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("cocoon").unwrap();
    TlsConnector::from(Arc::new(believing_anyone(alpn)))
        .connect(name, tcp)
        .await
}

/// One connection to the service.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
    pub certificate: Vec<u8>,
    pub exporter: Hex32,
    pub group: rustls::NamedGroup,
    ended: JoinHandle<()>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let tls = handshake(address).await.unwrap();
        let session = tls.get_ref().1;
        let certificate = session.peer_certificates().unwrap()[0].to_vec();
        let group = session.negotiated_key_exchange_group().unwrap().name();
        let exporter = Hex(session
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .unwrap());
        let (sender, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
        // The server may close first, which some tests are about.
        let ended = tokio::spawn(async move { drop(connection.await) });
        Self {
            sender,
            certificate,
            exporter,
            group,
            ended,
        }
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(&mut self) {
        timeout(DEADLINE, &mut self.ended)
            .await
            .expect("closed in time")
            .unwrap();
    }

    /// Opens a connection and gets evidence for it.
    pub async fn attested(address: SocketAddr) -> Self {
        let mut client = Self::connect(address).await;
        client.attest(Hex([9; 32])).await;
        client
    }

    pub async fn attest(&mut self, nonce: Hex32) -> Document {
        let (status, body) = self
            .post(ATTEST_PATH, &format!("{{\"nonce\":\"{nonce}\"}}"))
            .await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        Document::parse(&body, MAX_DOCUMENT_LEN).unwrap()
    }

    /// Fetches the collateral that a document names, and returns the document with it.
    pub async fn whole(&mut self, mut document: Document) -> Document {
        let pieces = document.names();
        let asked = serde_json::to_string(&PiecesRequest { pieces }).unwrap();
        let (status, body) = self.post(COLLATERAL_PATH, &asked).await;
        assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
        let pieces = Pieces::decode(&body, &document.names()).unwrap();
        document.fill(&pieces).unwrap();
        document
    }

    pub async fn send(&mut self, method: &str, path: &str, body: &str) -> Response<Incoming> {
        let body = Full::new(Bytes::copy_from_slice(body.as_bytes()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "cocoon")
            .body(body)
            .unwrap();
        // The end of the last answer may have been read before the connection knows of it.
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        timeout(DEADLINE, answer)
            .await
            .expect("answer in time")
            .unwrap()
    }

    pub async fn post(&mut self, path: &str, body: &str) -> (StatusCode, Bytes) {
        read(self.send("POST", path, body).await).await
    }

    pub async fn get(&mut self, path: &str) -> (StatusCode, Bytes) {
        read(self.send("GET", path, "").await).await
    }

    /// Sends a chat request with one user message; `extra` is further JSON of the request.
    pub async fn chat(&mut self, prompt: &str, extra: &str) -> Response<Incoming> {
        let model = super::MODEL;
        let body = format!(
            "{{\"model\":\"{model}\",\"messages\":[{{\"role\":\"user\",\"content\":\"{prompt}\"}}]{extra}}}"
        );
        self.send("POST", "/v1/chat/completions", &body).await
    }
}

pub async fn read(response: Response<Incoming>) -> (StatusCode, Bytes) {
    let status = response.status();
    let body = timeout(DEADLINE, response.into_body().collect())
        .await
        .expect("body in time")
        .unwrap();
    (status, body.to_bytes())
}

/// Status, `param`, `code` and message of a refusal.
pub async fn refusal(
    response: Response<Incoming>,
) -> (u16, Option<String>, Option<String>, String) {
    let (status, body) = read(response).await;
    let error = serde_json::from_slice::<ErrorBody>(&body).unwrap().error;
    (status.as_u16(), error.param, error.code, error.message)
}
