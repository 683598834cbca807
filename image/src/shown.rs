//! Text of strangers, such as a manifest's, for people to read.

use cocoon_measurements::verdict::steers;

/// `text` in one line, with `?` for each character that steers a terminal or changes the order of what it shows: no value of
/// a manifest can pass for a line of ours.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c != '\t' && steers(c) { '?' } else { c })
        .collect()
}

/// The same of an error, which may have lines of its own: those that follow the first are set in.
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
