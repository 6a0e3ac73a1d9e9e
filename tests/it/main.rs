//! The sidecar from outside: over real sockets, against a scripted backend. One file a subject.

#[path = "../support/site.rs"]
mod site;

mod contract;
mod sharing;
mod transports;
