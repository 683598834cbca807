//! The socket behind `ps` and `down`: one request and one answer per connection, for this user alone.

use std::io;
use std::path::Path;
use std::time::Duration;

use cocoon_protocol::frame::{self, Decoder};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// Largest message, in bytes.
const MAX_MESSAGE: usize = 16 * 1024;
/// How long one side may let the other wait for a message.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure to take a connection.
const RETRY: Duration = Duration::from_millis(100);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// How it is doing.
    Status,
    /// Finish and stop; the connection closes when the VM is gone. The second one does not wait for the last requests.
    Down,
}

/// How a VM is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// In a word or a few: `starting`, `in phase model`, `serving`.
    pub doing: String,
    /// Public address.
    pub endpoint: String,
    /// Which TEE is imitated, if any.
    pub simulated: Option<String>,
    /// QEMU's process, once it runs.
    pub qemu_pid: Option<u32>,
    /// Identity of the manifest.
    pub manifest_id: String,
    /// When that ends, in seconds since 1970. A VM of an earlier release does not say it.
    #[serde(default)]
    pub not_after: Option<u64>,
    /// How long the kernel may take its memory back when it ends, in seconds. A VM of an earlier release does not say it.
    #[serde(default)]
    pub reclaim_seconds: u64,
}

/// Serves until dropped. One client at a time: answers are immediate. `end` ends the VM at once.
pub(crate) async fn serve<F: Future<Output = ()>>(
    listener: UnixListener,
    status: watch::Receiver<Status>,
    drain: mpsc::Sender<()>,
    end: impl Fn() -> F,
) {
    let mut leaving = Vec::new();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of descriptors, as a rule: whoever waits is still there a moment later.
            sleep(RETRY).await;
            continue;
        };
        let Ok(request) = timeout(PATIENCE, receive(&mut stream)).await else {
            continue;
        };
        let down = matches!(request, Ok(Request::Down));
        if request.is_ok() {
            let answer = status.borrow().clone();
            // A client that left needs no answer.
            let _ = timeout(PATIENCE, send(&mut stream, &answer)).await;
        }
        if down && leaving.len() < 16 {
            match leaving.is_empty() {
                // Full means that it is asked already.
                true => drop(drain.try_send(())),
                false => end().await,
            }
            leaving.push(stream);
        }
    }
}

/// The status of the VM whose socket this is.
///
/// # Errors
/// [`io::ErrorKind::ConnectionRefused`] or `NotFound` when it does not run.
pub async fn status(socket: &Path) -> io::Result<Status> {
    ask(socket, Request::Status).await.map(|(status, _)| status)
}

/// Stops the VM whose socket this is, and waits for its end, at most `patience` and what the kernel may take for its memory;
/// false when it is still ending.
///
/// # Errors
/// As [`status`].
pub async fn down(socket: &Path, patience: Duration) -> io::Result<bool> {
    let (status, mut stream) = ask(socket, Request::Down).await?;
    let patience = patience.saturating_add(Duration::from_secs(status.reclaim_seconds));
    // Closing is all that can still come; a reset is as good.
    let gone = async { while matches!(stream.read(&mut [0; 64]).await, Ok(count) if count > 0) {} };
    Ok(timeout(patience, gone).await.is_ok())
}

async fn ask(socket: &Path, request: Request) -> io::Result<(Status, UnixStream)> {
    let mut stream = UnixStream::connect(socket).await?;
    let status = timeout(PATIENCE, async {
        send(&mut stream, &request).await?;
        receive(&mut stream).await
    })
    .await??;
    Ok((status, stream))
}

async fn send(stream: &mut UnixStream, message: &impl Serialize) -> io::Result<()> {
    stream
        .write_all(&frame::encode(message, MAX_MESSAGE).map_err(io::Error::other)?)
        .await
}

async fn receive<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<T> {
    let (mut decoder, mut buffer) = (Decoder::new(MAX_MESSAGE), vec![0; 4096]);
    loop {
        if let Some(message) = decoder.next().map_err(io::Error::other)? {
            return Ok(message);
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => decoder.push(&buffer[..count]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        Status {
            name: "first".into(),
            doing: "serving".into(),
            endpoint: "127.0.0.1:8443".into(),
            simulated: None,
            qemu_pid: None,
            manifest_id: "00".into(),
            not_after: None,
            reclaim_seconds: 0,
        }
    }

    /// Whoever is not waited for any more is told so, and the VM ends for whoever waits no longer.
    #[tokio::test]
    async fn the_second_wish_to_stop_does_not_wait() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ctl");
        let listener = UnixListener::bind(&socket).unwrap();
        let (_status, watched) = watch::channel(status());
        let (drain, mut drained) = mpsc::channel(1);
        let (ended, mut ends) = mpsc::unbounded_channel();
        let end = move || {
            let ended = ended.clone();
            async move { ended.send(()).unwrap() }
        };
        let serving = tokio::spawn(serve(listener, watched, drain, end));
        assert!(!down(&socket, Duration::ZERO).await.unwrap());
        drained.recv().await.unwrap();
        assert!(ends.try_recv().is_err(), "running requests finish first");
        let second = tokio::spawn(async move { down(&socket, PATIENCE).await });
        ends.recv().await.unwrap();
        assert!(drained.try_recv().is_err());
        serving.abort();
        assert!(second.await.unwrap().unwrap());
    }

    /// Beyond all patience with its requests, for as long as it says.
    #[tokio::test]
    async fn a_confidential_vm_is_waited_for_until_the_kernel_has_its_memory() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ctl");
        let listener = UnixListener::bind(&socket).unwrap();
        let confidential = Status {
            reclaim_seconds: 3600,
            ..status()
        };
        let (_status, watched) = watch::channel(confidential);
        let (drain, mut drained) = mpsc::channel(1);
        let serving = tokio::spawn(serve(listener, watched, drain, || async {}));
        let asked = socket.clone();
        let stopping = tokio::spawn(async move { down(&asked, Duration::ZERO).await });
        drained.recv().await.unwrap();
        // So many answers later, no patience at all would have ended.
        for _ in 0..50 {
            super::status(&socket).await.unwrap();
        }
        assert!(!stopping.is_finished());
        serving.abort();
        assert!(stopping.await.unwrap().unwrap(), "it is gone");
    }
}
