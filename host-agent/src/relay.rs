//! The public listener: relays bytes between clients and the guest's forwarded port. The traffic is encrypted end to
//! end and opaque to the host. A limit per address keeps one client from taking every connection.
//!
//! One VM can hand the listener, a [`Door`], to the next. Both then accept from the same socket and queue, so no client
//! is refused during the handover.

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

/// Pause after a failed accept.
const RETRY: Duration = Duration::from_millis(100);

/// File descriptors reserved for everything but client connections.
const OTHERS: u64 = 256;

/// TCP keepalive: idle time before the first probe.
const ASKED_AFTER: Duration = Duration::from_secs(60);
/// TCP keepalive: time between probes.
const ASKED_AGAIN: Duration = Duration::from_secs(15);
/// TCP keepalive: number of unanswered probes after which the connection is closed, two minutes after the last traffic.
const QUESTIONS: u32 = 4;
/// TCP user timeout, in milliseconds: closes a connection whose peer acknowledges nothing for so long. Keepalive does
/// not cover this, since TCP sends no probes while data is outstanding.
const UNREAD_MS: u32 = 120_000;

/// How long a client's side stays open after the guest has finished, when nothing reads it any more. Short in tests,
/// which wait for it.
const LINGER: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// Range of the number of connections that a guest accepts. Within it, the guest accepts one connection for each [`EACH`] MiB
/// of memory that its model leaves. These repeat the guest agent's own rules (`Limits::within`), which it does not report.
const GUEST: std::ops::RangeInclusive<u64> = 64..=4096;
const EACH: u64 = 16;

/// Limits of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. Further clients wait in the system's queue.
    pub connections: usize,
    /// Connections at once from one IPv4 address or IPv6 /64 network; further ones are closed at once. `None` allows
    /// half of the guest's places for unattested clients: the guest sees all clients at one address and cannot divide
    /// the places itself.
    pub per_address: Option<usize>,
    /// Number of unattested clients that the guest has room for.
    pub strangers: usize,
    /// Longest life of a connection. The relay has no idle limit: an answer that is not streamed arrives only when it
    /// is complete, and the guest itself closes idle connections, which ends them here too.
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
    /// Returns the limit for one address. `all` is the number of connections that there are file descriptors for.
    fn of_one(&self, all: usize) -> usize {
        let half = (self.strangers.min(all) / 2).max(1);
        self.per_address.unwrap_or(half)
    }
}

/// Returns the number of unattested clients that a guest with this memory and a model of this many bytes has room for: half of
/// its connections. The model counts twice, since the engine may hold a copy beside the volume that it was read from.
pub(crate) fn strangers(memory_mib: u32, model: u64) -> usize {
    let left = u64::from(memory_mib).saturating_sub(model.div_ceil(1 << 20).saturating_mul(2));
    let connections = (left / EACH).clamp(*GUEST.start(), *GUEST.end());
    usize::try_from(connections / 2).unwrap_or(usize::MAX)
}

/// Why the public address cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program uses the address.
    #[error(
        "{0} is in use by another program: choose another (--listen, or `listen` in the file), or stop that program"
    )]
    InUse(SocketAddr),
    /// Any other failure.
    #[error(
        "cannot listen on {address}: choose another address (--listen, or `listen` in the file)"
    )]
    Other {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// The public listener of one VM. Clones share the listener.
#[derive(Debug, Clone)]
pub struct Door(Arc<watch::Sender<Behind>>);

#[derive(Debug)]
struct Behind {
    listener: Option<Arc<TcpListener>>,
    /// Whether new clients are left in the system's queue, for this VM or for another one that shares the listener.
    held: bool,
}

impl Door {
    /// Makes a door without a listener.
    #[must_use]
    pub fn shut() -> Self {
        let (listener, held) = (None, false);
        Self(Arc::new(watch::Sender::new(Behind { listener, held })))
    }

    /// Binds the public address. No client is accepted before [`relay`] runs.
    ///
    /// # Errors
    /// [`ListenError`] if the address is in use or cannot be bound.
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

    /// Stops accepting until released. Existing connections go on, and the listener is kept.
    pub fn hold(&self) {
        self.0.send_modify(|behind| behind.held = true);
    }

    /// Accepts again after [`Door::hold`].
    pub fn release(&self) {
        self.0.send_modify(|behind| behind.held = false);
    }

    /// Returns the listener, to be shared with another VM.
    #[must_use]
    pub fn listener(&self) -> Option<Arc<TcpListener>> {
        self.0.borrow().listener.clone()
    }

    /// Returns the public address, with the actual port if the system chose it.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener()?.local_addr().ok()
    }

    /// Returns whether the door would accept clients.
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

/// State of a door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DoorState {
    /// The door has no listener: not yet, or no longer.
    Shut,
    /// Clients are accepted as soon as the guest serves.
    Open,
    /// The door has the listener but leaves clients to another VM.
    Held,
}

/// Accepts clients at `door` while `open` is true and relays them to `guest`. When `open` turns false, no more are accepted
/// and existing connections go on. Returns when they have ended, or when the sender of `open` is dropped, which cuts them.
/// `say` is told of connections that were closed because of the limit per address or because the guest is unreachable.
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

/// Relays as [`relay`] does, with the given total of connections and places for them.
async fn serve(
    door: Door,
    guest: SocketAddr,
    limits: Limits,
    (all, places): (usize, Places),
    mut open: watch::Receiver<bool>,
    mut lost: Lost<impl Fn(String) + Send>,
) {
    if !turns(&mut open, true).await {
        // The VM ended before it served.
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
            // The semaphore is never closed, so acquiring a permit cannot fail.
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        tokio::select! {
            _ = turns(&mut open, false) => break,
            // `door` owns the sender, so `changed` cannot fail.
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
                        // An error on a connection concerns only its two ends, which notice it themselves.
                        let _ = connect(client, guest, limits).await;
                        io::Result::Ok(())
                    });
                }
                // Usually the process is out of file descriptors. Clients that leave release some, and retrying at once
                // would only waste CPU time.
                Err(_) => tokio::time::sleep(RETRY).await,
            },
        }
    }
    door.close();
    tokio::select! {
        // The sender is dropped when the VM is gone.
        () = async { while open.changed().await.is_ok() {} } => {}
        () = async { while clients.join_next().await.is_some() {} } => {}
    }
}

/// Waits until `open` equals `value`. Returns false if the sender is dropped first.
pub(crate) async fn turns(open: &mut watch::Receiver<bool>, value: bool) -> bool {
    open.wait_for(|open| *open == value).await.is_ok()
}

/// Returns how many connections there are file descriptors for, two each. Raises the soft limit first: shells usually
/// start programs with 1024 and permit more.
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
            // Without a limit, a client that keeps its side open would hold its place for the connection's whole life.
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

/// Sets the TCP options of a connection: no delay, since tokens are small and wanted at once; keepalive and a user
/// timeout, to notice a peer that vanishes or stops reading.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_tcp_keepidle(stream, ASKED_AFTER)?;
    sockopt::set_tcp_keepintvl(stream, ASKED_AGAIN)?;
    sockopt::set_tcp_keepcnt(stream, QUESTIONS)?;
    sockopt::set_tcp_user_timeout(stream, UNREAD_MS)?;
    Ok(sockopt::set_socket_keepalive(stream, true)?)
}

/// Copies until end of file, which it passes on.
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
