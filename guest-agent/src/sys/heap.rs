//! The agent's allocator, which wipes memory when it is freed.
//!
//! TLS, HTTP and JSON libraries keep data in buffers that callers cannot wipe. All these buffers are allocated here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::arch::asm;

/// Wraps an allocator, by default the system's, and zeroes every block before freeing it.
pub struct Wiping<A = System>(pub A);

// SAFETY: every call passes the caller's arguments to an allocator that keeps the contract. A block is written to before it
// is freed, while the caller still owns it. `realloc` is the trait's default, which moves to a new block and frees the old
// one through `dealloc`.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Wiping<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has the layout's size, and the caller no longer uses it.
        unsafe { block.write_bytes(0, layout.size()) };
        // SAFETY: the assembly contains no instruction. It makes the compiler assume that the block is read. Otherwise the
        // compiler would remove writes to memory that is about to be freed.
        unsafe { asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags)) };
        // SAFETY: the caller upholds the contract of `GlobalAlloc::dealloc`.
        unsafe { self.0.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Counts the bytes of freed blocks, which must all be zero.
    struct Looking(Cell<usize>);

    // SAFETY: every call is forwarded to the system's allocator.
    unsafe impl GlobalAlloc for Looking {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc`.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block stays allocated until `System.dealloc` below, and all of it was initialised.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            self.0.set(self.0.get() + bytes.len());
            // SAFETY: the caller upholds the contract of `GlobalAlloc::dealloc`.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn blocks_are_wiped_before_they_are_given_back_and_when_they_move() {
        let heap = Wiping(Looking(Cell::new(0)));
        for size in [1, 24, 4096, 1 << 20] {
            heap.0.0.set(0);
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: no layout is empty. Each block is used within its size and freed once with its layout.
            unsafe {
                let block = heap.alloc(layout);
                block.write_bytes(0xa5, size);
                let moved = heap.realloc(block, layout, 2 * size);
                assert_eq!(heap.0.0.get(), size);
                assert!((0..size).all(|at| moved.add(at).read() == 0xa5));
                let layout = Layout::from_size_align(2 * size, 8).unwrap();
                heap.dealloc(moved, layout);
            }
            assert_eq!(heap.0.0.get(), 3 * size);
        }
    }
}
