//! Who generates next: a state machine without clock, tasks or locks.
//!
//! Two things are scarce: slots, in which the engine generates, and places for answers that are still
//! being read. A request takes as many of both as it has choices, all of them or none. Where they do not
//! suffice, it waits in its connection's line, and the lines take turns: each visit gives a line one
//! credit, and its first request begins when the credit covers its choices (deficit round robin, Shreedhar
//! and Varghese, 1996). So connections share the slots equally, however many requests they have and
//! however large these are; and nobody overtakes the one whose turn it is, so that a large one begins too.

use std::collections::VecDeque;

/// Who asks: requests of one connection are one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Source(pub(super) u64);
/// A request.
pub(super) type Ticket = u64;

/// What may wait at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Requests.
    pub requests: usize,
    /// Bytes that they hold.
    pub bytes: usize,
}

impl Bounds {
    /// Nothing waits.
    pub const NONE: Self = Self {
        requests: 0,
        bytes: 0,
    };
}

/// A request that asks for room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its name, given once.
    pub ticket: Ticket,
    /// Its choices.
    pub count: usize,
    /// Bytes that it holds while it waits.
    pub bytes: usize,
}

/// What becomes of a request that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// It has its room.
    Begins,
    /// It waits. For its sake these do not any more: the last ones of lines that held more than its own.
    Waits { gave_way: Vec<Ticket> },
    /// There is no place to wait.
    Refused,
}

/// What is scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    /// The engine is busy.
    Slots,
    /// Too many answers are still being read.
    Places,
}

/// The state.
#[derive(Clone, Debug)]
pub(super) struct Scheduler {
    all_slots: usize,
    slots: usize,
    places: usize,
    /// The line whose turn it is stands first. None is empty.
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
    /// So many slots and places are free, and nobody waits.
    pub fn new(slots: usize, places: usize) -> Self {
        Self {
            all_slots: slots,
            slots,
            places,
            lines: VecDeque::new(),
        }
    }

    /// A request of `source` asks for room.
    pub fn arrive(&mut self, source: Source, wanted: Wanted, bounds: Bounds) -> Arrival {
        if self.lines.is_empty() && self.take(wanted.count) {
            return Arrival::Begins;
        }
        // What can never begin must not wait.
        if wanted.count > self.all_slots || wanted.bytes > bounds.bytes {
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

    /// The next request that has its room now; it waits no longer. To be asked until there is none.
    pub fn next(&mut self) -> Option<Ticket> {
        loop {
            let line = self.lines.front_mut()?;
            let wanted = *line.waiting.front()?;
            if line.credit < wanted.count {
                self.lines.rotate_left(1);
                self.begin_turn();
                continue;
            }
            if !self.take(wanted.count) {
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

    /// A request gives up. False when it does not wait: it may have begun.
    pub fn leave(&mut self, ticket: Ticket) -> bool {
        let before = self.waiting();
        for line in &mut self.lines {
            line.waiting.retain(|one| one.ticket != ticket);
        }
        self.prune();
        self.waiting() < before
    }

    /// One slot is free again.
    pub fn free_slot(&mut self) {
        self.slots += 1;
    }

    /// One answer has been read.
    pub fn free_place(&mut self) {
        self.places += 1;
    }

    /// Everybody who waits goes.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.lines.iter().map(|line| line.waiting.len()).sum()
    }

    /// Choices of all requests that wait.
    pub fn demand(&self) -> usize {
        let waiting = self.lines.iter().flat_map(|line| &line.waiting);
        waiting.map(|one| one.count).sum()
    }

    /// What those wait for whose turn it is; or else a request of `count` choices.
    pub fn lacking(&self, count: usize) -> Lacking {
        let first = self.lines.front().and_then(|line| line.waiting.front());
        let count = first.map_or(count, |first| first.count);
        match count <= self.slots && count > self.places {
            true => Lacking::Places,
            false => Lacking::Slots,
        }
    }

    fn bytes(&self) -> usize {
        self.lines.iter().map(Line::bytes).sum()
    }

    /// Where the line is that has most of something, and more than `most`.
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
                // A line before which there is none is in front.
                credit: usize::from(self.lines.is_empty()),
                waiting: VecDeque::from([wanted]),
            }),
        }
    }

    /// Lines without requests go; whoever comes to the front by that has its turn.
    fn prune(&mut self) {
        let source = |line: &Line| line.source;
        let front = self.lines.front().map(source);
        self.lines.retain(|line| !line.waiting.is_empty());
        if self.lines.front().map(source) != front {
            self.begin_turn();
        }
    }

    /// The line in front gets its credit, once for each time that it comes there.
    fn begin_turn(&mut self) {
        if let Some(line) = self.lines.front_mut() {
            line.credit += 1;
        }
    }

    fn take(&mut self, count: usize) -> bool {
        let fits = count <= self.slots && count <= self.places;
        if fits {
            self.slots -= count;
            self.places -= count;
        }
        fits
    }
}

#[cfg(test)]
mod tests;
