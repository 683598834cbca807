//! Sends requests to one of several appliances. Idle verified connections are kept for the next
//! request. If an appliance cannot be reached or verified, or reports that it cannot serve, the
//! next one is tried. One that failed during an answer is tried last for a while.

mod answer;
mod error;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use tokio::task::yield_now;
use tokio::time::timeout;

pub use answer::Answer;
pub use error::UpstreamError;

use crate::address::Address;
use crate::attested::{AttestedConnection, SendError};
use crate::beliefs::Beliefs;
use crate::error::ConnectError;
use crate::moment::Moment;
use crate::receipts::Keeper;
use crate::trust::{Renewal, Settings};
use crate::verifier::Verifier;

/// Largest number of idle connections kept per appliance.
const MAX_IDLE: usize = 8;
/// A connection with less remaining life than this gets no new request, so that long answers can
/// finish.
const MIN_REMAINING: Duration = Duration::from_secs(10 * 60);
/// A connection that was idle for longer than this gets no new request. The guest closes idle
/// connections after two minutes, and a request that arrives while it closes cannot be sent again,
/// because the client cannot know whether it was served.
const MAX_IDLE_TIME: Duration = Duration::from_secs(100);
/// How long an appliance that failed is tried last.
const COOL_DOWN: Duration = Duration::from_secs(30);
/// How long an idle connection may take to become ready.
const READY_LIMIT: Duration = Duration::from_secs(1);

/// Appliances in order of preference. Cheap to clone.
#[derive(Clone)]
pub struct Upstreams {
    beliefs: Arc<Beliefs>,
    upstreams: Arc<[Upstream]>,
    keeper: Option<Arc<Keeper>>,
}

struct Upstream {
    address: Address,
    idle: Mutex<Vec<Idle>>,
    failed: Mutex<Option<Moment>>,
}

struct Idle {
    taken: Taken,
    since: Moment,
}

/// A connection that was taken for a request, and what is known about it.
struct Taken {
    connection: AttestedConnection,
    /// The verifier under which the connection was accepted.
    verifier: Verifier,
    index: usize,
    /// No request was sent on the connection yet.
    fresh: bool,
}

/// The appliances that a request can still try, and the errors of those already tried.
struct Search<'a> {
    upstreams: &'a Upstreams,
    left: VecDeque<usize>,
    errors: Vec<ConnectError>,
}

impl Upstreams {
    /// Uses `addresses` in order of preference, with a fixed verifier.
    pub fn new(verifier: Verifier, addresses: Vec<Address>) -> Self {
        Self::under(Beliefs::fixed(verifier), addresses)
    }

    /// Does the same as [`new`](Self::new) for a long-running program, and renews the settings.
    /// They are read again before the first request once ten minutes have passed since the last
    /// reading, and, at most once a minute, when an appliance is refused because of its manifest.
    /// Accepted appliances are remembered. `tell` is called with one-line messages for people about
    /// changes and failures.
    pub fn renewing(
        settings: Arc<Settings>,
        addresses: Vec<Address>,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        let verifier = settings.verifier();
        let renewal = Arc::new(Renewal::new(settings, tell));
        Self::under(Beliefs::renewed(verifier, renewal), addresses)
    }

    pub(crate) fn under(beliefs: Beliefs, addresses: Vec<Address>) -> Self {
        let upstreams = addresses
            .into_iter()
            .map(|address| Upstream {
                address,
                idle: Mutex::default(),
                failed: Mutex::default(),
            })
            .collect();
        Self {
            beliefs: Arc::new(beliefs),
            upstreams,
            keeper: None,
        }
    }

    /// Keeps receipts with `keeper`.
    pub fn with_receipts(self, keeper: Keeper) -> Self {
        Self {
            keeper: Some(Arc::new(keeper)),
            ..self
        }
    }

    pub(crate) fn keeper(&self) -> Option<Arc<Keeper>> {
        self.keeper.clone()
    }

    /// Connects to the first appliance that can be verified, calls `inspect` with the connection,
    /// and keeps it for the first request.
    pub async fn warm<T>(
        &self,
        inspect: impl FnOnce(&AttestedConnection) -> T,
    ) -> Result<T, UpstreamError> {
        let mut search = self.search();
        let Some(taken) = search.next().await else {
            return Err(UpstreamError::NoneUsable(search.errors));
        };
        let seen = inspect(&taken.connection);
        self.give_back(taken);
        Ok(seen)
    }

    /// Sends a request to the first appliance that can be verified. Does not check receipts: see
    /// [`generate`](Self::generate).
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Answer>, UpstreamError> {
        let generates = method == Method::POST;
        let mut response = self.send(method, path, body).await?;
        if generates {
            response.body_mut().uncounted();
        }
        Ok(response)
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Answer>, UpstreamError> {
        let mut search = self.search();
        let mut turned_away = None;
        while let Some(mut taken) = search.next().await {
            let sent = taken.connection.send(method.clone(), path, body.clone());
            match sent.await {
                Ok(response) => {
                    let upstream = &self.upstreams[taken.index];
                    let mut response = response.map(|body| Answer::new(body, taken, self.clone()));
                    if !answer::turns_away(&mut response).await {
                        return Ok(response);
                    }
                    upstream.fails();
                    search.pass_over();
                    turned_away = Some(response);
                }
                // The idle connection was closed, and the request was not sent: try again.
                Err(SendError::NotSent { .. }) if !taken.fresh => {}
                Err(SendError::NotSent { address, source }) => {
                    self.upstreams[taken.index].fails();
                    search.errors.push(ConnectError::Closed { address, source });
                    search.pass_over();
                }
                Err(error) => {
                    self.upstreams[taken.index].fails();
                    return Err(UpstreamError::Broken(error));
                }
            }
        }
        // The response of an appliance says more than the errors of others.
        turned_away.ok_or(UpstreamError::NoneUsable(search.errors))
    }

    /// Starts with all appliances in order of preference, but those that failed lately last.
    fn search(&self) -> Search<'_> {
        let mut order: Vec<_> = (0..self.upstreams.len()).collect();
        order.sort_by_key(|index| self.upstreams[*index].failed_lately());
        Search {
            upstreams: self,
            left: order.into(),
            errors: Vec::new(),
        }
    }

    /// Makes a new connection. If the appliance is refused because of its manifest, tries again if
    /// there are newer settings.
    async fn connect(&self, index: usize, mut verifier: Verifier) -> Result<Taken, ConnectError> {
        let address = &self.upstreams[index].address;
        let mut connected = verifier.connect(address).await;
        if let Err(error) = &connected
            && error.is_about_the_manifest()
            && let Some(newer) = self.beliefs.newer(&verifier).await
        {
            verifier = newer;
            connected = verifier.connect(address).await;
        }
        let connection = connected?;
        self.beliefs.accepted(&connection).await;
        Ok(Taken {
            connection,
            verifier,
            index,
            fresh: true,
        })
    }

    fn give_back(&self, taken: Taken) {
        let mut idle = lock(&self.upstreams[taken.index].idle);
        if taken.connection.remaining() > MIN_REMAINING && idle.len() < MAX_IDLE {
            let since = Moment::now();
            idle.push(Idle { taken, since });
        }
    }
}

impl Search<'_> {
    /// Returns a connection to the first of the remaining appliances that can be verified; skips
    /// those before it.
    async fn next(&mut self) -> Option<Taken> {
        while let Some(&index) = self.left.front() {
            let upstream = &self.upstreams.upstreams[index];
            let verifier = self.upstreams.beliefs.current().await;
            while let Some(mut taken) = upstream.take_idle(&verifier) {
                // Lets the runtime poll its sockets first, so that it notices a connection that was
                // closed.
                yield_now().await;
                if timeout(READY_LIMIT, taken.connection.ready()).await == Ok(true) {
                    taken.fresh = false;
                    return Some(taken);
                }
            }
            match self.upstreams.connect(index, verifier).await {
                Ok(taken) => {
                    upstream.recovers();
                    return Some(taken);
                }
                Err(error) => {
                    upstream.fails();
                    self.errors.push(error);
                    self.pass_over();
                }
            }
        }
        None
    }

    /// Skips the current appliance.
    fn pass_over(&mut self) {
        self.left.pop_front();
    }
}

impl Upstream {
    /// Returns an idle connection that was accepted under `verifier` and may still be used.
    fn take_idle(&self, verifier: &Verifier) -> Option<Taken> {
        let mut idle = lock(&self.idle);
        idle.retain(|idle| {
            idle.since.age() < MAX_IDLE_TIME
                && idle.taken.connection.remaining() > MIN_REMAINING
                && idle.taken.verifier.is(verifier)
        });
        Some(idle.pop()?.taken)
    }

    fn fails(&self) {
        *lock(&self.failed) = Some(Moment::now());
    }

    fn recovers(&self) {
        *lock(&self.failed) = None;
    }

    fn failed_lately(&self) -> bool {
        lock(&self.failed).is_some_and(|at| at.age() < COOL_DOWN)
    }
}

// No code panics while it holds one of these locks, so the data is consistent even if one is
// poisoned.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
