//! The sidecar from outside: over real sockets, against a scripted backend. One file a subject.

mod as_written;
mod attachments;
mod beside;
mod commands;
mod contract;
mod deaf_log;
mod drain;
mod error_pages;
mod exactly_once;
mod introductions;
mod large;
mod limits;
mod logins;
mod logs;
mod memory;
mod operator;
mod pressure;
mod refusals;
mod rewriting;
mod routes;
mod script_tag;
mod sessions;
mod sharing;
mod streams;
mod transports;
mod upgrades;
