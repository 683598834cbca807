//! Several appliances behind one door: verified connections are kept while they are idle, and an
//! appliance that cannot be reached or verified gives way to the next.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cocoon_measurements::verdict::Verdict;
use http::{Method, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use crate::address::Address;
use crate::attested::{AttestedConnection, SendError};
use crate::error::{ConnectError, chain};
use crate::receipts::{Keeper, Session};
use crate::verifier::Verifier;

/// Idle connections kept per appliance.
const MAX_IDLE: usize = 8;
/// A connection with less life than this takes no new request: a long answer must fit.
const MIN_REMAINING: Duration = Duration::from_secs(10 * 60);
/// A connection that was idle for longer takes no new request. Guests close one after two minutes, and a request that
/// meets the closing half-way cannot be sent again: nobody here could tell whether it was served.
const MAX_IDLE_TIME: Duration = Duration::from_secs(100);
/// How long an appliance that failed comes last.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// How long an idle connection may take to say that it is ready.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// Appliances in order of preference. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams {
    verifier: Verifier,
    upstreams: Arc<[Upstream]>,
    keeper: Option<Arc<Keeper>>,
}

struct Upstream {
    address: Address,
    idle: Mutex<Vec<Idle>>,
    failed: Mutex<Option<Instant>>,
}

struct Idle {
    connection: AttestedConnection,
    since: Instant,
}

/// Why no appliance answered.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// None could be reached and verified.
    #[error("no appliance can be used: {}", list(.0))]
    NoneUsable(Vec<ConnectError>),
    /// A verified connection broke with the request on it.
    #[error(
        "the appliance failed while it held the request, which was not sent again because it may have been served"
    )]
    Broken(#[source] SendError),
}

impl UpstreamError {
    /// Whether every appliance was refused for what it showed, rather than not reached.
    pub fn is_rejection(&self) -> bool {
        matches!(self, UpstreamError::NoneUsable(errors) if errors.iter().all(ConnectError::is_rejection))
    }

    /// The first appliance that was judged and refused, and its verdict.
    pub fn verdict(&self) -> Option<(&Address, &Verdict)> {
        match self {
            UpstreamError::NoneUsable(errors) => errors.iter().find_map(ConnectError::judged),
            UpstreamError::Broken(_) => None,
        }
    }
}

/// An answer that is still arriving, with the connection it arrives on.
pub struct Answer {
    body: Incoming,
    session: Arc<Session>,
    // Given back when the body was read to its end, cut otherwise: dropping an answer stops its generation.
    connection: Option<AttestedConnection>,
    owner: Upstreams,
    index: usize,
    ended: bool,
}

impl Upstreams {
    /// `addresses` in order of preference.
    pub fn new(verifier: Verifier, addresses: Vec<Address>) -> Self {
        let upstreams = addresses
            .into_iter()
            .map(|address| Upstream {
                address,
                idle: Mutex::default(),
                failed: Mutex::default(),
            })
            .collect();
        Self {
            verifier,
            upstreams,
            keeper: None,
        }
    }

    /// The same, and receipts are kept.
    pub fn with_receipts(self, keeper: Keeper) -> Self {
        Self {
            keeper: Some(Arc::new(keeper)),
            ..self
        }
    }

    pub(crate) fn keeper(&self) -> Option<Arc<Keeper>> {
        self.keeper.clone()
    }

    /// Connects to the first appliance that is verified, and keeps the connection for the first
    /// request. Calls `inspect` with it.
    pub async fn warm<T>(
        &self,
        inspect: impl FnOnce(&AttestedConnection) -> T,
    ) -> Result<T, UpstreamError> {
        let (index, connection) = self.connection().await?;
        let seen = inspect(&connection);
        self.give_back(index, connection);
        Ok(seen)
    }

    /// Sends a request to the first appliance that is verified. The receipts of those that generate are not looked at:
    /// see [`generate`](Self::generate).
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Answer>, UpstreamError> {
        let generates = method == Method::POST;
        let mut response = self.send(method, path, body).await?;
        if let Some(connection) = response.body_mut().connection.as_mut()
            && generates
        {
            connection.uncounted();
        }
        Ok(response)
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Answer>, UpstreamError> {
        // An idle connection may have been closed under us: then the request never left. There are at most
        // MAX_IDLE of those per appliance, and a fresh connection that fails so early counts as broken.
        let mut attempts = MAX_IDLE * self.upstreams.len();
        loop {
            let (index, mut connection) = self.connection().await?;
            match connection.send(method.clone(), path, body.clone()).await {
                Ok(response) => {
                    let owner = self.clone();
                    let session = Arc::clone(connection.session());
                    return Ok(response.map(|body| Answer {
                        body,
                        session,
                        connection: Some(connection),
                        owner,
                        index,
                        ended: false,
                    }));
                }
                Err(SendError::NotSent { .. }) if attempts > 0 => attempts -= 1,
                Err(error) => return Err(UpstreamError::Broken(error)),
            }
        }
    }

    async fn connection(&self) -> Result<(usize, AttestedConnection), UpstreamError> {
        let mut errors = Vec::new();
        for index in self.order() {
            let upstream = &self.upstreams[index];
            while let Some(mut connection) = upstream.take_idle() {
                // The runtime looks at its sockets first, so that one that was closed meanwhile is known to be.
                yield_now().await;
                if timeout(READY_LIMIT, connection.ready()).await == Ok(true) {
                    return Ok((index, connection));
                }
            }
            match self.verifier.connect(&upstream.address).await {
                Ok(connection) => {
                    upstream.note(None);
                    return Ok((index, connection));
                }
                Err(error) => {
                    upstream.note(Some(Instant::now()));
                    errors.push(error);
                }
            }
        }
        Err(UpstreamError::NoneUsable(errors))
    }

    /// Preference, those that failed lately last.
    fn order(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.upstreams.len()).collect();
        order.sort_by_key(|index| self.upstreams[*index].failed_lately());
        order
    }

    fn give_back(&self, index: usize, connection: AttestedConnection) {
        let mut idle = lock(&self.upstreams[index].idle);
        if connection.remaining() > MIN_REMAINING && idle.len() < MAX_IDLE {
            let since = Instant::now();
            idle.push(Idle { connection, since });
        }
    }
}

impl Upstream {
    fn take_idle(&self) -> Option<AttestedConnection> {
        let mut idle = lock(&self.idle);
        idle.retain(|idle| {
            idle.since.elapsed() < MAX_IDLE_TIME && idle.connection.remaining() > MIN_REMAINING
        });
        Some(idle.pop()?.connection)
    }

    fn note(&self, failed: Option<Instant>) {
        *lock(&self.failed) = failed;
    }

    fn failed_lately(&self) -> bool {
        lock(&self.failed).is_some_and(|at| at.elapsed() < COOL_DOWN)
    }
}

impl Answer {
    /// The connection that the answer arrives on.
    pub fn connection(&self) -> Option<&AttestedConnection> {
        self.connection.as_ref()
    }

    /// What the receipt of this answer is held against.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The number that its receipt must have, as far as that is known.
    pub(crate) fn next_number(&self) -> Option<u64> {
        self.connection.as_ref()?.next_number()
    }

    /// Its receipt is missing or wrong: the connection takes no more requests.
    pub(crate) fn cut(&mut self) {
        self.connection = None;
    }

    /// Its receipt of this number was found good.
    pub(crate) fn counted(&mut self, number: u64) {
        if let Some(connection) = &mut self.connection {
            connection.counted(number);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        self.ended |= matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && (self.ended || self.body.is_end_stream())
        {
            self.owner.give_back(self.index, connection);
        }
    }
}

// Nothing panics while it holds one of these locks, so that a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn list(errors: &[ConnectError]) -> String {
    let texts: Vec<_> = errors.iter().map(|error| chain(error)).collect();
    texts.join(" | ")
}
