//! The queue in front of the engine, where requests wait for slots, in turns and for a bounded time.
//!
//! Dropping the slots and places of a request gives them back, whoever holds them by then. Dropping the future of a
//! waiting request removes it from the queue, so a client that goes away leaves it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::Unavailable;
use super::retry::ServiceTimes;
use super::scheduler::{Arrival, Bounds, Lacking, Scheduler, Source, Ticket, Wanted};

/// Answers per slot that may be open at once, running or finished. Without a bound, those that slow clients still read
/// would fill the memory.
const OPEN: usize = 4;

/// How long a request may wait, and how many may wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Time after which a waiting request is refused.
    pub time: Duration,
    /// Limits on what may wait at once.
    pub bounds: Bounds,
}

/// A request for room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asking {
    pub source: Source,
    /// Number of its choices.
    pub count: usize,
    /// Bytes that it holds while it waits.
    pub bytes: usize,
    /// Bytes that the engine takes for each choice.
    pub memory: u64,
    /// Whether these bytes are of a GPU's pool.
    pub pooled: bool,
    /// Bytes that each choice takes in the agent, until the client has received it.
    pub unread: u64,
}

/// The queue. Clones share the same queue.
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

/// What a request got: one slot and one place for each of its choices.
#[derive(Debug)]
pub(super) struct Room {
    pub slots: Vec<Slot>,
    pub places: Vec<Place>,
}

/// The right to generate. Dropping it lets the next request begin.
pub(crate) struct Slot {
    admission: Admission,
    /// Bytes that the engine takes for the generation.
    memory: u64,
    /// Whether these bytes are of a GPU's pool.
    pooled: bool,
    /// When the generation began.
    since: Option<Instant>,
}

impl Slot {
    /// Records that the generation begins.
    pub fn begin(&mut self) {
        self.since = Some(Instant::now());
    }

    /// Gives back all but `memory` bytes, which the generation does not exceed from now on.
    pub fn keep(&mut self, memory: u64) {
        let free = self.memory.saturating_sub(memory);
        if free > 0 {
            self.memory -= free;
            let pooled = self.pooled;
            self.admission.change(|state| state.free(free, pooled));
        }
    }
}

/// The right of a source to have an answer that its client has not read to the end.
pub(crate) struct Place {
    admission: Admission,
    source: Source,
    /// Bytes that the answer takes in the agent.
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

/// Removes a request from the queue on drop, unless it has got its room or its refusal.
struct Queued<'a> {
    admission: &'a Admission,
    ticket: Ticket,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        let ticket = self.ticket;
        self.admission.change(|state| {
            // If a room was sent in the meantime, it is given back when the receiver is dropped.
            if state.waiters.remove(&ticket).is_some() {
                state.scheduler.leave(ticket);
            }
        });
    }
}

impl Admission {
    /// Creates the queue with `slots` free slots.
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

    /// Most commands that can be on their way to the engine: one for each slot and one for each place.
    pub fn commands(&self) -> usize {
        self.slots * (1 + OPEN)
    }

    /// Limits the VM's memory for answers to `bytes`.
    pub fn limit_memory(&self, bytes: u64) {
        self.change(|state| state.scheduler.limit_memory(bytes));
    }

    /// Limits the memory of the GPU's pool to `bytes`.
    pub fn limit_pool(&self, bytes: u64) {
        self.change(|state| state.scheduler.limit_pool(bytes));
    }

    /// Bytes of the VM's memory for answers, free or not.
    pub fn memory(&self) -> u64 {
        self.lock().scheduler.all_memory()
    }

    /// Waits for the room of a request.
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
        // From here on no room is given to this request.
        drop(queued);
        match waited {
            Ok(Ok(outcome)) => outcome,
            // No waiter is dropped without an answer.
            Ok(Err(_)) => Err(Unavailable::NotReady),
            // Its turn may have come at this very moment.
            Err(_) => match answered.try_recv() {
                Ok(outcome) => outcome,
                Err(_) => Err(self.lock().busy(asking.source, &wanted, self.slots)),
            },
        }
    }

    /// Lets no request wait any more; running ones go on.
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

    /// Number of requests that wait.
    pub fn waiting(&self) -> usize {
        self.lock().scheduler.waiting()
    }

    fn ticket(&self) -> Ticket {
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        ticket
    }

    /// Enters a request and returns whether it waits. If not, it begins at once.
    fn arrive(
        &self,
        asking: Asking,
        wanted: Wanted,
        bounds: Bounds,
        answer: oneshot::Sender<Result<Room, Unavailable>>,
    ) -> Result<bool, Unavailable> {
        let mut state = self.lock();
        // Once the queue is closed, a request that cannot begin at once does not wait.
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
                        // A refusal contains no room, so dropping it does not take the lock.
                        let _ = waiter.answer.send(Err(refused));
                    }
                }
                Ok(true)
            }
        }
    }

    /// Changes the state, and starts the requests that can begin after the change.
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut begin = Vec::new();
        {
            let mut state = self.lock();
            change(&mut state);
            while let Some(ticket) = state.scheduler.next() {
                begin.extend(state.waiters.remove(&ticket));
            }
        }
        // Sent without the lock: if the client is gone, its room is dropped, which takes the lock.
        for waiter in begin {
            let _ = waiter.answer.send(Ok(self.room(&waiter.asking)));
        }
    }

    /// Builds the room that the scheduler has granted.
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
        // No code panics while it holds the lock, so a poisoned lock still guards consistent data.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Frees memory of a slot.
    fn free(&mut self, memory: u64, pooled: bool) {
        match pooled {
            true => self.scheduler.free_pool(memory),
            false => self.scheduler.free_memory(memory),
        }
    }

    /// The refusal of a request that cannot wait, or has waited too long.
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
