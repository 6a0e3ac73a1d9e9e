//! The sidecar from outside: over real sockets, against a scripted backend. One file a subject.

#[allow(dead_code, reason = "shared with the simulation")]
#[path = "../simulation/chance.rs"]
mod chance;
#[path = "../support/cutter.rs"]
mod cutter;
#[path = "../support/plain.rs"]
mod plain;
#[path = "../support/scratch.rs"]
mod scratch;
#[path = "../support/site.rs"]
mod site;
#[path = "../support/talk.rs"]
mod talk;
#[path = "../support/wire.rs"]
mod wire;

mod attachments;
mod beside;
mod contract;
mod drain;
mod exactly_once;
mod injection;
mod logs;
mod pressure;
mod refusals;
mod routes;
mod secure;
mod selftest;
mod sessions;
mod sharing;
mod streams;
mod transports;
