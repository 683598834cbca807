//! Counts requests and tokens, whether or not clients read their answers, and selects what the host may know of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cocoon_protocol::control::Metrics;
use cocoon_protocol::openai::Usage;
use cocoon_protocol::receipt::Tokens;

use crate::engine::{Answer, EngineState};

/// Counters since boot.
#[derive(Default)]
pub struct Counters {
    connections: AtomicU64,
    attestations: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    prompt_tokens: AtomicU64,
    completion_tokens: AtomicU64,
}

impl Counters {
    /// Returns the counters that may leave the guest.
    pub fn metrics(&self, engine: &EngineState) -> Metrics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Metrics {
            connections: read(&self.connections),
            attestations: read(&self.attestations),
            requests: read(&self.requests),
            errors: read(&self.errors),
            prompt_tokens: read(&self.prompt_tokens),
            completion_tokens: read(&self.completion_tokens),
            engine_restarts: engine.deaths.into(),
            gpu: engine.gpu,
        }
    }

    /// Counts an accepted connection.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session document.
    pub(crate) fn attested(&self) {
        self.attestations.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that ended with an error.
    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// Tokens of one request, counted as they come from the engine. The request's generations share it, and the link to the
/// engine holds it while they run. If the client leaves early, the tokens are added to the counters when the last
/// generation has been cancelled.
#[derive(Default)]
pub struct Tally {
    counted: Mutex<Counted>,
    counters: OnceLock<Arc<Counters>>,
}

#[derive(Default)]
struct Counted {
    tokens: Tokens,
    closed: bool,
}

impl Tally {
    /// Records the length of the prompt, which counts once, however many generations continue it.
    pub(crate) fn prompt(&self, tokens: u32) {
        let mut counted = self.lock();
        if !counted.closed {
            counted.tokens.prompt = counted.tokens.prompt.max(tokens.into());
        }
    }

    /// Counts further tokens of an answer.
    pub(crate) fn completion(&self, tokens: u32) {
        let mut counted = self.lock();
        if !counted.closed {
            let sum = counted.tokens.completion.saturating_add(tokens.into());
            counted.tokens.completion = sum;
        }
    }

    /// Returns the tokens and, the first time, adds them to the counters. Nothing is counted after that.
    fn close(&self) -> Tokens {
        let mut counted = self.lock();
        if !std::mem::replace(&mut counted.closed, true)
            && let Some(counters) = self.counters.get()
        {
            let add = |counter: &AtomicU64, count| counter.fetch_add(count, Ordering::Relaxed);
            add(&counters.prompt_tokens, counted.tokens.prompt);
            add(&counters.completion_tokens, counted.tokens.completion);
        }
        counted.tokens
    }

    /// Locks the counts. No code panics while it holds the lock, so a poisoned lock still guards consistent data.
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.close();
    }
}

/// Meters one request that reached the engine. Its end is counted once, whatever its outcome.
pub struct Meter {
    counters: Arc<Counters>,
    tally: Arc<Tally>,
}

impl Meter {
    /// Begins the meter of the request whose `answers` the engine has begun.
    pub(crate) fn begin(counters: &Arc<Counters>, answers: &[Answer]) -> Self {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let tally = answers
            .first()
            .map(|answer| Arc::clone(answer.tally()))
            .unwrap_or_default();
        // This is the only call for the request, so the cell is empty.
        let _ = tally.counters.set(Arc::clone(counters));
        Self {
            counters: Arc::clone(counters),
            tally,
        }
    }

    /// Ends the count and returns the tokens of the request. Tokens of cancelled generations that come later are not counted.
    pub fn close(&self) -> Tokens {
        self.tally.close()
    }

    /// Counts the request as failed.
    pub fn failed(&self) {
        self.counters.failed();
    }
}

/// Converts token counts to OpenAI's usage.
pub fn usage(tokens: Tokens) -> Usage {
    let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
    Usage {
        prompt_tokens: narrow(tokens.prompt),
        completion_tokens: narrow(tokens.completion),
        total_tokens: narrow(tokens.prompt.saturating_add(tokens.completion)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tally_is_counted_once_when_its_last_holder_is_gone() {
        let counters = Arc::new(Counters::default());
        let tally = Arc::new(Tally::default());
        tally.counters.set(Arc::clone(&counters)).unwrap_or(());
        let link = Arc::clone(&tally);
        for _ in 0..2 {
            tally.prompt(7);
        }
        tally.completion(2);
        drop(tally);
        assert_eq!(
            counters.metrics(&EngineState::default()).completion_tokens,
            0
        );
        link.completion(1);
        drop(link);
        let metrics = counters.metrics(&EngineState::default());
        assert_eq!((metrics.prompt_tokens, metrics.completion_tokens), (7, 3));
    }

    #[test]
    fn what_was_signed_is_not_added_to() {
        let counters = Arc::new(Counters::default());
        let tally = Tally::default();
        tally.counters.set(Arc::clone(&counters)).unwrap_or(());
        tally.prompt(7);
        tally.completion(2);
        let signed = tally.close();
        tally.completion(1);
        assert_eq!(
            signed,
            Tokens {
                prompt: 7,
                completion: 2
            }
        );
        drop(tally);
        assert_eq!(
            counters.metrics(&EngineState::default()).completion_tokens,
            2
        );
    }
}
