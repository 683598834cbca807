//! Decides which request generates next: a state machine without clock, tasks or locks.
//!
//! Three resources are scarce: slots, in which the engine generates; places, for answers that are still being read; and
//! the memory that both take, of the VM and of a GPU. A request takes one slot, one place and memory for each of its
//! choices, all of it or nothing.
//!
//! A request that does not fit waits in the line of its connection, and the lines take turns: each visit gives a line
//! one credit, and its first request begins when the credit covers its choices (deficit round robin, Shreedhar and
//! Varghese, 1996). So connections share the slots equally, however many requests they have and however large these
//! are. Nobody overtakes the request whose turn it is, so that a large one begins too.
//!
//! No connection holds more than half of the places, however slowly it reads. A line that waits only for what its own
//! connection holds has no turn, gets no credit, and delays nobody.

use std::collections::{HashMap, VecDeque};

/// A source of requests: all requests of one connection have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(pub(super) u64);
/// Identifier of a request.
pub(super) type Ticket = u64;

/// Limits on what may wait at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Number of requests.
    pub requests: usize,
    /// Bytes that they hold.
    pub bytes: usize,
}

impl Bounds {
    /// Limits under which nothing may wait.
    pub const NONE: Self = Self {
        requests: 0,
        bytes: 0,
    };
}

/// A request for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its identifier, which is used once.
    pub ticket: Ticket,
    /// Number of its choices.
    pub count: usize,
    /// Bytes that it holds while it waits.
    pub bytes: usize,
    /// Bytes of the VM's memory that each choice takes.
    pub memory: u64,
    /// Bytes of a GPU's pool that each choice takes.
    pub pool: u64,
}

impl Wanted {
    /// Bytes of the VM's memory that all choices take.
    fn memory(&self) -> u64 {
        self.memory.saturating_mul(self.count as u64)
    }

    /// Bytes of a GPU's pool that all choices take.
    fn pool(&self) -> u64 {
        self.pool.saturating_mul(self.count as u64)
    }
}

/// What becomes of a new request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// The request has its room.
    Begins,
    /// The request waits. For its sake the requests in `gave_way` no longer wait: the last ones of lines that held more
    /// than its own.
    Waits { gave_way: Vec<Ticket> },
    /// The request can neither begin nor wait.
    Refused,
}

/// The resource that a request lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// The engine is busy.
    Slots,
    /// Answers take all the memory.
    Memory,
    /// Clients are still reading too many answers.
    Places,
    /// The source holds half of all answers that may be read at once.
    Share,
}

/// State of the scheduler.
#[derive(Clone, Debug)]
pub(super) struct Scheduler {
    all_slots: usize,
    slots: usize,
    all_memory: u64,
    memory: u64,
    all_pool: u64,
    pool: u64,
    places: usize,
    /// Most places of one source.
    share: usize,
    /// Places that each source holds. Sources without places are absent.
    held: HashMap<Source, usize>,
    /// The waiting lines. The first one has its turn, and none is empty.
    lines: VecDeque<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    source: Source,
    credit: usize,
    waiting: VecDeque<Wanted>,
}

impl Line {
    fn bytes(&self) -> usize {
        self.waiting.iter().map(|one| one.bytes).sum()
    }
}

impl Scheduler {
    /// Creates a scheduler with `slots` free slots and `places` free places, in which nobody waits.
    pub fn new(slots: usize, places: usize) -> Self {
        Self {
            all_slots: slots,
            slots,
            all_memory: u64::MAX,
            memory: u64::MAX,
            all_pool: u64::MAX,
            pool: u64::MAX,
            places,
            // A request that takes all slots must be able to get as many places.
            share: slots.max(places / 2),
            held: HashMap::new(),
            lines: VecDeque::new(),
        }
    }

    /// Limits the memory of a GPU's pool to `bytes` from now on.
    pub fn limit_pool(&mut self, bytes: u64) {
        let taken = self.all_pool - self.pool;
        (self.all_pool, self.pool) = (bytes, bytes.saturating_sub(taken));
    }

    /// Limits the VM's memory for answers to `bytes` from now on. Until this is called there is no limit.
    pub fn limit_memory(&mut self, bytes: u64) {
        let taken = self.all_memory - self.memory;
        (self.all_memory, self.memory) = (bytes, bytes.saturating_sub(taken));
    }

    /// Bytes of the VM's memory for answers, free or not.
    pub fn all_memory(&self) -> u64 {
        self.all_memory
    }

    /// Handles a new request of `source`.
    pub fn arrive(&mut self, source: Source, wanted: Wanted, bounds: Bounds) -> Arrival {
        // Lines that wait only for what their own source holds delay nobody else.
        let others = |line: &Line| line.source != source && !self.may_have_turn(line);
        if self.lines.iter().all(others) && self.take(source, &wanted) {
            return Arrival::Begins;
        }
        // A request that can never begin must not wait.
        let never = wanted.count > self.all_slots
            || wanted.memory() > self.all_memory
            || wanted.pool() > self.all_pool;
        if never || wanted.bytes > bounds.bytes {
            return Arrival::Refused;
        }
        let mut after = self.clone();
        let mut gave_way = Vec::new();
        loop {
            let line = after.lines.iter().find(|line| line.source == source);
            let (own, bytes) = line.map_or((0, 0), |line| (line.waiting.len(), line.bytes()));
            let longest = if after.waiting() >= bounds.requests {
                after.longest(|line| line.waiting.len(), own + 1)
            } else if after.bytes() + wanted.bytes > bounds.bytes {
                after.longest(Line::bytes, bytes + wanted.bytes)
            } else {
                break;
            };
            let Some(last) = longest.and_then(|at| after.lines[at].waiting.pop_back()) else {
                return Arrival::Refused;
            };
            gave_way.push(last.ticket);
            after.prune();
        }
        after.join(source, wanted);
        *self = after;
        Arrival::Waits { gave_way }
    }

    /// Starts the next request that has its room now, and returns its ticket. To be called until it returns `None`.
    pub fn next(&mut self) -> Option<Ticket> {
        // Without a line that may have a turn, the rotation below would never end.
        self.lines.iter().find(|line| self.may_have_turn(line))?;
        loop {
            let line = self.lines.front()?;
            let (source, wanted) = (line.source, *line.waiting.front()?);
            if !self.may_have_turn(line) || line.credit < wanted.count {
                self.lines.rotate_left(1);
                self.begin_turn();
                continue;
            }
            if !self.take(source, &wanted) {
                return None;
            }
            let mut line = self.lines.pop_front()?;
            line.credit -= wanted.count;
            line.waiting.pop_front();
            if !line.waiting.is_empty() {
                self.lines.push_back(line);
            }
            self.begin_turn();
            return Some(wanted.ticket);
        }
    }

    /// Removes a waiting request. Returns false if it does not wait: it may have begun.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let before = self.waiting();
        for line in &mut self.lines {
            line.waiting.retain(|one| one.ticket != ticket);
        }
        self.prune();
        self.waiting() < before
    }

    /// Frees one slot.
    pub fn free_slot(&mut self) {
        self.slots += 1;
    }

    /// Frees `memory` bytes of the VM's memory.
    pub fn free_memory(&mut self, memory: u64) {
        self.memory = self.memory.saturating_add(memory).min(self.all_memory);
    }

    /// Frees `bytes` bytes of a GPU's pool.
    pub fn free_pool(&mut self, bytes: u64) {
        self.pool = self.pool.saturating_add(bytes).min(self.all_pool);
    }

    /// Frees one place of `source`, whose answer has been read.
    pub fn free_place(&mut self, source: Source) {
        self.places += 1;
        if let Some(held) = self.held.get_mut(&source) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&source);
            }
        }
    }

    /// Removes all waiting requests.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Number of waiting requests.
    pub fn waiting(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }

    /// Number of choices of all waiting requests that may begin before a new one of `source`.
    pub fn demand(&self, source: Source) -> usize {
        let before = |line: &&Line| line.source == source || self.may_have_turn(line);
        let waiting = self.lines.iter().filter(before);
        waiting
            .flat_map(|line| &line.waiting)
            .map(|one| one.count)
            .sum()
    }

    /// Returns what a request of `source`, or one that comes before it, waits for.
    pub fn lacking(&self, source: Source, wanted: &Wanted) -> Lacking {
        let first = |line: &Line| line.waiting.front().copied();
        let own = self.lines.iter().find(|line| line.source == source);
        if !self.within_share(source, own.and_then(first).unwrap_or(*wanted).count) {
            return Lacking::Share;
        }
        let next = self.lines.iter().find(|line| self.may_have_turn(line));
        let next = next.and_then(first).unwrap_or(*wanted);
        if next.count > self.slots {
            return Lacking::Slots;
        }
        if next.memory() > self.memory || next.pool() > self.pool {
            return Lacking::Memory;
        }
        match next.count > self.places {
            true => Lacking::Places,
            false => Lacking::Slots,
        }
    }

    fn bytes(&self) -> usize {
        self.lines.iter().map(Line::bytes).sum()
    }

    /// Index of the line that has the most of something, if that is more than `most`.
    fn longest(&self, has: impl Fn(&Line) -> usize, most: usize) -> Option<usize> {
        let lines = self.lines.iter().enumerate();
        let (at, line) = lines.max_by_key(|(_, line)| has(line))?;
        (has(line) > most).then_some(at)
    }

    fn join(&mut self, source: Source, wanted: Wanted) {
        match self.lines.iter_mut().find(|line| line.source == source) {
            Some(line) => line.waiting.push_back(wanted),
            None => self.lines.push_back(Line {
                source,
                // A line that joins an empty queue is at the front, so its turn begins.
                credit: usize::from(self.lines.is_empty()),
                waiting: VecDeque::from([wanted]),
            }),
        }
    }

    /// Removes lines without requests. If this brings another line to the front, its turn begins.
    fn prune(&mut self) {
        let source = |line: &Line| line.source;
        let front = self.lines.front().map(source);
        self.lines.retain(|line| !line.waiting.is_empty());
        if self.lines.front().map(source) != front {
            self.begin_turn();
        }
    }

    /// Gives the front line its credit: once each time that it comes to the front and can use the credit.
    fn begin_turn(&mut self) {
        let front = self.lines.front();
        if front.is_some_and(|line| self.may_have_turn(line))
            && let Some(line) = self.lines.front_mut()
        {
            line.credit += 1;
        }
    }

    /// Returns whether a line waits for more than what its own source holds.
    fn may_have_turn(&self, line: &Line) -> bool {
        let first = line.waiting.front();
        first.is_some_and(|first| self.within_share(line.source, first.count))
    }

    fn within_share(&self, source: Source, count: usize) -> bool {
        let held = self.held.get(&source).copied().unwrap_or(0);
        held + count <= self.share
    }

    fn take(&mut self, source: Source, wanted: &Wanted) -> bool {
        let (count, memory, pool) = (wanted.count, wanted.memory(), wanted.pool());
        let fits = count <= self.slots
            && count <= self.places
            && memory <= self.memory
            && pool <= self.pool
            && self.within_share(source, count);
        if fits {
            self.slots -= count;
            self.places -= count;
            self.memory -= memory;
            self.pool -= pool;
            *self.held.entry(source).or_default() += count;
        }
        fits
    }
}

#[cfg(test)]
mod tests;
