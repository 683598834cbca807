//! Tests of the local endpoint with missing or wrong receipts: applications that do not know
//! receipts get errors that they understand.

use cocoon_protocol::openai::ErrorBody;
use http::StatusCode;
use http_body_util::BodyExt;

use super::double::{Double, Script, content, reply};
use super::receipting::Receipts;
use super::serving::{CHAT, error, local};

const STREAM: &str = "data: {\"choices\":[]}\n\ndata: [DONE]\n\n";

async fn double(kind: &'static str, body: &'static str, receipts: Receipts) -> Double {
    Double::start(Script {
        answers: Box::new(move || reply(StatusCode::OK, kind, body)),
        receipts,
        ..Script::default()
    })
    .await
}

#[tokio::test]
async fn whole_answers_without_a_good_receipt_are_502() {
    for (receipts, code, words) in [
        (Receipts::Withheld, "receipt_missing", "has no receipt"),
        (Receipts::Forged, "receipt_refused", "signature"),
        (
            Receipts::Changed(|one| one.response.0[0] ^= 1),
            "receipt_refused",
            "commitment to the response",
        ),
    ] {
        let double = double("application/json", "{}", receipts).await;
        let local = local(content(), &[&double]).await;
        let (status, found, message) = error(local.chat(CHAT).await).await;
        assert_eq!((status, found.as_str()), (502, code), "{message}");
        assert!(message.contains(words), "{message}");
    }
}

#[tokio::test]
async fn streams_without_a_good_receipt_end_with_an_error_event() {
    for (receipts, code) in [
        (Receipts::Withheld, "receipt_missing"),
        (Receipts::Forged, "receipt_refused"),
        (Receipts::Twice, "receipt_refused"),
    ] {
        let double = double("text/event-stream", STREAM, receipts).await;
        let local = local(content(), &[&double]).await;
        let response = local.chat(CHAT).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        assert!(!text.contains("[DONE]"), "{text}");
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(events[0], "data: {\"choices\":[]}");
        let last = events.last().unwrap().strip_prefix("data: ").unwrap();
        let error = serde_json::from_str::<ErrorBody>(last).unwrap().error;
        assert_eq!(error.code.as_deref(), Some(code), "{}", error.message);
    }
}

/// However the end mark is written, an application that parses server-sent events gets an error in
/// its place.
#[tokio::test]
async fn no_end_passes_without_a_receipt() {
    for (stream, passed) in [
        (
            "data: {\"choices\":[]}\r\rdata: [DONE]\r\r",
            "data: {\"choices\":[]}\r\r\n\n",
        ),
        (
            "data: {\"choices\":[]}\r\n\r\ndata:[DONE]\r\n\r\n",
            "data: {\"choices\":[]}\r\n\r\n\n\n",
        ),
        ("data: {}\ndata:[DONE]\n\n", "data: {}\n\n\n"),
        ("data:[DONE]\n\n", ""),
    ] {
        let double = double("text/event-stream", stream, Receipts::Withheld).await;
        let local = local(content(), &[&double]).await;
        let body = local.chat(CHAT).await.into_body().collect().await;
        let body = body.unwrap().to_bytes();
        let text = std::str::from_utf8(&body).unwrap();
        let rest = text
            .strip_prefix(passed)
            .unwrap_or_else(|| panic!("{text:?}"));
        let error = rest.strip_prefix("data: ").unwrap();
        let error = serde_json::from_str::<ErrorBody>(error.trim_end()).unwrap();
        assert_eq!(
            error.error.code.as_deref(),
            Some("receipt_missing"),
            "{text:?}"
        );
    }
}

#[tokio::test]
async fn good_receipts_pass_to_applications_that_want_them() {
    let streaming = double("text/event-stream", STREAM, Receipts::Honest).await;
    let whole = double("application/json", "{}", Receipts::Honest).await;
    let there = local(content(), &[&streaming]).await;
    let body = there.chat(CHAT).await.into_body().collect().await.unwrap();
    let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
    let (event, rest) = text.split_once(": cocoon-receipt ").unwrap();
    assert_eq!(event, "data: {\"choices\":[]}\n\n");
    assert!(rest.ends_with("\n\ndata: [DONE]\n\n"), "{rest}");
    let there = local(content(), &[&whole]).await;
    let response = there.chat(CHAT).await;
    assert_eq!(response.headers()["cocoon-receipt"].len(), 520);
}
