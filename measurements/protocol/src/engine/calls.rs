//! Tool calls as JSON: parsing what models write.

use serde_json::Value;
use zeroize::Zeroizing;

use super::json::Read;
use super::{Opening, Tool, is_json_object, wipe};

/// A tool call as a model writes it. It has no identifier yet. Wiped on drop.
pub struct Spoken {
    /// Name of the tool.
    pub name: Zeroizing<String>,
    /// Arguments of the call: the text of a JSON object.
    pub arguments: Zeroizing<String>,
}

/// Parses one call or a list of calls in the forms that models use. The name is under `name` or `function`. The arguments are
/// under `arguments` or `parameters`, as an object or as the text of one. Returns `None` for anything else, and if a call
/// names a tool that is not in `tools`. A call of a strict tool must begin with an [`Opening`], and its arguments must be an
/// object.
pub fn parse(text: &str, tools: &[Tool]) -> Option<Vec<Spoken>> {
    let Some(mut rest) = text.trim().strip_prefix('[') else {
        let (call, rest) = parse_one(text, tools)?;
        return rest.trim().is_empty().then(|| vec![call]);
    };
    let mut calls = Vec::new();
    loop {
        let (call, after) = parse_one(rest, tools)?;
        calls.push(call);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(next) => rest = next,
            None => return (rest == "]").then_some(calls),
        }
    }
}

/// Returns the strict tool whose call begins with the end of `text`, up to the quotation mark after its name. It begins only
/// where [`parse`] would take it for a call: at the start, or in a list after `[` and complete calls.
pub fn opened<'a>(text: &str, tools: &'a [Tool]) -> Option<&'a Tool> {
    let (before, last) = text.split_at(text.rfind('{')?);
    let opening = Opening::of(last).filter(|opening| opening.length == last.len())?;
    let mut strict = tools.iter().filter(|tool| tool.strict);
    let tool = strict.find(|tool| tool.name == opening.name)?;
    let possible = match before.trim() {
        "" | "[" => true,
        list => list.strip_suffix(',').is_some_and(|calls| {
            let list = Zeroizing::new([calls, "]"].concat());
            parse(&list, tools).is_some()
        }),
    };
    possible.then_some(tool)
}

/// Parses the call at the start of `text`. Also returns the text after it.
fn parse_one<'a>(text: &'a str, tools: &[Tool]) -> Option<(Spoken, &'a str)> {
    let text = text.trim_start();
    // Read first, because nothing would wipe a value that turns out to be incomplete.
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Read>();
    let Read = values.next()?.ok()?;
    let (text, rest) = text.split_at(values.byte_offset());
    let value = serde_json::from_str(text).ok()?;
    let call = spoken(&value, text, tools);
    wipe(value);
    Some((call?, rest))
}

/// Returns the call that is `value`, read from `text`.
fn spoken(value: &Value, text: &str, tools: &[Tool]) -> Option<Spoken> {
    let either = |one, other| value.get(one).or_else(|| value.get(other));
    let name = either("name", "function")?.as_str()?;
    let tool = tools.iter().find(|tool| tool.name == name)?;
    if tool.strict && Opening::of(text).is_none_or(|opening| opening.name != name) {
        return None;
    }
    let arguments = match either("arguments", "parameters")? {
        // Nothing holds the arguments of a strict tool to their schema if they are within a text.
        Value::String(text) if !tool.strict => text.clone(),
        value => value.to_string(),
    };
    let arguments = Zeroizing::new(arguments);
    is_json_object(&arguments).then(|| Spoken {
        name: Zeroizing::new(name.to_owned()),
        arguments,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Vec<Tool> {
        let tool = |name: &str| Tool {
            name: name.into(),
            description: None,
            parameters: r#"{"type":"object","properties":{"city":{"type":"string"}}}"#.into(),
            strict: false,
        };
        vec![tool("weather"), tool("time")]
    }

    fn read(text: &str) -> Option<Vec<(String, String)>> {
        let pair = |call: &Spoken| (call.name.to_string(), call.arguments.to_string());
        Some(parse(text, &tools())?.iter().map(pair).collect())
    }

    #[test]
    fn calls_are_read_in_every_dialect() {
        let one = |arguments: &str| Some(vec![("weather".to_owned(), arguments.to_owned())]);
        assert_eq!(
            read(" {\"name\": \"weather\", \"arguments\": {\"city\": \"Kyiv\"}}\n"),
            one("{\"city\":\"Kyiv\"}")
        );
        assert_eq!(read(r#"{"function":"weather","parameters":{}}"#), one("{}"));
        assert_eq!(
            read(r#"[{"name":"weather","arguments":"{\"city\":\"a\"}"}]"#),
            one(r#"{"city":"a"}"#)
        );
        for other in [
            r#"{"name":"weather"}"#,
            r#"{"name":"rocket","arguments":{}}"#,
            r#"{"name":"weather","arguments":[1]}"#,
            r#"{"name":"weather","arguments":"text"}"#,
            r#"{"name":"weather","arguments":{}"#,
            r#"{"name":"weather","arguments":{}} and"#,
            r#"[{"name":"weather","arguments":{}},]"#,
            r#"[{"name":"weather","arguments":{}}"#,
            r#"[{"name":"weather","arguments":{}}]]"#,
            r#"[{"name":"weather","arguments":{}} {"name":"weather","arguments":{}}]"#,
            "[]",
            "",
            "weather",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_call_of_a_strict_tool_begins_with_its_name() {
        let mut tools = tools();
        tools[0].strict = true;
        let count = |text: &str| parse(text, &tools).map_or(0, |calls| calls.len());
        let strict = r#"{"name": "weather", "arguments": {}}"#;
        let other = r#"{"arguments": {}, "name": "time"}"#;
        for (text, calls) in [
            (strict, 1),
            (other, 1),
            (&format!("[ {strict}, {other},\n{strict} ]"), 3),
            ("{\n \"function\" :\t\"weather\",\"parameters\":{}}", 1),
            (r#"{"arguments":{},"name":"weather"}"#, 0),
            (r#"{"name":"time","name":"weather","arguments":{}}"#, 0),
            (r#"{"n\u0061me":"weather","arguments":{}}"#, 0),
            (r#"{"name":"we\u0061ther","arguments":{}}"#, 0),
            (r#"{"name":"weather","arguments":"{}"}"#, 0),
            (r#"{"name":"time","arguments":"{}"}"#, 1),
            (
                &strict.replace(": \"", &format!(":{}\"", " ".repeat(17))),
                0,
            ),
            (
                &format!(r#"[{strict},{{"arguments":{{}},"name":"weather"}}]"#),
                0,
            ),
        ] {
            assert_eq!(count(text), calls, "{text}");
        }
    }

    #[test]
    fn a_call_of_a_strict_tool_is_noticed_where_it_would_be_taken() {
        let mut tools = tools();
        tools[0].strict = true;
        let noticed = |text: &str| opened(text, &tools).map(|tool| tool.name.as_str());
        let begun = r#"{"name": "weather""#;
        for before in [
            "",
            " \n",
            "[",
            " [ ",
            r#"[{"name":"time","arguments":{}},"#,
            r#"[{"name":"weather","arguments":{"a":[{}]}}, {"name":"time","arguments":{}},"#,
        ] {
            assert_eq!(noticed(&format!("{before}{begun}")), Some("weather"));
            for after in [":", " "] {
                assert_eq!(noticed(&format!("{before}{begun}{after}")), None);
            }
            assert_eq!(noticed(&format!("{before}{{\"name\": \"time\"")), None);
        }
        for before in [
            "[[",
            "[1] ",
            ",",
            "[,",
            "{\"a\":",
            r#"{"name":"time","arguments":{}},"#,
            r#"[{"name":"time","arguments":{}}"#,
            r#"[{"name":"time","arguments":{}},,"#,
            r#"[{"name":"other","arguments":{}},"#,
            r#"{"name":"time","arguments":{"steps":["#,
        ] {
            assert_eq!(noticed(&format!("{before}{begun}")), None, "{before}");
        }
    }
}
