//! Codecs: whole messages to bytes and back, in the shapes that the transports carry (`docs/PROTOCOL.md`, sections 3, 4
//! and 6).
//!
//! Enters: messages and closes of the core on the way out, bodies of clients on the way in. Leaves: bytes, or checked
//! values, or an error that names the place. Must not touch: a clock, a runtime, the network, any room but `session`.

pub mod batch;
pub mod encoding;
pub mod frames;
pub mod greeting;
pub mod poll;
pub mod progress;
pub mod request;
pub mod sse;
mod write;

/// Why a body was refused; then nothing of it is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A message is over the limit: `too_large`.
    #[error("messages[{index}] has more than {limit} bytes, the most that one message may have; nothing was accepted")]
    TooLarge {
        /// Which message of the body, from 0.
        index: usize,
        /// The most bytes that a message may have.
        limit: usize,
    },
    /// So many messages that what is beside their payloads is too large: `too_large`.
    #[error("the body has more than {limit} messages, the most that one may have; nothing was accepted")]
    TooMany {
        /// The most messages that a body may have.
        limit: usize,
    },
    /// The body or a parameter is not what it must be: `bad_request`.
    #[error("{what}")]
    Malformed {
        /// What is wrong, where, and what was expected.
        what: String,
    },
}

impl DecodeError {
    fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }
}
