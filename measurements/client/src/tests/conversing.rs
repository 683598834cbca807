//! Tests of conversations: what is remembered, and the errors of broken answers.

use std::sync::{Arc, Mutex};

use cocoon_measurements::verdict::Class;
use cocoon_protocol::document::ATTEST_PATH;
use cocoon_protocol::openai::{ChatRequest, FinishReason};
use http::StatusCode;

use super::double::{Double, Script, content, reply, verifier};
use crate::chat::{ChatError, ChatOptions, Conversation};
use crate::error::chain;
use crate::padding::MAX_BODY_LEN;
use crate::terminal::TerminalError;
use crate::transcript::{Line, Timing, ask};
use crate::upstreams::Upstreams;

fn answering(body: &'static str, status: StatusCode) -> Script {
    Script {
        answers: Box::new(move || reply(status, "text/event-stream", body)),
        ..Script::default()
    }
}

const HELLO: &str = concat!(
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}],\"obfuscation\":\"xx\"}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Bon\"}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"jour\"},\"finish_reason\":\"stop\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n",
    "data: [DONE]\n\n",
);

#[tokio::test]
async fn conversations_remember() {
    let double = Double::start(answering(HELLO, StatusCode::OK)).await;
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    let mut conversation = Conversation::new(upstreams, ChatOptions::default(), Some("be brief"));
    let pieces = Arc::<Mutex<Vec<String>>>::default();
    let ending = conversation
        .ask("hello", |piece| {
            pieces.lock().unwrap().push(piece.to_owned())
        })
        .await
        .unwrap();
    assert_eq!(*pieces.lock().unwrap(), ["Bon", "jour"]);
    assert_eq!(
        (ending.finish, ending.usage.unwrap().total_tokens),
        (Some(FinishReason::Stop), 5)
    );
    conversation.ask("again", |_| {}).await.unwrap();
    let second: ChatRequest = serde_json::from_slice(&double.bodies()[2]).unwrap();
    let texts: Vec<_> = second
        .messages
        .iter()
        .map(|message| message.content.as_str())
        .collect();
    assert_eq!(texts, ["be brief", "hello", "Bonjour", "again"]);
    assert_eq!(
        double
            .paths()
            .iter()
            .filter(|path| *path == ATTEST_PATH)
            .count(),
        1,
        "one connection serves both"
    );
}

/// If the context is full, the error says how to go on, and a new conversation keeps only the
/// instructions.
#[tokio::test]
async fn a_full_conversation_makes_room() {
    let full = r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;
    let answers = Mutex::new([full, HELLO, full, HELLO].into_iter());
    let script = Script {
        answers: Box::new(move || match answers.lock().unwrap().next().unwrap() {
            HELLO => reply(StatusCode::OK, "text/event-stream", HELLO),
            refusal => reply(StatusCode::BAD_REQUEST, "application/json", refusal),
        }),
        ..Script::default()
    };
    let double = Double::start(script).await;
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    let mut conversation = Conversation::new(upstreams, ChatOptions::default(), Some("be brief"));
    // Without earlier messages, a new conversation would not help.
    let error = conversation.ask("a whole book", |_| {}).await.unwrap_err();
    assert!(matches!(error, ChatError::Refused { .. }), "{error}");
    conversation.ask("hello", |_| {}).await.unwrap();
    let error = conversation.ask("again", |_| {}).await.unwrap_err();
    assert_eq!(
        chain(&error),
        "the conversation is full: begin a new one (/new) and ask again: the appliance answers with status 400: too long"
    );
    conversation.clear();
    conversation.ask("anew", |_| {}).await.unwrap();
    let last: ChatRequest = serde_json::from_slice(double.bodies().last().unwrap()).unwrap();
    let texts = last.messages.iter().map(|message| &*message.content);
    assert_eq!(texts.collect::<Vec<_>>(), ["be brief", "anew"]);
}

/// A second appliance, or the same one over its next connection, may be refused after the first was
/// accepted.
#[tokio::test]
async fn a_rejection_between_questions_is_one() {
    let double = Double::start(answering(HELLO, StatusCode::OK)).await;
    let rejecting = verifier(Class::Simulated, Class::Rejected, false);
    for (verifier, rejected) in [(rejecting, true), (content(), false)] {
        let upstreams = Upstreams::new(verifier, vec![double.address.clone()]);
        let mut conversation = Conversation::new(upstreams, ChatOptions::default(), None);
        let too_long = "a".repeat(MAX_BODY_LEN);
        let prompt = if rejected { "hello" } else { &*too_long };
        let error = conversation.ask(prompt, |_| {}).await.unwrap_err();
        assert_eq!(error.is_rejection(), rejected, "{error}");
        assert_eq!(TerminalError::from(error).is_rejection(), rejected);
        let first = Line {
            accepted: true,
            class: Some(Class::Confidential),
            summary: Some("CONFIDENTIAL: the first"),
            ..Line::failed("https://first.example".into(), None, "")
        };
        let (text, asked) = ask(&mut conversation, prompt, &first).await;
        assert!(asked.is_err());
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (class, summary) = match rejected {
            true => ("rejected", serde_json::Value::Null),
            false => ("confidential", "CONFIDENTIAL: the first".into()),
        };
        let url = match rejected {
            true => double.address.to_string(),
            false => first.url.clone(),
        };
        assert_eq!(line["url"], url);
        assert_eq!(line["accepted"], !rejected);
        assert_eq!(
            (&line["class"], &line["summary"]),
            (&class.into(), &summary)
        );
        assert_eq!(
            line["verdict"]["class"],
            if rejected {
                "rejected".into()
            } else {
                serde_json::Value::Null
            }
        );
    }
}

#[tokio::test]
async fn broken_answers_have_names() {
    let failing = |body, status| async move {
        let double = Double::start(answering(body, status)).await;
        let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
        Conversation::new(upstreams, ChatOptions::default(), None)
            .ask("hello", |_| {})
            .await
            .expect_err("must fail")
    };
    assert!(matches!(
        failing("data: {\"choices\":[]}\n\n", StatusCode::OK).await,
        ChatError::CutShort
    ));
    assert!(matches!(
        failing("data: nonsense\n\n", StatusCode::OK).await,
        ChatError::Malformed
    ));
    let overload = r#"{"error":{"message":"busy","type":"server_error","param":null,"code":null}}"#;
    let error = failing(overload, StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(
        matches!(&error, ChatError::Refused { status: 503, message, code: None } if message == "busy"),
        "{error}"
    );
    let inside = "data: {\"error\":{\"message\":\"engine died\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n";
    let error = failing(inside, StatusCode::OK).await;
    assert!(
        matches!(&error, ChatError::Refused { status: 200, message, code: None } if message == "engine died"),
        "{error}"
    );
}

/// There is one line of JSON per question: the answer with verdict, usage and timing, or the error.
#[tokio::test]
async fn a_transcript_has_a_line_for_every_question() {
    let double = Double::start(answering(HELLO, StatusCode::OK)).await;
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    let mut conversation = Conversation::new(upstreams, ChatOptions::default(), None);
    let first = Line {
        accepted: true,
        model: Some("m"),
        timing: Timing {
            attested_ms: Some(12),
            ..Timing::default()
        },
        error: None,
        ..Line::failed("https://first.example".into(), None, "")
    };
    let (text, asked) = ask(&mut conversation, "hello", &first).await;
    asked.unwrap();
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(!text.contains('\n'), "{text:?}");
    assert_eq!(line["answer"], "Bonjour");
    assert_eq!(
        (&line["url"], &line["model"]),
        (&double.address.to_string().into(), &"m".into())
    );
    assert_eq!(
        (&line["accepted"], &line["class"], &line["error"]),
        (
            &true.into(),
            &"confidential".into(),
            &serde_json::Value::Null
        )
    );
    assert!(
        line["summary"]
            .as_str()
            .unwrap()
            .starts_with("CONFIDENTIAL: ")
    );
    assert_eq!(line["finish_reason"], "stop");
    assert_eq!(line["usage"]["total_tokens"], 5);
    assert_eq!(line["timing"]["attested_ms"], 12);
    let (first_piece, whole) = (
        line["timing"]["first_piece_ms"].as_u64().unwrap(),
        line["timing"]["answer_ms"].as_u64().unwrap(),
    );
    assert!(first_piece <= whole);

    let double = Double::start(answering("data: nonsense\n\n", StatusCode::OK)).await;
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    let mut conversation = Conversation::new(upstreams, ChatOptions::default(), None);
    let (text, asked) = ask(&mut conversation, "hello", &first).await;
    assert!(matches!(asked, Err(ChatError::Malformed)));
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        line["error"],
        "the answer holds an event that is not of this API"
    );
    assert_eq!(
        (&line["answer"], &line["usage"]),
        (&"".into(), &serde_json::Value::Null)
    );
}
