//! The agent's allocator: memory is wiped when it is given back.
//!
//! TLS, HTTP and JSON keep what they read in buffers of their own, which nobody can wipe from outside. All of them come
//! from here and go back here.

use std::alloc::{GlobalAlloc, Layout, System};
use std::arch::asm;

/// An allocator, the system's, that gets back nothing but zeros.
pub struct Wiping<A = System>(pub A);

// SAFETY: every call is handed on to an allocator that keeps the contract, with the caller's arguments. Before a block is
// given back it is written to, while it is still the caller's. `realloc` is the trait's own, which moves to another block and
// gives back the old one through `dealloc`.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Wiping<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has the layout's size, and nobody looks at it any more.
        unsafe { block.write_bytes(0, layout.size()) };
        // SAFETY: no instruction. Without it the compiler leaves out what is written to memory that is given back; with it, it
        // has to believe that somebody reads it.
        unsafe { asm!("/* {0} */", in(reg) block, options(nostack, preserves_flags)) };
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { self.0.dealloc(block, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Counts the bytes that it gets back, all of which must be zero.
    struct Looking(Cell<usize>);

    // SAFETY: every call is handed on to the system's allocator.
    unsafe impl GlobalAlloc for Looking {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
            unsafe { System.alloc(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the block is whole until the next line, and all of it was written.
            let bytes = unsafe { std::slice::from_raw_parts(block, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            self.0.set(self.0.get() + bytes.len());
            // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
            unsafe { System.dealloc(block, layout) }
        }
    }

    #[test]
    fn blocks_are_wiped_before_they_are_given_back_and_when_they_move() {
        let heap = Wiping(Looking(Cell::new(0)));
        for size in [1, 24, 4096, 1 << 20] {
            heap.0.0.set(0);
            let layout = Layout::from_size_align(size, 8).unwrap();
            // SAFETY: the layouts are not empty, and each block is used within its size, and given back once with its layout.
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
