//! What can go wrong with a request of the protocol, by what happened.
//!
//! Enters: refusals of the core, the registry, the codecs. Leaves: one enum, which the gateway turns into a status.
//! Must not touch: statuses.

use std::time::Duration;

use crate::codec::DecodeError;
use crate::registry::{Moved, OpenError, Refused};
use crate::session::{AttachError, Close, Message};
use crate::terms::Limit;

/// Why a request was refused. The messages say what happened, to what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A parameter or the body is malformed; nothing of it was accepted.
    #[error("{0}")]
    BadRequest(String),
    /// A cursor beyond what was sent.
    #[error("`after` is beyond {sent}, the last number that was sent: present the highest number you have received")]
    BadCursor {
        /// The last number sent.
        sent: u64,
    },
    /// An attachment below what is acknowledged.
    #[error("`after` is below {acked}, which was acknowledged: this is an old request, and it changed nothing")]
    StaleCursor {
        /// The acknowledged cursor.
        acked: u64,
    },
    /// A send too far ahead.
    #[error("message {next} is expected next and these are too far ahead of it: nothing was kept, send from {next} on")]
    Gap {
        /// The number expected.
        next: u64,
    },
    /// The up queue stayed full.
    #[error("the backend takes no more for the moment: everything below {next} was accepted, send the rest again")]
    Busy {
        /// How far it got.
        next: u64,
    },
    #[error("this session is closed ({}{}{}): open a new one", .0.code, if .0.reason.is_empty() { "" } else { ": " }, .0.reason)]
    SessionClosed(Close),
    /// The token is unknown, forged or forgotten.
    #[error(
        "no session has this token here: it was never opened, has been forgotten, or this server was restarted; open a new one"
    )]
    UnknownSession,
    /// A message or a body over its limit.
    #[error("{what} is over the limit of {limit} bytes: nothing was accepted, send smaller pieces")]
    TooLarge {
        what: String,
        /// In bytes.
        limit: usize,
    },
    /// The request was a WebSocket handshake when it left the client.
    #[error(
        "this WebSocket handshake lost its `Upgrade` or `Connection` header on the way: a proxy between does not let WebSockets pass, use sse, stream or poll"
    )]
    UpgradeLost,
    /// The client has, or does, as much as one may.
    #[error("{}", limited(*.limit))]
    Limited {
        /// Of what.
        limit: Limit,
        /// When to try again.
        after: Duration,
    },
    /// Its session is in another process by now.
    #[error(transparent)]
    Moved(#[from] Moved),
    /// No route leads to this path.
    #[error("no route leads to `{0}` at this host")]
    Unrouted(String),
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What a client is told that has, or does, as much as one may.
#[must_use]
pub fn limited(limit: Limit) -> String {
    let limit = limit.as_str();
    format!("too many {limit} from your address: try again later; the operator can raise `limits.{limit}`")
}

impl From<AttachError> for Fault {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Beyond { sent } => Self::BadCursor { sent },
            AttachError::Stale { acked } => Self::StaleCursor { acked },
            AttachError::Ended(close) => Self::SessionClosed(close),
        }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Attach(error) => error.into(),
            Refused::Moved => Moved.into(),
        }
    }
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        match error {
            DecodeError::TooLarge { index, limit } => Self::TooLarge { what: format!("messages[{index}]"), limit },
            DecodeError::TooMany { limit } => {
                let limit = limit * Message::OVERHEAD;
                Self::TooLarge { what: "what the messages take beside their payloads, 64 bytes each,".into(), limit }
            }
            malformed => Self::BadRequest(malformed.to_string()),
        }
    }
}
