//! Tests of which tools the model may call, and which it must call.

use super::*;

/// Only parameters that an answer is held to become a grammar, so only they are limited to supported keywords.
#[test]
fn tools_that_need_not_be_called_have_any_parameters() {
    let ordinary = TOOL.replace("\"type\":\"object\"", "\"allOf\":[],\"oneOf\":[1]");
    let other = TOOL.replace("\"f\"", "\"g\"");
    let with = |tools: &str, choice: &str| format!("{{{ONE},\"tools\":[{tools}]{choice}}}");
    let both = format!("{other},{ordinary}");
    let named = r#","tool_choice":{"type":"function","function":{"name":"g"}}"#;
    let auto = r#","tool_choice":"auto""#;
    let none = r#","tool_choice":"none""#;
    for choice in ["", auto, none, named] {
        let parsed = parse(with(&both, choice).as_bytes(), &model(), 4);
        assert!(parsed.is_ok(), "{choice}");
    }
    let itself = named.replace("\"g\"", "\"f\"");
    for choice in [r#","tool_choice":"required""#, &itself] {
        assert_eq!(
            refused(&with(&both, choice)),
            (
                Some("tools[1].function.parameters".into()),
                Some("invalid_schema"),
                "`tools[1].function.parameters` uses `allOf`, which no schema here may.".into()
            )
        );
    }
    let of_root = |kind: &str| {
        let root = format!("{{{kind}\"title\":\"a\"}}");
        let tool = other.replace("{\"type\":\"object\"}", &root);
        assert!(tool.contains(&root));
        with(&tool, named)
    };
    for kind in ["", r#""type":"object","#] {
        assert!(
            parse(of_root(kind).as_bytes(), &model(), 4).is_ok(),
            "{kind}"
        );
    }
    for kind in [r#""type":["object"],"#, r#""type":"string","#] {
        let (param, code, message) = refused(&of_root(kind));
        assert_eq!(param.as_deref(), Some("tools[0].function.parameters"));
        assert_eq!(code, Some("invalid_schema"));
        assert_eq!(
            message,
            "`tools[0].function.parameters` must have the `type` `object`, because arguments are one."
        );
    }
    let strict = ordinary.replace("\"name\"", "\"strict\":true,\"name\"");
    let both = format!("{other},{strict}");
    for (choice, accepted) in [("", false), (auto, false), (none, true), (named, true)] {
        let parsed = parse(with(&both, choice).as_bytes(), &model(), 4);
        assert_eq!(parsed.is_ok(), accepted, "{choice}");
    }
    let long = format!("{{\"title\":\"{}\"}}", "x".repeat(32 * 1024));
    for parameters in ["[]", &long] {
        let tool = TOOL.replace("{\"type\":\"object\"}", parameters);
        let (param, code, _) = refused(&with(&tool, auto));
        assert_eq!(param.as_deref(), Some("tools[0].function.parameters"));
        assert_eq!(code, Some("invalid_schema"));
    }
}
