//! Several appliances behind one door: verified connections are kept while they are idle, and an
//! appliance that cannot be reached or verified, or says that it serves nothing, gives way to the next. One that fails
//! in the middle of an answer comes last for a while.

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

/// A connection, and what it is good for.
struct Taken {
    connection: AttestedConnection,
    /// Under which it was accepted.
    verifier: Verifier,
    index: usize,
    /// Nothing was asked over it yet.
    fresh: bool,
}

/// The appliances that a request has still to try, and what became of the others.
struct Search<'a> {
    upstreams: &'a Upstreams,
    left: VecDeque<usize>,
    errors: Vec<ConnectError>,
}

impl Upstreams {
    /// `addresses` in order of preference.
    pub fn new(verifier: Verifier, addresses: Vec<Address>) -> Self {
        Self::under(Beliefs::fixed(verifier), addresses)
    }

    /// The same for a program that runs on. Settings are read again every ten minutes while there are requests, and, once
    /// a minute at most, when an appliance is refused for its manifest; appliances that are accepted are remembered.
    /// `tell` gets a line for people about what comes of it.
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
        let mut search = self.search();
        let Some(taken) = search.next().await else {
            return Err(UpstreamError::NoneUsable(search.errors));
        };
        let seen = inspect(&taken.connection);
        self.give_back(taken);
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
                // It was closed while it was idle: the request never left.
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
        // What an appliance said is worth more than that others cannot be used.
        turned_away.ok_or(UpstreamError::NoneUsable(search.errors))
    }

    /// All of them: by preference, those that failed lately last.
    fn search(&self) -> Search<'_> {
        let mut order: Vec<_> = (0..self.upstreams.len()).collect();
        order.sort_by_key(|index| self.upstreams[*index].failed_lately());
        Search {
            upstreams: self,
            left: order.into(),
            errors: Vec::new(),
        }
    }

    /// A new connection. Where the appliance has another manifest, under what is believed by now.
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
    /// A connection to the first appliance that is left and is verified; those before it are passed over.
    async fn next(&mut self) -> Option<Taken> {
        while let Some(&index) = self.left.front() {
            let upstream = &self.upstreams.upstreams[index];
            let verifier = self.upstreams.beliefs.current().await;
            while let Some(mut taken) = upstream.take_idle(&verifier) {
                // The runtime looks at its sockets first, so that one that was closed meanwhile is known to be.
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

    /// The first that is left cannot be used.
    fn pass_over(&mut self) {
        self.left.pop_front();
    }
}

impl Upstream {
    /// One that was accepted under `verifier`, and is young enough.
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

// Nothing panics while it holds one of these locks, so that a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
