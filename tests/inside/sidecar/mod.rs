//! The sidecar from outside: over real sockets, against a scripted backend. One file a subject.

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
