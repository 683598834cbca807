//! A double of a vendor's service on loopback. It answers as a test determines, and records the requests.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// An answer.
pub enum Reply {
    /// Status 200 with headers and a body.
    Good(Vec<(&'static str, String)>, Vec<u8>),
    /// Another status.
    Status(u16),
    /// Half of the announced body, then the end of the connection.
    Truncated(Vec<u8>),
    /// No answer for as long as the client keeps the connection open.
    Silence,
    /// A redirect to this address.
    Moved(&'static str),
}

impl Reply {
    /// Returns an answer with status 200 and this body.
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self::Good(Vec::new(), body.into())
    }
}

/// A request that the service received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method and target, such as `GET /v1/rim/ids`.
    pub line: String,
    /// Head of the request, as received.
    pub head: String,
    /// Body of the request.
    pub body: Vec<u8>,
}

/// A running service. Its thread ends with the test's process.
pub struct Double {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Double {
    /// Starts a service that answers with `answer`.
    pub fn start(mut answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        std::thread::spawn(move || {
            // Connections without an answer are kept open.
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let Some(request) = read(&mut stream) else {
                    continue;
                };
                all.lock().expect("requests").push(request.clone());
                let written = match answer(&request) {
                    Reply::Good(headers, body) => {
                        let mut head = String::from("HTTP/1.1 200 OK\r\n");
                        for (name, value) in headers {
                            head.push_str(&format!("{name}: {value}\r\n"));
                        }
                        send(&mut stream, &head, body.len(), &body)
                    }
                    Reply::Status(status) => {
                        let head = format!("HTTP/1.1 {status} No\r\n");
                        send(&mut stream, &head, 2, b"no")
                    }
                    Reply::Truncated(body) => {
                        send(&mut stream, "HTTP/1.1 200 OK\r\n", 2 * body.len(), &body)
                    }
                    Reply::Moved(to) => {
                        let head = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\n");
                        send(&mut stream, &head, 0, b"")
                    }
                    Reply::Silence => {
                        silent.push(stream);
                        continue;
                    }
                };
                // The client may close the connection before it has read everything.
                drop(written);
            }
        });
        Self { address, asked }
    }

    /// Returns the base URL of the service, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the requests since the last call, in order.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().expect("requests"))
    }

    /// Returns the request lines since the last call, in order.
    pub fn lines(&self) -> Vec<String> {
        self.take().into_iter().map(|asked| asked.line).collect()
    }
}

fn send(stream: &mut TcpStream, head: &str, length: usize, body: &[u8]) -> std::io::Result<()> {
    let head = format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// Reads a request whose body has a `content-length`.
fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = bytes.split_off(end + 4);
    while body.len() < length.unwrap_or(0) {
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => body.extend_from_slice(&chunk[..count]),
        }
    }
    let line = head
        .lines()
        .next()?
        .trim_end_matches(" HTTP/1.1")
        .to_owned();
    Some(Asked { line, head, body })
}
