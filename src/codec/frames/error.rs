//! What can be wrong with frames.
//!
//! Enters: the place and the error. Leaves: a sentence for people. Must not touch: anything else.

use super::super::DecodeError;
use super::FrameKind;
use crate::session::Close;

/// What is wrong with one frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body or message ends too early.
    #[error("{what} takes {needed} bytes, but only {left} are left")]
    Truncated {
        /// The head or the payload.
        what: &'static str,
        /// Bytes that should be there.
        needed: usize,
        /// Bytes that are there.
        left: usize,
    },
    /// No frame has this kind.
    #[error("there is no frame of kind {0}")]
    UnknownKind(u8),
    /// The payload has a length that this kind cannot have.
    #[error("a frame of kind {} ({kind:?}) cannot have a payload of {found} bytes", *kind as u8)]
    Length {
        /// The frame's kind.
        kind: FrameKind,
        /// Bytes of payload.
        found: usize,
    },
    /// What must be UTF-8 is not.
    #[error("the payload of kind {} ({kind:?}) is not UTF-8 from its byte {at} on", *kind as u8)]
    NotUtf8 {
        /// The frame's kind.
        kind: FrameKind,
        /// Position in the payload.
        at: usize,
    },
    /// The byte that says whether a close was clean is neither 0 nor 1.
    #[error("the third byte of a close says whether it was clean, 0 or 1, and is {0}")]
    Clean(u8),
    /// A WebSocket text message that does not begin with `1`.
    #[error("a WebSocket text message must begin with the character 1, its kind")]
    TextKind,
    /// A kind that clients do not send here.
    #[error("a frame of kind {} ({_0:?}) is not for clients to send here", *.0 as u8)]
    NotForClients(FrameKind),
    /// A code that clients may not close with.
    #[error("a client closes with code 1000 or 3000 to 4999, not {0}")]
    Code(u16),
    /// The reason does not fit into a close frame.
    #[error("a close reason has at most {} bytes, not {_0}", Close::MAX_REASON)]
    Reason(usize),
}

/// A body is malformed: which frame, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("frame {index} at byte {offset}: {error}")]
pub struct BodyError {
    /// Which frame, from 0.
    pub index: usize,
    /// The byte of the body at which the frame begins.
    pub offset: usize,
    /// What is wrong with it.
    #[source]
    pub error: FrameError,
}

impl From<BodyError> for DecodeError {
    fn from(error: BodyError) -> Self {
        Self::malformed(error.to_string())
    }
}
