//! The backend's side: connections, handshakes, headers and plain HTTP.
//!
//! Enters: requests that the gateway has let through, and the operator's [`crate::config::Upstream`] and
//! [`crate::config::Backend`]. Leaves: connections, WebSockets, streamed responses, or an error that names what the
//! backend did. Must not touch: sessions' state, what clients are told (the gateway picks statuses).
//!
//! Where we dial is decided by the configuration alone: nothing that a request says reaches [`dial`] but as bytes of a
//! head on a connection that was made without it.

pub mod dial;
mod dials;
pub mod frame;
pub mod handshake;
pub mod headers;
pub mod http1_exchange;
mod hyper_stream;
mod io;
mod login;
pub mod own;
mod pace;
mod pool;
pub mod private;
pub mod proxy;
mod read_log;
pub mod socket;
pub mod tls;
pub mod wire;
