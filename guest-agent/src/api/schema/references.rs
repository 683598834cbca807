//! Checks where the references of a schema lead, and how long their chains are.
//!
//! The library that compiles schemas follows a JSON pointer wherever it leads, also into values that are not schemas
//! and that nothing checked. So a reference may name only the root schema or an entry of its definitions.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Most references in a chain, because the library follows chains by recursion.
const MAX_CHAIN: usize = 64;
/// Keywords whose values are tables of definitions.
const TABLES: [&str; 2] = ["$defs", "definitions"];

/// Returns the object or boolean that `place` refers to in the schema `root`; `None` if the reference is not allowed.
pub(super) fn target<'a>(root: &'a Map<String, Value>, place: &str) -> Option<Target<'a>> {
    if place == "#" {
        return Some(Target(Some(root)));
    }
    let (table, name) = place.strip_prefix("#/")?.split_once('/')?;
    // A `/` would lead further into the schema, and `~` and `%` can escape other characters.
    if !TABLES.contains(&table) || name.contains(['/', '~', '%']) {
        return None;
    }
    match root.get(table)?.as_object()?.get(name)? {
        Value::Object(schema) => Some(Target(Some(schema))),
        Value::Bool(_) => Some(Target(None)),
        _ => None,
    }
}

/// A schema that may be referred to: an object, which may have references of its own, or `None` for a boolean.
pub(super) struct Target<'a>(Option<&'a Map<String, Value>>);

/// Refuses a schema whose references can form too long a chain. All of its references must lead to a [`target`].
pub(super) fn check_chains(root: &Map<String, Value>) -> Result<(), String> {
    // The root schema, where every chain starts, then each schema that can be reached from it.
    let mut schemas = vec![Some(root)];
    let mut known = BTreeMap::new();
    let mut links: Vec<BTreeSet<usize>> = Vec::new();
    while let Some(schema) = schemas.get(links.len()).copied() {
        let mut places = BTreeSet::new();
        if let Some(schema) = schema {
            collect(schema, &mut places);
        }
        let mut to = BTreeSet::new();
        for place in places {
            let Some(Target(schema)) = target(root, place) else {
                continue;
            };
            to.insert(*known.entry(place).or_insert_with(|| {
                schemas.push(schema);
                schemas.len() - 1
            }));
        }
        links.push(to);
    }
    match longest(&links) > 1 + MAX_CHAIN {
        true => Err(format!("may lead through more than {MAX_CHAIN} `$ref`s")),
        false => Ok(()),
    }
}

/// Collects the references within a schema, leaving out its tables of definitions.
fn collect<'a>(schema: &'a Map<String, Value>, places: &mut BTreeSet<&'a str>) {
    let mut within = |value: &'a Value| {
        if let Value::Object(schema) = value {
            collect(schema, places);
        }
    };
    for (keyword, value) in schema {
        match (keyword.as_str(), value) {
            ("items" | "additionalProperties", value) => within(value),
            ("properties", Value::Object(schemas)) => schemas.values().for_each(&mut within),
            ("prefixItems" | "anyOf", Value::Array(schemas)) => {
                schemas.iter().for_each(&mut within)
            }
            _ => {}
        }
    }
    if let Some(Value::String(place)) = schema.get("$ref") {
        places.insert(place);
    }
}

/// Returns an upper bound on the number of schemas on any path along `links` that visits none twice. The bound is exact
/// without cycles; schemas on cycles, or between cycles, count as if all were on one path.
fn longest(links: &[BTreeSet<usize>]) -> usize {
    let mut back = vec![BTreeSet::new(); links.len()];
    for (from, to) in links.iter().enumerate() {
        for to in to {
            back[*to].insert(from);
        }
    }
    let mut left: BTreeSet<usize> = (0..links.len()).collect();
    let mut layers = 0;
    // Removes the schemas that link to none of the others left, layer by layer, then the same in the other direction.
    for links in [links, &back] {
        while layers <= 1 + MAX_CHAIN {
            let ends = left.iter().filter(|one| links[**one].is_disjoint(&left));
            let ends: Vec<usize> = ends.copied().collect();
            if ends.is_empty() {
                break;
            }
            layers += 1;
            ends.iter().for_each(|end| _ = left.remove(end));
        }
    }
    layers + left.len()
}

#[cfg(test)]
mod tests {
    use crate::api::schema::check;

    #[test]
    fn a_reference_leads_to_a_schema_that_was_checked() {
        for place in ["#", "#/$defs/a", "#/$defs/yes", "#/definitions/b c"] {
            let schema = format!(
                r#"{{"$defs":{{"a":{{"const":1}},"yes":true}},"definitions":{{"b c":{{}}}},"items":{{"$ref":"{place}"}}}}"#
            );
            assert_eq!(check(&schema), Ok(()), "{place}");
        }
        let reason =
            "has a `$ref` that is neither `#` nor an entry of its own `$defs` or `definitions`";
        for place in [
            "#/default",
            "#/$defs/a/const",
            "#/enum/0",
            "#/examples/0",
            "#/$defs",
            "#/$defs/",
            "#/$defs/none",
            "#/$defs/a~1b",
            "#/$defs/a%2fb",
            "#/$defs/a/b",
            "#/properties/$defs",
            "#/properties/x",
            "#/",
            "#a",
            "",
            "a",
            "http://elsewhere#/$defs/a",
        ] {
            let schema = format!(
                r#"{{"default":{{"allOf":[{{}}]}},"enum":[{{"not":{{}}}}],"examples":[{{}}],
                "$defs":{{"a":{{"const":{{"pattern":"(a|b)*"}}}},"a~1b":{{}},"a%2fb":{{}},"a/b":{{}}}},
                "properties":{{"x":{{}},"$defs":{{"$defs":{{"none":{{}}}}}},"y":{{"$ref":"{place}"}}}}}}"#
            );
            assert_eq!(check(&schema), Err(reason.to_owned()), "{place}");
        }
        assert_eq!(
            check(r##"{"items":{"$ref":["#"]}}"##),
            Err(reason.to_owned())
        );
    }

    /// Builds a schema in which each definition refers to the next, through five different keywords in turn.
    fn chain(length: usize, last: &str) -> String {
        let one = |at: usize| {
            let next = match at + 1 == length {
                true => last.to_owned(),
                false => format!(r##"{{"$ref":"#/$defs/d{}"}}"##, at + 1),
            };
            match at % 5 {
                0 => format!(r#""d{at}":{{"properties":{{"x":{next}}}}}"#),
                1 => format!(r#""d{at}":{{"items":{next}}}"#),
                2 => format!(r#""d{at}":{{"anyOf":[{{}},{next}]}}"#),
                3 => format!(r#""d{at}":{{"prefixItems":[{next}]}}"#),
                _ => format!(r#""d{at}":{{"additionalProperties":{next}}}"#),
            }
        };
        let all: Vec<String> = (0..length).map(one).collect();
        format!(r##"{{"$defs":{{{}}},"$ref":"#/$defs/d0"}}"##, all.join(","))
    }

    #[test]
    fn chains_are_short() {
        let long = Err("may lead through more than 64 `$ref`s".to_owned());
        assert_eq!(check(&chain(64, "{}")), Ok(()));
        assert_eq!(check(&chain(65, "{}")), long);
        assert_eq!(check(&chain(600, "{}")), long);
        // A cycle counts each of its schemas once, and the root schema too if the cycle contains it.
        assert_eq!(check(&chain(64, r##"{"$ref":"#/$defs/d0"}"##)), Ok(()));
        assert_eq!(check(&chain(65, r##"{"$ref":"#/$defs/d0"}"##)), long);
        assert_eq!(check(&chain(63, r##"{"$ref":"#"}"##)), Ok(()));
        assert_eq!(check(&chain(64, r##"{"$ref":"#"}"##)), long);
        // Many references that do not lead to each other form no chain.
        let many: Vec<String> = (0..500).map(|at| format!(r#""d{at}":{{}}"#)).collect();
        let used: Vec<String> = (0..500)
            .map(|at| format!(r##""p{at}":{{"$ref":"#/$defs/d{at}"}}"##))
            .collect();
        assert_eq!(
            check(&format!(
                r#"{{"$defs":{{{}}},"properties":{{{}}}}}"#,
                many.join(","),
                used.join(",")
            )),
            Ok(())
        );
    }
}
