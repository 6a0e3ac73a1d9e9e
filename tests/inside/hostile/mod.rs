//! What strangers, foreign pages and a hostile backend can throw at the sidecar, over real sockets: everything is
//! refused with the right words or carried as it is, nothing of it changes a session, and no session dies of it.

mod backend;
mod bodies;
mod event_stream;
pub(crate) mod house;
mod identity;
mod input;
mod methods;
mod openings;
mod origins;
pub(crate) mod raw;
pub(crate) mod recorder;
mod secrets;
mod slow;
mod slow_bodies;
mod targets;
mod upgrades;
mod ws;
