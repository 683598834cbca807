//! Sends events at a fixed interval and of one size, each with as much text as fits or with none, so that an observer
//! sees neither when tokens come nor how long they are. The number of events still shows.

use std::task::{Context, Poll};
use std::time::Duration;

use cocoon_protocol::engine::Text;
use cocoon_protocol::wiping::append;
use tokio::time::{Interval, MissedTickBehavior, interval};
use zeroize::Zeroizing;

use super::choices::Choices;
use crate::engine::Piece;

/// Bytes of text for which an event has room, at least.
pub(super) const MIN_ROOM: usize = 96;

/// Decides when events leave and how much text each carries. Holds at most the text of one event and one piece; further
/// pieces wait in the bounded buffer of their answer.
pub(super) struct Steady {
    ticks: Interval,
    rooms: Rooms,
    held: Option<(usize, Piece)>,
}

/// Bytes that text may take in an event, in its JSON encoding.
#[derive(Clone, Copy)]
pub(super) struct Rooms {
    /// In an event with text of the answer.
    pub text: usize,
    /// In an event with arguments of a call.
    pub arguments: usize,
}

/// Kind of pieces that can be joined in one event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Arguments(u32),
}

impl Steady {
    /// Starts the interval; the first tick is due at once.
    pub fn new(every: Duration, rooms: Rooms) -> Self {
        let mut ticks = interval(every);
        // A client that reads slowly gets fewer events, and still at multiples of the interval.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Self {
            ticks,
            rooms,
            held: None,
        }
    }

    /// Waits for the next tick.
    pub fn poll_tick(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.ticks.poll_tick(context).map(|_| ())
    }

    /// Returns what the event of this tick carries: text, which is empty if none has come, or a piece that needs an
    /// event of its own. `None` after the end.
    pub fn next(
        &mut self,
        choices: &mut Choices,
        context: &mut Context<'_>,
    ) -> Option<(usize, Piece)> {
        let (index, piece) = match self.held.take() {
            Some(held) => held,
            None => match choices.poll(context) {
                Poll::Ready(next) => next?,
                Poll::Pending => {
                    let nothing = Piece::Delta(Text::default(), Vec::new());
                    return Some((choices.unfinished(), nothing));
                }
            },
        };
        let (kind, text) = match piece {
            Piece::Call {
                index: call,
                name: Some(name),
                arguments,
            } => {
                // The name takes the room of its event, so the arguments wait for the next one.
                if !arguments.0.is_empty() {
                    self.held = Some((index, Kind::Arguments(call).piece(arguments)));
                }
                let named = Piece::Call {
                    index: call,
                    name: Some(name),
                    arguments: Text::default(),
                };
                return Some((index, named));
            }
            piece => match Kind::of(piece) {
                Ok(told) => told,
                Err(alone) => return Some((index, alone)),
            },
        };
        Some((index, self.fill(index, kind, text, choices, context)))
    }

    /// Adds pieces that have come to `text` while there is room, and keeps what does not fit for the next tick.
    fn fill(
        &mut self,
        index: usize,
        kind: Kind,
        text: Text,
        choices: &mut Choices,
        context: &mut Context<'_>,
    ) -> Piece {
        let room = match kind {
            Kind::Text => self.rooms.text,
            Kind::Arguments(_) => self.rooms.arguments,
        };
        let mut whole = Zeroizing::new(String::with_capacity(2 * room));
        append(&mut whole, &text.0);
        while written(&whole) < room {
            let Poll::Ready(Some(piece)) = choices.poll_of(index, context) else {
                break;
            };
            match Kind::of(piece) {
                Ok((same, more)) if same == kind => append(&mut whole, &more.0),
                Ok((other, text)) => {
                    self.held = Some((index, other.piece(text)));
                    break;
                }
                Err(alone) => {
                    self.held = Some((index, alone));
                    break;
                }
            }
        }
        let (fits, rest) = whole.split_at(fitting(&whole, room));
        if !rest.is_empty() {
            // Nothing else is held: the piece that was added last exceeded the room.
            self.held = Some((index, kind.piece(Text(rest.to_owned()))));
        }
        kind.piece(Text(fits.to_owned()))
    }
}

impl Kind {
    /// Returns the kind and text of a piece that can be split and joined, or the piece itself.
    fn of(piece: Piece) -> Result<(Self, Text), Piece> {
        match piece {
            Piece::Delta(text, _) => Ok((Kind::Text, text)),
            Piece::Call {
                index,
                name: None,
                arguments,
            } => Ok((Kind::Arguments(index), arguments)),
            alone => Err(alone),
        }
    }

    fn piece(self, text: Text) -> Piece {
        match self {
            Kind::Text => Piece::Delta(text, Vec::new()),
            Kind::Arguments(index) => Piece::Call {
                index,
                name: None,
                arguments: text,
            },
        }
    }
}

/// Bytes of a text in its JSON encoding.
fn written(text: &str) -> usize {
    text.chars().map(escaped).sum()
}

/// Bytes of the longest prefix of `text` whose JSON encoding fits into `room`.
fn fitting(text: &str, room: usize) -> usize {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += escaped(c);
        if used > room {
            return at;
        }
    }
    text.len()
}

fn escaped(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\0'..='\u{1f}' => 6,
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn lengths_are_those_that_json_writes(text in "\\PC{0,40}[\\x00-\\x7f]{0,40}", room in 6..120_usize) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(written(&text), json.len() - 2);
            let cut = fitting(&text, room);
            prop_assert!(written(&text[..cut]) <= room);
            let next = text[cut..].chars().next().map_or(usize::MAX / 2, escaped);
            prop_assert!(written(&text[..cut]) + next > room);
        }
    }
}
