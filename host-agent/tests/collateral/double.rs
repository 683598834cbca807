//! A service on loopback that answers as a test says, and remembers what it was asked.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What is answered.
pub enum Reply {
    /// 200 with headers and a body.
    Good(Vec<(&'static str, String)>, Vec<u8>),
    /// Another status.
    Status(u16),
    /// Half of a body, then the end.
    Truncated(Vec<u8>),
    /// Nothing, for as long as the client holds on.
    Silence,
    /// To be asked elsewhere.
    Moved(&'static str),
}

impl Reply {
    /// 200 with a body.
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self::Good(Vec::new(), body.into())
    }
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Method and target, such as `GET /v1/rim/ids`.
    pub line: String,
    /// The head, as it came.
    pub head: String,
    /// The body.
    pub body: Vec<u8>,
}

/// A running service; its thread ends with the test's process.
pub struct Double {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Double {
    /// Starts one.
    pub fn start(mut answer: impl FnMut(&Asked) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        std::thread::spawn(move || {
            // Those that get no answer keep their connection.
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
                // A client may have had enough before the end.
                drop(written);
            }
        });
        Self { address, asked }
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked since the last time, in order.
    pub fn take(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().expect("requests"))
    }

    /// The same, lines alone.
    pub fn lines(&self) -> Vec<String> {
        self.take().into_iter().map(|asked| asked.line).collect()
    }
}

fn send(stream: &mut TcpStream, head: &str, length: usize, body: &[u8]) -> std::io::Result<()> {
    let head = format!("{head}content-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}

/// A request with a body of a known length.
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
