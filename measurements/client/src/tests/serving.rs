//! Tests of the local endpoint and of conversations, through real sockets.

use std::net::SocketAddr;
use std::sync::Mutex;

use bytes::Bytes;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::document::ATTEST_PATH;
use cocoon_protocol::openai::{ChatRequest, ErrorBody};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Channel, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::double::{Carries, Double, Script, content, reply, verifier};
use super::receipting::Receipts;

use crate::endpoint::{Endpoint, EndpointError, EndpointOptions, Token};
use crate::padding::{MAX_BODY_LEN, MIN_BODY_LEN};
use crate::upstreams::Upstreams;
use crate::verifier::Verifier;

const TOKEN: &str = "a-token-for-these-tests";
pub const CHAT: &str =
    r#"{"model":"m","messages":[{"role":"user","content":"the canary"}],"stream":true}"#;

pub struct Local {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<()>,
}

pub async fn local(verifier: Verifier, doubles: &[&Double]) -> Local {
    let addresses = doubles
        .iter()
        .map(|double| double.address.clone())
        .collect();
    let options = EndpointOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: Token::new(TOKEN).unwrap(),
    };
    let endpoint = Endpoint::bind(Upstreams::new(verifier, addresses), options)
        .await
        .unwrap();
    let address = endpoint
        .base_url()
        .trim_start_matches("http://")
        .trim_end_matches("/v1")
        .parse()
        .unwrap();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(endpoint.serve(async { drop(stopped.await) }));
    Local {
        address,
        stop,
        ended,
    }
}

impl Local {
    async fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Response<Incoming> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        sender
            .send_request(request.body(Full::new(body.into())).unwrap())
            .await
            .unwrap()
    }

    pub async fn chat(&self, body: impl Into<Bytes>) -> Response<Incoming> {
        let host = self.address.to_string();
        let authorization = format!("Bearer {TOKEN}");
        self.post(
            "/v1/chat/completions",
            &[("host", &host), ("authorization", &authorization)],
            body,
        )
        .await
    }
}

pub async fn error(response: Response<Incoming>) -> (u16, String, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let error = serde_json::from_slice::<ErrorBody>(&body)
        .expect("an error object of OpenAI's")
        .error;
    (status, error.code.unwrap_or_default(), error.message)
}

#[tokio::test]
async fn a_request_goes_out_padded_and_its_answer_comes_back() {
    let double = Double::start(Script::default()).await;
    let local = local(content(), &[&double]).await;
    let response = local.chat(CHAT).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["x-cocoon-verdict"], "confidential");
    assert_eq!(
        response.into_body().collect().await.unwrap().to_bytes(),
        "{}"
    );
    assert_eq!(double.paths(), [ATTEST_PATH, "/v1/chat/completions"]);
    let sent = &double.bodies()[1];
    assert_eq!(sent.len(), MIN_BODY_LEN);
    assert_eq!(
        serde_json::from_slice::<ChatRequest>(sent)
            .unwrap()
            .messages[0]
            .content,
        "the canary"
    );
}

/// A busy appliance's `Retry-After` is passed on, but no other header of it.
#[tokio::test]
async fn a_refusal_says_when_to_try_again() {
    let busy = r#"{"error":{"message":"All answers are taken.","type":"rate_limit_error","param":null,"code":"busy"}}"#;
    let double = Double::start(Script {
        answers: Box::new(move || {
            let mut response = reply(StatusCode::TOO_MANY_REQUESTS, "application/json", busy);
            for (name, value) in [("retry-after", "7"), ("server", "an appliance")] {
                let value = HeaderValue::from_static(value);
                response.headers_mut().insert(name, value);
            }
            response
        }),
        receipts: Receipts::Withheld,
        ..Script::default()
    })
    .await;
    let local = local(content(), &[&double]).await;
    let response = local.chat(CHAT).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    let mut names: Vec<_> = response
        .headers()
        .keys()
        .map(|name| name.as_str())
        .collect();
    names.sort_unstable();
    let expected = [
        "cache-control",
        "content-length",
        "content-type",
        "date",
        "retry-after",
        "x-cocoon-verdict",
    ];
    assert_eq!(names, expected);
    assert_eq!(response.headers()["retry-after"], "7");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, busy);
}

#[tokio::test]
async fn strangers_and_web_pages_are_refused_before_anything_is_sent() {
    let double = Double::start(Script::default()).await;
    let local = local(content(), &[&double]).await;
    let host = local.address.to_string();
    let good = format!("Bearer {TOKEN}");
    let path = "/v1/chat/completions";
    for (headers, expected) in [
        (vec![("host", host.as_str())], (401, "invalid_api_key")),
        (
            vec![
                ("host", host.as_str()),
                ("authorization", "Bearer another-token-than-ours"),
            ],
            (401, "invalid_api_key"),
        ),
        (
            vec![("host", "evil.example"), ("authorization", good.as_str())],
            (403, "host_not_allowed"),
        ),
        (
            vec![
                ("host", host.as_str()),
                ("origin", "https://evil.example"),
                ("authorization", good.as_str()),
            ],
            (403, "origin_not_allowed"),
        ),
    ] {
        let (status, code, _) = error(local.post(path, &headers, CHAT).await).await;
        assert_eq!((status, code.as_str()), expected);
    }
    let (status, code, _) = error(
        local
            .post(
                "/v1/embeddings",
                &[("host", &host), ("authorization", &good)],
                "",
            )
            .await,
    )
    .await;
    assert_eq!((status, code.as_str()), (404, "unknown_url"));
    let (status, code, _) = error(
        local
            .post(
                "/v1/models",
                &[("host", &host), ("authorization", &good)],
                "",
            )
            .await,
    )
    .await;
    assert_eq!((status, code.as_str()), (405, "method_not_allowed"));
    assert_eq!(double.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn bad_bodies_are_named_and_never_quoted() {
    let double = Double::start(Script::default()).await;
    let local = local(content(), &[&double]).await;
    for (body, expected) in [
        // The appliance validates the fields.
        ("[\"the canary\"]".to_owned(), (400, "invalid_json")),
        ("the canary".to_owned(), (400, "invalid_json")),
        (" ".repeat(MAX_BODY_LEN + 1), (413, "request_too_large")),
        // Short enough to be read, but too long for any bucket once it is padded.
        (
            CHAT.replace(
                "the canary",
                &"x".repeat(MAX_BODY_LEN - CHAT.len() + "the canary".len()),
            ),
            (413, "request_too_large"),
        ),
    ] {
        let (status, code, message) = error(local.chat(body).await).await;
        assert_eq!((status, code.as_str()), expected, "{message}");
        assert!(!message.contains("canary"), "{message}");
    }
    assert_eq!(double.paths(), Vec::<String>::new());
}

#[tokio::test]
async fn refusals_are_502_and_say_why() {
    let liar = Double::start(Script {
        carries: Carries::OtherKey,
        ..Script::default()
    })
    .await;
    let plain = Double::start(Script {
        carries: Carries::Nothing,
        ..Script::default()
    })
    .await;
    let refused = local(content(), &[&liar, &plain]).await;
    let (status, code, message) = error(refused.chat(CHAT).await).await;
    assert_eq!((status, code.as_str()), (502, "attestation_rejected"));
    for part in [
        "evidence about another key",
        "no evidence extension",
        "no prompt was sent",
        &liar.address.to_string(),
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert!(
        [&liar, &plain]
            .iter()
            .all(|double| double.paths().is_empty())
    );

    let honest = Double::start(Script::default()).await;
    let judged = local(
        verifier(Class::Simulated, Class::Rejected, true),
        &[&honest],
    )
    .await;
    let (status, code, message) = error(judged.chat(CHAT).await).await;
    assert_eq!((status, code.as_str()), (502, "attestation_rejected"));
    assert!(
        message.contains("was rejected: manifest counts"),
        "{message}"
    );
    assert_eq!(honest.paths(), [ATTEST_PATH]);

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", gone.local_addr().unwrap())
        .parse()
        .unwrap();
    drop(gone);
    let upstreams = Upstreams::new(content(), vec![address]);
    let options = EndpointOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        token: Token::new(TOKEN).unwrap(),
    };
    let endpoint = Endpoint::bind(upstreams, options).await.unwrap();
    let address = endpoint
        .base_url()
        .trim_start_matches("http://")
        .trim_end_matches("/v1")
        .parse()
        .unwrap();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(endpoint.serve(async { drop(stopped.await) }));
    let unreachable = Local {
        address,
        stop,
        ended,
    };
    let (status, code, message) = error(unreachable.chat(CHAT).await).await;
    assert_eq!((status, code.as_str()), (502, "no_appliance_usable"));
    assert!(message.contains("cannot reach"), "{message}");
}

/// Makes a script that answers a chat request with one stream, which the test feeds.
fn streaming() -> (
    Script,
    http_body_util::channel::Sender<Bytes, std::convert::Infallible>,
) {
    let (sender, body) = Channel::new(4);
    let body = Mutex::new(Some(body));
    let answers = Box::new(move || {
        let body = body.lock().unwrap().take().expect("one stream");
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(body.boxed())
            .unwrap()
    });
    (
        Script {
            answers,
            ..Script::default()
        },
        sender,
    )
}

#[tokio::test]
async fn events_pass_as_they_come() {
    let (script, mut sender) = streaming();
    let double = Double::start(script).await;
    let local = local(content(), &[&double]).await;
    sender.send_data(Bytes::from("data: 1\n\n")).await.unwrap();
    let mut response = local.chat(CHAT).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    // The second event is sent only after the first one was read: a client that waits for the end would hang.
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
        sender.send_data(Bytes::from("data: 2\n\n")).await.unwrap();
    }
}

#[tokio::test]
async fn an_endpoint_ends_when_asked_and_frees_its_port() {
    let double = Double::start(Script::default()).await;
    let local = local(content(), &[&double]).await;
    let options = || EndpointOptions {
        listen: local.address,
        token: Token::new(TOKEN).unwrap(),
    };
    let upstreams = || Upstreams::new(content(), vec![double.address.clone()]);
    let error = Endpoint::bind(upstreams(), options())
        .await
        .expect_err("the port is taken");
    assert!(
        matches!(error, EndpointError::InUse(address) if address == local.address),
        "{error}"
    );
    assert!(error.to_string().contains("is in use"), "{error}");
    local.stop.send(()).unwrap();
    local.ended.await.unwrap();
    Endpoint::bind(
        upstreams(),
        EndpointOptions {
            listen: local.address,
            token: Token::new(TOKEN).unwrap(),
        },
    )
    .await
    .unwrap();
    let everywhere = EndpointOptions {
        listen: "0.0.0.0:0".parse().unwrap(),
        token: Token::new(TOKEN).unwrap(),
    };
    assert!(matches!(
        Endpoint::bind(upstreams(), everywhere).await,
        Err(EndpointError::NotLoopback(_))
    ));
}
