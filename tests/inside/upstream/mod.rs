//! The backend's side against real sockets: what `underpass::upstream` does with backends that behave and that do not.

mod dialing;
mod http1_exchange;
mod proxying;
mod streaming;
mod support;
mod tls;
