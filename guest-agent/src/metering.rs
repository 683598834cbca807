//! What is counted: tokens as the engine tells them, whoever listens, and what the host may know of it.

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
    /// What may leave the guest.
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

    /// A connection was accepted.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A session document was made.
    pub(crate) fn attested(&self) {
        self.attestations.fetch_add(1, Ordering::Relaxed);
    }

    /// A request ended with an error.
    pub(crate) fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// The tokens of one request, counted as they come from the engine. All of its generations share it, and the link
/// holds it as long as they run: an answer that nobody waited for comes to the counters when the last of them is
/// cancelled.
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
    /// The prompt was read. It is one, however many generations continue it.
    pub(crate) fn prompt(&self, tokens: u32) {
        let mut counted = self.lock();
        if !counted.closed {
            counted.tokens.prompt = counted.tokens.prompt.max(tokens.into());
        }
    }

    /// So many tokens more.
    pub(crate) fn completion(&self, tokens: u32) {
        let mut counted = self.lock();
        if !counted.closed {
            let sum = counted.tokens.completion.saturating_add(tokens.into());
            counted.tokens.completion = sum;
        }
    }

    /// What it comes to, added to the counters the first time: nothing is counted any more.
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

    /// Nothing panics while it holds the lock, so that a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.close();
    }
}

/// Counts one request that reached the engine; its end is counted once, whatever it is.
pub struct Meter {
    counters: Arc<Counters>,
    tally: Arc<Tally>,
}

impl Meter {
    /// The engine has begun with `answers`, those of one request.
    pub(crate) fn begin(counters: &Arc<Counters>, answers: &[Answer]) -> Self {
        counters.requests.fetch_add(1, Ordering::Relaxed);
        let tally = answers
            .first()
            .map(|answer| Arc::clone(answer.tally()))
            .unwrap_or_default();
        // Once for each request: the first time is the only one.
        let _ = tally.counters.set(Arc::clone(counters));
        Self {
            counters: Arc::clone(counters),
            tally,
        }
    }

    /// It ended: what it comes to. Tokens that come later, of generations that are being cancelled, count for nothing.
    pub fn close(&self) -> Tokens {
        self.tally.close()
    }

    /// It ended with an error.
    pub fn failed(&self) {
        self.counters.failed();
    }
}

/// As OpenAI tells it.
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
