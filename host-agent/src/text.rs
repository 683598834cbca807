//! Foreign text made fit for a terminal and a log.

/// At most `limit` characters of `text`, with control characters and line ends turned into single spaces.
#[must_use]
pub fn plain(text: &str, limit: usize) -> String {
    let mut plain = String::new();
    for character in text.chars().take(limit) {
        match character {
            c if !c.is_control() => plain.push(c),
            _ if plain.ends_with(' ') => {}
            _ => plain.push(' '),
        }
    }
    plain.trim().to_owned()
}

/// An error and its causes in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
