//! Tests of valid requests, and of refusals that name the field at fault.

use cocoon_protocol::engine::{Costs, Seed, Speaker, Turn};
use proptest::prelude::*;

use super::*;

mod tools;

const ONE: &str = r#""model":"m","messages":[{"role":"user","content":"hi"}]"#;
const TOOL: &str = r#"{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}"#;

fn model() -> ModelInfo {
    ModelInfo {
        id: "m".into(),
        context_length: 100,
        quantization: "Q4_1".into(),
        vocabulary: 50,
        costs: Costs::default(),
    }
}

fn parsed(more: &str) -> Asked {
    let body = format!("{{{ONE}{more}}}");
    let parsed = parse(body.as_bytes(), &model(), 4);
    parsed.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

/// What the refusal of `body` contains: field, code and message.
fn refused(body: &str) -> (Option<String>, Option<&'static str>, String) {
    let refusal = parse(body.as_bytes(), &model(), 4).err().expect("refused");
    (refusal.param, refusal.code, refusal.message)
}

fn turns(asked: &Asked) -> &[Turn] {
    match &asked.generations[0].prompt {
        Prompt::Conversation(turns) => turns,
        Prompt::Text(_) => panic!("a text"),
    }
}

#[test]
fn a_full_request_parses() {
    let asked = parsed(
        r#","stream":true,"stream_options":{"include_usage":true,"include_obfuscation":false},
        "max_tokens":7,"temperature":0,"top_p":0.5,"top_k":9,"min_p":0.1,"seed":-1,"stop":["a","b"],
        "n":2,"logprobs":true,"top_logprobs":3,"frequency_penalty":-2,"presence_penalty":2,
        "repetition_penalty":1.5,"logit_bias":{"7":-100,"49":1.5},"user":"u","metadata":{"a":"b"},
        "store":false,"service_tier":"auto","response_format":{"type":"text"},"padding":"xxxx",
        "audio":null,"reasoning_effort":null"#,
    );
    assert!(asked.stream && asked.include_usage && !asked.obfuscate);
    assert_eq!(asked.top_logprobs, Some(3));
    let [first, second] = &asked.generations[..] else {
        panic!("two choices")
    };
    assert_eq!((first.max_tokens, first.top_logprobs), (7, Some(3)));
    assert!(first.sampling.seed == Seed::Given(u64::MAX));
    assert!(second.sampling.seed == Seed::Given(0));
    assert!(asked.bounded);
    assert_eq!(first.sampling.bias, [(49, 1.5), (7, -100.0)]);
    assert_eq!((first.sampling.top_k, first.sampling.min_p), (9, 0.1));
    assert_eq!(first.stop, ["a", "b"]);
    assert_eq!(turns(&asked)[0].content, "hi");
}

#[test]
fn choices_without_a_seed_have_different_ones() {
    let asked = parsed(r#","n":4"#);
    let key = |generation: &Generation| match &generation.sampling.seed {
        Seed::Drawn(key) => key.0,
        Seed::Given(_) => panic!("nobody gave one"),
    };
    let seeds: std::collections::BTreeSet<[u8; 32]> = asked.generations.iter().map(key).collect();
    assert_eq!(seeds.len(), 4);
    assert!(!asked.bounded);
}

#[test]
fn a_conversation_with_tools_parses() {
    let body = r#"{"model":"m","messages":[
        {"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
        {"role":"user","content":"c"},
        {"role":"assistant","content":null,"refusal":null,"annotations":[],"audio":null,"tool_calls":[
            {"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}]},
        {"role":"tool","tool_call_id":"call_1","content":"d"}]}"#;
    let asked = parse(body.as_bytes(), &model(), 1).ok().unwrap();
    let turns = turns(&asked);
    assert_eq!(
        (turns[0].speaker, turns[0].content.as_str()),
        (Speaker::System, "ab")
    );
    assert_eq!(turns[2].calls[0].arguments, "{\"a\":1}");
    assert_eq!(turns[3].call_id.as_deref(), Some("call_1"));
}

#[test]
fn tools_and_formats_parse() {
    let choice = |more: &str| {
        let mut asked = parsed(&format!(",\"tools\":[{TOOL}]{more}"));
        let generation = asked.generations.remove(0);
        (generation.tools.len(), generation.choice.clone())
    };
    assert!(choice("") == (1, Choice::Auto));
    assert!(choice(r#","tool_choice":"auto","parallel_tool_calls":false"#) == (1, Choice::Auto));
    assert!(choice(r#","tool_choice":"required""#) == (1, Choice::Required));
    let named = r#","tool_choice":{"type":"function","function":{"name":"f"}}"#;
    assert!(choice(named) == (1, Choice::Named("f".into())));
    let none = r#","tool_choice":"none","response_format":{"type":"json_object"}"#;
    assert!(choice(none) == (0, Choice::Auto));
    let schema = r#","response_format":{"type":"json_schema","json_schema":{"name":"n","strict":true,"schema":{"type":"object"}}}"#;
    let asked = parsed(schema);
    assert!(
        matches!(&asked.generations[0].format, Format::Schema(s) if s == r#"{"type":"object"}"#)
    );
}

#[test]
fn a_completion_parses() {
    let parse = |more: &str| {
        let body = format!("{{\"model\":\"m\",\"prompt\":{more}}}");
        parse_completion(body.as_bytes(), &model(), 4)
    };
    let asked = parse(r#"["once"],"logprobs":5,"echo":false,"best_of":1,"suffix":null"#);
    let asked = asked.ok().unwrap();
    assert!(matches!(&asked.generations[0].prompt, Prompt::Text(text) if text == "once"));
    assert_eq!(
        (asked.generations[0].max_tokens, asked.top_logprobs),
        (16, Some(5))
    );
    for (more, param, code) in [
        (r#""a","echo":true"#, "echo", Some("unsupported_parameter")),
        (
            r#""a","best_of":2"#,
            "best_of",
            Some("unsupported_parameter"),
        ),
        (
            r#""a","suffix":"s""#,
            "suffix",
            Some("unsupported_parameter"),
        ),
        (
            r#""a","messages":[]"#,
            "messages",
            Some("unknown_parameter"),
        ),
        (r#""a","logprobs":6"#, "logprobs", None),
        (r#"["a","b"]"#, "prompt", None),
        ("[1,2]", "prompt", None),
        (r#""""#, "prompt", None),
    ] {
        let refusal = parse(more).err().expect("refused");
        assert_eq!(
            (refusal.param.as_deref(), refusal.code),
            (Some(param), code),
            "{more}"
        );
    }
}

#[test]
fn every_refusal_names_its_field() {
    let message = |message: &str| format!("{{\"model\":\"m\",\"messages\":[{message}]}}");
    let more = |more: &str| format!("{{{ONE},{more}}}");
    let tools = |tool: &str| more(&format!("\"tools\":[{tool}]"));
    for (body, param, message) in [
        (
            r#"{"messages":[]}"#.to_owned(),
            "model",
            "`model` is required: a string.",
        ),
        (
            r#"{"model":"m"}"#.to_owned(),
            "messages",
            "`messages` is required: a list of messages.",
        ),
        (
            message(""),
            "messages",
            "`messages` must have 1 to 1024 messages.",
        ),
        (
            message(r#"{"role":"user","content":"a"},{"role":"robot","content":"b"}"#),
            "messages[1].role",
            "`messages[1].role` must be `system`, `developer`, `user`, `assistant` or `tool`.",
        ),
        (
            message(r#"{"role":"user","content":7}"#),
            "messages[0].content",
            "`messages[0].content` must be a string or a list of text parts.",
        ),
        (
            message(r#"{"role":"assistant"}"#),
            "messages[0].content",
            "`messages[0].content` is required: a string or a list of text parts.",
        ),
        (
            message(r#"{"role":"tool","tool_call_id":"call_9","content":"b"}"#),
            "messages[0].tool_call_id",
            "`messages[0].tool_call_id` must be the `id` of a call in a message before.",
        ),
        (
            message(
                r#"{"role":"assistant","tool_calls":[{"id":"i","type":"function","function":{"name":"f","arguments":"secret"}}]}"#,
            ),
            "messages[0].tool_calls[0].function.arguments",
            "`messages[0].tool_calls[0].function.arguments` must be a JSON object in a string.",
        ),
        (
            more("\"temperature\":3"),
            "temperature",
            "`temperature` must be 0 to 2.",
        ),
        (
            more("\"top_p\":0"),
            "top_p",
            "`top_p` must be over 0 and at most 1.",
        ),
        (
            more("\"frequency_penalty\":2.1"),
            "frequency_penalty",
            "`frequency_penalty` must be -2 to 2.",
        ),
        (
            more("\"max_tokens\":101"),
            "max_tokens",
            "`max_tokens` must be 1 to 100, the context of the model on this machine.",
        ),
        (
            more("\"max_tokens\":-1"),
            "max_tokens",
            "`max_tokens` must be a positive integer.",
        ),
        (more("\"n\":5"), "n", "`n` must be 1 to 4 on this machine."),
        (more("\"n\":0"), "n", "`n` must be 1 to 4 on this machine."),
        (
            more("\"stop\":\"\""),
            "stop",
            "`stop` must be at most 4 strings of 1 to 256 bytes.",
        ),
        (
            more("\"logit_bias\":{\"50\":1}"),
            "logit_bias",
            "`logit_bias` must be at most 1024 token identifiers below 50 with numbers of -100 to 100.",
        ),
        (
            more("\"stream_options\":{}"),
            "stream_options",
            "`stream_options` is for requests with `stream` true.",
        ),
        (
            more("\"top_logprobs\":1"),
            "top_logprobs",
            "`top_logprobs` is for requests with `logprobs` true.",
        ),
        (
            more("\"logprobs\":true,\"top_logprobs\":21"),
            "top_logprobs",
            "`top_logprobs` must be 0 to 20.",
        ),
        (
            more("\"tools\":[]"),
            "tools",
            "`tools` must have 1 to 64 tools.",
        ),
        (
            more("\"tool_choice\":\"auto\""),
            "tool_choice",
            "`tool_choice` is for requests with `tools`.",
        ),
        (
            tools(r#"{"type":"function","function":{"name":"a b"}}"#),
            "tools[0].function.name",
            "`tools[0].function.name` must be 1 to 64 letters, digits, underscores and hyphens.",
        ),
        (
            tools(&format!("{TOOL},{TOOL}")),
            "tools[1].function.name",
            "`tools[1].function.name` is the name of another tool too.",
        ),
        (
            format!(
                "{{{ONE},\"tools\":[{TOOL}],\"tool_choice\":{{\"type\":\"function\",\"function\":{{\"name\":\"g\"}}}}}}"
            ),
            "tool_choice.function.name",
            "`tool_choice.function.name` must be the name of one of `tools`.",
        ),
        (
            more("\"temperature\":0,\"temp\\u0065rature\":1"),
            "temperature",
            "`temperature` is given twice: leave one out.",
        ),
        (
            message(r#"{"role":"user","content":"a","content":null}"#),
            "messages[0].content",
            "`messages[0].content` is given twice: leave one out.",
        ),
        (
            tools(r#"{"type":"function","function":{"x":1,"x":1}}"#),
            "tools[0].function.x",
            "`tools[0].function.x` is given twice: leave one out.",
        ),
    ] {
        let found = refused(&body);
        assert_eq!(
            found,
            (Some(param.to_owned()), None, message.to_owned()),
            "{body}"
        );
    }
    assert_eq!(
        refused("[secret").2,
        "The request body is not a JSON object (line 1, column 0)."
    );
}

#[test]
fn what_is_unknown_and_what_is_unsupported_are_told_apart() {
    let more = |more: &str| refused(&format!("{{{ONE},{more}}}"));
    let long = "x".repeat(2000);
    for (field, param, code) in [
        (
            "\"reasoning_effort\":\"low\"",
            "reasoning_effort",
            Some("unsupported_parameter"),
        ),
        ("\"store\":true", "store", Some("unsupported_parameter")),
        (
            "\"modalities\":[\"audio\"]",
            "modalities",
            Some("unsupported_parameter"),
        ),
        (
            "\"service_tier\":\"flex\"",
            "service_tier",
            Some("unsupported_parameter"),
        ),
        (
            "\"response_format\":{\"type\":\"grammar\"}",
            "response_format.type",
            Some("unsupported_parameter"),
        ),
        ("\"temprature\":1", "temprature", Some("unknown_parameter")),
        (
            "\"stream\":true,\"stream_options\":{\"x\":1}",
            "stream_options.x",
            Some("unknown_parameter"),
        ),
        (&format!("\"user\":\"{long}\""), "user", None),
    ] {
        let (found, found_code, message) = more(field);
        assert_eq!(
            (found.as_deref(), found_code),
            (Some(param), code),
            "{message}"
        );
    }
    let part = r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"secret"}}]}]}"#;
    let (param, code, message) = refused(part);
    assert_eq!(param.as_deref(), Some("messages[0].content[0].type"));
    assert_eq!(code, Some("unsupported_parameter"));
    assert!(!message.contains("secret"));
    let named = r#"{"model":"m","messages":[{"role":"user","content":"a","name":"secret"}]}"#;
    assert_eq!(refused(named).0.as_deref(), Some("messages[0].name"));
    let strict = TOOL.replace("\"name\"", "\"strict\":1,\"name\"");
    assert_eq!(
        more(&format!("\"tools\":[{strict}]")).0.as_deref(),
        Some("tools[0].function.strict")
    );
    let (param, ..) = more(&format!(
        "\"tools\":[{TOOL}],\"response_format\":{{\"type\":\"json_object\"}}"
    ));
    assert_eq!(param.as_deref(), Some("response_format"));
}

proptest! {
    #[test]
    fn rubbish_never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body, &model(), 4);
        let _ = parse_completion(&body, &model(), 4);
    }
}
