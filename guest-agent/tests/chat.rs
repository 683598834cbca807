//! Tests of answers, streams and errors, of engines that die or break the protocol, and of clients that leave.

mod common;

use std::sync::atomic::Ordering;

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::api::stream::BUCKET;
use cocoon_guest_agent::engine::EngineState;
use cocoon_protocol::receipt::RECEIPT_COMMENT;
use common::client::{DEADLINE, read, refusal};
use common::engine::CONTEXT;
use common::{Client, FakeEngine, MODEL, Machine, impatient, machine};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio::time::timeout;

/// The events of a stream, without `data: ` and without the comment that holds the receipt.
fn events(body: &[u8]) -> Vec<&str> {
    let text = std::str::from_utf8(body).unwrap();
    text.strip_suffix("\n\n")
        .unwrap()
        .split("\n\n")
        .filter(|event| !event.starts_with(RECEIPT_COMMENT))
        .map(|event| event.strip_prefix("data: ").unwrap())
        .collect()
}

#[tokio::test]
async fn health_models_and_a_whole_answer() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let (status, body) = client.get("/healthz").await;
    assert_eq!(
        (status.as_u16(), &body[..]),
        (200, br#"{"status":"ok"}"#.as_slice())
    );
    let (_, body) = client.get("/v1/models").await;
    let models: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(models["data"][0]["id"], MODEL);
    let (status, body) = read(client.chat("one two three", "").await).await;
    let answer: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status.as_u16(), 200);
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "one two three");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["total_tokens"], 10);
    let metrics = machine.counters.metrics(&EngineState::default());
    assert_eq!((metrics.requests, metrics.errors), (1, 0));
    assert_eq!(
        (
            metrics.prompt_tokens,
            metrics.completion_tokens,
            metrics.attestations
        ),
        (7, 3, 1)
    );
}

#[tokio::test]
async fn streamed_events_have_one_length_whatever_they_say() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let extra = r#","stream":true,"stream_options":{"include_usage":true}"#;
    let response = client
        .chat("a bb incomprehensibilities \u{1f980}\u{1f980}", extra)
        .await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (_, body) = read(response).await;
    let events = events(&body);
    let (last, chunks) = events.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    for chunk in chunks {
        assert_eq!(chunk.len() + "data: \n\n".len(), BUCKET, "{chunk}");
    }
    let values: Vec<Value> = chunks
        .iter()
        .map(|chunk| serde_json::from_str(chunk).unwrap())
        .collect();
    assert_eq!(values[0]["choices"][0]["delta"]["role"], "assistant");
    let text: String = values
        .iter()
        .filter_map(|value| value["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(text, "a bb incomprehensibilities \u{1f980}\u{1f980}");
    assert_eq!(
        values[values.len() - 2]["choices"][0]["finish_reason"],
        "stop"
    );
    assert_eq!(values[values.len() - 1]["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn obfuscation_can_be_declined() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let extra = r#","stream":true,"stream_options":{"include_obfuscation":false}"#;
    let (_, body) = read(client.chat("a bb", extra).await).await;
    assert!(
        events(&body)
            .iter()
            .all(|event| !event.contains("obfuscation") && !event.contains("usage"))
    );
}

#[tokio::test]
async fn refusals_are_openai_errors_that_name_the_field() {
    let machine = machine(
        FakeEngine::new().0,
        1,
        Limits {
            body: 1000,
            ..Limits::default()
        },
    )
    .await;
    let mut client = Client::attested(machine.address).await;
    let (status, param, _, message) = refusal(client.chat("secret", r#","audio":{}"#).await).await;
    assert_eq!((status, param.as_deref()), (400, Some("audio")));
    assert_eq!(message, "`audio` is not supported: leave it out.");
    let (status, _, code, _) = refusal(client.send("GET", "/nowhere", "").await).await;
    assert_eq!((status, code.as_deref()), (404, Some("unknown_url")));
    let response = client.send("GET", "/v1/chat/completions", "").await;
    assert_eq!(response.headers()["allow"], "POST");
    let (status, _, code, _) = refusal(response).await;
    assert_eq!(
        (status, code.as_deref()),
        (405, Some("method_not_supported"))
    );
    let body = r#"{"model":"gpt","messages":[{"role":"user","content":"secret"}]}"#;
    let (status, param, code, _) =
        refusal(client.send("POST", "/v1/chat/completions", body).await).await;
    assert_eq!(
        (status, param.as_deref(), code.as_deref()),
        (404, Some("model"), Some("model_not_found"))
    );
    let (status, param, code, message) = refusal(client.chat("too long", "").await).await;
    assert_eq!(
        message,
        "The conversation has more tokens than the 2048 that there is room for: shorten it."
    );
    assert_eq!(
        (status, param.as_deref(), code.as_deref()),
        (400, Some("messages"), Some("context_length_exceeded"))
    );
    // A failure before the engine starts a generation concerns that request only.
    assert_eq!(machine.engine.state().borrow().deaths, 0);
    let (status, _, code, _) = refusal(client.chat("wrong roles", "").await).await;
    assert_eq!(
        (status, code.as_deref()),
        (400, Some("invalid_conversation"))
    );
    let (status, _, code, message) = refusal(client.chat(&"x".repeat(1000), "").await).await;
    assert_eq!((status, code.as_deref()), (413, Some("request_too_large")));
    assert_eq!(message, "The request body exceeds the limit of 1000 bytes.");
}

#[tokio::test]
async fn an_engine_that_dies_or_lies_costs_its_requests_and_not_the_machine() {
    let (engine, _cancelled) = FakeEngine::new();
    let launches = engine.launches.clone();
    let machine = machine(engine, 2, Limits::default()).await;
    let lies = [
        "die",
        "lie about tokens",
        "lie about the prompt",
        "answer another",
        "let go of nothing",
        "call nobody",
        "be likely",
        "flood",
    ];
    each_ends_the_engine(&machine, &lies).await;
    assert_eq!(launches.load(Ordering::Relaxed), 9);
}

/// The counts that an engine reports at the end must equal those reported before, because receipts contain them.
#[tokio::test]
async fn an_engine_that_miscounts_is_ended() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let lies = [
        "lie about the sum",
        "lie about the first count",
        "answer before reading",
        "read twice",
    ];
    each_ends_the_engine(&machine, &lies).await;
}

/// There is at most one log probability for each token, however short.
#[tokio::test]
async fn an_engine_that_tells_more_probabilities_than_tokens_is_ended() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let likely = client.chat("be likely", ",\"logprobs\":true").await;
    assert_eq!(likely.status(), 200);
    read(likely).await;
    let response = client.chat("be likely twice", ",\"logprobs\":true").await;
    let (status, _, code, _) = refusal(response).await;
    assert_eq!((status, code.as_deref()), (503, Some("engine_died")));
}

/// Sends prompts that make the engine die or break the protocol, and checks that another engine replaces it each time.
async fn each_ends_the_engine(machine: &Machine, lies: &[&str]) {
    for (death, prompt) in (1..).zip(lies) {
        let mut client = Client::attested(machine.address).await;
        let response = client.chat(prompt, "").await;
        assert_eq!(response.headers()["retry-after"], "5");
        let (status, _, code, message) = refusal(response).await;
        assert_eq!(
            (status, code.as_deref()),
            (503, Some("engine_died")),
            "{prompt}"
        );
        assert_eq!(
            message,
            "The engine died and is being started again: repeat the request."
        );
        let mut state = machine.engine.state();
        let back = state.wait_for(|state| state.deaths == death && state.ready.is_some());
        drop(
            timeout(DEADLINE, back)
                .await
                .expect("engine back in time")
                .unwrap(),
        );
        let (status, _) = read(client.chat("still there", "").await).await;
        assert_eq!(status.as_u16(), 200);
    }
}

#[tokio::test]
async fn an_honest_engine_may_use_the_longest_tokens() {
    let (engine, _cancelled) = FakeEngine::new();
    let launches = engine.launches.clone();
    let machine = machine(engine, 1, Limits::default()).await;
    let tools = r#","tools":[{"type":"function","function":{"name":"f"}}]"#;
    for (prompt, extra) in [
        ("speak at length", r#","max_tokens":1024"#.to_owned()),
        (
            "speak at length",
            r#","max_tokens":64,"logprobs":true,"top_logprobs":20"#.to_owned(),
        ),
        ("call at length", format!(r#","max_tokens":1024{tools}"#)),
        ("call at length", format!(r#","max_tokens":1{tools}"#)),
    ] {
        let mut client = Client::attested(machine.address).await;
        let (status, body) = read(client.chat(prompt, &extra).await).await;
        let answer: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(status.as_u16(), 200, "{prompt}{extra}: {answer}");
        let message = &answer["choices"][0]["message"];
        let called = message["tool_calls"][0]["function"]["arguments"].as_str();
        let text = called.or(message["content"].as_str()).unwrap();
        let tokens = answer["usage"]["completion_tokens"].as_u64().unwrap();
        assert_eq!(text.len() as u64, 256 * tokens, "{prompt}{extra}");
    }
    assert_eq!(launches.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_schema_whose_turn_does_not_come_is_worth_another_try() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let response = client.chat("busy", "").await;
    assert_eq!(response.headers()["retry-after"], "5");
    let (status, _, code, message) = refusal(response).await;
    assert_eq!((status, code.as_deref()), (503, Some("schema_busy")));
    assert_eq!(
        message,
        "The JSON schema of another answer is being made ready: try again."
    );
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error_event() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let (status, body) = read(client.chat("die halfway", r#","stream":true"#).await).await;
    assert_eq!(status.as_u16(), 200);
    let events = events(&body);
    assert!(
        events
            .iter()
            .all(|event| event.len() + 8 == BUCKET && *event != "[DONE]")
    );
    let last: Value = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "engine_died");
}

#[tokio::test]
async fn a_client_that_leaves_cancels_and_frees_its_slot() {
    let (engine, mut cancelled) = FakeEngine::new();
    let machine = machine(engine, 1, impatient()).await;
    for stream in [r#","stream":true"#, ""] {
        let mut client = Client::attested(machine.address).await;
        if stream.is_empty() {
            // Not streaming: no response comes, so the request is dropped with its connection.
            let sending = timeout(
                std::time::Duration::from_millis(300),
                client.chat("wait", ""),
            );
            assert!(sending.await.is_err(), "an endless answer ended");
        } else {
            let mut response = client.chat("wait", stream).await;
            let first = timeout(DEADLINE, response.frame())
                .await
                .expect("an event in time");
            assert!(first.unwrap().unwrap().is_data());
            let mut other = Client::attested(machine.address).await;
            let refused = other.chat("hello", "").await;
            assert_eq!(refused.headers()["retry-after"], "1");
            let (status, _, code, message) = refusal(refused).await;
            assert_eq!(
                (status, code.as_deref()),
                (429, Some("rate_limit_exceeded"))
            );
            assert_eq!(
                message,
                "All generation slots of this machine are taken: try again."
            );
        }
        drop(client);
        timeout(DEADLINE, cancelled.recv())
            .await
            .expect("cancelled in time")
            .unwrap();
        let mut client = Client::attested(machine.address).await;
        assert_eq!(read(client.chat("hello", "").await).await.0.as_u16(), 200);
    }
}

#[tokio::test]
async fn a_slow_reader_does_not_hold_the_engine() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut slow = Client::attested(machine.address).await;
    // More pieces than all buffers of the connection hold, and the client reads none.
    let text = "word ".repeat(CONTEXT as usize - 1);
    let unread = slow.chat(text.trim_end(), r#","stream":true"#).await;
    let mut quick = Client::attested(machine.address).await;
    let mut status = 429;
    let done = async {
        while status == 429 {
            status = read(quick.chat("hello", "").await).await.0.as_u16();
        }
    };
    timeout(DEADLINE, done).await.expect("slot free in time");
    assert_eq!(status, 200);
    let (_, body) = read(unread).await;
    assert_eq!(events(&body).last(), Some(&"[DONE]"));
}

#[tokio::test]
async fn drain_finishes_what_runs_and_takes_nothing_new() {
    let machine = machine(FakeEngine::new().0, 1, Limits::default()).await;
    let mut client = Client::attested(machine.address).await;
    let response = client.chat("one two", r#","stream":true"#).await;
    machine.drain.send_replace(true);
    let (_, body) = read(response).await;
    assert_eq!(events(&body).last(), Some(&"[DONE]"));
    timeout(DEADLINE, machine.server)
        .await
        .expect("drained in time")
        .unwrap();
    assert!(
        tokio::net::TcpStream::connect(machine.address)
            .await
            .is_err(),
        "the port is still open"
    );
}
