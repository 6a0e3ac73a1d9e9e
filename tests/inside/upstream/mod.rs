//! The backend's side against real sockets: what `underpass::upstream` does with backends that behave and that do not.

mod by_hand;
pub(crate) mod dialing;
mod proxying;
mod streaming;
pub(crate) mod support;
