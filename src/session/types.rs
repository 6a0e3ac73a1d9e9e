//! The values that go into the core and come out of it.
//!
//! Enters and leaves: plain values. Must not touch: a clock, a runtime, a codec.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A point in time: microseconds since an origin that the caller chose. The core only compares and adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `span` later; saturates.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long `self` lies after `earlier`; zero when it does not.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// Whether a message is text or binary (RFC 6455 section 5.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// One whole WebSocket message. The payload of a text is always valid UTF-8: the constructors see to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    kind: Kind,
    payload: Bytes,
}

impl Message {
    /// A text message.
    #[must_use]
    pub fn text(text: impl Into<String>) -> Self {
        Self { kind: Kind::Text, payload: Bytes::from(text.into()) }
    }

    /// A text message from bytes.
    ///
    /// # Errors
    /// The position of the first byte that is not UTF-8.
    pub fn text_from_utf8(payload: Bytes) -> Result<Self, usize> {
        match std::str::from_utf8(&payload) {
            Ok(_) => Ok(Self { kind: Kind::Text, payload }),
            Err(error) => Err(error.valid_up_to()),
        }
    }

    /// A binary message.
    #[must_use]
    pub fn binary(payload: impl Into<Bytes>) -> Self {
        Self { kind: Kind::Binary, payload: payload.into() }
    }

    /// Text or binary.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The bytes; UTF-8 when the kind is text.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What the message counts against a limit: its payload and [`Message::OVERHEAD`], so that the number of empty
    /// messages is limited as well.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.payload.len() + Self::OVERHEAD
    }

    /// Bytes that a kept message takes beside its payload: its entry in the queue and the overhead of an allocation.
    pub const OVERHEAD: usize = 64;
}

/// How a session ended: a code (RFC 6455 section 7.4), a reason of at most 123 bytes, and whether a closing handshake
/// took place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// The close code. 1005 and 1006 mean what they mean in RFC 6455 and are never sent in a close frame.
    pub code: u16,
    /// For people; may be empty.
    pub reason: String,
    /// False when the connection was lost without a close frame.
    pub clean: bool,
}

impl Close {
    /// A close with a closing handshake.
    #[must_use]
    pub fn clean(code: u16, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), clean: true }
    }

    /// The connection was lost: 1006.
    #[must_use]
    pub fn lost() -> Self {
        Self { code: 1006, reason: String::new(), clean: false }
    }

    /// True for the codes that a client may close with: 1000 and 3000 to 4999 (HTML standard, `WebSocket.close`).
    #[must_use]
    pub fn is_allowed_from_client(code: u16) -> bool {
        code == 1000 || (3000..=4999).contains(&code)
    }

    /// The longest reason that fits into a close frame, in bytes.
    pub const MAX_REASON: usize = 123;
}

/// What is as it begins is not written down.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The limits and deadlines of one session. Sizes are bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The backend is paused when so much is kept for the client, unacknowledged and unsent, and resumed at half of it.
    pub buffer: usize,
    /// How much a bare session keeps of written messages, for a client that comes back.
    pub replay: usize,
    /// How long after it was written a bare session keeps a message at least, if there is room; a quarter longer at most. Zero
    /// keeps none.
    pub replay_age: Duration,
    /// How many numbers ahead of the expected one an up message may be; it is kept until the gap is filled.
    pub reorder_window: u64,
    /// How much may wait for the backend, early messages included.
    pub queue: usize,
    /// How long a session lives without a sign of life from its client, and how long an ended one is kept for it.
    pub grace: Duration,
    /// How long the backend may stay paused while the client makes no progress.
    pub pause: Duration,
    /// How long the backend may take to answer a close.
    pub close_wait: Duration,
}

/// The right to read a session's down channel; one at a time, the newest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment(pub u64);

/// What a client says when it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// The cursor presented; `None` reads from what is acknowledged.
    pub after: Option<u64>,
    /// True under `/s/`: the client has promised to acknowledge, and its cursor is an acknowledgement.
    pub acknowledging: bool,
    /// A waiting poll is a sign of life until it is detached; a stream is none.
    pub is_poll: bool,
}

/// Why an attachment was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachError {
    /// The cursor lies beyond what was sent.
    Beyond {
        /// The highest number sent.
        sent: u64,
    },
    /// The cursor lies below what is acknowledged: a replayed old request. Nothing changed.
    Stale {
        /// The acknowledged cursor.
        acked: u64,
    },
    /// The session has ended and the cursor includes its close.
    Ended(Close),
}

/// What a reader gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// Messages were handed over, the first of which has the number `first`.
    Batch {
        /// Number of the first message.
        first: u64,
        /// How many; at least one.
        count: u64,
        /// Bytes of their payloads.
        bytes: usize,
        /// When the first one came from the backend, unless a reader was given it before.
        arrived: Option<Moment>,
    },
    /// Nothing now; the reader is woken.
    Wait,
    /// A newer attachment reads now.
    Superseded,
    /// Messages that are gone. This is said once; reading goes on behind them.
    Lost {
        /// First lost number.
        from: u64,
        /// Last lost number.
        to: u64,
    },
    /// The last item: the close and its number.
    Ended {
        /// The number of the close.
        number: u64,
        /// How it ended.
        close: Close,
    },
}

/// What became of messages up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// All are queued, kept until a gap is filled, or duplicates.
    Accepted {
        /// The number expected next.
        next: u64,
    },
    /// Too far ahead; nothing was kept.
    Gap {
        /// The number expected next.
        next: u64,
    },
    /// The queue is full; the first `taken` messages of the batch were accepted.
    Busy {
        /// How many messages of the batch need not be pushed again.
        taken: usize,
        /// The number expected next.
        next: u64,
    },
    /// The session is closed for sending.
    Ended(Close),
}

/// What the caller must do. Take them with `poll_action` after every call that changes the session, until there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Wake the reader.
    WakeReader,
    /// Wake the senders that wait for room in the up queue.
    WakeSenders,
    /// Give this to the backend, then report `upstream_took`.
    SendUp(Message),
    /// Stop reading the backend.
    Pause,
    /// Read the backend again.
    Resume,
    /// Begin the closing handshake with the backend.
    CloseUpstream(Close),
    /// The session may be dropped; only how it ended needs to be remembered.
    Finished(Close),
}

/// A session's counters, for answers and log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Highest down number written to any reader; the close counts.
    pub sent: u64,
    /// Down cursor acknowledged.
    pub acked: u64,
    /// Up number expected next.
    pub next: u64,
    /// Down messages that came from the backend.
    pub down: u64,
    /// Up messages that were given to the backend.
    pub up: u64,
    /// Cost of what is kept for the client, in bytes (see [`Message::cost`]).
    pub kept: usize,
}
