//! Server-sent events, as far as OpenAI's streams use them: `data:` lines between empty lines.

use zeroize::{Zeroize, Zeroizing};

/// Longest event, in bytes: a token with its padding is far shorter.
pub const MAX_EVENT_LEN: usize = 256 * 1024;

/// Takes bytes as they arrive and gives events as they end. What it holds is wiped.
#[derive(Default)]
pub struct Events {
    buffer: Zeroizing<Vec<u8>>,
    data: Zeroizing<Vec<u8>>,
}

/// An event without end.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the appliance streams an event of more than {MAX_EVENT_LEN} bytes")]
pub struct EventTooLong;

impl Events {
    /// Adds bytes; `each` is called with the data of every event that ended.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), EventTooLong> {
        for &byte in bytes {
            if byte == b'\n' {
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
        let line = self.buffer.strip_suffix(b"\r").unwrap_or(&self.buffer);
        if line.is_empty() {
            if !self.data.is_empty() {
                each(&self.data);
                self.data.zeroize();
            }
        } else if let Some(data) = line.strip_prefix(b"data:") {
            let data = data.strip_prefix(b" ").unwrap_or(data);
            if !self.data.is_empty() {
                push(&mut self.data, b"\n");
            }
            push(&mut self.data, data);
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

    #[test]
    fn events_are_whole_however_they_are_cut() {
        let stream =
            b": hello\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:b\ndata: c\n\ndata: [DONE]\n\n";
        let whole = events(&[stream]).unwrap();
        assert_eq!(whole, ["{\"a\":1}", "b\nc", "[DONE]"]);
        let bytes: Vec<_> = stream.chunks(1).collect();
        assert_eq!(events(&bytes).unwrap(), whole);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let long = vec![b'x'; MAX_EVENT_LEN + 1];
        assert_eq!(events(&[b"data: ", &long]), Err(EventTooLong));
    }
}
