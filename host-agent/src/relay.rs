//! The public listener: bytes to and fro between clients and the guest's forwarded port, encrypted end to end and
//! opaque here. A limit for each address keeps one client from taking everything.
//!
//! The listener is a [`Door`], which one VM can hand to the next: both accept from the same socket and the same queue, so
//! that nobody who knocks in between is turned away.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::net::sockopt;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::places::Places;

mod lost;

use lost::Lost;

/// How long to leave a system alone that cannot accept a connection.
const RETRY: Duration = Duration::from_millis(100);

/// Descriptors of everything but clients.
const OTHERS: u64 = 256;

/// An end that has been silent for so long is asked by TCP itself whether it is still there,
const ASKED_AFTER: Duration = Duration::from_secs(60);
/// again after so long,
const ASKED_AGAIN: Duration = Duration::from_secs(15);
/// and is gone when it leaves so many questions unanswered: two minutes in all.
const QUESTIONS: u32 = 4;
/// An end that takes nothing of what is sent to it for so long, in milliseconds, is gone, too: TCP's questions are not
/// asked while something is under way.
const UNREAD_MS: u32 = 120_000;

/// How long a client may still speak after the guest's last word: nobody hears it any more. Short where it is waited for.
const LINGER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Connections of the smallest guest, and those of the largest; between them, one for each [`EACH`] MiB that its model
/// leaves. The guest's own rules (`Limits::within` of its agent), of which nothing but the outcome is told.
const GUEST: std::ops::RangeInclusive<u64> = 64..=4096;
const EACH: u64 = 16;

/// What the relay allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more wait in the system's queue.
    pub connections: usize,
    /// Of them, those from one address, or one network of IPv6 (/64); one more is closed at once. `None` is half of what there
    /// is for clients that have not attested: the guest sees all of them at one address.
    pub per_address: Option<usize>,
    /// Clients that have not attested for whom the guest has room.
    pub strangers: usize,
    /// How long a connection may live at all. How long it may carry nothing is not for the relay to say: an answer that is
    /// not streamed comes when it is whole, and the guest closes what nobody uses, which ends it here, too.
    pub life: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            per_address: None,
            strangers: strangers(0, 0),
            life: Duration::from_secs(3600),
        }
    }
}

impl Limits {
    /// Connections from one address, of `all` for which there are descriptors.
    fn of_one(&self, all: usize) -> usize {
        let half = (self.strangers.min(all) / 2).max(1);
        self.per_address.unwrap_or(half)
    }
}

/// Clients that have not attested for whom a guest with so much memory and a model of so many bytes has room: half of its
/// connections. Its engine may hold the model beside the volume that it was read from.
pub(crate) fn strangers(memory_mib: u32, model: u64) -> usize {
    let left = u64::from(memory_mib).saturating_sub(model.div_ceil(1 << 20).saturating_mul(2));
    let connections = (left / EACH).clamp(*GUEST.start(), *GUEST.end());
    usize::try_from(connections / 2).unwrap_or(usize::MAX)
}

/// Why the public address cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody else has it.
    #[error(
        "{0} is in use by another program: choose another (--listen, or `listen` in the file), or stop that program"
    )]
    InUse(SocketAddr),
    /// Anything else.
    #[error(
        "cannot listen on {address}: choose another address (--listen, or `listen` in the file)"
    )]
    Other {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The public listener of one VM. Clones are the same door.
#[derive(Debug, Clone)]
pub struct Door(Arc<watch::Sender<Behind>>);

#[derive(Debug)]
struct Behind {
    listener: Option<Arc<TcpListener>>,
    /// Clients wait in the system's queue, for us or for another VM that has the listener, too.
    held: bool,
}

impl Door {
    /// Without a listener yet.
    #[must_use]
    pub fn shut() -> Self {
        let (listener, held) = (None, false);
        Self(Arc::new(watch::Sender::new(Behind { listener, held })))
    }

    /// Takes the public address; nobody is accepted before [`relay`] runs.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind(&self, address: SocketAddr) -> Result<(), ListenError> {
        let listener = TcpListener::bind(address).await;
        self.take(listener.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ListenError::InUse(address),
            _ => ListenError::Other { address, source },
        })?);
        Ok(())
    }

    /// Accepts from `listener` from now on.
    pub fn take(&self, listener: TcpListener) {
        self.0.send_modify(|behind| {
            behind.listener = Some(Arc::new(listener));
            behind.held = false;
        });
    }

    /// Accepts nobody until released; connections under way go on, and the listener stays ours.
    pub fn hold(&self) {
        self.0.send_modify(|behind| behind.held = true);
    }

    /// Accepts again.
    pub fn release(&self) {
        self.0.send_modify(|behind| behind.held = false);
    }

    /// The listener, for another VM.
    #[must_use]
    pub fn listener(&self) -> Option<Arc<TcpListener>> {
        self.0.borrow().listener.clone()
    }

    /// The public address, also where the system chose the port.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener()?.local_addr().ok()
    }

    /// Whether it would accept.
    #[must_use]
    pub fn state(&self) -> DoorState {
        let behind = self.0.borrow();
        match (&behind.listener, behind.held) {
            (None, _) => DoorState::Shut,
            (Some(_), true) => DoorState::Held,
            (Some(_), false) => DoorState::Open,
        }
    }

    fn close(&self) {
        self.0.send_modify(|behind| behind.listener = None);
    }
}

/// What a door is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorState {
    /// It has no listener: not yet, or not any more.
    Shut,
    /// Clients are accepted as soon as the guest serves.
    Open,
    /// It has the listener, and leaves clients to another VM.
    Held,
}

/// Accepts clients at `door` while `open` says so and relays them to `guest`. Returns when `open` turns false (connections
/// under way go on) and then, when its sender is dropped, with every connection cut. `say` hears of connections that are closed
/// because their address has had its share, or because the guest cannot be reached.
pub async fn relay(
    door: Door,
    guest: SocketAddr,
    limits: Limits,
    open: watch::Receiver<bool>,
    say: impl Fn(String) + Send,
) {
    let all = room(limits.connections);
    let of_one = limits.of_one(all);
    let (places, lost) = (Places::new(of_one), Lost::new(guest, of_one, say));
    serve(door, guest, limits, (all, places), open, lost).await;
}

/// The same with so many connections in all, and places for them.
async fn serve(
    door: Door,
    guest: SocketAddr,
    limits: Limits,
    (all, places): (usize, Places),
    mut open: watch::Receiver<bool>,
    mut lost: Lost<impl Fn(String) + Send>,
) {
    if !turns(&mut open, true).await {
        // The VM has ended before it served.
        return door.close();
    }
    let permits = Arc::new(Semaphore::new(all));
    let mut clients = JoinSet::new();
    let mut changes = door.0.subscribe();
    loop {
        let listener = {
            let behind = changes.borrow_and_update();
            behind.listener.clone().filter(|_| !behind.held)
        };
        let accepted = async {
            let Some(listener) = listener else {
                return std::future::pending().await;
            };
            // Never closed: acquiring fails only after `close`.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        tokio::select! {
            _ = turns(&mut open, false) => break,
            // The door is ours, too: its sender lives.
            _ = changes.changed() => {}
            Some(ended) = clients.join_next() => if let Ok(Err(error)) = ended {
                lost.unreached(&error, Instant::now());
            },
            (client, permit) = accepted => match client {
                Ok((client, from)) => {
                    let Some(place) = places.take(from.ip()) else {
                        lost.refused(from.ip(), Instant::now());
                        continue;
                    };
                    clients.spawn(async move {
                        let _held = (permit, place);
                        let guest = TcpStream::connect(guest).await?;
                        // A broken connection concerns its two ends, who notice.
                        let _ = connect(client, guest, limits).await;
                        io::Result::Ok(())
                    });
                }
                // Out of descriptors, mostly: clients that leave give some back, and trying at once would only burn time.
                Err(_) => tokio::time::sleep(RETRY).await,
            },
        }
    }
    door.close();
    tokio::select! {
        // The sender is gone: so is the VM.
        () = async { while open.changed().await.is_ok() {} } => {}
        () = async { while clients.join_next().await.is_some() {} } => {}
    }
}

/// Waits until `open` is `value`; false when it never will be.
pub(crate) async fn turns(open: &mut watch::Receiver<bool>, value: bool) -> bool {
    open.wait_for(|open| *open == value).await.is_ok()
}

/// Connections for which there are descriptors, two each: shells start programs with 1024, and let them have more.
fn room(connections: usize) -> usize {
    let wanted = u64::try_from(connections).unwrap_or(u64::MAX);
    let needed = wanted.saturating_mul(2).saturating_add(OTHERS);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return connections;
    };
    let had = match soft < needed {
        true if setrlimit(Resource::RLIMIT_NOFILE, needed.min(hard), hard).is_ok() => {
            needed.min(hard)
        }
        _ => soft,
    };
    let most = (had.saturating_sub(OTHERS) / 2).clamp(1, wanted.max(1));
    usize::try_from(most).unwrap_or(connections)
}

async fn connect(client: TcpStream, guest: TcpStream, limits: Limits) -> io::Result<()> {
    prepare(&client)?;
    prepare(&guest)?;
    let (client_read, client_write) = client.into_split();
    let (guest_read, guest_write) = guest.into_split();
    let both = async {
        let mut asking = pin!(pump(client_read, guest_write));
        let mut answering = pin!(pump(guest_read, client_write));
        tokio::select! {
            asked = &mut asking => {
                asked?;
                answering.await
            }
            // A client that keeps its side open would hold its place for the connection's whole life.
            answered = &mut answering => {
                answered?;
                tokio::time::timeout(LINGER, asking).await?
            }
        }
    };
    tokio::select! {
        result = both => result,
        () = tokio::time::sleep(limits.life) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// For tokens, which are small and wanted at once; and for an end that goes away without a word or reads no more, which
/// nothing but TCP's own questions and limits would tell.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, ASKED_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, ASKED_AGAIN)?;
    sockopt::set_tcp_keepcnt(stream, QUESTIONS)?;
    sockopt::set_tcp_user_timeout(stream, UNREAD_MS)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

/// Copies until the end, which it passes on.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests;
