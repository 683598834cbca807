//! Requests with a canary in every place where a client can put text, including requests that are refused, because an
//! error that quotes a request leaks as well.

use cocoon_tests::alphabet;
use serde_json::{Value, json};

/// Text that must not be found in any place of the host.
pub const CANARY: &str = "Q7vKanarienvogel";
const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A request and its expected status.
pub struct Question {
    pub method: &'static str,
    pub path: String,
    pub body: String,
    pub status: u16,
    /// Whether the answer itself contains the canary.
    pub says: bool,
}

/// Returns all requests for the model of that name.
pub fn all(model: &str) -> Vec<Question> {
    let chat =
        |fields: &Value, status| post(CHAT, with(&chat_of(model), fields).to_string(), status);
    let complete = |fields: &Value, status| {
        let body = with(&completion(model), fields);
        post(COMPLETIONS, body.to_string(), status)
    };
    let mut all: Vec<Question> = Vec::new();
    all.extend(chats().iter().map(|(fields, status)| chat(fields, *status)));
    all.extend(tools().iter().map(|(fields, status)| chat(fields, *status)));
    let formats = formats();
    all.extend(formats.iter().map(|(fields, status)| chat(fields, *status)));
    all.extend(saying().iter().map(|fields| Question {
        says: true,
        ..chat(fields, 200)
    }));
    let completions = completions();
    all.extend(
        completions
            .iter()
            .map(|(fields, status)| complete(fields, *status)),
    );
    for path in [CHAT, COMPLETIONS] {
        all.push(post(path, format!("{{{CANARY}"), 400));
        let twice = format!("{{\"{CANARY}\":1,\"{CANARY}\":\"{CANARY}\"}}");
        all.push(post(path, twice, 400));
    }
    let query = format!("?{CANARY}={CANARY}");
    all.push(post(
        &format!("{CHAT}{query}"),
        chat_of(model).to_string(),
        200,
    ));
    all.push(post(
        &format!("{COMPLETIONS}{query}"),
        completion(model).to_string(),
        200,
    ));
    for (path, status) in [
        (format!("/v1/models{query}"), 200),
        (format!("/v1/models/{CANARY}"), 404),
        (format!("/{CANARY}{query}"), 404),
    ] {
        all.push(Question {
            method: "GET",
            path,
            body: String::new(),
            status,
            says: false,
        });
    }
    all
}

fn post(path: &str, body: String, status: u16) -> Question {
    Question {
        method: "POST",
        path: path.to_owned(),
        body,
        status,
        says: false,
    }
}

fn with(body: &Value, fields: &Value) -> Value {
    let mut body = body.clone();
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn chat_of(model: &str) -> Value {
    json!({
        "model": model,
        "messages": [
            { "role": "system", "content": CANARY },
            { "role": "user", "content": format!("Hi {CANARY}") },
        ],
        "stop": [CANARY],
        "max_tokens": 2,
        "temperature": 0,
    })
}

fn completion(model: &str) -> Value {
    json!({
        "model": model,
        "prompt": CANARY,
        "stop": [CANARY],
        "user": CANARY,
        "max_tokens": 2,
        "temperature": 0,
    })
}

/// Returns fields of chat requests without tools, each with the expected status.
fn chats() -> Vec<(Value, u16)> {
    let long = CANARY.repeat(alphabet::CONTEXT as usize);
    let user = |content: Value| json!({ "messages": [{ "role": "user", "content": content }] });
    vec![
        (json!({}), 200),
        (json!({ "stream": true }), 200),
        (json!({ "logprobs": true, "top_logprobs": 2 }), 200),
        (json!({ "padding": CANARY }), 200),
        (json!({ "user": CANARY, "safety_identifier": CANARY }), 200),
        (json!({ "metadata": { CANARY: CANARY } }), 200),
        (
            user(json!([{ "type": "text", "text": CANARY }, { "type": "text", "text": CANARY }])),
            200,
        ),
        (json!({ "model": CANARY }), 404),
        (json!({ CANARY: CANARY }), 400),
        (json!({ "temperature": CANARY }), 400),
        (json!({ "service_tier": CANARY }), 400),
        (
            json!({ "messages": [{ "role": CANARY, "content": CANARY }] }),
            400,
        ),
        (user(json!(long)), 400),
        (user(json!([{ "type": CANARY, "text": CANARY }])), 400),
        (
            user(json!([{ "type": "text", "text": CANARY, CANARY: CANARY }])),
            400,
        ),
        (
            json!({ "stream": true, "stream_options": { CANARY: CANARY } }),
            400,
        ),
    ]
}

/// Returns chat requests with tools, tool calls and results, each with the expected status.
fn tools() -> Vec<(Value, u16)> {
    let tool = |function: Value| json!({ "tools": [{ "type": "function", "function": function }] });
    let called = |arguments: &str, id: &str| {
        let function = json!({ "name": CANARY, "arguments": arguments });
        json!({ "messages": [
            { "role": "user", "content": CANARY },
            { "role": "assistant", "tool_calls": [{ "id": CANARY, "type": "function", "function": function }] },
            { "role": "tool", "tool_call_id": id, "content": [{ "type": "text", "text": CANARY }] },
        ] })
    };
    let parameters = json!({
        "type": "object",
        "properties": { CANARY: { "enum": [CANARY] } },
        "required": [CANARY],
        "additionalProperties": false,
    });
    let good = json!({ "name": CANARY, "description": CANARY, "parameters": parameters });
    let chosen = |choice: Value| with(&tool(good.clone()), &json!({ "tool_choice": choice }));
    let arguments = json!({ CANARY: CANARY }).to_string();
    vec![
        (tool(good.clone()), 200),
        (called(&arguments, CANARY), 200),
        (tool(json!({ "name": format!("{CANARY} {CANARY}") })), 400),
        (tool(json!({ "name": CANARY, CANARY: CANARY })), 400),
        (
            tool(json!({ "name": CANARY, "description": [CANARY] })),
            400,
        ),
        (tool(json!({ "name": CANARY, "parameters": CANARY })), 400),
        (
            with(
                &tool(json!({ "name": CANARY, "parameters": { CANARY: CANARY } })),
                &json!({ "tool_choice": "required" }),
            ),
            400,
        ),
        (chosen(json!(CANARY)), 400),
        (
            chosen(json!({ "type": "function", "function": { "name": format!("{CANARY}2") } })),
            400,
        ),
        (called(CANARY, CANARY), 400),
        (called(&arguments, &format!("{CANARY}2")), 400),
    ]
}

/// Returns response formats, each with the expected status.
fn formats() -> Vec<(Value, u16)> {
    let format = |schema: Value| {
        let schema = json!({ "name": CANARY, "description": CANARY, "schema": schema });
        json!({ "response_format": { "type": "json_schema", "json_schema": schema } })
    };
    let within = |schema: Value| {
        format(json!({
            "type": "object",
            "properties": { CANARY: schema },
            "required": [CANARY],
            "additionalProperties": false,
        }))
    };
    vec![
        (within(json!({ "enum": [CANARY] })), 200),
        (
            within(json!({ "type": "string", "pattern": format!("^{CANARY}$") })),
            200,
        ),
        (json!({ "response_format": { "type": CANARY } }), 400),
        (
            json!({ "response_format": { "type": "json_object", CANARY: CANARY } }),
            400,
        ),
        // Refused by the agent, because of the schema's keywords.
        (format(json!(CANARY)), 400),
        (format(json!({ CANARY: CANARY })), 400),
        (within(json!({ "allOf": [{ "enum": [CANARY] }] })), 400),
        (within(json!({ "pattern": CANARY, "maxLength": 3 })), 400),
        (within(json!({ "$ref": format!("#/$defs/{CANARY}") })), 400),
        // Refused by the engine, whose library quotes what it cannot parse.
        (
            within(json!({ "type": "string", "pattern": format!("({CANARY}") })),
            400,
        ),
    ]
}

/// Returns chat requests whose answers can only be the canary, or a call with it.
fn saying() -> Vec<Value> {
    // To the model all tokens of a grammar are equally likely, so without this bias it would generate white space for ever.
    let biases: serde_json::Map<String, Value> = ["\t", "\n", "\r", " "]
        .map(|space| (space.as_bytes()[0].to_string(), json!(-100)))
        .into_iter()
        .collect();
    let free = json!({ "stop": null, "max_tokens": 200, "logit_bias": biases });
    let (tools, formats) = (tools(), formats());
    let called = with(&tools[0].0, &json!({ "tool_choice": "required" }));
    let mut all = vec![with(&called, &free)];
    for (fields, _) in &formats[..2] {
        all.push(with(fields, &free));
        all.push(with(&with(fields, &free), &json!({ "n": 2 })));
    }
    all
}

/// Returns fields of completion requests, each with the expected status.
fn completions() -> Vec<(Value, u16)> {
    vec![
        (json!({}), 200),
        (json!({ "stream": true, "logprobs": 2 }), 200),
        (json!({ "model": CANARY }), 404),
        (json!({ "prompt": [CANARY, CANARY] }), 400),
        (json!({ "prompt": { CANARY: CANARY } }), 400),
        (json!({ "suffix": CANARY }), 400),
        (json!({ "echo": CANARY }), 400),
        (json!({ CANARY: CANARY }), 400),
    ]
}
