//! Closed sets of terms: the transports, the error codes, and whatever else answers, paths, log lines and metrics name by
//! the same word.
//!
//! Enters: nothing. Leaves: enums, of which each value knows its word. Must not touch: anything. A set is written down
//! here and nowhere else, so that no room can have a value that another has forgotten.

use serde::{Deserialize, Serialize};

/// An enum of which each value has one word. The order of declaration is the order of label values and of the answers
/// that list them.
macro_rules! terms {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$each])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The words of all, in the same order.
            pub const WORDS: &[&'static str] = &[$($word),*];

            /// The word for it in answers, metrics, paths and log lines.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// The value that this word stands for.
            #[must_use]
            pub fn named(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == word)
            }
        }
    };
}

terms! {
    /// What carries a session down, best first. The `send` and `ack` requests are none: they attach nothing.
    Transport {
        /// A WebSocket of subprotocol `underpass.v1`.
        Ws = "ws",
        /// Server-sent events.
        Sse = "sse",
        /// Frames in an octet stream.
        Stream = "stream",
        /// Long polls.
        Poll = "poll",
    }
}

terms! {
    /// Which way bytes go.
    Direction {
        /// From the backend to the client.
        Down = "down",
        /// From the client to the backend.
        Up = "up",
    }
}

terms! {
    /// Why a session ended.
    Ending {
        /// The backend sent a close frame.
        BackendClosed = "backend_closed",
        /// The backend's connection broke without a close frame.
        BackendLost = "backend_lost",
        /// The client asked for it.
        ClientClosed = "client_closed",
        /// The client gave no sign of life within the grace.
        GraceOver = "grace_over",
        /// The client did not read within the longest pause.
        TooSlow = "too_slow",
        /// A message was over the limit.
        TooLarge = "too_large",
        /// It held most of the process's memory when that ran short.
        OutOfMemory = "out_of_memory",
        /// The sidecar was stopping.
        Drained = "drained",
        /// The operator ended it.
        Killed = "killed",
    }
}

terms! {
    /// Why a session is carried by this transport: by no better one at first, or by another one than before. As its client
    /// says, or as it was seen.
    Cause {
        /// It was just opened, and this is the best that there is.
        Opened = "opened",
        /// Nothing came on it for too long.
        Silent = "silent",
        /// What was sent on it was held back on the way.
        Held = "held",
        /// What came on it was not what was sent.
        Altered = "altered",
        /// What came on it was old.
        Stale = "stale",
        /// It was not let through, or answered with an error.
        Refused = "refused",
        /// It broke.
        Cut = "cut",
        /// Another attachment took over.
        Superseded = "superseded",
        /// The server asked the client to attach anew.
        Recycled = "recycled",
        /// Another tab of the browser has the stream.
        Shared = "shared",
        /// A better transport works again.
        Better = "better",
        /// The client's network changed.
        Network = "network",
        /// The page runs again after it was frozen.
        Resumed = "resumed",
        /// The page is looked at again.
        Shown = "shown",
        /// The client's machine slept.
        Asleep = "asleep",
        /// The older one was gone, and the client did not say why.
        Detached = "detached",
        /// A word that is none of these.
        Other = "other",
        /// The client does not say.
        Unsaid = "unsaid",
    }
}

terms! {
    /// What became of a client that came back.
    Resume {
        /// It goes on where it was.
        Resumed = "resumed",
        /// It goes on, and was told that messages are gone.
        Lost = "lost",
        /// Its session is not known here.
        Unknown = "unknown",
    }
}

impl Cause {
    /// The cause of which a client's words tell: the last of them, as in `ws refused`.
    #[must_use]
    pub fn of(said: Option<&str>) -> Self {
        let Some(said) = said else { return Self::Unsaid };
        match Self::named(said.rsplit(' ').next().unwrap_or_default()) {
            None | Some(Self::Unsaid) => Self::Other,
            Some(cause) => cause,
        }
    }
}

terms! {
    /// What one client may have or do only so much of.
    Limit {
        /// Connections at once.
        Connections = "connections",
        /// Sessions at once.
        Sessions = "sessions",
        /// Handshakes with backends under way.
        Handshakes = "handshakes",
        /// Opens in a second.
        Opens = "opens",
        /// Requests in a second.
        Requests = "requests",
    }
}

terms! {
    /// Why a request was refused (`docs/PROTOCOL.md`, section 8).
    ErrorCode {
        /// A parameter, a body, a path or the HTTP itself is malformed.
        BadRequest = "bad_request",
        /// A cursor beyond what was sent.
        BadCursor = "bad_cursor",
        /// The page's origin is not allowed.
        OriginRefused = "origin_refused",
        /// The host that was asked for is not served.
        HostRefused = "host_refused",
        /// The token is unknown, forged or forgotten.
        UnknownSession = "unknown_session",
        /// Nothing is at this path.
        NotFound = "not_found",
        /// The path takes other methods.
        MethodNotAllowed = "method_not_allowed",
        /// An attachment below what is acknowledged.
        StaleCursor = "stale_cursor",
        /// A send too far ahead.
        Gap = "gap",
        /// The nonce has opened something else.
        NonceReused = "nonce_reused",
        /// The session has ended.
        SessionClosed = "session_closed",
        /// A message or a body is over its limit.
        TooLarge = "too_large",
        /// A WebSocket handshake came without its upgrade.
        UpgradeLost = "upgrade_lost",
        /// The client has, or does, as much as one may.
        RateLimited = "rate_limited",
        /// The backend answered something else than 101.
        BackendRefused = "backend_refused",
        /// The backend was not reached, or gave no valid answer.
        BackendUnreachable = "backend_unreachable",
        /// The backend was too slow.
        BackendTimeout = "backend_timeout",
        /// The backend is this server itself.
        LoopDetected = "loop_detected",
        /// There is no room.
        Overloaded = "overloaded",
        /// The process is stopping.
        Draining = "draining",
        /// The up queue stayed full.
        Busy = "busy",
        /// A defect of ours.
        Internal = "internal",
    }
}

terms! {
    /// How a hand-over ended. The process that lives on counts it.
    HandedOver {
        /// This process has it from the service manager, which kept it over a restart.
        Restarted = "restarted",
        /// This process has it from the one before, which it asked.
        TakenOver = "taken_over",
        /// This process had let go of everything, and has taken it back, because its successor failed.
        RolledBack = "rolled_back",
        /// A successor was refused, or gave up, before this process had let go of anything.
        Refused = "refused",
        /// The service manager kept something that this process cannot read: it is lost.
        Unreadable = "unreadable",
    }
}

terms! {
    /// What became of a thing that a predecessor has handed over.
    Crossing {
        /// It lives on here.
        Crossed = "crossed",
        /// It does not: its descriptor was missing, or it could not be made live again.
        Lost = "lost",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROTOCOL: &str = include_str!("../docs/PROTOCOL.md");

    #[test]
    fn the_error_codes_are_those_of_the_protocol() {
        let (_, table) = PROTOCOL.split_once("| code | status |").expect("section 8 has a table of codes");
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut documented: Vec<_> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let mut ours = ErrorCode::WORDS.to_vec();
        documented.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, documented);
    }

    #[test]
    fn the_transports_are_those_of_the_protocol_in_its_order() {
        let list = format!("\"transports\":[\"{}\"]", Transport::WORDS.join("\",\""));
        assert_eq!(PROTOCOL.matches("\"transports\":[").count(), 2);
        assert_eq!(PROTOCOL.matches(&list).count(), 2, "{list}");
    }

    #[test]
    fn a_word_names_one_value_only() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::named(code.as_str()), Some(*code));
        }
        for transport in Transport::ALL {
            assert_eq!(Transport::named(transport.as_str()), Some(*transport));
        }
        assert_eq!(Transport::named("SSE"), None);
    }
}
