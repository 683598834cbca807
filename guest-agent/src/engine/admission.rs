//! The queue in front of the engine: requests wait here for slots, for a bounded time, in turns.
//!
//! What a request gets is given back by dropping it, whoever holds it by then. What it waits for is given
//! up by dropping its future: a client that goes away leaves the queue.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Unavailable;
use super::retry::ServiceTimes;
use super::scheduler::{Arrival, Bounds, Lacking, Scheduler, Source, Ticket, Wanted};

/// Answers per slot that may be open at once, running or finished: those that slow clients still read
/// would fill the memory.
const OPEN: usize = 4;

/// How long a request waits, and how much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Until it is refused.
    pub time: Duration,
    /// What may wait at once.
    pub bounds: Bounds,
}

/// A request that asks for room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub source: Source,
    /// Its choices.
    pub count: usize,
    /// Bytes that it holds while it waits.
    pub bytes: usize,
    /// Bytes that the engine takes for each choice.
    pub memory: u64,
    /// They are a GPU's.
    pub pooled: bool,
    /// Bytes that what it says takes here, for each choice, until the client has it.
    pub unread: u64,
}

/// The queue. Clones are the same one.
#[derive(Clone)]
pub(super) struct Admission {
    state: Arc<Mutex<State>>,
    slots: usize,
}

struct State {
    scheduler: Scheduler,
    waiters: HashMap<Ticket, Waiter>,
    times: ServiceTimes,
    next: Ticket,
    closed: bool,
}

struct Waiter {
    asking: Asking,
    wanted: Wanted,
    answer: oneshot::Sender<Result<Room, Unavailable>>,
}

/// What a request got: as many of each as it has choices.
#[derive(Debug)]
pub(super) struct Room {
    pub slots: Vec<Slot>,
    pub places: Vec<Place>,
}

/// The right to generate. Dropping it lets the next one begin.
pub(crate) struct Slot {
    admission: Admission,
    /// Bytes that this takes.
    memory: u64,
    /// They are a GPU's.
    pooled: bool,
    /// When it was first used.
    since: Option<Instant>,
}

impl Slot {
    /// A generation begins.
    pub fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// It takes no more than so many bytes from now on.
    pub fn keep(&mut self, memory: u64) {
        let free = self.memory.saturating_sub(memory);
        if free > 0 {
            self.memory -= free;
            let pooled = self.pooled;
            self.admission.change(|state| state.free(free, pooled));
        }
    }
}

/// The right of a source to have an answer that is not read yet.
pub(crate) struct Place {
    admission: Admission,
    source: Source,
    /// Bytes that this takes.
    memory: u64,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let held = self.since.map(|since| since.elapsed());
        let (memory, pooled) = (self.memory, self.pooled);
        self.admission.change(|state| {
            if let Some(held) = held {
                state.times.add(held);
            }
            state.scheduler.free_slot();
            state.free(memory, pooled);
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let (source, memory) = (self.source, self.memory);
        self.admission.change(|state| {
            state.scheduler.free_place(source);
            state.scheduler.free_memory(memory);
        });
    }
}

/// Leaves the queue, unless it has got its room or its refusal.
struct Queued<'a> {
    admission: &'a Admission,
    ticket: Ticket,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.admission.change(|state| {
            // What was sent to it meanwhile is dropped with its end of the channel.
            if state.waiters.remove(&ticket).is_some() {
                state.scheduler.leave(ticket);
            }
        });
    }
}

impl Admission {
    /// All of `slots` are free.
    pub fn new(slots: usize) -> Self {
        let state = State {
            scheduler: Scheduler::new(slots, slots * OPEN),
            waiters: HashMap::new(),
            times: ServiceTimes::default(),
            next: 0,
            closed: false,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            slots,
        }
    }

    /// Most commands that can be on their way to the engine: one for whoever holds a slot, one for
    /// whoever holds a place.
    pub fn commands(&self) -> usize {
        self.slots * (1 + OPEN)
    }

    /// So many bytes are there for answers.
    pub fn limit_memory(&self, bytes: u64) {
        self.change(|state| state.scheduler.limit_memory(bytes));
    }

    /// So many bytes are there of a GPU's pool.
    pub fn limit_pool(&self, bytes: u64) {
        self.change(|state| state.scheduler.limit_pool(bytes));
    }

    /// Bytes that there are for answers, free or not.
    pub fn memory(&self) -> u64 {
        self.lock().scheduler.all_memory()
    }

    /// Waits for room for a request.
    pub async fn enter(&self, asking: Asking, patience: &Patience) -> Result<Room, Unavailable> {
        let (answer, mut answered) = oneshot::channel();
        let (memory, pool) = match asking.pooled {
            true => (asking.unread, asking.memory),
            false => (asking.memory.saturating_add(asking.unread), 0),
        };
        let wanted = Wanted {
            ticket: self.ticket(),
            count: asking.count,
            bytes: asking.bytes,
            memory,
            pool,
        };
        if !self.arrive(asking, wanted, patience.bounds, answer)? {
            return Ok(self.room(&asking));
        }
        let queued = Queued {
            admission: self,
            ticket: wanted.ticket,
        };
        let waited = timeout(patience.time, &mut answered).await;
        // From here on it is nobody's turn to wait for.
        drop(queued);
        match waited {
            Ok(Ok(outcome)) => outcome,
            // Nobody drops a waiter without an answer.
            Ok(Err(_)) => Err(Unavailable::NotReady),
            // Its turn may have come in this moment.
            Err(_) => match answered.try_recv() {
                Ok(outcome) => outcome,
                Err(_) => Err(self.lock().busy(asking.source, &wanted, self.slots)),
            },
        }
    }

    /// Nobody waits any more; what runs goes on.
    pub fn close(&self) {
        let waiters: Vec<Waiter> = {
            let mut state = self.lock();
            state.closed = true;
            state.scheduler.clear();
            state.waiters.drain().map(|(_, waiter)| waiter).collect()
        };
        for waiter in waiters {
            // The client may be gone.
            let _ = waiter.answer.send(Err(Unavailable::Draining));
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.lock().scheduler.waiting()
    }

    fn ticket(&self) -> Ticket {
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        ticket
    }

    /// Whether a request waits; it begins at once where not.
    fn arrive(
        &self,
        asking: Asking,
        wanted: Wanted,
        bounds: Bounds,
        answer: oneshot::Sender<Result<Room, Unavailable>>,
    ) -> Result<bool, Unavailable> {
        let mut state = self.lock();
        // Once closed, who cannot begin at once does not wait.
        let bounds = match state.closed {
            true => Bounds::NONE,
            false => bounds,
        };
        let refused = state.busy(asking.source, &wanted, self.slots);
        match state.scheduler.arrive(asking.source, wanted, bounds) {
            Arrival::Begins => Ok(false),
            Arrival::Refused if state.closed => Err(Unavailable::Draining),
            Arrival::Refused => Err(refused),
            Arrival::Waits { gave_way } => {
                let waiter = Waiter {
                    asking,
                    wanted,
                    answer,
                };
                state.waiters.insert(wanted.ticket, waiter);
                for ticket in gave_way {
                    if let Some(waiter) = state.waiters.remove(&ticket) {
                        let refused = state.busy(waiter.asking.source, &waiter.wanted, self.slots);
                        // No room is in it: nothing that is dropped here takes the lock.
                        let _ = waiter.answer.send(Err(refused));
                    }
                }
                Ok(true)
            }
        }
    }

    /// Changes the state, and lets begin whoever can then.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut begin = Vec::new();
        {
            let mut state = self.lock();
            change(&mut state);
            while let Some(ticket) = state.scheduler.next() {
                begin.extend(state.waiters.remove(&ticket));
            }
        }
        // Without the lock: a client that is gone drops its room, which takes it.
        for waiter in begin {
            let _ = waiter.answer.send(Ok(self.room(&waiter.asking)));
        }
    }

    /// What the scheduler has given.
    fn room(&self, asking: &Asking) -> Room {
        let slot = || Slot {
            admission: self.clone(),
            memory: asking.memory,
            pooled: asking.pooled,
            since: None,
        };
        let place = || Place {
            admission: self.clone(),
            source: asking.source,
            memory: asking.unread,
        };
        Room {
            slots: std::iter::repeat_with(slot).take(asking.count).collect(),
            places: std::iter::repeat_with(place).take(asking.count).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What a slot held is free again.
    fn free(&mut self, memory: u64, pooled: bool) {
        match pooled {
            true => self.scheduler.free_pool(memory),
            false => self.scheduler.free_memory(memory),
        }
    }

    /// The refusal of a request that does not wait, or no longer.
    fn busy(&self, source: Source, wanted: &Wanted, slots: usize) -> Unavailable {
        let ahead = self.scheduler.demand(source);
        let retry_after = self.times.retry_after(ahead, wanted.count, slots);
        match self.scheduler.lacking(source, wanted) {
            Lacking::Memory => Unavailable::Memory { retry_after },
            Lacking::Slots => Unavailable::Busy { retry_after },
            Lacking::Places => Unavailable::Unread { retry_after },
            Lacking::Share => Unavailable::OwnUnread { retry_after },
        }
    }
}

#[cfg(test)]
mod tests;
