//! Makes untrusted text, such as values of a manifest, safe to print.

use cocoon_measurements::verdict::steers;

/// Returns `text` in one line, with `?` for each character that controls a terminal or reorders text. So no value of a manifest
/// can imitate a line of this program's output.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c != '\t' && steers(c) { '?' } else { c })
        .collect()
}

/// Does the same for an error, which may have several lines; lines after the first are indented.
pub fn lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_a_terminal_or_forges_a_line() {
        assert_eq!(printable("vmlinuz é → ü"), "vmlinuz é → ü");
        let hostile = "a\u{1b}[2Kb\r\nidentical\u{9b}1A\u{202e}c\u{2028}d";
        assert_eq!(printable(hostile), "a?[2Kb??identical?1A?c?d");
        assert_eq!(lines("one\ttwo\nthree\u{7}"), "one\ttwo\n    three?");
    }
}
