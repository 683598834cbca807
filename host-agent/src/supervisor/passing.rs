//! Passes the public listener from one supervisor to another, as a file descriptor with the bytes of a report
//! (`SCM_RIGHTS`, unix(7)). Afterwards both share the same socket and queue.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use cocoon_protocol::frame;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::Interest;

use super::{MAX_MESSAGE, Order};

/// How long the other supervisor may take for one read or write.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the supervisor behind `socket` for its listener. Blocks.
///
/// # Errors
/// An I/O error if no supervisor answers or it has no listener.
pub(super) fn borrow(socket: &Path) -> io::Result<TcpListener> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let order = frame::encode(&Order::Lend, MAX_MESSAGE).map_err(io::Error::other)?;
    let none = || io::Error::other("the other VM has no public listener");
    stream
        .write_all(&order)
        .map_err(|error| match error.kind() {
            // The peer closed the connection without waiting for an order.
            io::ErrorKind::BrokenPipe => none(),
            _ => error,
        })?;
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let mut into = [IoSliceMut::new(&mut bytes)];
        let received = match recvmsg(&stream, &mut into, &mut ancillary, flags) {
            Ok(received) => received.bytes,
            // The peer closed the connection with the order unread.
            Err(rustix::io::Errno::CONNRESET) => 0,
            Err(error) => return Err(error.into()),
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message
                && let Some(descriptor) = descriptors.last()
            {
                let listener = TcpListener::from(descriptor);
                listener.set_nonblocking(true)?;
                return Ok(listener);
            }
        }
        // Reports are skipped.
        if received == 0 {
            return Err(none());
        }
    }
}

/// Sends `bytes`, with `listener` attached to the first of them. Returns the number of bytes sent, at least one.
///
/// # Errors
/// The system's error if nothing can be sent.
pub(super) async fn lend(
    stream: &tokio::net::UnixStream,
    bytes: &[u8],
    listener: impl AsFd,
) -> io::Result<usize> {
    let descriptors = [listener.as_fd()];
    loop {
        stream.writable().await?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let sent = sendmsg(
                stream,
                &[IoSlice::new(bytes)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            );
            Ok(sent?)
        });
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_listener_arrives_between_the_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sup");
        let socket = tokio::net::UnixListener::bind(&path).unwrap();
        let taker = path.clone();
        let taking = tokio::task::spawn_blocking(move || borrow(&taker));
        let (stream, _) = socket.accept().await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        stream.writable().await.unwrap();
        stream.try_write(b"a report that goes by").unwrap();
        assert_eq!(lend(&stream, b"and one more", &listener).await.unwrap(), 12);
        let taken = taking.await.unwrap().unwrap();
        assert_eq!(taken.local_addr().unwrap(), listener.local_addr().unwrap());
        // The descriptor is the same socket, not another one on the same address.
        drop(listener);
        std::net::TcpStream::connect(taken.local_addr().unwrap()).unwrap();

        let taking = tokio::task::spawn_blocking(move || borrow(&path));
        drop(socket.accept().await.unwrap());
        let error = taking.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "the other VM has no public listener");
    }
}
