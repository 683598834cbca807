//! A test endpoint that returns the reference translations, and other answers for some languages.

use std::convert::Infallible;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::sentences::sentences;

/// A running endpoint; it ends with its runtime.
pub struct Copyist {
    /// Base URL, as clients name it.
    pub url: String,
}

impl Copyist {
    /// Starts an endpoint that answers requests with this token.
    pub async fn start(token: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service_fn(move |request| answer(request, token));
                let serving = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                // A client that disconnects early is not an error.
                tokio::spawn(async { drop(serving.await) });
            }
        });
        Self { url }
    }
}

async fn answer(
    request: Request<Incoming>,
    token: &str,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let authorization = request.headers().get(AUTHORIZATION).cloned();
    let known = format!("Bearer {token}");
    if request.uri().path() != "/v1/chat/completions"
        || authorization.is_none_or(|value| value != known.as_str())
    {
        let mut refused = Response::new(Full::default());
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(refused);
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let asked: Value = serde_json::from_slice(&body).unwrap();
    let told = asked["messages"][0]["content"].as_str().unwrap();
    let text = asked["messages"][1]["content"].as_str().unwrap();
    let rows = sentences();
    let row = rows.iter().find(|row| row[0] == text).unwrap();
    let (content, finish) = match told {
        _ if told.contains("into French") => (&*row[1], "stop"),
        _ if told.contains("into German") => (text, "stop"),
        _ if told.contains("into Spanish") => ("", "stop"),
        _ => (&*row[4], "length"),
    };
    let said = json!({
        "choices": [{
            "message": { "role": "assistant", "content": format!(" {content}\n") },
            "finish_reason": finish,
        }],
        "usage": { "completion_tokens": 7 },
    });
    Ok(Response::new(Full::from(said.to_string())))
}
