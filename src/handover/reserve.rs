//! Descriptors that are kept for a hand-over: a process that has none left is restarted just for that, and would have to drain.
//!
//! Enters: any descriptor. Leaves: room. Must not touch: who takes that.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// What a hand-over opens of its own, and a little more: the successor's connection, the package, pipes, copies of sockets.
const DESCRIPTORS: usize = 16;

/// Descriptors that nobody uses.
#[derive(Debug, Default)]
pub struct Reserve(Mutex<Vec<OwnedFd>>);

impl Reserve {
    /// Keeps what there is room for, as copies of `any`.
    pub fn fill(&self, any: &impl AsFd) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() < DESCRIPTORS
            && let Ok(copy) = any.as_fd().try_clone_to_owned()
        {
            kept.push(copy);
        }
    }

    /// Makes room for one descriptor; false when nothing is kept.
    pub fn release_one(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some()
    }

    /// Makes room.
    pub fn release(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read as _, pipe};

    use super::*;

    fn is_over(mut reader: PipeReader) -> bool {
        reader.read(&mut [0]).expect("a pipe of ours") == 0
    }

    #[test]
    fn it_is_filled_once_and_released_whole() {
        let (reader, writer) = pipe().expect("a pipe");
        let reserve = Reserve::default();
        reserve.fill(&writer);
        reserve.fill(&writer);
        assert_eq!(reserve.0.lock().expect("nobody panics here").len(), DESCRIPTORS);
        drop(writer);
        assert!(reserve.release_one());
        reserve.release();
        assert!(!reserve.release_one());
        assert!(is_over(reader), "no copy is left");
    }
}
