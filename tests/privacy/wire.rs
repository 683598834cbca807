//! The connection between clients and the VM, as seen by anyone who relays it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of a TLS record's header; [`ADDED`] counts those that encryption adds: a content type and a tag.
const HEADER: usize = 5;
const ADDED: usize = 17;
/// Content type of application data.
const DATA: u8 = 23;

/// A relay that records what passes between clients and a server.
pub struct Wire {
    /// Address at which clients connect.
    pub address: SocketAddr,
    from_client: Arc<Mutex<Vec<u8>>>,
    from_server: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    /// Relays any number of connections to `server`, with one record for all of them.
    pub async fn tap(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (from_client, from_server) = (Arc::default(), Arc::default());
        let (sent, received) = (Arc::clone(&from_client), Arc::clone(&from_server));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::spawn(pump(client_read, server_write, Arc::clone(&sent)));
                tokio::spawn(pump(server_read, client_write, Arc::clone(&received)));
            }
        });
        Self {
            address,
            from_client,
            from_server,
        }
    }

    /// Returns all bytes so far, in both directions.
    pub fn bytes(&self) -> Vec<u8> {
        let client = self.from_client.lock().unwrap().clone();
        let server = self.from_server.lock().unwrap().clone();
        [client, server].concat()
    }

    /// Returns the number of bytes that the server has sent so far.
    pub fn mark(&self) -> usize {
        self.from_server.lock().unwrap().len()
    }

    /// Returns the plaintext lengths of the server's records after `mark`, in order.
    pub fn lengths(&self, mark: usize) -> Vec<usize> {
        let bytes = self.from_server.lock().unwrap();
        let mut rest = &bytes[mark..];
        let mut lengths = Vec::new();
        while let Some((header, body)) = rest.split_at_checked(HEADER) {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            assert_eq!(header[0], DATA, "not at the beginning of a record");
            lengths.push(length - ADDED);
            rest = &body[length..];
        }
        lengths
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    log: Arc<Mutex<Vec<u8>>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        // Recorded before it is forwarded, so that everything that the client has read is in the record.
        log.lock().unwrap().extend_from_slice(&buffer[..count]);
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
