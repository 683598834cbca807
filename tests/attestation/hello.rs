//! TLS ClientHello messages as bytes: builds one by hand, and parses those of a client (RFC 8446 §4.1.2).

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::stranger::DEADLINE;

/// Returns the ClientHello of a client that supports no version newer than TLS 1.2.
pub fn tls12() -> Vec<u8> {
    let extensions = [
        // supported_groups: secp256r1, x25519
        &[0, 10, 0, 6, 0, 4, 0, 23, 0, 29][..],
        // ec_point_formats: uncompressed
        &[0, 11, 0, 2, 1, 0],
        // signature_algorithms: ecdsa_secp256r1_sha256
        &[0, 13, 0, 4, 0, 2, 4, 3],
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(0);
    // ECDHE-ECDSA with AES-128-GCM-SHA256 and AES-256-GCM-SHA384
    body.extend([0, 4, 0xc0, 0x2b, 0xc0, 0x2c]);
    body.extend([1, 0]);
    body.extend(length(&extensions));
    body.extend(extensions);
    let mut handshake = vec![1, 0];
    handshake.extend(length(&body));
    handshake.extend(body);
    let mut record = vec![22, 3, 1];
    record.extend(length(&handshake));
    record.extend(handshake);
    record
}

fn length(bytes: &[u8]) -> [u8; 2] {
    u16::try_from(bytes.len()).unwrap().to_be_bytes()
}

/// Reads a ClientHello from `tcp` and returns type and content of each extension.
pub async fn extensions(tcp: &mut TcpStream) -> Vec<(u16, Vec<u8>)> {
    let hello = timeout(DEADLINE, handshake_message(tcp)).await.unwrap();
    assert_eq!(hello[0], 1, "a ClientHello");
    let mut rest = &hello[4 + 2 + 32..];
    let session = usize::from(rest[0]);
    rest = &rest[1 + session..];
    rest = &rest[2 + number(rest)..];
    rest = &rest[1 + usize::from(rest[0])..];
    rest = &rest[2..][..number(rest)];
    let mut found = Vec::new();
    while !rest.is_empty() {
        let end = 4 + number(&rest[2..]);
        found.push((
            u16::from_be_bytes([rest[0], rest[1]]),
            rest[4..end].to_vec(),
        ));
        rest = &rest[end..];
    }
    found
}

/// Reads one handshake message, which may span several records.
async fn handshake_message(tcp: &mut TcpStream) -> Vec<u8> {
    let mut message = Vec::new();
    loop {
        let mut head = [0; 5];
        tcp.read_exact(&mut head).await.unwrap();
        assert_eq!(head[0], 22, "a handshake record");
        let mut record = vec![0; number(&head[3..])];
        tcp.read_exact(&mut record).await.unwrap();
        message.extend(record);
        let complete = |bytes: &[u8]| bytes.len() >= 4 + number(&bytes[2..]);
        if message.len() >= 4 && complete(&message) {
            return message;
        }
    }
}

fn number(bytes: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([bytes[0], bytes[1]]))
}
