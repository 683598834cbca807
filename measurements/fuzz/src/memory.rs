//! A counting allocator. It measures the most memory that a parser holds at once, exactly and equally on every machine.
//!
//! Memory is counted per thread, so tests may run in parallel. Every program that links this crate uses this allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with counts per thread of the bytes held now and of the most bytes held so far.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`. Returns its result and the most bytes that it held at once, beyond those held before.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    // The maximum of an outer measurement is restored afterwards, so that measurements nest.
    let outer = MOST.replace(before);
    let result = work();
    let most = MOST.get();
    MOST.set(outer.max(most));
    (result, usize::try_from(most - before).unwrap_or(0))
}

/// Runs `work` and asserts that it holds at most `limit` bytes at once.
///
/// # Panics
/// Panics if `work` held more, which means that foreign bytes can make it allocate without bound.
pub fn bounded<T>(limit: usize, work: impl FnOnce() -> T) -> T {
    let (result, most) = peak(work);
    assert!(
        most <= limit,
        "{most} bytes were allocated at once, {limit} are allowed"
    );
    result
}

fn count(change: isize) {
    let held = HELD.get() + change;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

fn signed(size: usize) -> isize {
    // A layout's size never exceeds isize::MAX.
    isize::try_from(size).unwrap_or(isize::MAX)
}

#[expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; this one hands every call on"
)]
// SAFETY: every method passes its arguments to the system's allocator unchanged and returns its result, so the contract is
// that of the system's allocator. Counting accesses two thread-local cells without destructors and never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller upholds the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // While the bytes are moved, the system may hold both allocations.
        count(signed(size));
        // SAFETY: the caller upholds the contract of `GlobalAlloc::realloc`.
        let moved = unsafe { System.realloc(pointer, layout, size) };
        count(-signed(layout.size()));
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::peak;

    #[test]
    fn the_most_is_counted_and_measurements_nest() {
        let (((), inner), outer) = peak(|| {
            drop(std::hint::black_box(vec![0_u8; 5000]));
            peak(|| drop(std::hint::black_box(vec![0_u8; 1000])))
        });
        assert!((1000..5000).contains(&inner), "{inner}");
        assert!((5000..6000).contains(&outer), "{outer}");
    }
}
