//! Keeps the last bytes of a stream, so that QEMU's diagnostics or a console cannot fill memory.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// The last `limit` bytes of a stream, shared between its reader and observers.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    limit: usize,
    bytes: Arc<Mutex<VecDeque<u8>>>,
    /// True once the stream has ended. It is set on every read, too, which wakes the observers.
    ended: Arc<watch::Sender<bool>>,
}

impl Tail {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: Arc::default(),
            ended: Arc::new(watch::Sender::new(false)),
        }
    }

    /// Reads `source` to its end on a thread of its own, so that no async runtime is needed.
    pub(crate) fn follow(&self, source: impl Read + Send + 'static) -> std::io::Result<()> {
        let tail = self.clone();
        std::thread::Builder::new()
            .name("qemu-tail".into())
            .spawn(move || tail.drain(source))?;
        Ok(())
    }

    /// Returns the kept bytes as text, with invalid UTF-8 replaced.
    pub(crate) fn text(&self) -> String {
        let bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = bytes.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
    }

    /// Waits until the text contains one of `needles` and returns its index; `None` if the stream ends without it.
    pub(crate) async fn find(&self, needles: &[&str]) -> Option<usize> {
        let mut ended = self.ended.subscribe();
        loop {
            let over = *ended.borrow_and_update();
            let text = self.text();
            if let Some(which) = needles.iter().position(|needle| text.contains(needle)) {
                return Some(which);
            }
            if over || ended.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits for the end of the stream.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // The sender lives in `self`, so this returns only at the end of the stream.
        let _ = ended.wait_for(|over| *over).await;
    }

    fn drain(self, mut source: impl Read) {
        let mut buffer = [0; 4096];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => self.push(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.ended.send_replace(true);
    }

    fn push(&self, new: &[u8]) {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.extend(new);
        let excess = bytes.len().saturating_sub(self.limit);
        bytes.drain(..excess);
        drop(bytes);
        self.ended.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_last_bytes_are_kept_and_found() {
        let tail = Tail::new(8);
        tail.follow(&b"lost beginning, kept end"[..])
            .expect("a thread");
        assert_eq!(tail.find(&["beginning", "kept end"]).await, Some(1));
        tail.ended().await;
        assert_eq!(tail.text(), "kept end");
        assert_eq!(tail.find(&["beginning"]).await, None);
    }
}
