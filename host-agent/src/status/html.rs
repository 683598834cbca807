//! HTML that is safe by construction: markup is a compile-time constant, and everything else is escaped.

/// Longest text that is shown, in characters; the rest is cut off.
const MAX_TEXT: usize = 400;

/// A fragment of a page.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Appends markup of this program. Its lifetime keeps strings made at run time out.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends text from any source, escaped for use between tags or in quoted attributes.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for character in text.chars().take(MAX_TEXT) {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Directional controls could make one name look like another.
                c if c.is_control() || steers(c) => self.0.push(' '),
                c => self.0.push(c),
            }
        }
        self
    }

    /// Appends escaped text between two pieces of markup.
    pub(super) fn around(
        &mut self,
        before: &'static str,
        text: &str,
        after: &'static str,
    ) -> &mut Self {
        self.raw(before).text(text).raw(after)
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Returns whether a character has no width but changes how others are displayed: Unicode's bidirectional and joining
/// controls, separators and the byte order mark.
fn steers(character: char) -> bool {
    matches!(
        character,
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &str) -> String {
        let mut html = Html::default();
        html.text(text);
        html.into_string()
    }

    #[test]
    fn text_is_no_markup() {
        let text = "<img src=x onerror='alert(\"1\")'>&\u{202e}\n";
        let expected = "&lt;img src=x onerror=&#39;alert(&quot;1&quot;)&#39;&gt;&amp;  ";
        assert_eq!(escaped(text), expected);
        assert_eq!(escaped(&"x".repeat(1000)).len(), MAX_TEXT);
    }

    proptest! {
        #[test]
        fn no_text_ends_its_place(text in any::<String>()) {
            let html = escaped(&text);
            prop_assert!(!html.contains(['<', '>', '"', '\'']), "{html}");
            for piece in html.split('&').skip(1) {
                let known = ["amp;", "lt;", "gt;", "quot;", "#39;"];
                prop_assert!(known.iter().any(|entity| piece.starts_with(entity)), "{html}");
            }
        }
    }
}
