//! Tests of refusals and their errors.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Response, StatusCode};

use super::{Say, appliance, done, models, options, summarize, translate};
use crate::chat::ChatError;
use crate::messenger::{
    ContextError, JobError, MAX_TEXT_LEN, Messenger, MessengerError, Report, Task, Tone,
};
use crate::tests::double::{Body, Double, Script, content, reply};
use crate::upstreams::Upstreams;

#[tokio::test]
async fn an_appliance_that_finds_everything_too_long_ends_it() {
    let double = appliance(1024, vec![Say::Exceeded]).await;
    let done = done(&double, translate(), 1, &"some words. ".repeat(20)).await;
    let error = done.result.unwrap_err();
    assert!(
        matches!(error, MessengerError::Job(JobError::Part(tokens)) if tokens < 32),
        "{error}"
    );
    assert!(done.asked.len() < 8 && done.report.parts.is_empty());
    assert_eq!(done.report.usage(), None);
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_anything_is_asked() {
    let double = appliance(8192, vec![Say::Words("x")]).await;
    let reply = Task::Reply { tone: Tone::Same };
    let long = "x".repeat(MAX_TEXT_LEN + 1);
    let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
    let messenger = Messenger::new(upstreams, options()).await.unwrap();
    let refused = async |task: &Task, drafts, text: &str| {
        let mut report = Report::default();
        let run = messenger.run(task.clone(), drafts, text, &mut report, |_| {});
        run.await.unwrap_err()
    };
    let error = refused(&reply, 1, " \n").await;
    assert!(matches!(error, MessengerError::Empty), "{error}");
    let error = refused(&summarize(), 1, &long).await;
    assert!(matches!(error, MessengerError::TooLong), "{error}");
    for drafts in [0, 9] {
        let error = refused(&reply, drafts, "hi").await;
        let told = format!("{drafts} drafts cannot be had: ask for 1 to 8");
        assert_eq!(error.to_string(), told);
    }
    assert_eq!(double.paths().len(), 2, "{:?}", double.paths());
}

#[tokio::test]
async fn a_context_of_unknown_length_has_a_name() {
    let failing = |answer: fn() -> Response<Body>| async move {
        let script = Script {
            answers: Box::new(answer),
            ..Script::default()
        };
        let double = Double::start(script).await;
        let upstreams = Upstreams::new(content(), vec![double.address.clone()]);
        match Messenger::new(upstreams, options()).await {
            Err(MessengerError::Context(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    for missing in [
        || models(r#"{"data":[{"id":"other","context_length":5}]}"#),
        || models(r#"{"data":[{"id":"m"}]}"#),
    ] {
        let error = failing(missing).await;
        assert!(
            matches!(&error, ContextError::Missing(id) if id == "m"),
            "{error}"
        );
    }
    for malformed in [
        || models("{}"),
        || models(r#"{"data":[{"id":"m","context_length":-1}]}"#),
        || models(vec![b' '; 64 * 1024 + 1]),
    ] {
        let error = failing(malformed).await;
        assert!(matches!(error, ContextError::Malformed), "{error}");
    }
    let busy = || reply(StatusCode::SERVICE_UNAVAILABLE, "application/json", "{}");
    let error = failing(busy).await;
    assert!(matches!(error, ContextError::Refused(503)), "{error}");
}

/// The part of an answer that arrived before the connection broke stays in the report.
#[tokio::test]
async fn a_broken_answer_keeps_what_came() {
    let count = AtomicUsize::new(0);
    let double = Double::start(Script {
        answers: Box::new(move || match count.fetch_add(1, Ordering::Relaxed) {
            0 => models(r#"{"data":[{"id":"m","context_length":8192}]}"#),
            _ => reply(
                StatusCode::OK,
                "text/event-stream",
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Bon\"}}]}\n\ndata: nonsense\n\n",
            ),
        }),
        ..Script::default()
    })
    .await;
    let done = done(&double, translate(), 1, "hello").await;
    let error = done.result.unwrap_err();
    assert!(
        matches!(error, MessengerError::Chat(ChatError::Malformed)),
        "{error}"
    );
    let results: Vec<_> = done.report.results.iter().map(|one| one.as_str()).collect();
    assert_eq!(results, ["Bon"]);
    assert!(done.report.parts.is_empty());
}
