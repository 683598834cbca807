//! The schema that makes a model write a tool call.

use serde_json::{Value, json};

use super::{Choice, Tool, wipe};
use crate::wiping::WipingWriter;

/// Returns the schema of a call of any of `tools`, or of the one that `choice` names. Returns `None` if the model need not
/// call a tool, if no tool fits, or if a tool's own schema is no JSON object.
///
/// References in a tool's schema are relative to that schema's root. They are rewritten so that they point to the same places
/// in the combined schema.
pub fn schema_of_calls(tools: &[Tool], choice: &Choice) -> Option<String> {
    let one = |tool: &Tool, place: &str| {
        let mut schema: Value = serde_json::from_str(&tool.parameters).ok()?;
        // Arguments are an object, whatever else their schema allows. The schema itself stays as it is, because it may refer to
        // itself.
        let typed = schema.as_object()?.get("type") == Some(&json!("object"));
        let put = match typed {
            true => format!("{place}/properties/arguments"),
            false => format!("{place}/$defs/arguments"),
        };
        move_references(&mut schema, &put);
        let (arguments, definitions) = match typed {
            true => (schema, json!({})),
            false => (
                json!({ "$ref": format!("#{put}"), "type": "object" }),
                json!({ "arguments": schema }),
            ),
        };
        Some(json!({
            "$defs": definitions,
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
    // Models have learned to write one space after a comma and a colon. Small models tend to write white space endlessly
    // wherever it is allowed.
    schema["x-guidance"] = json!({
        "whitespace_flexible": false,
        "item_separator": ", ?",
        "key_separator": ": ?",
    });
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

    fn tool(name: &str, parameters: &str) -> Tool {
        Tool {
            name: name.into(),
            description: None,
            parameters: parameters.into(),
            strict: false,
        }
    }

    #[test]
    fn references_lead_to_the_same_places() {
        let parameters = r##"{"$defs":{"a":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"definitions":{"b":{}},
            "properties":{"x":{"$ref":"#/$defs/a"},"$ref":{"items":{"$ref":"#/definitions/b"}},
                "y":{"prefixItems":[{"$ref":"#"}],"additionalProperties":{"$ref":"#"}},
                "z":{"const":{"$ref":"#"},"enum":[{"$ref":"#"}],"default":{"$ref":"#"},"examples":[{"$ref":"#"}]}}}"##;
        let typed = parameters.replacen('{', r#"{"type":"object","#, 1);
        let tools = [("f", parameters), ("g", parameters), ("h", &typed)];
        let tools = tools.map(|(name, parameters)| tool(name, parameters));
        for (choice, root) in [
            (Choice::Named("g".into()), "/$defs/arguments"),
            (Choice::Named("h".into()), "/properties/arguments"),
            (Choice::Required, "/anyOf/0/$defs/arguments"),
            (Choice::Required, "/anyOf/2/properties/arguments"),
        ] {
            let schema = schema_of_calls(&tools, &choice).unwrap();
            let schema: Value = serde_json::from_str(&schema).unwrap();
            let put = schema.pointer(root).unwrap();
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
        let tools = [
            tool("weather", r#"{"type":"object"}"#),
            tool("time", r#"{"anyOf":[]}"#),
            tool("date", r#"{"type":["object"]}"#),
        ];
        let schema = |choice| schema_of_calls(&tools, &choice);
        assert_eq!(schema(Choice::Auto), None);
        assert_eq!(schema(Choice::Named("none of them".into())), None);
        let read = |choice| -> Value { serde_json::from_str(&schema(choice).unwrap()).unwrap() };
        let named = read(Choice::Named("time".into()));
        assert_eq!(named["properties"]["name"], json!({ "const": "time" }));
        let any = read(Choice::Required);
        let [weather, time, date] = any["anyOf"].as_array().unwrap().as_slice() else {
            panic!("{any}");
        };
        let arguments = |call: &Value| call["properties"]["arguments"].clone();
        assert_eq!(arguments(weather), json!({ "type": "object" }));
        for (call, place) in [(&named, ""), (time, "/anyOf/1"), (date, "/anyOf/2")] {
            let itself = format!("#{place}/$defs/arguments");
            assert_eq!(arguments(call), json!({ "$ref": itself, "type": "object" }));
        }
        assert_eq!(time["$defs"]["arguments"], json!({ "anyOf": [] }));
        assert_eq!(schema_of_calls(&[tool("f", "[]")], &Choice::Required), None);
    }
}
