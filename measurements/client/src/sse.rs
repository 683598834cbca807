//! Server-sent events, read as the HTML standard (section 9.2.6) interprets them: `data` lines between empty ones; a
//! line ends with CR LF, LF or CR.

use zeroize::{Zeroize, Zeroizing};

/// What a stream may begin with, and no field does.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Longest event, in bytes: a token with its padding is far shorter.
pub const MAX_EVENT_LEN: usize = 256 * 1024;

/// Takes bytes as they arrive and gives events as they end. What it holds is wiped.
#[derive(Default)]
pub struct Events {
    buffer: Zeroizing<Vec<u8>>,
    /// Each line with a line feed behind it.
    data: Zeroizing<Vec<u8>>,
    /// The first line is over.
    begun: bool,
    /// The last byte was a carriage return: a line feed now is of the same line's end.
    returned: bool,
}

/// An event without end.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the appliance streams an event of more than {MAX_EVENT_LEN} bytes")]
pub struct EventTooLong;

impl Events {
    /// Adds bytes; `each` is called with the data of every event that ended.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), EventTooLong> {
        for &byte in bytes {
            if std::mem::replace(&mut self.returned, byte == b'\r') && byte == b'\n' {
                continue;
            }
            if matches!(byte, b'\n' | b'\r') {
                self.line(&mut each);
                continue;
            }
            if self.buffer.len() + self.data.len() >= MAX_EVENT_LEN {
                return Err(EventTooLong);
            }
            push(&mut self.buffer, &[byte]);
        }
        Ok(())
    }

    fn line(&mut self, each: &mut impl FnMut(&[u8])) {
        let mut line = &self.buffer[..];
        if !std::mem::replace(&mut self.begun, true) {
            line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        }
        // What stands before the first colon; a comment has no name.
        let end = line.iter().position(|byte| *byte == b':');
        let (name, value) = match end {
            Some(end) => (&line[..end], &line[end + 1..]),
            None => (line, &b""[..]),
        };
        if line.is_empty() {
            if let Some(data) = self.data.strip_suffix(b"\n") {
                each(data);
            }
            self.data.zeroize();
        } else if name == b"data" {
            push(&mut self.data, value.strip_prefix(b" ").unwrap_or(value));
            push(&mut self.data, b"\n");
        }
        // Comments, names, identifiers: nothing of ours.
        self.buffer.zeroize();
    }
}

/// Appends without leaving the old bytes behind where a vector moves.
fn push(to: &mut Zeroizing<Vec<u8>>, bytes: &[u8]) {
    if to.capacity() - to.len() < bytes.len() {
        let mut larger =
            Zeroizing::new(Vec::with_capacity(((to.len() + bytes.len()) * 2).max(4096)));
        larger.extend_from_slice(to);
        *to = larger;
    }
    to.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(pieces: &[&[u8]]) -> Result<Vec<String>, EventTooLong> {
        let mut found = Vec::new();
        let mut events = Events::default();
        for piece in pieces {
            events.push(piece, |data| {
                found.push(String::from_utf8_lossy(data).into_owned())
            })?;
        }
        Ok(found)
    }

    /// Every kind of line, whatever it ends with and wherever it is cut.
    #[test]
    fn events_are_whole_however_they_are_cut() {
        let lines = [
            "\u{feff}data: {\"a\":1}",
            "",
            ": a comment",
            "event: x",
            "data:b",
            "data:  c",
            "data",
            "\u{feff}data: no field",
            "dat: no field either",
            "",
            "",
            "data:",
            "",
            "id: 1",
            "",
            "data: [DONE]",
            "",
            "data: without an end",
        ];
        let expected = ["{\"a\":1}", "b\n c\n", "", "[DONE]"];
        for end in ["\n", "\r\n", "\r"] {
            let stream = lines.join(end);
            let stream = stream.as_bytes();
            assert_eq!(events(&[stream]).unwrap(), expected, "{end:?}");
            for at in 0..=stream.len() {
                let (before, behind) = stream.split_at(at);
                let found = events(&[before, b"", behind]).unwrap();
                assert_eq!(found, expected, "{end:?} at {at}");
            }
            let bytes: Vec<_> = stream.chunks(1).collect();
            assert_eq!(events(&bytes).unwrap(), expected, "{end:?}");
        }
        // Mixed: CR LF is one end, LF CR are two.
        let found = events(&[b"data: a\n\rdata: b\r\n\ndata: c\r\r\n"]).unwrap();
        assert_eq!(found, ["a", "b", "c"]);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let long = vec![b'x'; MAX_EVENT_LEN + 1];
        assert_eq!(events(&[b"data: ", &long]), Err(EventTooLong));
    }
}
