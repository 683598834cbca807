//! Wraps the stream and the answers of a connection, to record what they do.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::activity::Activity;
use super::reply::Reply;
use super::unread::Unread;

/// A request that is being answered; dropping this ends it.
pub(super) struct Asked {
    activity: Arc<Activity>,
    number: u64,
}

impl Asked {
    /// Begins a request whose head has arrived.
    pub fn begin(activity: &Arc<Activity>) -> Self {
        Self {
            number: activity.asked(),
            activity: Arc::clone(activity),
        }
    }

    /// Keeps the request open until `reply` has been sent or given up.
    pub fn until_sent(self, reply: Reply) -> Sending {
        Sending { reply, asked: self }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.activity.answered(self.number);
    }
}

/// An answer that is being sent.
pub(super) struct Sending {
    reply: Reply,
    asked: Asked,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let Asked { activity, number } = &this.asked;
        activity.taken(*number);
        let polled = Pin::new(&mut this.reply).poll_frame(context);
        // This frame counts as waiting for the client's window until hyper asks for more.
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            activity.given(*number, frame.data_ref().map_or(0, Bytes::len));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.reply.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.reply.size_hint()
    }
}

/// Is notified of what a stream does.
pub(super) trait Watcher {
    /// Bytes were received.
    fn received(&self) {}
    /// `bytes` bytes were sent.
    fn sent(&self, bytes: usize);
    /// No bytes can be sent now.
    fn blocked(&self) {}
}

/// Watches the stream inside TLS, where bytes are requests and answers only.
impl Watcher for Arc<Activity> {
    fn received(&self) {
        Activity::received(self);
    }

    fn sent(&self, _: usize) {
        Activity::sent(self);
    }
}

/// Watches the socket below TLS, because TLS's own buffer hides how slowly a client takes its data.
impl Watcher for Arc<Unread> {
    fn sent(&self, bytes: usize) {
        self.flowed(bytes, Instant::now());
    }

    fn blocked(&self) {
        Unread::blocked(self, Instant::now());
    }
}

/// A stream that notifies its watcher when bytes pass.
pub(super) struct Watched<S, W> {
    /// The stream that is wrapped.
    pub stream: S,
    /// The watcher that is notified.
    pub watcher: W,
}

impl<S, W: Watcher> Watched<S, W> {
    fn wrote(&self, polled: &Poll<io::Result<usize>>) {
        match polled {
            Poll::Ready(Ok(bytes @ 1..)) => self.watcher.sent(*bytes),
            Poll::Ready(_) => {}
            Poll::Pending => self.watcher.blocked(),
        }
    }
}

impl<S: AsyncRead + Unpin, W: Watcher + Unpin> AsyncRead for Watched<S, W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        // The end of the stream is not a request.
        if buffer.filled().len() > before {
            self.watcher.received();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin, W: Watcher + Unpin> AsyncWrite for Watched<S, W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(&polled);
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(&polled);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Limits;
    use crate::api::activity::Due;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
    use tokio::task::yield_now;

    #[tokio::test]
    async fn a_socket_is_blocked_until_its_reader_takes_anything() {
        let unread = Arc::new(Unread::new(1000));
        let activity = Activity::new(false, Arc::clone(&unread));
        activity.asked();
        let blocked = || matches!(activity.due(&Limits::default(), false), Due::Cut(_));
        let (ours, mut theirs) = duplex(2);
        let mut stream = Watched {
            stream: ours,
            watcher: unread,
        };
        stream.write_all(b"ab").await.unwrap();
        assert!(!blocked());
        let writing = tokio::spawn(async move { stream.write_all(b"cd").await });
        while !blocked() {
            yield_now().await;
        }
        assert_eq!(theirs.read_u16().await.unwrap(), 0x6162);
        writing.await.unwrap().unwrap();
        assert!(!blocked(), "it took something");
    }
}
