//! Tool calls as JSON: parsing what models write, and the schema that makes a model write a call.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Choice, Tool};
use crate::wiping::WipingWriter;

/// A tool call as a model writes it. It has no identifier yet. Wiped on drop.
pub struct Spoken {
    /// Name of the tool.
    pub name: Zeroizing<String>,
    /// Arguments of the call: the text of a JSON object.
    pub arguments: Zeroizing<String>,
}

/// Parses one call or a list of calls in the forms that models use. The name is under `name` or `function`. The arguments are
/// under `arguments` or `parameters`, as an object or as the text of one. Returns `None` for anything else, and if a call
/// names a tool that is not in `tools`.
pub fn parse(text: &str, tools: &[Tool]) -> Option<Vec<Spoken>> {
    let value = serde_json::from_str(text.trim()).ok()?;
    let values = match value {
        Value::Array(values) => values,
        value => vec![value],
    };
    let calls: Option<Vec<Spoken>> = values.iter().map(|value| spoken(value, tools)).collect();
    values.into_iter().for_each(wipe);
    calls.filter(|calls| !calls.is_empty())
}

fn spoken(value: &Value, tools: &[Tool]) -> Option<Spoken> {
    let either = |one, other| value.get(one).or_else(|| value.get(other));
    let name = either("name", "function")?.as_str()?;
    let arguments = match either("arguments", "parameters")? {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let arguments = Zeroizing::new(arguments);
    let known = tools.iter().any(|tool| tool.name == name);
    (known && is_json_object(&arguments)).then(|| Spoken {
        name: Zeroizing::new(name.to_owned()),
        arguments,
    })
}

/// Returns whether `text` is a JSON object that [`json_object`](super::json_object) accepts.
///
/// The text is parsed without building a value: a value of many small objects takes more than seventy times the memory of its
/// text.
pub fn is_json_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<Read>(text).is_ok()
}

/// Deserialises like a [`Value`], with the same limits for depth, numbers and escapes, but keeps nothing.
struct Read;

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Read;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_str<E>(self, _: &str) -> Result<Read, E> {
        Ok(Read)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Read, A::Error> {
        while let Some(Read) = values.next_element()? {}
        Ok(Read)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Read, A::Error> {
        while let Some((Read, Read)) = entries.next_entry()? {}
        Ok(Read)
    }
}

/// Wipes the strings of a value. Its numbers are not wiped.
pub fn wipe(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Array(values) => values.into_iter().for_each(wipe),
        Value::Object(values) => values.into_iter().for_each(|(mut name, value)| {
            name.zeroize();
            wipe(value);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns the schema of a call of any of `tools`, or of the one that `choice` names. Returns `None` if the model need not
/// call a tool, if no tool fits, or if a tool's own schema is not JSON.
///
/// References in a tool's schema are relative to that schema's root. They are rewritten so that they point to the same places
/// in the combined schema.
pub fn schema_of_calls(tools: &[Tool], choice: &Choice) -> Option<String> {
    let one = |tool: &Tool, place: &str| {
        let mut arguments: Value = serde_json::from_str(&tool.parameters).ok()?;
        move_references(&mut arguments, &format!("{place}/properties/arguments"));
        Some(json!({
            "type": "object",
            "properties": { "name": { "const": tool.name }, "arguments": arguments },
            "required": ["name", "arguments"],
            "additionalProperties": false,
        }))
    };
    let wanted = |tool: &&Tool| match choice {
        Choice::Named(name) => tool.name == *name,
        Choice::Auto | Choice::Required => true,
    };
    if matches!(choice, Choice::Auto) {
        return None;
    }
    let wanted: Vec<&Tool> = tools.iter().filter(wanted).collect();
    let mut schema = match wanted.as_slice() {
        [] => return None,
        [tool] => one(tool, "")?,
        tools => {
            let all = tools.iter().enumerate();
            let all = all.map(|(at, tool)| one(tool, &format!("/anyOf/{at}")));
            json!({ "anyOf": all.collect::<Option<Vec<Value>>>()? })
        }
    };
    // Small models tend to write white space endlessly wherever it is allowed.
    schema["x-guidance"] = json!({ "whitespace_flexible": false });
    let mut text = WipingWriter::with_capacity(1024);
    // Writing a value into memory cannot fail, and the result is UTF-8.
    let _ = serde_json::to_writer(&mut text, &schema);
    wipe(schema);
    String::from_utf8(text.into_bytes()).ok()
}

/// Rewrites the references of a schema that is placed at `place`. Only keywords that hold schemas are followed. `const`,
/// `default`, `enum` and `examples` hold plain values that may look like references, and so may property names.
fn move_references(schema: &mut Value, place: &str) {
    let Value::Object(schema) = schema else {
        return;
    };
    for (keyword, value) in schema {
        match (keyword.as_str(), value) {
            ("$ref", Value::String(to)) => {
                if let Some(rest) = to.strip_prefix('#') {
                    *to = format!("#{place}{rest}");
                }
            }
            ("properties" | "$defs" | "definitions", Value::Object(schemas)) => schemas
                .values_mut()
                .for_each(|schema| move_references(schema, place)),
            ("prefixItems" | "anyOf", Value::Array(schemas)) => schemas
                .iter_mut()
                .for_each(|schema| move_references(schema, place)),
            ("items" | "additionalProperties", schema) => move_references(schema, place),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Vec<Tool> {
        let tool = |name: &str| Tool {
            name: name.into(),
            description: None,
            parameters: r#"{"type":"object","properties":{"city":{"type":"string"}}}"#.into(),
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
            "[]",
            "weather",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn an_object_is_what_reads_as_one() {
        let deep = |levels| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        for (text, object) in [
            (
                r#" {"a":[1,-2,3.5e7,true,false,null,"b"],"a":{"\u0041":{}}} "#,
                true,
            ),
            (&deep(126), true),
            (&deep(127), false),
            (r#"{"a":"\ud800"}"#, false),
            (r#"{"a":1e999}"#, false),
            (r#"{"a":1} {}"#, false),
            (r#"{"a":1"#, false),
            ("\u{a0}{}", false),
            ("[]", false),
            ("", false),
        ] {
            assert_eq!(is_json_object(text), object, "{text}");
            assert_eq!(super::super::json_object(text).is_some(), object, "{text}");
        }
    }

    #[test]
    fn references_lead_to_the_same_places() {
        let parameters = r##"{"$defs":{"a":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"definitions":{"b":{}},
            "properties":{"x":{"$ref":"#/$defs/a"},"$ref":{"items":{"$ref":"#/definitions/b"}},
                "y":{"prefixItems":[{"$ref":"#"}],"additionalProperties":{"$ref":"#"}},
                "z":{"const":{"$ref":"#"},"enum":[{"$ref":"#"}],"default":{"$ref":"#"},"examples":[{"$ref":"#"}]}}}"##;
        let tool = |name: &str| Tool {
            name: name.into(),
            description: None,
            parameters: parameters.into(),
        };
        let tools = [tool("f"), tool("g"), tool("h")];
        for (choice, place) in [
            (Choice::Named("g".into()), ""),
            (Choice::Required, "/anyOf/0"),
            (Choice::Required, "/anyOf/2"),
        ] {
            let schema = schema_of_calls(&tools, &choice).unwrap();
            let schema: Value = serde_json::from_str(&schema).unwrap();
            let root = format!("{place}/properties/arguments");
            let put = schema.pointer(&root).unwrap();
            let follow = |from: &str| {
                let to = put.pointer(from).unwrap()["$ref"].as_str().unwrap();
                schema.pointer(to.strip_prefix('#').unwrap()).unwrap()
            };
            let at = |place: &str| put.pointer(place).unwrap();
            assert_eq!(follow("/properties/x"), at("/$defs/a"));
            assert_eq!(follow("/properties/$ref/items"), at("/definitions/b"));
            for to_root in [
                "/$defs/a/anyOf/0",
                "/properties/y/prefixItems/0",
                "/properties/y/additionalProperties",
            ] {
                assert_eq!(follow(to_root), put, "{to_root}");
            }
            let values: Value = serde_json::from_str(parameters).unwrap();
            assert_eq!(at("/properties/z"), &values["properties"]["z"]);
        }
    }

    #[test]
    fn a_call_that_must_come_has_a_schema() {
        assert_eq!(schema_of_calls(&tools(), &Choice::Auto), None);
        assert_eq!(
            schema_of_calls(&tools(), &Choice::Named("none of them".into())),
            None
        );
        let named = schema_of_calls(&tools(), &Choice::Named("time".into())).unwrap();
        let named: Value = serde_json::from_str(&named).unwrap();
        assert_eq!(named["properties"]["name"], json!({ "const": "time" }));
        let any = schema_of_calls(&tools(), &Choice::Required).unwrap();
        let any: Value = serde_json::from_str(&any).unwrap();
        assert_eq!(any["anyOf"].as_array().unwrap().len(), 2);
    }
}
