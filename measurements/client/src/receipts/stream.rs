//! Splits a stream into lines as far as receipts need it. Bytes are passed on as they arrive, but a
//! line that may become a receipt or the end mark is held back until it is complete. As for any
//! reader of server-sent events, lines end with CR LF, LF or CR.

use bytes::{Bytes, BytesMut};
use cocoon_protocol::receipt::{DELIVERY_LEN, Delivery, RECEIPT_COMMENT};

use super::ReceiptFault;
use super::covered::Covered;
use crate::sse::BYTE_ORDER_MARK;

/// The line that ends a stream.
const DONE: &[u8] = b"data: [DONE]";
/// Parts of a line that clients take for the end mark: a `data` field whose value begins with
/// `[DONE]`.
const TAKEN_FOR_DONE: [&[u8]; 3] = [b"data", b":", b"[DONE]"];
/// Longest line that is held back, including its line end, in bytes.
const MAX_LINE: usize = RECEIPT_COMMENT.len() + DELIVERY_LEN + 2;

/// State between the bytes of a stream.
#[derive(Default)]
pub(super) struct Lines {
    /// Beginning of a line that may become a receipt or the end mark.
    held: BytesMut,
    /// The current line is neither, and is passed on as it arrives.
    passing: bool,
    /// The last byte was a carriage return, which ended a line. A line feed now belongs to the same
    /// line end.
    returned: bool,
    /// The receipt has been seen.
    receipt: bool,
}

/// Why reading of lines stopped.
pub(super) enum Stop {
    /// All bytes were read.
    Dry,
    /// A receipt with its line, which may be passed on only if the receipt passes its checks.
    Receipt(Box<Delivery>, Bytes),
    /// The rest of the stream must not be passed on.
    Fault(ReceiptFault),
}

impl Lines {
    /// Takes bytes from `data` until a receipt. Appends those that may be passed on to `passed`,
    /// and to `covered` if they come before the receipt.
    pub fn push(&mut self, data: &mut Bytes, passed: &mut BytesMut, covered: &mut Covered) -> Stop {
        while let Some(&first) = data.first() {
            if std::mem::take(&mut self.returned) && first == b'\n' {
                // Second half of the line end of a line that was passed on.
                let half = data.split_to(1);
                if !self.receipt {
                    covered.update(&half);
                }
                passed.extend_from_slice(&half);
                continue;
            }
            let end = data.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let piece = data.split_to(end.map_or(data.len(), |end| end + 1));
            self.returned = piece.ends_with(b"\r");
            if !self.passing {
                self.held.extend_from_slice(&piece);
                if may_be_ours(&self.held) {
                    if self.held.len() > MAX_LINE {
                        return Stop::Fault(ReceiptFault::TooLong);
                    }
                    if end.is_some() {
                        let line = self.held.split().freeze();
                        match self.ours(&line, covered) {
                            Stop::Dry => passed.extend_from_slice(&line),
                            stop => return stop,
                        }
                    }
                    continue;
                }
            }
            let begun = self.held.split().freeze();
            let line = if begun.is_empty() { piece } else { begun };
            if self.receipt && !line.iter().all(u8::is_ascii_whitespace) {
                return Stop::Fault(ReceiptFault::Behind);
            }
            if !self.receipt {
                covered.update(&line);
            }
            passed.extend_from_slice(&line);
            self.passing = end.is_none();
        }
        Stop::Dry
    }

    /// Returns whether `data` is exactly one event in the usual form, which can be passed on
    /// unchanged.
    pub fn is_usual(&self, data: &[u8]) -> bool {
        let Some(line) = data.strip_suffix(b"\n\n") else {
            return false;
        };
        let fresh = self.complete() && !self.returned && !self.receipt;
        let one = !line.iter().any(|byte| matches!(byte, b'\n' | b'\r'));
        fresh && one && line.starts_with(b"data: {")
    }

    /// Returns whether the stream may end here.
    pub fn complete(&self) -> bool {
        self.held.is_empty() && !self.passing
    }

    /// Handles a complete line that begins like a receipt or an end mark.
    fn ours(&mut self, line: &Bytes, covered: &mut Covered) -> Stop {
        let bare = line.trim_ascii_end();
        if let Some(text) = bare.strip_prefix(RECEIPT_COMMENT.as_bytes()) {
            if std::mem::replace(&mut self.receipt, true) {
                return Stop::Fault(ReceiptFault::Behind);
            }
            return match Delivery::parse(text) {
                Ok(delivery) => Stop::Receipt(Box::new(delivery), line.clone()),
                Err(error) => Stop::Fault(ReceiptFault::Malformed(error)),
            };
        }
        match (taken_for_done(line) == Like::Whole, self.receipt) {
            (true, true) if bare == DONE => Stop::Dry,
            (true, true) => Stop::Fault(ReceiptFault::Behind),
            (true, false) => Stop::Fault(ReceiptFault::Missing),
            (false, true) => Stop::Fault(ReceiptFault::Behind),
            // The line turned out to be neither.
            (false, false) => {
                covered.update(line);
                Stop::Dry
            }
        }
    }
}

fn may_be_ours(line: &[u8]) -> bool {
    let comment = RECEIPT_COMMENT.as_bytes();
    let common = comment.len().min(line.len());
    line[..common] == comment[..common] || taken_for_done(line) != Like::Nothing
}

/// How far a line matches the end mark.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Like {
    Nothing,
    /// The line matches so far, but is not complete.
    Beginning,
    Whole,
}

/// Returns whether clients may take a line for the end mark. More spaces than the one of the
/// standard are skipped, and a byte order mark at the beginning of any line: some clients trim what
/// they read.
fn taken_for_done(line: &[u8]) -> Like {
    if BYTE_ORDER_MARK.starts_with(line) {
        return Like::Beginning;
    }
    let mut rest = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
    for part in TAKEN_FOR_DONE {
        while let [b' ' | b'\t', behind @ ..] = rest {
            rest = behind;
        }
        match rest.strip_prefix(part) {
            Some(behind) => rest = behind,
            None if part.starts_with(rest) => return Like::Beginning,
            None => return Like::Nothing,
        }
    }
    Like::Whole
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::bytes::{Hex, Hex32};
    use cocoon_protocol::receipt::{Outcome, Receipt, SignedReceipt, Tokens};
    use proptest::prelude::*;

    fn delivery() -> Delivery {
        Delivery {
            signed: SignedReceipt {
                receipt: Receipt {
                    outcome: Outcome::Complete,
                    manifest_id: Hex([1; 32]),
                    model_digest: Hex([2; 32]),
                    evidence_digest: Hex([3; 32]),
                    nonce: Hex([4; 32]),
                    number: 1,
                    tokens: Tokens::default(),
                    request: Hex([5; 32]),
                    response: Hex([6; 32]),
                    engine: None,
                },
                signature: Hex([7; 64]),
            },
            salt: Hex([8; 32]),
        }
    }

    /// Lines before a receipt.
    const BEFORE: [&str; 9] = [
        "\u{feff}data: {\"a\":1}",
        "",
        ": cocoon",
        "",
        "event: x",
        "data: [D",
        "data:  [",
        "data: {\"b\":2}",
        "",
    ];

    /// Result of reading a stream.
    #[derive(Default)]
    struct Read {
        passed: BytesMut,
        found: Vec<Delivery>,
        fault: Option<ReceiptFault>,
    }

    /// Reads chunks until their end or the first fault. Treats all receipts as valid.
    fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Read, Lines, Covered) {
        let (mut lines, mut covered) = (Lines::default(), Covered::new(true));
        let mut read = Read::default();
        for piece in pieces {
            let mut piece = Bytes::copy_from_slice(piece);
            // As in `Receipted::pass`.
            if lines.is_usual(&piece) {
                covered.update(&piece);
                read.passed.extend_from_slice(&piece);
                continue;
            }
            loop {
                match lines.push(&mut piece, &mut read.passed, &mut covered) {
                    Stop::Dry => break,
                    Stop::Receipt(receipt, line) => {
                        read.passed.extend_from_slice(&line);
                        read.found.push(*receipt);
                    }
                    Stop::Fault(fault) => {
                        read.fault = Some(fault);
                        return (read, lines, covered);
                    }
                }
            }
        }
        (read, lines, covered)
    }

    /// Returns whether a reader of server-sent events that has the whole stream sees an end mark in
    /// it, or would see one after an empty line.
    fn ends(stream: &[u8]) -> bool {
        let text = String::from_utf8_lossy(stream).replace("\r\n", "\n");
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let data = |line: &str| {
            let value = line.strip_prefix("data:")?;
            Some(value.strip_prefix(' ').unwrap_or(value).to_owned())
        };
        let mut values = text.split(['\n', '\r']).filter_map(data);
        values.any(|value| value.starts_with("[DONE]"))
    }

    /// Returns all ways to split a stream in two, and the split into single bytes.
    fn cuts(stream: &[u8]) -> Vec<Vec<&[u8]>> {
        let twice = (0..=stream.len()).map(|at| {
            let (before, behind) = stream.split_at(at);
            vec![before, behind]
        });
        twice.chain([stream.chunks(1).collect()]).collect()
    }

    /// An application that sees an end mark stops reading before the error that would follow.
    #[test]
    fn no_spelling_of_the_end_passes_without_a_receipt() {
        for mark in [
            "data: [DONE]",
            "data:[DONE]",
            "data: [DONE]x",
            "data: [DONE] ",
            "data:  [DONE]",
            " data\t: [DONE]",
            "\u{feff}data: [DONE]",
            "\u{feff}data:[DONE]",
        ] {
            for end in ["\n", "\r\n", "\r"] {
                for before in ["", "data: {}", ": x", "event: y"] {
                    let stream = match before {
                        "" => [mark, "", ""].join(end),
                        before => [before, mark, "", ""].join(end),
                    };
                    for pieces in cuts(stream.as_bytes()) {
                        let (read, ..) = read(pieces.clone());
                        let missing = matches!(read.fault, Some(ReceiptFault::Missing));
                        assert!(missing, "{pieces:?}");
                        let expected = match before {
                            "" => String::new(),
                            before => format!("{before}{end}"),
                        };
                        assert_eq!(read.passed, expected.as_bytes(), "{pieces:?}");
                    }
                }
            }
        }
    }

    /// For every kind of line end, split at every byte.
    #[test]
    fn a_receipt_is_found_whatever_its_lines_end_with() {
        let text = delivery().to_text();
        let receipt = format!("{RECEIPT_COMMENT}{}", *text);
        for end in ["\n", "\r\n", "\r"] {
            let before = BEFORE.map(|line| format!("{line}{end}")).concat();
            let stream = format!("{before}{receipt}{end}{end}data: [DONE]{end}{end}");
            for pieces in cuts(stream.as_bytes()) {
                let (read, lines, mut covered) = read(pieces);
                assert!(read.fault.is_none() && lines.complete(), "{end:?}");
                assert_eq!(read.passed, stream.as_bytes());
                assert_eq!(read.found, [delivery()]);
                assert_eq!(covered.digest(), Hex32::sha256(before.as_bytes()));
                assert_eq!(&covered.take().unwrap()[..], before.as_bytes());
            }
        }
    }

    /// Generates parts of possible end marks.
    fn fragment() -> impl Strategy<Value = &'static [u8]> {
        prop::sample::select(vec![
            &b"data"[..],
            b":",
            b" ",
            b"[DONE]",
            b"[DO",
            b"NE]",
            b"\r",
            b"\n",
            b"\r\n",
            b"\n\n",
            b"data: {}\n\n",
            b"{",
            b"x",
            BYTE_ORDER_MARK,
            b"\xef",
            b"\xbb\xbf",
        ])
    }

    proptest! {
        /// Each chunk consists of one to three fragments.
        #[test]
        fn nothing_that_ends_a_stream_passes_without_a_receipt(
            pieces in prop::collection::vec(prop::collection::vec(fragment(), 1..4), 1..40)
        ) {
            let pieces: Vec<Vec<u8>> = pieces.iter().map(|some| some.concat()).collect();
            let whole = pieces.concat();
            let (read, lines, covered) = read(pieces.iter().map(Vec::as_slice));
            prop_assert!(!ends(&read.passed), "{:?}", String::from_utf8_lossy(&whole));
            prop_assert!(whole.starts_with(&read.passed));
            prop_assert_eq!(covered.digest(), Hex32::sha256(&read.passed));
            if read.fault.is_none() {
                prop_assert_eq!(read.passed.len() + lines.held.len(), whole.len());
            } else {
                prop_assert!(ends(&whole) || whole.len() > MAX_LINE || whole.windows(6).any(|w| w == b"[DONE]"));
            }
        }

        #[test]
        fn a_receipt_is_found_however_the_stream_is_cut(sizes in prop::collection::vec(1..40_usize, 1..60)) {
            let text = delivery().to_text();
            let before = BEFORE.join("\r\n") + "\r\n";
            let stream = format!("{before}{RECEIPT_COMMENT}{}\n\ndata: [DONE]\n\n", *text);
            let (mut pieces, mut rest) = (Vec::new(), stream.as_bytes());
            for size in sizes.into_iter().cycle() {
                let (piece, behind) = rest.split_at(size.min(rest.len()));
                pieces.push(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            let (read, lines, covered) = read(pieces);
            prop_assert!(read.fault.is_none() && lines.complete());
            prop_assert_eq!(&read.passed[..], stream.as_bytes());
            prop_assert_eq!(read.found, [delivery()]);
            prop_assert_eq!(covered.digest(), Hex32::sha256(before.as_bytes()));
        }
    }
}
