//! Tests how much memory it takes to parse the largest requests. The results are exact, because allocations are
//! counted.

use cocoon_fuzz::memory::peak;
use cocoon_guest_agent::api::{Limits, chat};
use cocoon_protocol::engine::{Costs, ModelInfo, is_json_object};

/// Half of the memory that boot keeps spare for everything that no limit counts, because other requests are parsed at
/// the same time.
const LIMIT: usize = 16 << 20;

fn model() -> ModelInfo {
    ModelInfo {
        id: "m".into(),
        context_length: 2048,
        quantization: "Q4_1".into(),
        vocabulary: u32::MAX,
        costs: Costs::default(),
    }
}

/// Fills a body between `before` and `after` with as many copies of `one` as fit, replacing `#` by the number of each.
fn filled(before: &str, one: &str, after: &str) -> String {
    let room = Limits::default().body - before.len() - after.len() - 1;
    let mut middle = String::with_capacity(room);
    for number in 0.. {
        let next = one.replace('#', &number.to_string());
        if middle.len() + 1 + next.len() > room {
            break;
        }
        if number > 0 {
            middle.push(',');
        }
        middle.push_str(&next);
    }
    [before, &middle, after].concat()
}

#[test]
fn a_request_of_1_mib_takes_no_more_than_is_spare() {
    let arguments = |one: &str| {
        let before = r#"{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{\"a\":["#;
        filled(before, one, r#"]}"}}]}]}"#)
    };
    let chat = |name: &str, (open, one, close): (&str, &str, &str)| {
        let before = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"{name}":{open}"#
        );
        filled(&before, one, &format!("{close}}}"))
    };
    let call = r#"{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}"#;
    let calls = [call; 60].join(",");
    let calls = format!(r#"{{"role":"assistant","tool_calls":[{calls}]}}"#);
    let all = r#"{"model":"m","n":8,"messages":["#;
    for (what, body, understood) in [
        ("arguments", arguments(r#"{\"\":0}"#), true),
        ("escapes", arguments(r#"\"\\u0041\""#), true),
        ("stop", chat("stop", ("[", "\"\"", "]")), false),
        ("no stop", chat("stop", ("[", "{}", "]")), false),
        (
            "logit_bias",
            chat("logit_bias", ("{", "\"#\":0", "}")),
            false,
        ),
        ("tools", chat("tools", ("[", "0", "]")), false),
        ("fields", filled("{", "\"#\":0", "}"), false),
        ("escaped fields", filled("{", "\"\\u0041#\":0", "}"), false),
        (
            "messages",
            filled("{\"model\":\"m\",\"messages\":[", "0", "]}"),
            false,
        ),
        (
            "content",
            filled(
                "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[",
                "0",
                "]}]}",
            ),
            false,
        ),
        ("calls", filled(all, &calls, "]}"), true),
    ] {
        assert!(body.len() > Limits::default().body * 99 / 100, "{what}");
        let (parsed, most) = peak(|| chat::parse(body.as_bytes(), &model(), 8).is_ok());
        assert_eq!(parsed, understood, "{what}");
        assert!(most <= LIMIT, "{what}: {most} bytes");
    }
}

/// Lists and objects that are too long are refused, even though their surplus elements are not kept.
#[test]
fn what_is_not_kept_is_refused_all_the_same() {
    let many = |one: &str, count: usize| {
        let all = (0..count).map(|number| one.replace('#', &number.to_string()));
        all.collect::<Vec<_>>().join(",")
    };
    let chat = |more: &str| {
        let body =
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"a"}}],{more}}}"#);
        let parsed = chat::parse(body.as_bytes(), &model(), 8);
        parsed.err().map(|refusal| (refusal.param, refusal.message))
    };
    let field = |name: &str, message: &str| Some((Some(name.to_owned()), message.to_owned()));
    let stop = "`stop` must be at most 4 strings of 1 to 256 bytes.";
    let bias = "`logit_bias` must be at most 1024 token identifiers below 4294967295 with numbers of -100 to 100.";
    for (more, refused) in [
        (r#""stop":["a","b","c","d"]"#.to_owned(), None),
        (
            format!(r#""stop":[{}]"#, many("\"a\"", 5)),
            field("stop", stop),
        ),
        (
            format!(r#""stop":[{}]"#, many("\"a\"", 2000)),
            field("stop", stop),
        ),
        (
            r#""stop":["a",{}]"#.to_owned(),
            field("stop", "`stop` must be a string or a list of strings."),
        ),
        (
            format!(r#""logit_bias":{{{}}}"#, many("\"#\":1", 1024)),
            None,
        ),
        (
            format!(r#""logit_bias":{{{}}}"#, many("\"#\":1", 1025)),
            field("logit_bias", bias),
        ),
        (
            format!(r#""logit_bias":{{{}}}"#, many("\"#\":1", 3000)),
            field("logit_bias", bias),
        ),
        (
            format!(r#""tools":[{}]"#, many("0", 3000)),
            field("tools", "`tools` must have 1 to 64 tools."),
        ),
        (many("\"a#\":null", 62), None),
        (
            many("\"a#\":null", 63),
            Some((
                None,
                "The request body has more than 64 fields, and so many are not known.".to_owned(),
            )),
        ),
        (
            format!(
                r#""stream":true,"stream_options":{{{}}}"#,
                many("\"#\":1", 65)
            ),
            field(
                "stream_options",
                "`stream_options` has more than 64 fields, and so many are not known.",
            ),
        ),
        (
            format!("{},\"a0\":1", many("\"a#\":null", 100)),
            field("a0", "`a0` is given twice: leave one out."),
        ),
    ] {
        assert_eq!(chat(&more), refused, "{}", more.get(..40).unwrap_or(&more));
    }
}

#[test]
fn whether_something_is_an_object_takes_no_memory() {
    let objects = filled("{\"a\":[", "{\"\":0}", "]}");
    let (object, most) = peak(|| is_json_object(&objects));
    assert!(object);
    assert!(most <= 1 << 10, "{most} bytes");
}
