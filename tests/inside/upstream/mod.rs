//! The backend's side against real sockets: what `underpass::upstream` does with backends that behave and that do not.

pub(crate) mod dialing;
mod http1_exchange;
mod proxying;
mod streaming;
pub(crate) mod support;
