//! The backend's side against real sockets: what `underpass::upstream` does with backends that behave and that do not.

mod by_hand;
mod dialing;
mod proxying;
mod streaming;
mod support;
mod tls;
