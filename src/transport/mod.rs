//! How an HTTP exchange carries a session: one file for each transport, with little in it.
//!
//! Enters: a live session and a request that was checked. Leaves: responses whose bodies pull from the session, or a
//! [`Fault`]. Must not touch: routes, origins, statuses of errors.
//!
//! | file | carries |
//! |---|---|
//! | `sse`, `stream` | down, as events or frames, for as long as the response lives; both are a [`streaming`] source |
//! | `poll` | down, one batch per request |
//! | `multi` | the polls of several sessions in one request |
//! | `ws` | both ways over a WebSocket of ours |
//! | `send` | up, and acknowledgements, and the close |
//! | `tunnel` | a WebSocket that is passed through, no session |
//! | `again` | the rest of a response that another process has begun |
//! | `pump` | the bytes of a session that another process has |

pub mod again;
pub mod fault;
pub mod greeting;
pub mod multi;
pub mod poll;
pub mod pump;
pub mod query;
mod record;
pub mod send;
pub mod sse;
pub mod stream;
pub mod streaming;
pub mod tunnel;
pub mod ws;

pub use self::fault::Fault;
