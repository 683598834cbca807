//! Tests of translations, summaries and replies with an appliance that answers as scripted.

mod refusing;

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cocoon_measurements::verdict::Class;
use cocoon_protocol::openai::{ChatRequest, FinishReason, Role};
use http::{Response, StatusCode};

use super::double::{Body, Double, Script, content, reply, verifier};
use super::receipts::{files, holds};
use crate::chat::ChatOptions;
use crate::messenger::tokens::estimate;
use crate::messenger::{Heard, Line, Messenger, MessengerError, Report, Style, Task, Tone};
use crate::receipts::{Bodies, Keeper};
use crate::transcript::Timing;
use crate::upstreams::Upstreams;

const EXCEEDED: &str = r#"{"error":{"message":"too long","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#;

/// The answer to one request.
enum Say {
    /// Text that ends normally.
    Words(&'static str),
    /// Text that is cut at the token limit.
    Cut(&'static str),
    /// The error that the context is exceeded.
    Exceeded,
}

/// Makes a stream of two pieces, with a usage of 3 + 2 tokens.
fn words(text: &str, finish: &str) -> Response<Body> {
    let half = text.len() / 2;
    let chunk = |text: &str, finish: Option<&str>| {
        let choice = serde_json::json!({
            "index": 0,
            "delta": { "content": text },
            "finish_reason": finish,
        });
        format!("data: {}\n\n", serde_json::json!({ "choices": [choice] }))
    };
    let body = format!(
        "{}{}data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}}}\n\n\
         data: [DONE]\n\n",
        chunk(&text[..half], None),
        chunk(&text[half..], Some(finish)),
    );
    reply(StatusCode::OK, "text/event-stream", body)
}

fn models(body: impl Into<Bytes>) -> Response<Body> {
    reply(StatusCode::OK, "application/json", body)
}

/// Starts an appliance that reports the context's length and then gives these answers in order,
/// repeating the last one.
async fn appliance(context: u32, says: Vec<Say>) -> Double {
    let count = AtomicUsize::new(0);
    Double::start(Script {
        answers: Box::new(move || {
            let turn = count.fetch_add(1, Ordering::Relaxed);
            if turn == 0 {
                let model = serde_json::json!({ "id": "m", "context_length": context });
                return models(serde_json::json!({ "data": [model] }).to_string());
            }
            match &says[(turn - 1).min(says.len() - 1)] {
                Say::Words(text) => words(text, "stop"),
                Say::Cut(text) => words(text, "length"),
                Say::Exceeded => reply(StatusCode::BAD_REQUEST, "application/json", EXCEEDED),
            }
        }),
        ..Script::default()
    })
    .await
}

fn options() -> ChatOptions {
    ChatOptions {
        model: "m".into(),
        seed: Some(7),
        ..ChatOptions::default()
    }
}

struct Done {
    report: Report,
    heard: String,
    result: Result<(), MessengerError>,
    /// Every chat request, in order.
    asked: Vec<ChatRequest>,
}

impl Done {
    /// Returns the texts of all questions.
    fn texts(&self) -> Vec<&str> {
        let users = self.asked.iter().map(|request| &request.messages[1]);
        users
            .inspect(|message| assert_eq!(message.role, Role::User))
            .map(|message| message.content.as_str())
            .collect()
    }

    fn results(&self) -> Vec<&str> {
        let results = self.report.results.iter();
        results.map(|result| result.as_str()).collect()
    }
}

async fn done(double: &Double, task: Task, drafts: usize, text: &str) -> Done {
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    done_over(upstreams, double, task, drafts, text).await
}

async fn done_over(
    upstreams: Upstreams,
    double: &Double,
    task: Task,
    drafts: usize,
    text: &str,
) -> Done {
    let messenger = Messenger::new(upstreams, options()).await.unwrap();
    let (mut report, mut heard) = (Report::default(), String::new());
    let result = messenger
        .run(task, drafts, text, &mut report, |one| {
            if let Heard::Words(words) = one {
                heard.push_str(words);
            }
        })
        .await;
    let (paths, bodies) = (double.paths(), double.bodies());
    let chats = paths
        .iter()
        .zip(&bodies)
        .filter(|(path, _)| *path == "/v1/chat/completions");
    let asked = chats.map(|(_, body)| serde_json::from_slice(body).unwrap());
    Done {
        report,
        heard,
        result,
        asked: asked.collect(),
    }
}

fn translate() -> Task {
    Task::Translate {
        to: "fr".parse().unwrap(),
        from: None,
    }
}

fn summarize() -> Task {
    Task::Summarize {
        style: Style::Sentence,
        words: None,
    }
}

#[tokio::test]
async fn a_long_text_is_translated_in_parts_and_put_together() {
    let double = appliance(1024, vec![Say::Words("\n Bon jour \n"), Say::Words("oui")]).await;
    let paragraph = "some words. ".repeat(40);
    let text = format!("\n{paragraph}\n\n{paragraph}\n \n```\ncode\n```\n");
    let done = done(&double, translate(), 1, &text).await;
    done.result.as_ref().unwrap();
    let paragraph = paragraph.trim_end();
    assert_eq!(done.texts(), [paragraph, paragraph]);
    let expected = "\nBon jour \n\noui \n \n```\ncode\n```\n";
    assert_eq!(done.results(), [expected]);
    assert_eq!(done.heard, expected);
    let request = &done.asked[0];
    assert!(
        request.stream
            && request
                .stream_options
                .is_some_and(|options| options.include_usage)
    );
    assert_eq!((request.temperature, request.seed), (Some(0.0), Some(8)));
    let most = u32::try_from(2 * estimate(paragraph) + 64).unwrap();
    assert_eq!(request.max_completion_tokens, Some(most));
    let usage = done.report.usage().unwrap();
    assert_eq!((usage.prompt_tokens, usage.total_tokens), (6, 10));
    assert_eq!(done.report.class(), Some(Class::Confidential));
    assert!(done.report.is_complete());
}

#[tokio::test]
async fn a_part_that_is_too_long_is_cut_and_asked_again() {
    let says = vec![Say::Exceeded, Say::Exceeded, Say::Words("x")];
    let double = appliance(1024, says).await;
    let text = "some words. ".repeat(20);
    let done = done(&double, translate(), 1, text.trim()).await;
    done.result.as_ref().unwrap();
    let texts = done.texts();
    assert_eq!(texts[0], text.trim());
    assert!(text.starts_with(texts[1]) && texts[1].len() <= texts[0].len() / 2 + 8);
    assert!(text.starts_with(texts[2]) && texts[2].len() <= texts[1].len() / 2 + 8);
    assert_eq!(texts[2..].join(" "), text.trim());
    assert_eq!(done.results(), [vec!["x"; texts.len() - 2].join(" ")]);
    // Only requests that were answered are counted.
    assert_eq!(done.report.parts.len(), texts.len() - 2);
}

/// Each part is a request of its own and has its own receipt, with request and response. A question
/// that the appliance refused before it reached an engine has none.
#[tokio::test]
async fn every_part_has_its_receipt() {
    let says = vec![Say::Words("un"), Say::Exceeded, Say::Words("deux")];
    let double = appliance(1024, says).await;
    let home = tempfile::tempdir().unwrap();
    let keeper = Keeper::open(home.path(), Bodies::Kept).unwrap();
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    let paragraph = "some words. ".repeat(40);
    let text = format!("{paragraph}\n\n{paragraph}");
    let kept = upstreams.with_receipts(keeper);
    let done = done_over(kept, &double, translate(), 1, text.trim()).await;
    done.result.as_ref().unwrap();
    // The first part, the second one that was refused, and the parts into which it was cut.
    assert!(done.asked.len() > 3);
    assert_eq!(done.report.parts.len(), done.asked.len() - 1);
    let found = files(home.path());
    assert_eq!(found.len(), 3 * done.report.parts.len());
    let answered = [&done.asked[..1], &done.asked[2..]].concat();
    for ((number, one), asked) in (1..).zip(found.chunks(3)).zip(answered) {
        let [bundle, request, response] = one else {
            panic!("{found:?}")
        };
        for (kind, (name, _)) in ["json", "request", "response"].iter().zip(one) {
            let ends = format!("-{number:04}.receipt.{kind}");
            assert!(name.ends_with(&ends), "{name} ends with {ends}");
        }
        assert!(holds(&bundle.1, &request.1, &response.1));
        let request: ChatRequest = serde_json::from_slice(&request.1).unwrap();
        assert_eq!(request.messages[1].content, asked.messages[1].content);
        let word = if number == 1 { "u" } else { "de" };
        let said = String::from_utf8(response.1.clone()).unwrap();
        assert!(said.contains(&format!("\"content\":\"{word}\"")), "{said}");
    }
}

#[tokio::test]
async fn a_long_text_is_summarized_from_notes() {
    let says = vec![
        Say::Words("One. "),
        Say::Words("Two."),
        Say::Words(" All of it.\n"),
    ];
    let double = appliance(2048, says).await;
    let text = format!("{}\n\n{}", "a b c. ".repeat(200), "d e f. ".repeat(200));
    let done = done(&double, summarize(), 1, &text).await;
    done.result.as_ref().unwrap();
    let texts = done.texts();
    assert_eq!(texts.len(), 3);
    assert_eq!(texts[2], "One.\n\nTwo.\n\n");
    assert_eq!(done.results(), ["All of it."]);
    assert_eq!(done.heard, "All of it.");
    let tasks: Vec<_> = done.report.parts.iter().map(|part| part.task).collect();
    assert_eq!(tasks, ["notes", "notes", "summarize"]);
}

#[tokio::test]
async fn drafts_are_asked_for_one_by_one_and_differ_in_their_seeds() {
    let says = vec![Say::Words("Yes!"), Say::Words("No."), Say::Cut("")];
    let double = appliance(8192, says).await;
    let task = Task::Reply { tone: Tone::Formal };
    let done = done(&double, task, 3, "Are you coming?").await;
    done.result.as_ref().unwrap();
    assert_eq!(done.results(), ["Yes!", "No.", ""]);
    let seeds: Vec<_> = done.asked.iter().map(|request| request.seed).collect();
    assert_eq!(seeds, [Some(9), Some(8), Some(7)]);
    assert!(done.asked.iter().all(|one| one.temperature == Some(0.8)));
    assert!(!done.report.is_complete());
    assert_eq!(
        done.report.parts[2].finish_reason,
        Some(FinishReason::Length)
    );
}

/// The line of JSON has the same fields in all cases.
#[tokio::test]
async fn a_line_says_what_came_of_it() {
    let double = appliance(8192, vec![Say::Words("Bonjour")]).await;
    let done = done(&double, translate(), 1, "hello").await;
    let begun = |task| Line {
        accepted: true,
        class: Some(Class::Simulated),
        summary: Some("SIMULATED"),
        model: Some("m"),
        timing: Timing {
            attested_ms: Some(12),
            ..Timing::default()
        },
        error: None,
        ..Line::failed(task, "https://first.example".into(), None, "")
    };
    let text = begun("translate").with(&done.report, None).text();
    assert!(!text.contains('\n'), "{text:?}");
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let part = serde_json::json!({
        "task": "translate",
        "text_bytes": 5,
        "finish_reason": "stop",
        "usage": { "prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5 },
        "url": double.address.to_string(),
        "class": "confidential",
    });
    for (field, value) in [
        ("url", double.address.to_string().into()),
        ("accepted", true.into()),
        ("class", "confidential".into()),
        ("verdict", serde_json::Value::Null),
        ("model", "m".into()),
        ("task", "translate".into()),
        ("result", "Bonjour".into()),
        ("drafts", serde_json::Value::Null),
        ("complete", true.into()),
        ("usage", part["usage"].clone()),
        ("parts", vec![part.clone()].into()),
        ("error", serde_json::Value::Null),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(line["timing"]["attested_ms"], 12);
    // Without a report on the appliance, the fields known before stay.
    let text = begun("reply")
        .with(&Report::default(), Some("broken"))
        .text();
    let failed: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(failed["class"], "simulated");
    assert_eq!(failed["drafts"], serde_json::json!([]));
    for field in ["result", "usage"] {
        assert_eq!(failed[field], serde_json::Value::Null, "{field}");
    }
    assert_eq!(
        (&failed["error"], &failed["complete"]),
        (&"broken".into(), &false.into())
    );
    let keys = |line: &serde_json::Value| -> Vec<String> {
        line.as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!(keys(&line), keys(&failed));
}

/// The class for several appliances is the lowest one. A rejected appliance is asked nothing.
#[tokio::test]
async fn the_least_verdict_counts() {
    let double = appliance(8192, vec![Say::Words("x")]).await;
    let mut report = done(&double, translate(), 1, "hello").await.report;
    assert_eq!(report.class(), Some(Class::Confidential));
    let double = appliance(8192, vec![Say::Words("x")]).await;
    let simulated = verifier(Class::Simulated, Class::Simulated, true);
    let upstreams = Upstreams::new(simulated, vec![double.address.clone()]);
    let messenger = Messenger::new(upstreams, options()).await.unwrap();
    let run = messenger.run(translate(), 1, "hello", &mut report, |_| {});
    run.await.unwrap();
    assert_eq!(report.class(), Some(Class::Simulated));

    let refusing = verifier(Class::Simulated, Class::Rejected, false);
    let upstreams = Upstreams::new(refusing, vec![double.address.clone()]);
    let asked = double.paths().len();
    let error = Messenger::new(upstreams, options()).await.unwrap_err();
    assert!(error.is_rejection(), "{error}");
    assert_eq!(double.paths().len(), asked + 1, "attestation alone");
}
