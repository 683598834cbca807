//! Tests of appliances that fail after their verdict: where this request and the next one go.

use std::convert::Infallible;
use std::sync::Mutex;

use bytes::Bytes;
use cocoon_protocol::document::ATTEST_PATH;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Channel};

use super::double::{Attests, Body, Double, Script, content, reply};
use super::receipting::Receipts;
use super::serving::{CHAT, error, local};
use crate::error::ConnectError;
use crate::receipts::AnswerError;
use crate::upstreams::{UpstreamError, Upstreams};

const PATH: &str = "/v1/chat/completions";

/// Starts a failing and a good appliance, and returns them with `Upstreams` that prefer the failing
/// one.
async fn world(failing: Script) -> (Double, Double, Upstreams) {
    let failing = Double::start(failing).await;
    let good = Double::start(Script::default()).await;
    let addresses = vec![failing.address.clone(), good.address.clone()];
    (failing, good, Upstreams::new(content(), addresses))
}

fn answering(answers: impl Fn() -> Response<Body> + Send + Sync + 'static) -> Script {
    Script {
        answers: Box::new(answers),
        ..Script::default()
    }
}

fn refusing(code: &str) -> Script {
    let body = format!(
        r#"{{"error":{{"message":"not now","type":"server_error","param":null,"code":"{code}"}}}}"#
    );
    let status = StatusCode::SERVICE_UNAVAILABLE;
    answering(move || reply(status, "application/json", body.clone()))
}

fn questions(double: &Double) -> usize {
    let paths = double.paths();
    paths.iter().filter(|path| *path == PATH).count()
}

/// Sends a request, reads the answer to its end and returns the appliance that answered.
async fn answered_by(upstreams: &Upstreams) -> crate::Address {
    let response = upstreams.generate(PATH, CHAT.into()).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let connection = response.body().answer().connection().unwrap();
    let address = connection.address().clone();
    response.into_body().collect().await.unwrap();
    address
}

#[tokio::test]
async fn who_serves_nothing_gives_way() {
    for code in ["draining", "engine_not_ready"] {
        let (failing, good, upstreams) = world(refusing(code)).await;
        for _ in 0..2 {
            assert_eq!(answered_by(&upstreams).await, good.address);
        }
        assert_eq!(questions(&failing), 1, "it is not asked again at once");

        // If there is no other appliance, its own response is passed on.
        let alone = local(content(), &[&failing]).await;
        let (status, found, message) = error(alone.chat(CHAT).await).await;
        assert_eq!((status, found.as_str()), (503, code));
        assert_eq!(message, "not now");
        let both = local(content(), &[&failing, &failing]).await;
        assert_eq!(error(both.chat(CHAT).await).await.1, code);
    }
    // Another appliance would not know the schema either.
    let (_failing, good, upstreams) = world(refusing("schema_busy")).await;
    let response = upstreams.generate(PATH, CHAT.into()).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.ends_with(b"}}"), "whole, though it was looked at");
    assert_eq!(good.paths(), [""; 0]);
}

#[tokio::test]
async fn who_fails_in_the_middle_comes_last() {
    let hanging_up = Script {
        hangs_up: true,
        ..Script::default()
    };
    // Nine bytes are announced, but only two are sent.
    let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
    sender.send_data("{}".into()).await.unwrap();
    let (mut sender, body) = (Some(sender), Mutex::new(Some(body)));
    let cut_short = Script {
        receipts: Receipts::Withheld,
        ..answering(move || {
            let body = body.lock().unwrap().take().expect("one question");
            let response = Response::builder().header("content-length", 9);
            response.body(body.boxed()).unwrap()
        })
    };
    let without = Script {
        receipts: Receipts::Withheld,
        ..Script::default()
    };
    let forged = Script {
        receipts: Receipts::Forged,
        ..Script::default()
    };
    for (name, script) in [
        ("hangs up", hanging_up),
        ("is cut short", cut_short),
        ("has no receipt", without),
        ("forges it", forged),
    ] {
        let (failing, good, upstreams) = world(script).await;
        match upstreams.generate(PATH, CHAT.into()).await {
            Err(UpstreamError::Broken(_)) => assert_eq!(name, "hangs up"),
            Err(error) => panic!("{name}: {error}"),
            Ok(response) => {
                if name == "is cut short" {
                    drop(sender.take());
                }
                match response.into_body().collect().await.map(drop) {
                    Err(AnswerError::Broken(_)) => assert_eq!(name, "is cut short"),
                    Err(AnswerError::Receipt(_)) => {
                        assert!(["has no receipt", "forges it"].contains(&name), "{name}")
                    }
                    Ok(()) => panic!("{name}"),
                }
            }
        }
        assert_eq!(questions(&failing), 1, "{name}");
        assert_eq!(good.paths(), [""; 0], "it may have been served: {name}");
        for _ in 0..2 {
            assert_eq!(answered_by(&upstreams).await, good.address, "{name}");
        }
        assert_eq!(questions(&failing), 1, "{name}");
    }
}

#[tokio::test]
async fn a_request_that_never_left_goes_elsewhere() {
    let closing = || Script {
        attests: Attests::ForNothing,
        ..Script::default()
    };
    let (failing, good, upstreams) = world(closing()).await;
    for _ in 0..2 {
        assert_eq!(answered_by(&upstreams).await, good.address);
    }
    assert_eq!(failing.paths(), [ATTEST_PATH]);
    let alone = Upstreams::new(content(), vec![failing.address.clone()]);
    let error = alone.generate(PATH, CHAT.into()).await.map(drop);
    let error = error.expect_err("nobody else is there");
    assert!(!error.is_rejection());
    match error {
        UpstreamError::NoneUsable(errors) => {
            assert!(
                matches!(&errors[..], [ConnectError::Closed { .. }]),
                "{errors:?}"
            );
        }
        UpstreamError::Broken(error) => panic!("{error}"),
    }
    assert_eq!(failing.paths(), [ATTEST_PATH; 2]);
}
