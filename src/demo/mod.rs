//! The demo: an ordinary WebSocket server, and a page that reaches it over four transports.
//!
//! Enters: plain HTTP connections on a listening socket. Leaves: the page at `/`, WebSocket conversations at `/echo`,
//! `/clock` and `/chat`. Must not touch: any other room. It stands in for the operator's own backend, so it must know
//! nothing of underpass: what works with it must work because the sidecar carries WebSocket faithfully, and not because the
//! two have an agreement. (The page does know the protocol: it is a client.)

pub mod backend;
mod conversation;
mod response;

pub use backend::{serve, start};

/// The page: one file, which loads no other.
pub const PAGE: &str = include_str!("page.html");
