//! The buffer of each thread that sockets are read into.
//!
//! Enters: whoever reads. Leaves: a block to read into. Must not touch: what was read.

use std::cell::RefCell;

/// How much is read from a socket at once, in bytes.
pub const BLOCK: usize = 16 * 1024;

thread_local! {
    /// Where blocks are read to before it is known how long they are, so that a waiting connection owns no buffer.
    static BLOCK_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; BLOCK].into_boxed_slice());
}

/// Calls `read` with this thread's read buffer of [`BLOCK`] bytes; what is wanted must be copied out. `read` must not
/// call this function again (it polls a socket, which has no reason to).
pub fn with_block<R>(read: impl FnOnce(&mut [u8]) -> R) -> R {
    BLOCK_BUFFER.with_borrow_mut(|block| read(block))
}
