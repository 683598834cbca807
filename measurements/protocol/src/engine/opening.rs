//! The beginning of a tool call, from which on the arguments of a strict tool are held to their schema.

/// Most white space before each part of a beginning, in bytes.
const MAX_SPACE: usize = 16;
const SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

/// The beginning of a call, up to the name of the tool: `{"name": "weather"`. The key may also be `function`.
///
/// The engine starts the grammar of a strict tool where the name ends, and takes nothing for a call of such a tool that begins
/// in another way. So both must use the same definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening<'a> {
    /// Name of the tool. It may be the name of no tool.
    pub name: &'a str,
    /// Length of the beginning in bytes, with the quotation mark after the name.
    pub length: usize,
}

impl<'a> Opening<'a> {
    /// Reads the beginning of a call at the start of `text`.
    pub fn of(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix('{')?;
        let rest = part(rest, "\"name\"").or_else(|| part(rest, "\"function\""))?;
        let rest = part(part(rest, ":")?, "\"")?;
        let (name, rest) = rest.split_once('"')?;
        let length = text.len() - rest.len();
        Some(Self { name, length })
    }
}

/// Returns what follows white space and `part` at the start of `text`.
fn part<'a>(text: &'a str, part: &str) -> Option<&'a str> {
    let rest = text.trim_start_matches(SPACE);
    let space = text.len() - rest.len();
    rest.strip_prefix(part).filter(|_| space <= MAX_SPACE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(text: &str) -> Option<(&str, usize)> {
        Opening::of(text).map(|opening| (opening.name, opening.length))
    }

    #[test]
    fn a_beginning_ends_with_the_name() {
        let spaced = |count| format!("{{{}\"name\":\"f\"", " ".repeat(count));
        assert_eq!(opened(r#"{"name":"f", "arguments""#), Some(("f", 11)));
        assert_eq!(opened("{ \"function\" :\n\"f\"}"), Some(("f", 18)));
        assert_eq!(opened(&spaced(MAX_SPACE)), Some(("f", 11 + MAX_SPACE)));
        for text in [
            "",
            "{",
            r#"{"name":"f"#,
            r#" {"name":"f""#,
            r#"{"names":"f""#,
            r#"["name":"f""#,
            "{\u{a0}\"name\":\"f\"",
            &spaced(MAX_SPACE + 1),
        ] {
            assert_eq!(opened(text), None, "{text}");
        }
    }
}
