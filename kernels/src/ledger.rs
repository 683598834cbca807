//! A table of a process's memory on a GPU, independent of any GPU: which memory is in use, which was given back but
//! still holds its content, and what was copied between host and device.
//!
//! Memory that is given back is not freed. It is *kept*, so that it can be handed out again for the same size on the
//! same stream, and it is *dirty* until it is overwritten. Memory leaves the table either clean or with the order to
//! overwrite it first, so that no prompt goes back to the driver. Keeping memory also allows one launch to scrub
//! everything that a request has left. A memset for each of its thousand small tensors would cost more than the
//! tensors. Only memory given back on the default stream is kept: another stream may end, and its handle be reused.
//!
//! `interposed` defines the calls that feed the table, in programs that are linked to the driver.

use std::collections::{BTreeMap, HashMap, HashSet};

/// Allocations are multiples of this many bytes, so that tensors of nearly the same size can reuse each other's memory.
/// The driver's own allocator rounds to the same multiple.
const GRAIN: u64 = 512;

/// The two handles of the default stream (0, and 1 for `CU_STREAM_LEGACY`), which candle uses and which ends only with
/// its context. Handle 2 stands for the default stream of a thread, which is another stream in each thread.
const LASTING: [u64; 2] = [0, 1];

/// A stream, by its handle; `None` for memory that belongs to no stream.
pub type Stream = Option<u64>;

/// Memory that the driver has allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Address of the first byte.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Stream on which the memory was given back.
    pub stream: Stream,
}

/// Memory that must go back to the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retired {
    /// The memory.
    pub block: Block,
    /// Whether the memory must be overwritten first.
    pub dirty: bool,
}

/// Copies in one direction between host and device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crossings {
    /// Number of bytes copied.
    pub bytes: u64,
    /// Number of copies.
    pub calls: u64,
}

/// Everything that was counted since the process began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Copies from the host to the device.
    pub to_device: Crossings,
    /// Copies from the device to the host.
    pub to_host: Crossings,
    /// Number of times that memory was handed out.
    pub allocations: u64,
    /// Number of times that memory was given back.
    pub releases: u64,
    /// Number of bytes that were overwritten and read again.
    pub scrubbed_bytes: u64,
    /// Number of these bytes that were not zero.
    pub residue_bytes: u64,
    /// Number of allocations and frees that did not agree with the table, and of blocks that the driver refused to
    /// overwrite or free. The table is reliable only if this is 0.
    pub strays: u64,
}

/// A part of memory that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Address of the first byte.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// Every byte that was asked for and is in use, except memory set aside, in the order in which the memory was handed
/// out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Bytes that the host has written without a gap from the beginning of an allocation.
    pub uploads: Vec<Part>,
    /// The other bytes: made on the device, or never written.
    pub derived: Vec<Part>,
}

/// Memory to be set aside is not one allocation in use, so the content of the rest is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} are not one allocation of the table's")]
pub struct Unknown {
    /// Address of the memory.
    pub address: u64,
    /// Size of the memory in bytes.
    pub bytes: u64,
}

#[derive(Debug)]
struct Live {
    /// Bytes that the driver has allocated.
    bytes: u64,
    /// Bytes that were asked for; nobody uses the others.
    asked: u64,
    uploaded: u64,
    order: u64,
}

#[derive(Debug)]
struct Kept {
    block: Block,
    dirty: bool,
}

/// The table of a process's memory on a GPU.
#[derive(Debug)]
pub struct Ledger {
    live: BTreeMap<u64, Live>,
    /// Kept blocks by the order in which they were given back.
    kept: BTreeMap<u64, Kept>,
    /// Addresses of kept blocks that the driver refused to take.
    refused: HashSet<u64>,
    /// Orders of the kept blocks that may be handed out again, by stream and size, ascending.
    sizes: HashMap<(u64, u64), Vec<u64>>,
    kept_bytes: u64,
    most: u64,
    orders: u64,
    counts: Counts,
}

impl Ledger {
    /// Creates an empty table that keeps at most `most` bytes of memory that is given back.
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

    /// Number of bytes to allocate for `bytes` bytes that are asked for.
    #[must_use]
    pub fn capacity(bytes: u64) -> u64 {
        bytes.checked_next_multiple_of(GRAIN).unwrap_or(bytes)
    }

    /// Hands out kept memory of exactly the capacity for `asked` bytes on `stream`, if there is some; the block given
    /// back last is taken first.
    pub fn reuse(&mut self, asked: u64, stream: u64) -> Option<u64> {
        let bytes = Self::capacity(asked);
        let order = self.sizes.get_mut(&(stream, bytes))?.pop()?;
        let kept = self.kept.remove(&order)?;
        self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
        self.hand_out(kept.block.address, asked, bytes);
        Some(kept.block.address)
    }

    /// Enters memory of `bytes` bytes that the driver has allocated for somebody who `asked` for that many.
    pub fn allocated(&mut self, address: u64, asked: u64, bytes: u64) {
        if self.refused.remove(&address) {
            // The driver had freed the block although it reported an error. A scrub of it would erase memory in use.
            self.counts.strays += 1;
            let mut kept = self.kept.iter();
            let own = kept.find(|(_, kept)| kept.block.address == address);
            own.map(|(order, _)| *order)
                .and_then(|order| self.take(order));
        }
        self.hand_out(address, asked, bytes);
    }

    /// Enters that memory was given back on `stream`, and returns what must go to the driver now. That is nothing if
    /// the block is already kept, and `None` if the address is unknown: the driver must then decide.
    pub fn released(&mut self, address: u64, stream: Stream) -> Option<Vec<Retired>> {
        let Some(live) = self.live.remove(&address) else {
            self.counts.strays += 1;
            // The memory was given back twice. The driver would free it with its content.
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

    /// Removes everything that is kept, so that it goes to the driver: memory is short.
    pub fn retire_all(&mut self) -> Vec<Retired> {
        std::iter::from_fn(|| self.retire_oldest()).collect()
    }

    /// Keeps a block, dirty, that the driver refused to overwrite or free. It counts as a stray, because the caller is
    /// told of an error. It is not handed out again: the error may come from earlier work, and the driver may have
    /// freed the block.
    pub fn refused(&mut self, block: Block) {
        self.counts.strays += 1;
        self.refused.insert(block.address);
        let stream = None;
        self.keep(Block { stream, ..block }, true);
    }

    /// Removes and returns every dirty block. Nobody may use these until [`Self::put_back`].
    pub fn take_dirty(&mut self) -> Vec<Block> {
        let dirty = self.kept.iter().filter(|(_, kept)| kept.dirty);
        let orders: Vec<u64> = dirty.map(|(order, _)| *order).collect();
        orders
            .iter()
            .filter_map(|order| self.take(*order))
            .map(|kept| kept.block)
            .collect()
    }

    /// Keeps `blocks` again. They are `dirty` unless they were overwritten.
    pub fn put_back(&mut self, blocks: &[Block], dirty: bool) {
        for block in blocks {
            self.keep(*block, dirty);
        }
    }

    /// Counts bytes that were overwritten and read again, and those of them that were not zero.
    pub fn scrubbed(&mut self, bytes: u64, residue: u64) {
        add(&mut self.counts.scrubbed_bytes, bytes);
        add(&mut self.counts.residue_bytes, residue);
    }

    /// Counts a copy of `bytes` bytes from the host to `address`.
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

    /// Counts a copy of `bytes` bytes from the device to the host.
    pub fn read(&mut self, bytes: u64) {
        add(&mut self.counts.to_host.bytes, bytes);
        add(&mut self.counts.to_host.calls, 1);
    }

    /// Returns all memory in use except `aside`, a list of addresses and minimum sizes.
    ///
    /// # Errors
    /// [`Unknown`] if an entry of `aside` is not an allocation in use of at least that size.
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

    /// The current moment, for later questions.
    #[must_use]
    pub fn moment(&self) -> u64 {
        self.orders
    }

    /// Address and size of the memory that was handed out since `moment`, is in use, and was never written by the host.
    #[must_use]
    pub fn scratch_since(&self, moment: u64) -> Vec<(u64, u64)> {
        self.since(moment)
            .filter(|(_, live)| live.uploaded == 0)
            .map(|(address, live)| (*address, live.bytes))
            .collect()
    }

    /// Bytes that were handed out since `moment` and are in use; 0 stands for the beginning.
    #[must_use]
    pub fn live_bytes(&self, moment: u64) -> u64 {
        self.since(moment).map(|(_, live)| live.bytes).sum()
    }

    /// Whether memory at this address is in use.
    #[must_use]
    pub fn is_live(&self, address: u64) -> bool {
        self.live.contains_key(&address)
    }

    /// Everything that was counted so far.
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
            // The earlier allocation at this address was freed without being seen here.
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
