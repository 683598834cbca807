//! Parses server-sent events as the HTML standard (section 9.2.6) interprets them: an event is the
//! `data` lines before an empty line; a line ends with CR LF, LF or CR.

use zeroize::{Zeroize, Zeroizing};

/// Byte order mark, which may precede a stream but not a field.
pub const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Longest event, in bytes. A token with its padding is far shorter.
pub const MAX_EVENT_LEN: usize = 256 * 1024;

/// Takes bytes as they arrive and reports each event when it is complete. Its buffers are wiped.
#[derive(Default)]
pub struct Events {
    buffer: Zeroizing<Vec<u8>>,
    /// Data of the current event; every line is followed by a line feed.
    data: Zeroizing<Vec<u8>>,
    /// The first line is complete.
    begun: bool,
    /// The last byte was a carriage return. A line feed now belongs to the same line end.
    returned: bool,
}

/// An event is longer than [`MAX_EVENT_LEN`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the appliance streams an event of more than {MAX_EVENT_LEN} bytes")]
pub struct EventTooLong;

impl Events {
    /// Adds bytes. Calls `each` with the data of every event that is complete.
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
        // The field name is the text before the first colon; a comment has an empty name.
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
        // Comments and other fields (event, id, retry) are not used.
        self.buffer.zeroize();
    }
}

/// Appends bytes. If the vector must grow, its old allocation is wiped.
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

    /// For every kind of line and line end, split at every byte.
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
        // Mixed line ends: CR LF is one, LF CR are two.
        let found = events(&[b"data: a\n\rdata: b\r\n\ndata: c\r\r\n"]).unwrap();
        assert_eq!(found, ["a", "b", "c"]);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let long = vec![b'x'; MAX_EVENT_LEN + 1];
        assert_eq!(events(&[b"data: ", &long]), Err(EventTooLong));
    }
}
