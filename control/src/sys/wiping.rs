//! Memory that is given back is wiped first.
//!
//! Types that hold keys wipe themselves when they are dropped; but a value that is moved leaves its bytes behind where it was: in the
//! state of a finished task, in a queue that grew, in a buffer of a library. Here nothing that was on the heap outlives its use.

use std::alloc::{GlobalAlloc, Layout, System};

use zeroize::Zeroize;

/// The system's allocator, which wipes what is given back to it. For a process that handles keys and few packets.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wiping;

// SAFETY: every order goes to the system's allocator as it came; in between only the block's own bytes are written.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of this very function.
        unsafe { System.alloc_zeroed(layout) }
    }

    // `realloc` is the trait's own: a new block, a copy, and the old block comes here.
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is the caller's, of this size, and nobody uses it any more; any byte may be written as zero.
        unsafe { std::slice::from_raw_parts_mut(block, layout.size()) }.zeroize();
        // SAFETY: the block came from the system's allocator with this layout.
        unsafe { System.dealloc(block, layout) }
    }
}
