//! What a process has on a GPU, as a table without a GPU: which memory is in use, which was given back and still holds
//! what was in it, and what has crossed between host and device.
//!
//! Memory that is given back is not freed. It is *kept*, to be handed out again to whoever asks for as much on the same
//! stream, and it is *dirty* until somebody has overwritten it. What leaves the table leaves it either clean or with the
//! order to overwrite it first, so that nothing goes back to the driver with a prompt in it. Keeping also makes one scrub
//! of everything that a request has left possible, in one launch, where a memset for each of its thousand small tensors
//! would cost more than the tensors. Only what the default stream has given back is kept: another stream may end, and its
//! handle then be somebody else's.
//!
//! The calls that feed the table are in `interposed`, where there is a driver to be linked to.

use std::collections::{BTreeMap, HashMap, HashSet};

/// Allocations are multiples of this many bytes, so that tensors of nearly one size share their memory. The driver's own
/// allocator rounds as far.
const GRAIN: u64 = 512;

/// The default stream, under both of its handles (0, and 1 for `CU_STREAM_LEGACY`). It is the one that candle uses, and it
/// ends with its context. That of a thread has one handle too, 2, and is another stream for each thread.
const LASTING: [u64; 2] = [0, 1];

/// Streams, by their handles. `None` is memory that belongs to no stream.
pub type Stream = Option<u64>;

/// Memory that the driver has allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Where it begins.
    pub address: u64,
    /// How many bytes it has.
    pub bytes: u64,
    /// On which stream it was given back.
    pub stream: Stream,
}

/// Memory that must go back to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// Which.
    pub block: Block,
    /// Whether it must be overwritten first.
    pub dirty: bool,
}

/// Bytes and calls one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossings {
    /// Bytes copied.
    pub bytes: u64,
    /// Copies.
    pub calls: u64,
}

/// Everything that was counted since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Copies from the host to the device.
    pub to_device: Crossings,
    /// Copies from the device to the host.
    pub to_host: Crossings,
    /// Times that memory was handed out.
    pub allocations: u64,
    /// Times that it was given back.
    pub releases: u64,
    /// Bytes that were overwritten and then read again.
    pub scrubbed_bytes: u64,
    /// How many of them were not zero when they were read.
    pub residue_bytes: u64,
    /// Memory that came or went and was not in the table as it should have been, or that the driver did not take back: the
    /// table is wrong unless this is 0.
    pub strays: u64,
}

/// A part of memory that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it begins.
    pub address: u64,
    /// How many bytes it has.
    pub bytes: u64,
}

/// Every byte that is in use and was asked for, except what was set aside; in the order in which the memory was handed out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// What the host has written, from the beginning of each piece of memory on.
    pub uploads: Vec<Part>,
    /// What it has not: made on the device, or never written.
    pub derived: Vec<Part>,
}

/// Memory that is to be set aside and is not in use as the table has it: nobody can say what is in the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} are not one allocation of the table's")]
pub struct Unknown {
    /// Where it should be.
    pub address: u64,
    /// How many bytes it should have.
    pub bytes: u64,
}

#[derive(Debug)]
struct Live {
    /// What the driver has given.
    bytes: u64,
    /// How many of them somebody has asked for: nobody uses the rest.
    asked: u64,
    uploaded: u64,
    order: u64,
}

#[derive(Debug)]
struct Kept {
    block: Block,
    dirty: bool,
}

/// The table.
#[derive(Debug)]
pub struct Ledger {
    live: BTreeMap<u64, Live>,
    /// By the order in which it was given back.
    kept: BTreeMap<u64, Kept>,
    /// Addresses of kept blocks that the driver would not take.
    refused: HashSet<u64>,
    /// Orders of kept blocks that may be handed out again, by stream and size, each list rising.
    sizes: HashMap<(u64, u64), Vec<u64>>,
    kept_bytes: u64,
    most: u64,
    orders: u64,
    counts: Counts,
}

impl Ledger {
    /// An empty table that keeps at most `most` bytes of what is given back.
    #[must_use]
    pub fn new(most: u64) -> Self {
        Self {
            live: BTreeMap::new(),
            kept: BTreeMap::new(),
            refused: HashSet::new(),
            sizes: HashMap::new(),
            kept_bytes: 0,
            most,
            orders: 0,
            counts: Counts::default(),
        }
    }

    /// How many bytes to allocate where `bytes` are asked for.
    #[must_use]
    pub fn capacity(bytes: u64) -> u64 {
        bytes.checked_next_multiple_of(GRAIN).unwrap_or(bytes)
    }

    /// Kept memory for `asked` bytes, of exactly their capacity, on `stream`, which is in use from now on: that which was
    /// given back last.
    pub fn reuse(&mut self, asked: u64, stream: u64) -> Option<u64> {
        let bytes = Self::capacity(asked);
        let order = self.sizes.get_mut(&(stream, bytes))?.pop()?;
        let kept = self.kept.remove(&order)?;
        self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
        self.hand_out(kept.block.address, asked, bytes);
        Some(kept.block.address)
    }

    /// The driver has allocated `bytes` bytes of memory for somebody who has `asked` for so many.
    pub fn allocated(&mut self, address: u64, asked: u64, bytes: u64) {
        if self.refused.remove(&address) {
            // It was the driver's: a scrub of it would erase what is in use now.
            self.counts.strays += 1;
            let mut kept = self.kept.iter();
            let own = kept.find(|(_, kept)| kept.block.address == address);
            own.map(|(order, _)| *order)
                .and_then(|order| self.take(order));
        }
        self.hand_out(address, asked, bytes);
    }

    /// Memory was given back on `stream`: what must go to the driver now, nothing where it is kept already, or `None` where the
    /// table does not know the address, which the driver must judge.
    pub fn released(&mut self, address: u64, stream: Stream) -> Option<Vec<Retired>> {
        let Some(live) = self.live.remove(&address) else {
            self.counts.strays += 1;
            // Given back twice: the driver would take it with what is in it.
            let is_kept = |kept: &Kept| kept.block.address == address;
            return self.kept.values().any(is_kept).then(Vec::new);
        };
        self.counts.releases += 1;
        let block = Block {
            address,
            bytes: live.bytes,
            stream,
        };
        let mut retired = Vec::new();
        match lasting(stream) {
            Some(_) => self.keep(block, true),
            None => retired.push(Retired { block, dirty: true }),
        }
        while self.kept_bytes > self.most {
            retired.extend(self.retire_oldest());
        }
        Some(retired)
    }

    /// Everything that is kept, to be given to the driver: there is no memory left.
    pub fn retire_all(&mut self) -> Vec<Retired> {
        std::iter::from_fn(|| self.retire_oldest()).collect()
    }

    /// The driver has refused to overwrite `block` or to take it back, so that it stays, dirty, for the next scrub; and as
    /// whoever gave it back is told of an error, it counts as a stray. It is handed out no more: the error may be one of
    /// earlier work, and the memory the driver's again all the same.
    pub fn refused(&mut self, block: Block) {
        self.counts.strays += 1;
        self.refused.insert(block.address);
        let stream = None;
        self.keep(Block { stream, ..block }, true);
    }

    /// Every dirty block, which is nobody's until [`Self::put_back`].
    pub fn take_dirty(&mut self) -> Vec<Block> {
        let dirty = self.kept.iter().filter(|(_, kept)| kept.dirty);
        let orders: Vec<u64> = dirty.map(|(order, _)| *order).collect();
        orders
            .iter()
            .filter_map(|order| self.take(*order))
            .map(|kept| kept.block)
            .collect()
    }

    /// Keeps `blocks` again; `dirty` unless they were overwritten.
    pub fn put_back(&mut self, blocks: &[Block], dirty: bool) {
        for block in blocks {
            self.keep(*block, dirty);
        }
    }

    /// So many bytes were overwritten and read again, and so many of them were not zero.
    pub fn scrubbed(&mut self, bytes: u64, residue: u64) {
        add(&mut self.counts.scrubbed_bytes, bytes);
        add(&mut self.counts.residue_bytes, residue);
    }

    /// The host has copied `bytes` bytes to `address`.
    pub fn wrote(&mut self, address: u64, bytes: u64) {
        add(&mut self.counts.to_device.bytes, bytes);
        add(&mut self.counts.to_device.calls, 1);
        let Some((base, live)) = self.live.range_mut(..=address).next_back() else {
            return;
        };
        let offset = address - base;
        let end = offset.saturating_add(bytes);
        if offset <= live.uploaded && end <= live.asked {
            live.uploaded = live.uploaded.max(end);
        }
    }

    /// The host has copied `bytes` bytes from the device.
    pub fn read(&mut self, bytes: u64) {
        add(&mut self.counts.to_host.bytes, bytes);
        add(&mut self.counts.to_host.calls, 1);
    }

    /// What is in use, without what is `aside`, of which each is an address and how many bytes it has at least.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn contents(&self, aside: &[(u64, u64)]) -> Result<Contents, Unknown> {
        for (address, bytes) in aside {
            let known = self.live.get(address);
            if known.is_none_or(|live| live.bytes < *bytes) {
                let (address, bytes) = (*address, *bytes);
                return Err(Unknown { address, bytes });
            }
        }
        let aside: HashSet<u64> = aside.iter().map(|(address, _)| *address).collect();
        let mut live: Vec<_> = self
            .live
            .iter()
            .filter(|(address, _)| !aside.contains(address))
            .collect();
        live.sort_unstable_by_key(|(_, live)| live.order);
        let mut contents = Contents::default();
        for (address, live) in live {
            let rest = Part {
                address: address + live.uploaded,
                bytes: live.asked - live.uploaded,
            };
            let uploaded = Part {
                address: *address,
                bytes: live.uploaded,
            };
            let nonempty = |part: &Part| part.bytes > 0;
            contents.uploads.extend(Some(uploaded).filter(nonempty));
            contents.derived.extend(Some(rest).filter(nonempty));
        }
        Ok(contents)
    }

    /// A moment, to be asked about later.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.orders
    }

    /// Address and bytes of what was handed out since `moment`, is in use, and was never written by the host.
    #[must_use]
    pub fn scratch_since(&self, moment: u64) -> Vec<(u64, u64)> {
        self.since(moment)
            .filter(|(_, live)| live.uploaded == 0)
            .map(|(address, live)| (*address, live.bytes))
            .collect()
    }

    /// Bytes that were handed out since `moment` and are in use; since the beginning with 0.
    #[must_use]
    pub fn live_bytes(&self, moment: u64) -> u64 {
        self.since(moment).map(|(_, live)| live.bytes).sum()
    }

    /// Whether memory at this address is in use.
    #[must_use]
    pub fn is_live(&self, address: u64) -> bool {
        self.live.contains_key(&address)
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn since(&self, then: u64) -> impl Iterator<Item = (&u64, &Live)> {
        self.live.iter().filter(move |(_, live)| live.order > then)
    }

    fn hand_out(&mut self, address: u64, asked: u64, bytes: u64) {
        self.counts.allocations += 1;
        let live = Live {
            bytes,
            asked: asked.min(bytes),
            uploaded: 0,
            order: self.next(),
        };
        if self.live.insert(address, live).is_some() {
            // It went without passing here.
            self.counts.strays += 1;
        }
    }

    fn keep(&mut self, block: Block, dirty: bool) {
        let order = self.next();
        self.kept_bytes = self.kept_bytes.saturating_add(block.bytes);
        if let Some(stream) = lasting(block.stream) {
            let orders = self.sizes.entry((stream, block.bytes)).or_default();
            orders.push(order);
        }
        self.kept.insert(order, Kept { block, dirty });
    }

    fn retire_oldest(&mut self) -> Option<Retired> {
        let oldest = *self.kept.keys().next()?;
        let Kept { block, dirty } = self.take(oldest)?;
        Some(Retired { block, dirty })
    }

    fn take(&mut self, order: u64) -> Option<Kept> {
        let kept = self.kept.remove(&order)?;
        self.kept_bytes = self.kept_bytes.saturating_sub(kept.block.bytes);
        let Some(stream) = lasting(kept.block.stream) else {
            return Some(kept);
        };
        let key = (stream, kept.block.bytes);
        if let Some(orders) = self.sizes.get_mut(&key) {
            orders.retain(|other| *other != order);
            if orders.is_empty() {
                self.sizes.remove(&key);
            }
        }
        Some(kept)
    }

    fn next(&mut self) -> u64 {
        self.orders += 1;
        self.orders
    }
}

fn lasting(stream: Stream) -> Stream {
    stream.filter(|stream| LASTING.contains(stream))
}

fn add(counter: &mut u64, more: u64) {
    *counter = counter.saturating_add(more);
}

#[cfg(test)]
mod tests;
