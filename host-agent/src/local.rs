//! The socket behind `ps` and `down`: one request and one answer per connection, open to this user only.

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

/// Maximum length of a message in bytes.
const MAX_MESSAGE: usize = 16 * 1024;
/// How long one side waits for a message of the other.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a failure to accept a connection.
const RETRY: Duration = Duration::from_millis(100);

/// A request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Report the VM's status.
    Status,
    /// Stop the VM after its running requests. The connection closes when the VM is gone. A second request stops it at once.
    Down,
}

/// The status of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Status {
    /// Name of the VM.
    pub name: String,
    /// Current activity in a few words: `starting`, `in phase model`, `serving`.
    pub doing: String,
    /// Public address.
    pub endpoint: String,
    /// TEE that is simulated, if any.
    pub simulated: Option<String>,
    /// Process id of QEMU, once it runs.
    pub qemu_pid: Option<u32>,
    /// Identity (SHA-256) of the manifest.
    pub manifest_id: String,
    /// Expiry of the manifest in seconds since 1970. VMs of an earlier release do not report it.
    #[serde(default)]
    pub not_after: Option<u64>,
    /// Time in seconds that the kernel may take to reclaim the VM's memory. VMs of an earlier release do not report it.
    #[serde(default)]
    pub reclaim_seconds: u64,
}

/// Serves until dropped, one client at a time, since answers are immediate. A first `down` sends to `drain`; a second one
/// calls `end`, which ends the VM at once.
pub(crate) async fn serve<F: Future<Output = ()>>(
    listener: UnixListener,
    status: watch::Receiver<Status>,
    drain: mpsc::Sender<()>,
    end: impl Fn() -> F,
) {
    let mut leaving = Vec::new();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Usually the process is out of file descriptors. The client is still there after the pause.
            sleep(RETRY).await;
            continue;
        };
        let Ok(request) = timeout(PATIENCE, receive(&mut stream)).await else {
            continue;
        };
        let down = matches!(request, Ok(Request::Down));
        if request.is_ok() {
            let answer = status.borrow().clone();
            // A client that has left needs no answer.
            let _ = timeout(PATIENCE, send(&mut stream, &answer)).await;
        }
        if down && leaving.len() < 16 {
            match leaving.is_empty() {
                // A full channel means that draining was already requested.
                true => drop(drain.try_send(())),
                false => end().await,
            }
            leaving.push(stream);
        }
    }
}

/// Returns the status of the VM that listens on `socket`.
///
/// # Errors
/// Fails with [`io::ErrorKind::ConnectionRefused`] or `NotFound` if the VM does not run.
pub async fn status(socket: &Path) -> io::Result<Status> {
    ask(socket, Request::Status).await.map(|(status, _)| status)
}

/// Stops the VM that listens on `socket`. Waits for its end for at most `patience` and the time that the kernel may take to
/// reclaim memory. Returns false if the VM is still ending.
///
/// # Errors
/// As [`status`].
pub async fn down(socket: &Path, patience: Duration) -> io::Result<bool> {
    let (status, mut stream) = ask(socket, Request::Down).await?;
    let patience = patience.saturating_add(Duration::from_secs(status.reclaim_seconds));
    // The end of the VM closes or resets the connection; nothing else can come.
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

    /// The first client gives up waiting and is told that the VM still ends; the second request ends it.
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

    /// The kernel's time to reclaim memory is added to the client's patience.
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
        // After this many answers, the client would have given up without that time.
        for _ in 0..50 {
            super::status(&socket).await.unwrap();
        }
        assert!(!stopping.is_finished());
        serving.abort();
        assert!(stopping.await.unwrap().unwrap(), "it is gone");
    }
}
