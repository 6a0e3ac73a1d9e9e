//! What strangers, foreign pages and a hostile backend can throw at the sidecar, over real sockets: everything is
//! refused with the right words or carried as it is, nothing of it changes a session, and no session dies of it.

mod backend;
mod bodies;
mod house;
mod identity;
mod injection;
mod input;
mod methods;
mod origins;
mod raw;
mod recorder;
mod secrets;
mod slow;
mod smuggling;
mod targets;
mod upgrades;
mod ws;
