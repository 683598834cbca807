//! The clients of the soak test: each requests one answer after another, reads some slowly, and abandons some.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cocoon_client::{Address, AttestedConnection, Verifier};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep, timeout};

use crate::asked::request;

/// Maximum silence within an answer that a client reads.
const SILENCE: Duration = Duration::from_secs(60);

/// Counters of the requests' outcomes.
#[derive(Default)]
pub struct Account {
    whole: AtomicU64,
    slow: AtomicU64,
    left: AtomicU64,
    busy: AtomicU64,
    broken: AtomicU64,
    silent: AtomicU64,
    why: Mutex<BTreeMap<String, u32>>,
}

impl Account {
    /// Returns the names and values of the counters.
    pub fn counts(&self) -> Vec<(&'static str, f64)> {
        let count = |counter: &AtomicU64| {
            f64::from(u32::try_from(counter.load(Ordering::Relaxed)).unwrap_or(u32::MAX))
        };
        vec![
            ("answers read at once", count(&self.whole)),
            ("answers read slowly", count(&self.slow)),
            ("answers given up", count(&self.left)),
            ("told to come back (429)", count(&self.busy)),
            ("broken", count(&self.broken)),
            ("silent for a minute", count(&self.silent)),
        ]
    }

    /// Returns the errors of broken answers, and how often each occurred.
    pub fn reasons(&self) -> Vec<String> {
        let why = self.why.lock().unwrap();
        let told = why
            .iter()
            .map(|(why, times)| format!("broken {times} times: {why}"));
        told.collect()
    }
}

/// A client.
pub struct Stream {
    pub verifier: Verifier,
    pub address: Address,
    pub model: String,
    pub account: Arc<Account>,
    pub until: Instant,
}

/// How a client reads an answer.
#[derive(Clone, Copy)]
enum Manner {
    AtOnce,
    Slowly,
    /// The client disconnects after this number of pieces.
    Leaving(u64),
}

/// Outcome of a request.
enum End {
    Whole,
    Left,
    Busy,
    Broken(String),
    Silent,
}

impl Stream {
    /// Requests answers until time is up.
    pub async fn run(self, seed: u64) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut connection = None;
        while Instant::now() < self.until {
            let manner = match random.below(4) {
                0 => Manner::Slowly,
                1 => Manner::Leaving(random.below(40)),
                _ => Manner::AtOnce,
            };
            let tokens = u32::try_from(8 + random.below(120)).unwrap_or(8);
            let (end, back) = self.ask(connection.take(), tokens, manner).await;
            connection = back;
            let counter = match (&end, manner) {
                (End::Whole, Manner::Slowly) => &self.account.slow,
                (End::Whole, _) => &self.account.whole,
                (End::Left, _) => &self.account.left,
                (End::Busy, _) => &self.account.busy,
                (End::Broken(why), _) => {
                    let mut all = self.account.why.lock().unwrap();
                    *all.entry(why.clone()).or_default() += 1;
                    &self.account.broken
                }
                (End::Silent, _) => &self.account.silent,
            };
            counter.fetch_add(1, Ordering::Relaxed);
            if matches!(end, End::Busy | End::Broken(_)) {
                sleep(Duration::from_millis(500 + random.below(1000))).await;
            }
        }
    }

    /// Requests one answer, retries while all slots are taken, and fails unless the answer is complete.
    pub async fn once(self, tokens: u32) -> anyhow::Result<()> {
        while Instant::now() < self.until {
            match self.ask(None, tokens, Manner::AtOnce).await.0 {
                End::Whole => return Ok(()),
                End::Busy => sleep(Duration::from_secs(1)).await,
                End::Broken(why) => anyhow::bail!("it broke off: {why}"),
                End::Left | End::Silent => anyhow::bail!("it broke off"),
            }
        }
        anyhow::bail!("all slots stay taken")
    }

    async fn ask(
        &self,
        connection: Option<AttestedConnection>,
        tokens: u32,
        manner: Manner,
    ) -> (End, Option<AttestedConnection>) {
        let broken = |what: &str, why: &dyn std::fmt::Display| {
            (End::Broken(format!("{what}: {why:#}")), None)
        };
        let mut connection = match connection {
            Some(connection) => connection,
            None => match self.verifier.connect(&self.address).await {
                Ok(connection) => connection,
                Err(error) => return broken("no connection", &anyhow::Error::from(error)),
            },
        };
        let response = match connection.chat(&request(&self.model, tokens)).await {
            Ok(response) => response,
            Err(error) => return broken("no answer", &anyhow::Error::from(error)),
        };
        let busy = response.status().as_u16() == 429;
        if !busy && !response.status().is_success() {
            return broken("refused", &response.status());
        }
        let mut body = response.into_body();
        let mut pieces = 0;
        loop {
            match timeout(SILENCE, body.frame()).await {
                Err(_) => return (End::Silent, None),
                Ok(Some(Err(error))) => {
                    return broken("the answer ends", &anyhow::Error::from(error));
                }
                Ok(None) if busy => return (End::Busy, Some(connection)),
                Ok(None) => return (End::Whole, Some(connection)),
                Ok(Some(Ok(_))) => pieces += 1,
            }
            match manner {
                // Dropping the connection is how clients leave.
                Manner::Leaving(after) if pieces > after => return (End::Left, None),
                Manner::Slowly => sleep(Duration::from_millis(200)).await,
                _ => {}
            }
        }
    }
}

/// Pseudo-random numbers that are the same in every run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
