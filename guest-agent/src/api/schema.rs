//! Decides which JSON schemas an answer can be held to.
//!
//! A schema is compiled to a grammar, so it works like a program from a stranger: intersections of patterns take
//! minutes and gigabytes to build. Only schemas that need no intersection are accepted, which is about what OpenAI's
//! structured outputs accept.
//!
//! | part of a schema | bound |
//! |---|---|
//! | text | 32 KiB |
//! | schemas within it | 2048 |
//! | patterns | 32 of 256 bytes, none beside a length or a format |
//! | `$ref`, `anyOf` | at most one of them in a schema, beside annotations and definitions only; in the root schema also a type |
//! | `$ref` | `#`, or an entry of the schema's own `$defs` or `definitions`; chains of at most 64 |
//! | lengths, numbers of items | 65536 |

mod references;

use cocoon_protocol::engine::{is_json_object, json_object, wipe};
use serde_json::{Map, Value};

/// Longest schema, in bytes.
pub(super) const MAX_SCHEMA: usize = 32 * 1024;
const MAX_NODES: usize = 2048;
const MAX_PATTERNS: usize = 32;
const MAX_PATTERN: usize = 256;
const MAX_COUNT: u64 = 65536;

/// Keywords that are cheap in a grammar, or that a grammar ignores.
const PLAIN: &[&str] = &[
    "$comment",
    "$id",
    "$schema",
    "const",
    "default",
    "deprecated",
    "description",
    "enum",
    "examples",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maximum",
    "minimum",
    "readOnly",
    "required",
    "title",
    "type",
    "writeOnly",
];
/// Keywords whose value is a length or a number of items.
const COUNTS: &[&str] = &["maxItems", "maxLength", "minItems", "minLength"];

/// Keywords that may stand beside a `$ref` or an `anyOf`.
const BESIDE: &[&str] = &[
    "$comment",
    "$defs",
    "$id",
    "$ref",
    "$schema",
    "anyOf",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// Checks a schema to which an answer is to be held. The error is the end of a sentence about the schema, and quotes
/// nothing of it but known keywords.
pub(super) fn check(text: &str) -> Result<(), String> {
    check_root(text, |_| Ok(()))
}

/// As [`check`], for the arguments of a tool, which are an object.
pub(super) fn check_arguments(text: &str) -> Result<(), String> {
    check_root(text, |root| match root.get("type") {
        Some(kind) if kind != "object" => {
            Err("must have the `type` `object`, because arguments are one".to_owned())
        }
        _ => Ok(()),
    })
}

fn check_root(
    text: &str,
    of_root: impl Fn(&Map<String, Value>) -> Result<(), String>,
) -> Result<(), String> {
    let short = text.len() <= MAX_SCHEMA;
    let Some(schema) = short.then(|| json_object(text)).flatten() else {
        return Err(no_schema());
    };
    let mut counts = Counts {
        root: &schema,
        nodes: 0,
        patterns: 0,
    };
    let checked = of_root(&schema).and_then(|()| counts.schema(&schema));
    let checked = checked.and_then(|()| references::check_chains(&schema));
    // The schema may contain text of a user.
    wipe(Value::Object(schema));
    checked
}

/// Checks the size and syntax of a schema to which no answer is held, so that its keywords do not matter.
pub(super) fn check_size(text: &str) -> Result<(), String> {
    match text.len() <= MAX_SCHEMA && is_json_object(text) {
        true => Ok(()),
        false => Err(no_schema()),
    }
}

fn no_schema() -> String {
    format!("must be a JSON schema: an object of at most {MAX_SCHEMA} bytes")
}

struct Counts<'a> {
    root: &'a Map<String, Value>,
    nodes: usize,
    patterns: usize,
}

impl Counts<'_> {
    fn schema(&mut self, schema: &Map<String, Value>) -> Result<(), String> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(format!("has more than {MAX_NODES} schemas within it"));
        }
        let one =
            usize::from(schema.contains_key("$ref")) + usize::from(schema.contains_key("anyOf"));
        // A `type` beside a reference is an intersection, which copies the schema that is referred to. At the root this
        // does no harm, and OpenAI requires a type there. Below it, copies of copies would double with every level.
        let whole = std::ptr::eq(schema, self.root);
        let other = |keyword: &str| !(BESIDE.contains(&keyword) || (whole && keyword == "type"));
        if one > 1 || (one == 1 && schema.keys().any(|keyword| other(keyword))) {
            // A `$ref` with an `anyOf` is an intersection too.
            return Err("has something beside a `$ref` or an `anyOf`".to_owned());
        }
        for (keyword, value) in schema {
            self.keyword(schema, keyword, value)?;
        }
        Ok(())
    }

    fn keyword(
        &mut self,
        schema: &Map<String, Value>,
        keyword: &str,
        value: &Value,
    ) -> Result<(), String> {
        let wrong = || format!("has a `{keyword}` that is of the wrong kind");
        match keyword {
            _ if PLAIN.contains(&keyword) => Ok(()),
            _ if COUNTS.contains(&keyword) => match value.as_u64() {
                Some(count) if count <= MAX_COUNT => Ok(()),
                _ => Err(format!("has a `{keyword}` that is not 0 to {MAX_COUNT}")),
            },
            "properties" | "$defs" | "definitions" => {
                let schemas = value.as_object().ok_or_else(wrong)?;
                schemas.values().try_for_each(|value| self.value(value))
            }
            "prefixItems" | "anyOf" => {
                let schemas = value.as_array().ok_or_else(wrong)?;
                schemas.iter().try_for_each(|value| self.value(value))
            }
            "items" | "additionalProperties" => self.value(value),
            "$ref" => {
                let place = value.as_str();
                match place.and_then(|place| references::target(self.root, place)) {
                    Some(_) => Ok(()),
                    None => Err("has a `$ref` that is neither `#` nor an entry of its own `$defs` or `definitions`".to_owned()),
                }
            }
            "pattern" => {
                self.patterns += 1;
                let beside = ["minLength", "maxLength", "format"];
                let alone = !beside.iter().any(|other| schema.contains_key(*other));
                let short = value.as_str().is_some_and(|text| text.len() <= MAX_PATTERN);
                match alone && short && self.patterns <= MAX_PATTERNS {
                    true => Ok(()),
                    false => Err(format!(
                        "may have at most {MAX_PATTERNS} patterns of at most {MAX_PATTERN} bytes, none beside a length or a format"
                    )),
                }
            }
            _ => {
                // Any other name comes from the client, and a message does not repeat it.
                let known = [
                    "allOf",
                    "oneOf",
                    "not",
                    "if",
                    "patternProperties",
                    "multipleOf",
                ];
                Err(match known.contains(&keyword) {
                    true => format!("uses `{keyword}`, which no schema here may"),
                    false => "uses a keyword that no schema here may".to_owned(),
                })
            }
        }
    }

    fn value(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Bool(_) => Ok(()),
            Value::Object(schema) => self.schema(schema),
            _ => Err("has something else where a schema must be".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_intersection_passes() {
        for schema in [
            "{}",
            r##"{"$defs":{"a":{}},"type":"object","anyOf":[{"$ref":"#/$defs/a"},{"type":"object"}]}"##,
            r##"{"$defs":{"a":{"type":"string","pattern":"^[a-z]+$"}},"type":"object","properties":{"x":{"$ref":"#/$defs/a"},
              "y":{"anyOf":[{"type":"null"},{"type":"array","items":{"type":"integer","minimum":3},"maxItems":4}]},
              "allOf":{"const":1}},"required":["x"],"additionalProperties":false}"##,
        ] {
            assert_eq!(check(schema), Ok(()), "{schema}");
        }
    }

    #[test]
    fn everything_else_is_refused_by_its_keyword() {
        let nested = format!("{{\"anyOf\":[{}]}}", vec!["{}"; MAX_NODES].join(","));
        let many = vec![r#"{"pattern":"a"}"#; MAX_PATTERNS + 1].join(",");
        let patterns =
            "may have at most 32 patterns of at most 256 bytes, none beside a length or a format";
        for (schema, reason) in [
            (
                "[]",
                "must be a JSON schema: an object of at most 32768 bytes",
            ),
            (
                "{\"title\":",
                "must be a JSON schema: an object of at most 32768 bytes",
            ),
            (
                r#"{"items":{"allOf":[{}]}}"#,
                "uses `allOf`, which no schema here may",
            ),
            (r#"{"secret":1}"#, "uses a keyword that no schema here may"),
            (
                r##"{"items":{"$ref":"#","type":"object"}}"##,
                "has something beside a `$ref` or an `anyOf`",
            ),
            (
                r#"{"properties":{"a":{"anyOf":[],"type":"object"}}}"#,
                "has something beside a `$ref` or an `anyOf`",
            ),
            (
                r#"{"$ref":"http://elsewhere"}"#,
                "has a `$ref` that is neither `#` nor an entry of its own `$defs` or `definitions`",
            ),
            (
                r#"{"maxLength":65537}"#,
                "has a `maxLength` that is not 0 to 65536",
            ),
            (
                r#"{"properties":{"a":7}}"#,
                "has something else where a schema must be",
            ),
            (r#"{"pattern":"a","maxLength":3}"#, patterns),
            (&format!("{{\"anyOf\":[{many}]}}"), patterns),
            (&nested, "has more than 2048 schemas within it"),
        ] {
            assert_eq!(check(schema), Err(reason.to_owned()), "{schema}");
        }
    }
}
