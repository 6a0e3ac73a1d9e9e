//! Everything that needs programs that nobody here wrote: browsers, proxies, brokers, servers and clients of the field. One
//! folder a subject; each test is left out, aloud, where its program is missing, and fails for it under `tests/run`.

#[expect(missing_docs, reason = "what tests say to each other")]
#[path = "../support/mod.rs"]
pub mod support;

#[expect(missing_docs, reason = "as support")]
pub mod programs;

mod broker;
mod running;
mod section;
mod turn;

mod apps;
mod browser;
mod client;
mod field;
mod middlebox;
mod networks;
mod packaging;
mod real;
mod selftest;
mod units;
mod watch;
