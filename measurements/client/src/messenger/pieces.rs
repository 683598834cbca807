//! Cuts a long text into pieces that fit into a model's context.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation as _;

use super::guarded::{cuts, fences, spans};
use super::tokens::{Counter, estimate};

/// Smallest limit, in tokens: no single character takes more.
pub const MIN_LIMIT: usize = 4;
/// Bytes that are examined beyond a cut: what follows decides where sentences and characters end.
const AHEAD: usize = 256;

/// A piece of a text. All pieces joined in order are the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Text for the model, without white space at either end.
    Text(&'a str),
    /// Text that stays as it is: white space or a code block.
    Kept(&'a str),
}

/// Cuts `text` into pieces of at most `limit` tokens, as [`estimate`] counts them.
///
/// Cuts are between paragraphs if that fills at least half a piece, else between lines, sentences
/// or words. A link, a code block or a word is cut only if it alone exceeds the limit. The same
/// holds for a character as a reader sees it (a letter with accents, a family of emoji).
pub fn pieces(text: &str, limit: usize) -> Vec<Piece<'_>> {
    let limit = limit.max(MIN_LIMIT);
    let blocks = fences(text);
    let mut found = Vec::new();
    let mut from = 0;
    while from < text.len() {
        let rest = &text[from..];
        let blank = rest.len() - rest.trim_start().len();
        if blank > 0 {
            found.push(Piece::Kept(&rest[..blank]));
            from += blank;
            continue;
        }
        let reach = reach(rest, limit);
        let length = if reach == rest.len() {
            rest.trim_end().len()
        } else {
            let cut = Window::new(rest, reach, near(&blocks, from, reach)).cut();
            rest[..cut].trim_end().len()
        };
        found.push(Piece::Text(&rest[..length]));
        from += length;
    }
    found
}

/// Separates code blocks, which are kept, from the text around them.
pub fn outside_code(text: &str) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut from = 0;
    for block in fences(text) {
        found.push(Piece::Text(&text[from..block.start]));
        found.push(Piece::Kept(&text[block.clone()]));
        from = block.end;
    }
    found.push(Piece::Text(&text[from..]));
    found.retain(|piece| !piece.as_str().is_empty());
    found
}

impl<'a> Piece<'a> {
    /// Returns the text of the piece.
    pub fn as_str(self) -> &'a str {
        match self {
            Piece::Text(text) | Piece::Kept(text) => text,
        }
    }
}

/// Returns the length in bytes of the longest beginning of `text` with at most `limit` tokens.
fn reach(text: &str, limit: usize) -> usize {
    let mut count = Counter::default();
    for (index, c) in text.char_indices() {
        count.add(c);
        if count.tokens > limit {
            return index;
        }
    }
    text.len()
}

/// Returns the blocks that a cut within `reach` bytes after `from` could hit, relative to `from`.
fn near(blocks: &[Range<usize>], from: usize, reach: usize) -> Vec<Range<usize>> {
    let ended = blocks.partition_point(|block| block.end <= from);
    let met = blocks[ended..]
        .iter()
        .take_while(|block| block.start < from + reach);
    met.map(|block| block.start.saturating_sub(from)..block.end - from)
        .collect()
}

/// The beginning of a text that must be cut, with a little of the text after it.
struct Window<'a> {
    text: &'a str,
    /// Last position where it may be cut; more than 0.
    reach: usize,
    spans: Vec<Range<usize>>,
    blocks: Vec<Range<usize>>,
}

/// Kinds of positions for a cut, from the best to the worst.
#[derive(Clone, Copy)]
enum Level {
    Paragraph,
    Line,
    Sentence,
    Space,
    Word,
    Character,
}

impl<'a> Window<'a> {
    fn new(rest: &'a str, reach: usize, blocks: Vec<Range<usize>>) -> Self {
        let text = &rest[..rest.ceil_char_boundary(reach + AHEAD)];
        Self {
            text,
            reach,
            spans: spans(text),
            blocks,
        }
    }

    /// Returns the length of the piece before the cut.
    fn cut(&self) -> usize {
        use Level::{Character, Line, Paragraph, Sentence, Space, Word};
        let gentle = [Paragraph, Line, Sentence, Space];
        let whole = |least| {
            let mut levels = gentle.into_iter();
            levels.find_map(|level| {
                self.last(level, |at| {
                    at >= least && !cuts(&self.spans, at) && !cuts(&self.blocks, at)
                })
            })
        };
        let outside_links = |level| self.last(level, |at| !cuts(&self.spans, at));
        whole(self.reach.div_ceil(2))
            .or_else(|| whole(1))
            .or_else(|| [Line, Space, Word].into_iter().find_map(outside_links))
            .or_else(|| self.last(Character, |_| true))
            .unwrap_or(self.reach)
    }

    /// Returns the last position of this kind that is within reach and allowed.
    fn last(&self, level: Level, allowed: impl Fn(usize) -> bool) -> Option<usize> {
        let fits = |at: &usize| (1..=self.reach).contains(at) && allowed(*at);
        let text = self.text;
        let breaks = |least: usize| {
            let runs = blanks(text).filter(move |run| newlines(&text[run.clone()]) >= least);
            runs.map(|run| run.start).filter(fits).last()
        };
        match level {
            Level::Paragraph => breaks(2),
            Level::Line => breaks(1),
            Level::Space => breaks(0),
            Level::Sentence => text
                .split_sentence_bound_indices()
                .map(|(index, _)| text[..index].trim_end().len())
                .filter(fits)
                .last(),
            Level::Word => text
                .split_word_bound_indices()
                .map(|(index, _)| index)
                .filter(|index| !text[..*index].ends_with(['@', '#', '/']))
                .filter(fits)
                .last(),
            Level::Character => text
                .grapheme_indices(true)
                .map(|(index, _)| index)
                .filter(fits)
                .last(),
        }
    }
}

/// Iterates over the runs of white space.
fn blanks(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let start = from + text[from..].find(char::is_whitespace)?;
        let after = text[start..].trim_start();
        from = text.len() - after.len();
        Some(start..from)
    })
}

fn newlines(blank: &str) -> usize {
    blank.matches('\n').count()
}

/// Returns whether `text` fits into one piece.
pub(super) fn fits(text: &str, limit: usize) -> bool {
    estimate(text) <= limit.max(MIN_LIMIT)
}
