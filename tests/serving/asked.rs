//! What a client gets after it has verified the VM.

use cocoon_client::{AttestedConnection, Upstreams, table};
use cocoon_measurements::verdict::{Class, Outcome};
use cocoon_protocol::document::{ATTEST_PATH, AttestRequest, Document, MAX_DOCUMENT_LEN};
use cocoon_protocol::openai::{
    ChatRequest, ErrorBody, FinishReason, Message, Role, Stop, StreamOptions,
};
use cocoon_tests::alphabet;
use cocoon_tests::trial::Appliance;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::stranger::Stranger;

async fn connect(vm: &Appliance) -> AttestedConnection {
    let verifier = vm.verifier().unwrap();
    verifier.connect(&vm.address().unwrap()).await.unwrap()
}

fn request(vm: &Appliance, max_tokens: u32) -> ChatRequest {
    ChatRequest {
        model: vm.image.manifest.model.id.clone(),
        messages: vec![Message {
            role: Role::User,
            content: "Hi".into(),
        }],
        stream: false,
        stream_options: None,
        max_completion_tokens: Some(max_tokens),
        max_tokens: None,
        temperature: Some(0.0),
        top_p: None,
        seed: None,
        stop: None,
        padding: None,
    }
}

async fn answer(connection: &mut AttestedConnection, request: &ChatRequest) -> (u16, Vec<u8>) {
    let response = connection.chat(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap();
    (status, body.to_bytes().to_vec())
}

/// No check fails, the main checks pass, and both JSON and table contain every check.
pub async fn verdict(vm: &Appliance) {
    let connection = connect(vm).await;
    let verdict = connection.verdict();
    assert_eq!(verdict.class, Class::Simulated);
    let passed = |id| {
        verdict
            .checks
            .iter()
            .any(|check| check.id == id && check.outcome == Outcome::Pass)
    };
    for id in [
        "manifest.trust",
        "evidence.signature",
        "evidence.report_data",
        "tdx.mrtd",
        "tdx.event_log",
        "tdx.rtmr0",
        "tdx.rtmr1",
        "tdx.rtmr2",
    ] {
        assert!(passed(id), "{id}: {verdict:#?}");
    }
    let json = serde_json::to_value(verdict).unwrap();
    assert_eq!(json["class"], "simulated");
    assert_eq!(
        json["checks"].as_array().unwrap().len(),
        verdict.checks.len()
    );
    let shown = table(verdict, Default::default()).to_string();
    for check in &verdict.checks {
        let word = check.title.split(' ').next().unwrap_or_default();
        assert!(shown.contains(word), "{word}: {shown}");
    }
}

pub async fn models(vm: &Appliance) {
    let mut connection = connect(vm).await;
    let body = connection.models().await.unwrap().into_body();
    let body = body.collect().await.unwrap().to_bytes();
    assert_eq!(
        serde_json::from_slice::<Value>(&body).unwrap(),
        json!({
            "object": "list",
            "data": [{
                "id": vm.image.manifest.model.id,
                "object": "model",
                "created": 0,
                "owned_by": "cocoon",
                "context_length": alphabet::CONTEXT,
                "quantization": "F32",
                "pricing": null,
            }],
        })
    );
}

pub async fn whole_answers(vm: &Appliance) {
    let mut connection = connect(vm).await;
    let (status, body) = answer(&mut connection, &request(vm, 4)).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(
        body["choices"],
        json!([{
            "index": 0,
            "message": { "role": "assistant", "content": "abcd", "refusal": null },
            "logprobs": null,
            "finish_reason": "length",
        }])
    );
    let prompt = &body["usage"]["prompt_tokens"];
    let prompt = prompt.as_u64().unwrap();
    // One token for each byte of the message and the template, and one for each of the three special tokens.
    assert_eq!(prompt, 3 + "user\nHi\nassistant\n".len() as u64);
    assert_eq!(
        body["usage"],
        json!({
            "prompt_tokens": prompt, "completion_tokens": 4, "total_tokens": prompt + 4,
            "prompt_tokens_details": { "cached_tokens": 0 },
        })
    );

    // A stop string ends the answer and is not part of it; on the same connection.
    let mut stopping = request(vm, 20);
    stopping.stop = Some(Stop::One("de".into()));
    let (status, body) = answer(&mut connection, &stopping).await;
    assert_eq!(status, 200);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["choices"][0]["message"]["content"], "abc");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

pub async fn streams(vm: &Appliance) {
    let mut connection = connect(vm).await;
    let mut streaming = request(vm, 5);
    streaming.stream = true;
    streaming.stream_options = Some(StreamOptions {
        include_usage: true,
        include_obfuscation: Some(false),
    });
    let response = connection.chat(&streaming).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let events: Vec<&str> = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "))
        .collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event).unwrap())
        .collect();
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let said: String = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, "abcde");
    let usage = &chunks[chunks.len() - 1]["usage"];
    assert_eq!(usage["completion_tokens"], 5);
    let finish = &chunks[chunks.len() - 2]["choices"][0]["finish_reason"];
    assert_eq!(finish, "length");
}

/// The second question includes the first one and its answer.
pub async fn a_conversation(vm: &Appliance) {
    let mut conversation = vm.conversation(3).unwrap();
    let mut pieces = Vec::new();
    let first = conversation
        .ask("Hi", |piece| pieces.push(piece.to_owned()))
        .await
        .unwrap();
    assert_eq!(pieces.concat(), "abc");
    assert_eq!(first.finish, Some(FinishReason::Length));
    let second = conversation.ask("Hi", |_| ()).await.unwrap();
    let more = second.usage.unwrap().prompt_tokens - first.usage.unwrap().prompt_tokens;
    assert_eq!(more as usize, 4 + "abc\nuser\nHi\nassistant\n".len());
}

/// If one appliance is down, the client uses the next.
pub async fn fail_over(vm: &Appliance) {
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://{}", gone.local_addr().unwrap());
    drop(gone);
    let upstreams = Upstreams::new(
        vm.verifier().unwrap(),
        vec![address.parse().unwrap(), vm.address().unwrap()],
    );
    let used = upstreams
        .warm(|connection| connection.address().clone())
        .await
        .unwrap();
    assert_eq!(used, vm.address().unwrap());
}

/// Before attestation a client gets nothing but evidence; afterwards the same connection is open.
pub async fn unverified(vm: &Appliance) {
    let stranger = Stranger::new();
    for (method, path, body) in [
        ("GET", "/v1/models", ""),
        ("GET", "/healthz", ""),
        ("POST", "/v1/chat/completions", "{}"),
    ] {
        let mut connection = stranger.connect(vm.vm.endpoint).await;
        let (status, body) = connection.ask(method, path, body).await;
        let error = serde_json::from_slice::<ErrorBody>(&body).unwrap().error;
        assert_eq!(
            (status, error.code.as_deref()),
            (421, Some("attestation_required")),
            "{path}"
        );
    }
    let mut connection = stranger.connect(vm.vm.endpoint).await;
    let nonce = serde_json::to_string(&AttestRequest {
        nonce: cocoon_protocol::bytes::Hex([3; 32]),
    });
    let (status, body) = connection.ask("POST", ATTEST_PATH, &nonce.unwrap()).await;
    assert_eq!(status, 200);
    Document::parse(&body, MAX_DOCUMENT_LEN).unwrap();
    let (status, body) = connection.ask("GET", "/healthz", "").await;
    assert_eq!((status, &body[..]), (200, &br#"{"status":"ok"}"#[..]));
}

/// Errors name the field and repeat nothing else of the request.
pub async fn errors(vm: &Appliance) {
    let stranger = Stranger::new();
    let mut connection = stranger.connect(vm.vm.endpoint).await;
    let nonce = serde_json::to_string(&AttestRequest {
        nonce: cocoon_protocol::bytes::Hex([4; 32]),
    });
    connection.ask("POST", ATTEST_PATH, &nonce.unwrap()).await;
    let good = json!({
        "model": vm.image.manifest.model.id,
        "messages": [{ "role": "user", "content": "Hi" }],
    });
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body.to_string()
    };
    let long = "x".repeat(alphabet::CONTEXT as usize);
    for (body, status, param, code, message) in [
        (
            with("web_search_options", json!({})),
            400,
            Some("web_search_options"),
            Some("unsupported_parameter"),
            "`web_search_options` is not supported: leave it out.",
        ),
        (
            with("temprature", json!(1)),
            400,
            Some("temprature"),
            Some("unknown_parameter"),
            "`temprature` is not known: leave it out.",
        ),
        (
            with("temperature", json!(3)),
            400,
            Some("temperature"),
            None,
            "`temperature` must be 0 to 2.",
        ),
        (
            with("model", json!("other")),
            404,
            Some("model"),
            Some("model_not_found"),
            "The requested model does not exist on this machine: see /v1/models.",
        ),
        (
            with("messages", json!([{ "role": "user", "content": long }])),
            400,
            Some("messages"),
            Some("context_length_exceeded"),
            "The conversation has more tokens than the 1024 that there is room for: shorten it.",
        ),
        (
            "rubbish".to_owned(),
            400,
            None,
            None,
            "The request body is not a JSON object (line 1, column 1).",
        ),
    ] {
        let (found, answer) = connection.ask("POST", "/v1/chat/completions", &body).await;
        let error = serde_json::from_slice::<ErrorBody>(&answer).unwrap().error;
        assert_eq!(
            (found, error.param.as_deref(), error.code.as_deref()),
            (status, param, code),
            "{}",
            error.message
        );
        assert_eq!(error.message, message);
    }
}

/// Constraints that only the engine can enforce, inside its sandbox: a schema, a tool, and log probabilities of tokens.
pub async fn held_answers(vm: &Appliance) {
    let stranger = Stranger::new();
    let mut connection = stranger.connect(vm.vm.endpoint).await;
    let nonce = serde_json::to_string(&AttestRequest {
        nonce: cocoon_protocol::bytes::Hex([5; 32]),
    });
    connection.ask("POST", ATTEST_PATH, &nonce.unwrap()).await;
    let schema = json!({
        "type": "object",
        "properties": { "word": { "const": "abc" } },
        "required": ["word"],
        "additionalProperties": false,
    });
    let request = |more: Value| {
        let mut body = json!({
            "model": vm.image.manifest.model.id,
            "messages": [{ "role": "user", "content": "Hi" }],
            "temperature": 0,
            "max_completion_tokens": 60,
            // Excludes white space, which this model would generate for ever.
            "logit_bias": { "9": -100, "10": -100, "13": -100, "32": -100 },
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body.to_string()
    };
    let format = json!({ "name": "answer", "schema": schema });
    let held = request(json!({
        "response_format": { "type": "json_schema", "json_schema": format },
        "logprobs": true,
        "top_logprobs": 1,
    }));
    let (status, body) = connection.ask("POST", "/v1/chat/completions", &held).await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let body: Value = serde_json::from_slice(&body).unwrap();
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], r#"{"word":"abc"}"#);
    assert_eq!(choice["finish_reason"], "stop");
    // The grammar forces the brace, while the model itself prefers the letter.
    let first = &choice["logprobs"]["content"][0];
    assert_eq!(
        (&first["token"], &first["top_logprobs"][0]["token"]),
        (&json!("{"), &json!("a"))
    );

    let called = request(json!({
        "tools": [{ "type": "function", "function": { "name": "say", "parameters": schema } }],
        "tool_choice": "required",
    }));
    let (status, body) = connection
        .ask("POST", "/v1/chat/completions", &called)
        .await;
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let body: Value = serde_json::from_slice(&body).unwrap();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert_eq!(
        choice["message"]["tool_calls"][0]["function"],
        json!({ "name": "say", "arguments": r#"{"word":"abc"}"# })
    );
}
