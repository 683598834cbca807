//! A TLS client that verifies nothing, and gives tests access to tickets, certificates and exporters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cocoon_protocol::binding::EXPORTER_LABEL;
use cocoon_protocol::bytes::{Hex, Hex32};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use anyone::believing_anyone;

#[path = "../../guest-agent/tests/common/anyone.rs"]
mod anyone;

/// Limit on every wait. No operation in these tests takes nearly as long.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// A client. It keeps its configuration, and so any session ticket, across connections.
pub struct Stranger(Arc<ClientConfig>);

/// An open TLS connection.
pub struct Connection(pub TlsStream<TcpStream>);

impl Stranger {
    /// Makes a client that would resume sessions and send early data.
    pub fn new() -> Self {
        let mut config = believing_anyone(b"http/1.1");
        config.enable_early_data = true;
        Self(Arc::new(config))
    }

    pub async fn connect(&self, address: SocketAddr) -> Connection {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from("cocoon").unwrap();
        let connecting = TlsConnector::from(Arc::clone(&self.0)).connect(name, tcp);
        Connection(timeout(DEADLINE, connecting).await.unwrap().unwrap())
    }
}

impl Connection {
    /// Returns the server's leaf certificate in DER.
    pub fn certificate(&self) -> Vec<u8> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    pub fn exporter(&self) -> Hex32 {
        let session = self.0.get_ref().1;
        Hex(session
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .unwrap())
    }

    /// Sends a request and returns the status and body of its response.
    pub async fn ask(&mut self, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: cocoon\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        timeout(DEADLINE, async {
            self.0.write_all(head.as_bytes()).await.unwrap();
            self.0.write_all(body.as_bytes()).await.unwrap();
            self.0.flush().await.unwrap();
            self.answer().await
        })
        .await
        .unwrap()
    }

    async fn answer(&mut self) -> (u16, Vec<u8>) {
        let mut bytes = Vec::new();
        loop {
            if let Some(end) = find(&bytes, b"\r\n\r\n") {
                let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
                let length = header(&head, "content-length").parse::<usize>().unwrap();
                while bytes.len() < end + 4 + length {
                    self.more(&mut bytes).await;
                }
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, bytes[end + 4..].to_vec());
            }
            self.more(&mut bytes).await;
        }
    }

    async fn more(&mut self, bytes: &mut Vec<u8>) {
        let read = self.0.read_buf(bytes).await.unwrap();
        assert_ne!(read, 0, "closed within an answer");
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn header<'a>(head: &'a str, name: &str) -> &'a str {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .unwrap()
}
