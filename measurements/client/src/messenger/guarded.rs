//! Ranges of a text that must not be cut: links and code.

use std::ops::Range;

use linkify::LinkFinder;

/// Returns the fenced code blocks of Markdown: whole lines from an opening fence of backticks or
/// tildes to a closing fence that is at least as long, or to the end of the text.
pub fn fences(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut open: Option<(usize, char, usize)> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.len();
        match (open, fence(line)) {
            (None, Some((mark, length, _))) => open = Some((start, mark, length)),
            // A closing fence has nothing after it.
            (Some((from, mark, length)), Some((other, count, bare)))
                if mark == other && count >= length && bare =>
            {
                found.push(from..end);
                open = None;
            }
            _ => {}
        }
        start = end;
    }
    found.extend(open.map(|(from, ..)| from..text.len()));
    found
}

/// Returns the character of a fence, its length, and whether nothing follows on the line.
fn fence(line: &str) -> Option<(char, usize, bool)> {
    let indented = line.trim_start_matches(' ');
    let mark = indented.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let after = indented.trim_start_matches(mark);
    let count = indented.len() - after.len();
    // Backticks that are followed by others on the same line are inline code.
    let opens = count >= 3 && !(mark == '`' && after.contains('`'));
    (line.len() - indented.len() < 4 && opens).then_some((mark, count, after.trim().is_empty()))
}

/// Returns links, e-mail addresses and inline code on one line; sorted and without overlaps.
pub(super) fn spans(text: &str) -> Vec<Range<usize>> {
    let links = LinkFinder::new();
    let mut found: Vec<_> = links
        .links(text)
        .map(|link| link.start()..link.end())
        .collect();
    let mut open = None;
    for (index, c) in text.char_indices() {
        match (c, open) {
            ('`', None) => open = Some(index),
            ('`', Some(start)) => {
                found.push(start..index + 1);
                open = None;
            }
            ('\n', _) => open = None,
            _ => {}
        }
    }
    found.sort_by_key(|range| range.start);
    // A link inside code is part of the code.
    found.dedup_by(|later, earlier| {
        let inside = later.start < earlier.end;
        if inside {
            earlier.end = earlier.end.max(later.end);
        }
        inside
    });
    found
}

/// Returns whether a cut at `index` goes through one of `ranges`, which are sorted and do not
/// overlap.
pub(super) fn cuts(ranges: &[Range<usize>], index: usize) -> bool {
    let before = ranges.partition_point(|range| range.start < index);
    before > 0 && index < ranges[before - 1].end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fenced_blocks_are_found() {
        let found = |text: &str| -> Vec<String> {
            let fences = fences(text).into_iter();
            fences.map(|range| text[range].to_owned()).collect()
        };
        let block = "```rust\nlet a = 1;\n\n~~~\n```\n";
        assert_eq!(found(&format!("see\n{block}\nand")), [block]);
        assert_eq!(found("~~~~\n~~~\n~~~~"), ["~~~~\n~~~\n~~~~"]);
        // A block without a closing fence goes to the end.
        assert_eq!(found("a\n  ```\nb\n"), ["  ```\nb\n"]);
        for none in [
            "",
            "a ``` b",
            "``` in `a` line ```",
            "    ```\n",
            "``\n``\n",
        ] {
            assert_eq!(found(none), [""; 0], "{none:?}");
        }
    }

    #[test]
    fn links_and_code_are_found() {
        let text = "see https://a.example/b?c=d, ask me@a.example or run `ls -l`; a `b http://c.example` ` alone";
        let found = spans(text);
        let texts: Vec<_> = found.iter().map(|range| &text[range.clone()]).collect();
        assert_eq!(
            texts,
            [
                "https://a.example/b?c=d",
                "me@a.example",
                "`ls -l`",
                "`b http://c.example`"
            ]
        );
        assert!(!cuts(&found, 4) && cuts(&found, 5) && !cuts(&found, 27));
    }
}
