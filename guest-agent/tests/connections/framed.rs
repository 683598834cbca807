//! An HTTP/2 client that sets the window of its answers before it reads any of them.

use std::net::SocketAddr;
use std::sync::Arc;

use cocoon_protocol::document::ATTEST_PATH;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::common::MODEL;
use crate::common::client::{DEADLINE, negotiate};

/// One connection, which always answers pings.
pub struct Framed {
    sender: SendRequest<Full<Bytes>>,
    ended: Arc<Mutex<JoinHandle<()>>>,
}

impl Framed {
    /// Opens a connection and gets evidence for it, which the client may be unable to read: `window` is the number of
    /// bytes of each answer that it accepts.
    pub async fn attested(address: SocketAddr, window: u32) -> Self {
        let tls = timeout(DEADLINE, negotiate(address, b"h2")).await;
        let tls = tls.unwrap().unwrap();
        let mut builder = Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window);
        let (sender, connection) = builder.handshake(TokioIo::new(tls)).await.unwrap();
        // The server may cut the connection, which the tests are about.
        let ended = tokio::spawn(async move { drop(connection.await) });
        let ended = Arc::new(Mutex::new(ended));
        let mut client = Self { sender, ended };
        let nonce = format!("{{\"nonce\":\"{}\"}}", "09".repeat(32));
        let answer = client.post(ATTEST_PATH, nonce).await;
        assert_eq!(answer.unwrap().status(), 200);
        client
    }

    /// Returns another handle to the same connection.
    pub fn again(&self) -> Self {
        Self {
            sender: self.sender.clone(),
            ended: Arc::clone(&self.ended),
        }
    }

    /// Sends a request, and returns the head of its answer.
    async fn post(&mut self, path: &str, body: String) -> hyper::Result<Response<Incoming>> {
        let request = Request::post(format!("https://cocoon{path}"))
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let answer = timeout(DEADLINE, self.sender.send_request(request)).await;
        answer.expect("answer in time")
    }

    /// Sends a streamed chat request with one message.
    pub async fn chat(&mut self, prompt: &str) -> Response<Incoming> {
        self.try_chat(prompt).await.unwrap()
    }

    /// As [`Self::chat`], on a connection that may be cut.
    pub async fn try_chat(&mut self, prompt: &str) -> hyper::Result<Response<Incoming>> {
        self.ask(prompt, serde_json::json!({})).await
    }

    /// Sends a streamed chat request with `n` choices, at the longest interval between events.
    pub async fn slowly(&mut self, prompt: &str, n: usize) -> Response<Incoming> {
        let more = serde_json::json!({ "n": n, "stream_options": { "interval_ms": 5000 } });
        self.ask(prompt, more).await.unwrap()
    }

    async fn ask(&mut self, prompt: &str, more: Value) -> hyper::Result<Response<Incoming>> {
        let mut body = serde_json::json!({
            "model": MODEL,
            "messages": [{ "role": "user", "content": prompt }],
            "stream": true,
        });
        if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
            body.extend(more);
        }
        self.post("/v1/chat/completions", body.to_string()).await
    }

    /// Waits until the server has closed the connection.
    pub async fn closed(&mut self) {
        let mut ended = self.ended.lock().await;
        timeout(DEADLINE, &mut *ended)
            .await
            .expect("closed in time")
            .unwrap();
    }
}
