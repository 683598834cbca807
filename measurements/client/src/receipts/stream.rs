//! The lines of a stream, as far as a receipt needs them: everything passes as it comes, but a line that may become a
//! receipt or the end mark is held back until it is whole.

use bytes::{Bytes, BytesMut};
use cocoon_protocol::receipt::{DELIVERY_LEN, Delivery, RECEIPT_COMMENT};

use super::ReceiptFault;
use super::covered::Covered;

/// The line that ends a stream.
const DONE: &[u8] = b"data: [DONE]";
/// What clients take for that line: the space may be missing, and whatever stands behind is not looked at.
const TAKEN_FOR_DONE: [&[u8]; 2] = [DONE, b"data:[DONE]"];
/// Longest line that is held back, with either line break.
const MAX_LINE: usize = RECEIPT_COMMENT.len() + DELIVERY_LEN + 2;

/// Where in a stream this is.
#[derive(Default)]
pub(super) struct Lines {
    /// The beginning of a line that may become one of ours.
    held: BytesMut,
    /// Within a line that is none.
    passing: bool,
    /// The receipt was here.
    receipt: bool,
}

/// What stopped the reading of lines.
pub(super) enum Stop {
    /// There are no more.
    Dry,
    /// A receipt, with its line, which passes only if it is good.
    Receipt(Box<Delivery>, Bytes),
    /// What follows must not pass.
    Fault(ReceiptFault),
}

impl Lines {
    /// Takes bytes from `data`, up to a receipt; those that may pass are added to `passed`, and until a receipt came
    /// they are covered by it.
    pub fn push(&mut self, data: &mut Bytes, passed: &mut BytesMut, covered: &mut Covered) -> Stop {
        while !data.is_empty() {
            let end = data.iter().position(|byte| *byte == b'\n');
            let piece = data.split_to(end.map_or(data.len(), |end| end + 1));
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

    /// Whether this is an event as they usually come, whole, that may pass as it is.
    pub fn is_usual(&self, data: &[u8]) -> bool {
        let Some(line) = data.strip_suffix(b"\n\n") else {
            return false;
        };
        self.complete() && !self.receipt && line.starts_with(b"data: {") && !line.contains(&b'\n')
    }

    /// Whether the stream may end here.
    pub fn complete(&self) -> bool {
        self.held.is_empty() && !self.passing
    }

    /// A whole line that begins like one of ours.
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
        let end = TAKEN_FOR_DONE.iter().any(|mark| bare.starts_with(mark));
        match (end, self.receipt) {
            (true, true) if bare == DONE => Stop::Dry,
            (true, true) => Stop::Fault(ReceiptFault::Behind),
            (true, false) => Stop::Fault(ReceiptFault::Missing),
            (false, true) => Stop::Fault(ReceiptFault::Behind),
            // A beginning that came to nothing.
            (false, false) => {
                covered.update(line);
                Stop::Dry
            }
        }
    }
}

fn may_be_ours(line: &[u8]) -> bool {
    let [done, tight] = TAKEN_FOR_DONE;
    [RECEIPT_COMMENT.as_bytes(), done, tight]
        .iter()
        .any(|ours| {
            let common = ours.len().min(line.len());
            line[..common] == ours[..common]
        })
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
                },
                signature: Hex([7; 64]),
            },
            salt: Hex([8; 32]),
        }
    }

    const BEFORE: &str =
        "data: {\"a\":1}\r\n\r\n: cocoon\n\nevent: x\ndata: [D\ndata: {\"b\":2}\n\n";

    /// An application that sees an end of the stream stops reading, before the error that would follow.
    #[test]
    fn no_spelling_of_the_end_passes_without_a_receipt() {
        for end in [
            "data: [DONE]\n",
            "data:[DONE]\n",
            "data: [DONE]x\n",
            "data: [DONE] \r\n",
        ] {
            let (mut lines, mut covered) = (Lines::default(), Covered::new(false));
            let (mut passed, mut data) = (BytesMut::new(), Bytes::from_static(end.as_bytes()));
            let stop = lines.push(&mut data, &mut passed, &mut covered);
            assert!(
                matches!(stop, Stop::Fault(ReceiptFault::Missing)),
                "{end:?}"
            );
            assert!(passed.is_empty(), "{end:?}");
        }
    }

    proptest! {
        #[test]
        fn a_receipt_is_found_however_the_stream_is_cut(sizes in prop::collection::vec(1..40_usize, 1..60)) {
            let text = delivery().to_text();
            let stream = format!("{BEFORE}{RECEIPT_COMMENT}{text}\n\ndata: [DONE]\n\n");
            let (mut lines, mut covered) = (Lines::default(), Covered::new(true));
            let (mut passed, mut found) = (BytesMut::new(), Vec::new());
            let (mut rest, mut sizes) = (stream.as_bytes(), sizes.into_iter().cycle());
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(sizes.next().unwrap().min(rest.len()));
                let mut piece = Bytes::copy_from_slice(piece);
                loop {
                    match lines.push(&mut piece, &mut passed, &mut covered) {
                        Stop::Dry => break,
                        Stop::Receipt(receipt, line) => {
                            passed.extend_from_slice(&line);
                            found.push(*receipt);
                        }
                        Stop::Fault(fault) => panic!("{fault}"),
                    }
                }
                rest = behind;
            }
            prop_assert!(lines.complete());
            prop_assert_eq!(&passed[..], stream.as_bytes());
            prop_assert_eq!(found, [delivery()]);
            prop_assert_eq!(covered.digest(), Hex32::sha256(BEFORE.as_bytes()));
            prop_assert_eq!(&covered.take().unwrap()[..], BEFORE.as_bytes());
        }
    }
}
