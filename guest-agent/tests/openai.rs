//! Tests of OpenAI's API beyond a single text: several choices, tool calls, log probabilities and completions.

mod common;

use std::collections::BTreeSet;

use cocoon_guest_agent::api::Limits;
use cocoon_guest_agent::api::stream::BUCKET;
use cocoon_protocol::receipt::RECEIPT_COMMENT;
use common::client::{read, refusal};
use common::{Client, FakeEngine, MODEL, impatient, machine};
use serde_json::{Value, json};

const TOOLS: &str = r#","tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]"#;
const STREAM: &str = r#","stream":true,"stream_options":{"include_usage":true}"#;

async fn client(slots: u16) -> Client {
    let machine = machine(FakeEngine::new().0, slots, Limits::default()).await;
    Client::attested(machine.address).await
}

/// The JSON of a successful answer.
async fn answer(client: &mut Client, prompt: &str, extra: &str) -> Value {
    let (status, body) = read(client.chat(prompt, extra).await).await;
    assert_eq!(status.as_u16(), 200, "{}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).unwrap()
}

/// The events of a stream that ends well, without its receipt. Each is a multiple of the bucket size.
async fn stream(client: &mut Client, prompt: &str, extra: &str) -> Vec<Value> {
    let (status, body) = read(client.chat(prompt, &format!("{STREAM}{extra}")).await).await;
    assert_eq!(status.as_u16(), 200, "{}", String::from_utf8_lossy(&body));
    let text = std::str::from_utf8(&body).unwrap();
    let mut events: Vec<&str> = text.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"));
    let receipt = events.pop().unwrap();
    assert!(receipt.starts_with(RECEIPT_COMMENT), "{receipt}");
    let event = |event: &str| {
        assert_eq!((event.len() + 2) % BUCKET, 0, "{event}");
        serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap()
    };
    events.into_iter().map(event).collect()
}

#[tokio::test]
async fn several_choices_have_their_own_seeds_and_one_prompt() {
    let mut client = client(3).await;
    let body = answer(&mut client, "say your seed", r#","n":3,"seed":41"#).await;
    let said: Vec<&str> = body["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| choice["message"]["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["41", "42", "43"]);
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10,
            "prompt_tokens_details": { "cached_tokens": 0 },
        })
    );
    // The model digest of this machine is 04 04 04...
    assert_eq!(body["system_fingerprint"], "fp_040404040404");

    let mut seeds = BTreeSet::new();
    for _ in 0..2 {
        let events = stream(&mut client, "say your seed", r#","n":2"#).await;
        for index in 0..2 {
            let of = |event: &&Value| event["choices"][0]["index"] == index;
            let own: Vec<&Value> = events.iter().filter(of).collect();
            assert_eq!(own[0]["choices"][0]["delta"]["role"], "assistant");
            let seed = own[1]["choices"][0]["delta"]["content"].as_str().unwrap();
            seeds.insert(seed.to_owned());
            assert_eq!(own[2]["choices"][0]["finish_reason"], "stop");
        }
        let last = events.last().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["completion_tokens"], 2);
    }
    assert_eq!(seeds.len(), 4, "seeds that were drawn differ");
    let (status, param, ..) = refusal(client.chat("hi", r#","n":4"#).await).await;
    assert_eq!((status, param.as_deref()), (400, Some("n")));
}

#[tokio::test]
async fn choices_start_together_or_not_at_all() {
    let mut client = client(2).await;
    let machine = machine(FakeEngine::new().0, 2, impatient()).await;
    let mut busy = Client::attested(machine.address).await;
    let held = busy.chat("wait", STREAM).await;
    let mut other = Client::attested(machine.address).await;
    let (status, ..) = refusal(other.chat("hello", r#","n":2"#).await).await;
    assert_eq!(status, 429);
    // The slot that was free is still free.
    answer(&mut other, "hello", "").await;
    drop(held);
    answer(&mut client, "hello", r#","n":2"#).await;
}

#[tokio::test]
async fn calls_of_tools_are_told_as_openai_does() {
    let mut client = client(1).await;
    let body = answer(&mut client, "call twice", TOOLS).await;
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(choice["message"]["content"], Value::Null);
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    let told: Vec<Value> = calls
        .iter()
        .map(|call| json!([call["type"], call["function"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["function", { "name": "f", "arguments": "{\"a\":1}" }]),
            json!(["function", { "name": "g", "arguments": "{}" }]),
        ]
    );
    let id = calls[0]["id"].as_str().unwrap();
    assert!(id.starts_with("call_") && calls[1]["id"] != id);

    let events = stream(&mut client, "call twice", TOOLS).await;
    let calls: Vec<&Value> = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["tool_calls"].get(0))
        .collect();
    let first = calls[0];
    assert!(first["id"].as_str().unwrap().starts_with("call_"));
    assert_eq!(first["function"], json!({ "name": "f", "arguments": "" }));
    assert_eq!(
        calls[1],
        &json!({ "index": 0, "function": { "arguments": "{\"a\":" } })
    );
    assert_eq!(
        (&calls[3]["index"], &calls[3]["function"]["name"]),
        (&json!(1), &json!("g"))
    );
    let reasons: Vec<&Value> = events
        .iter()
        .map(|event| &event["choices"][0]["finish_reason"])
        .filter(|reason| !reason.is_null())
        .collect();
    assert_eq!(reasons, ["tool_calls"]);
}

#[tokio::test]
async fn log_probabilities_come_with_their_tokens() {
    let mut client = client(1).await;
    let extra = r#","logprobs":true,"top_logprobs":2"#;
    let body = answer(&mut client, "ab \u{e9}", extra).await;
    let token = |text: &str| json!({ "token": text, "bytes": text.as_bytes(), "logprob": -0.5 });
    let told = |text: &str| {
        let mut told = token(text);
        told["top_logprobs"] = json!([token(text), token(text)]);
        told
    };
    assert_eq!(
        body["choices"][0]["logprobs"],
        json!({ "content": [told("ab "), told("\u{e9}")], "refusal": null })
    );
    let events = stream(&mut client, "ab", extra).await;
    assert_eq!(
        events[1]["choices"][0]["logprobs"]["content"],
        json!([told("ab")])
    );
    let body = answer(&mut client, "ab", r#","logprobs":true"#).await;
    assert_eq!(
        body["choices"][0]["logprobs"]["content"][0]["top_logprobs"],
        json!([])
    );
}

#[tokio::test]
async fn completions_continue_a_text() {
    let mut client = client(2).await;
    let path = "/v1/completions";
    let body = |prompt: &str, extra: &str| {
        format!("{{\"model\":\"{MODEL}\",\"prompt\":\"{prompt}\"{extra}}}")
    };
    let (status, whole) = client
        .post(path, &body("one two", r#","logprobs":1"#))
        .await;
    let whole: Value = serde_json::from_slice(&whole).unwrap();
    assert_eq!(status.as_u16(), 200, "{whole}");
    assert_eq!(whole["object"], "text_completion");
    assert!(whole["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(
        whole["choices"],
        json!([{
            "text": "one two", "index": 0, "finish_reason": "stop",
            "logprobs": {
                "tokens": ["one ", "two"], "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{ "one ": -0.5 }, { "two": -0.5 }], "text_offset": [0, 4],
            },
        }])
    );
    let (_, streamed) = client.post(path, &body("one two", STREAM)).await;
    let text = String::from_utf8(streamed.to_vec()).unwrap();
    let mut said = String::new();
    let comment = |event: &&str| event.starts_with(RECEIPT_COMMENT);
    for event in text
        .split_terminator("\n\n")
        .filter(|event| !comment(event))
    {
        let Ok(event) = serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()) else {
            assert_eq!(event, "data: [DONE]");
            continue;
        };
        said.push_str(event["choices"][0]["text"].as_str().unwrap_or_default());
    }
    assert_eq!(said, "one two");
    let refused = client
        .send("POST", path, &body("a", r#","echo":true"#))
        .await;
    let (status, param, code, _) = refusal(refused).await;
    assert_eq!(
        (status, param.as_deref(), code.as_deref()),
        (400, Some("echo"), Some("unsupported_parameter"))
    );
    let (status, ..) = refusal(client.send("GET", path, "").await).await;
    assert_eq!(status, 405);
    let refused = refusal(client.send("POST", path, &body("too long", "")).await).await;
    let message = "The prompt has more tokens than the 88 that there is room for: shorten it.";
    let code = "context_length_exceeded";
    assert_eq!(
        refused,
        (
            400,
            Some("prompt".into()),
            Some(code.into()),
            message.into()
        )
    );
    let refused = refusal(client.send("POST", path, &body("wrong roles", "")).await).await;
    assert_eq!((refused.0, refused.1), (500, None));
}

#[tokio::test]
async fn a_steady_tick_is_bounded_and_hides_what_it_is_for() {
    let mut client = client(1).await;
    let options = |more: &str| format!(r#","stream":true,"stream_options":{{{more}}}"#);
    let field = "stream_options.interval_ms";
    for (extra, message) in [
        (
            options(r#""interval_ms":19"#),
            "`stream_options.interval_ms` must be 20 to 5000.",
        ),
        (
            options(r#""interval_ms":5001"#),
            "`stream_options.interval_ms` must be 20 to 5000.",
        ),
        (
            options(r#""interval_ms":"1""#),
            "`stream_options.interval_ms` must be an integer of 20 to 5000.",
        ),
        (
            options(r#""interval_ms":20,"include_obfuscation":false"#),
            "`stream_options.interval_ms` is for streams with `include_obfuscation`.",
        ),
        (
            options(r#""interval_ms":20"#) + r#","logprobs":true"#,
            "`stream_options.interval_ms` is for requests without `logprobs`.",
        ),
    ] {
        let (status, param, _, found) = refusal(client.chat("hi", &extra).await).await;
        assert_eq!((status, param.as_deref()), (400, Some(field)), "{extra}");
        assert_eq!(found, message);
    }
    let extra = options(r#""interval_ms":20"#);
    let (status, body) = read(client.chat("one two", &extra).await).await;
    assert_eq!(status.as_u16(), 200);
    let text = std::str::from_utf8(&body).unwrap();
    let events: Vec<&str> = text.split_terminator("\n\n").collect();
    let (ticks, end) = events.split_at(events.len() - 2);
    assert!(end[0].starts_with(RECEIPT_COMMENT) && end[1] == "data: [DONE]");
    let mut said = String::new();
    for tick in ticks {
        assert_eq!(tick.len() + 2, BUCKET, "{tick}");
        let value: Value = serde_json::from_str(tick.strip_prefix("data: ").unwrap()).unwrap();
        let content = &value["choices"][0]["delta"]["content"];
        said.push_str(content.as_str().unwrap_or_default());
    }
    assert_eq!(said, "one two");
}

#[tokio::test]
async fn a_model_is_described() {
    let mut client = client(1).await;
    let (_, list) = client.get("/v1/models").await;
    let list: Value = serde_json::from_slice(&list).unwrap();
    let (status, one) = client.get(&format!("/v1/models/{MODEL}")).await;
    assert_eq!(status.as_u16(), 200);
    let one: Value = serde_json::from_slice(&one).unwrap();
    assert_eq!(list["data"], json!([one]));
    assert_eq!(one["pricing"], Value::Null);
    let (status, param, code, _) = refusal(client.send("GET", "/v1/models/other", "").await).await;
    assert_eq!(
        (status, param.as_deref(), code.as_deref()),
        (404, Some("model"), Some("model_not_found"))
    );
    let (status, ..) = refusal(
        client
            .send("DELETE", &format!("/v1/models/{MODEL}"), "")
            .await,
    )
    .await;
    assert_eq!(status, 405);
}

#[tokio::test]
async fn a_schema_that_no_grammar_can_be_made_of_is_refused() {
    let mut client = client(1).await;
    let (status, param, code, _) = refusal(client.chat("bad schema", "").await).await;
    assert_eq!(
        (status, param, code.as_deref()),
        (400, None, Some("invalid_schema"))
    );
}
