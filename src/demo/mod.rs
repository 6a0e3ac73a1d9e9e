//! The demonstration: an ordinary WebSocket server and a page that reaches it in four ways.
//!
//! Enters: plain HTTP connections on a listening socket. Leaves: the page at `/`, WebSocket conversations at `/echo`,
//! `/clock` and `/chat`. Must not touch: any other room. It stands in for the operator's own backend, so it must know
//! nothing of underpass: whatever works with it works because the sidecar is true to the WebSocket, not because the two
//! have agreed on something. (The page does know the protocol: it is a client.)

mod answer;
pub mod backend;
mod talk;

pub use backend::{serve, start};

/// The page, one file without anything to fetch.
pub const PAGE: &str = include_str!("page.html");
