//! Servers and clients that nobody here wrote, on the two sides of the sidecar. One file a subject; each test is left out,
//! aloud, where its program is missing, and fails for it under `tests/run`.

mod cutter;
mod demo;
mod event_sources;
mod haproxy;
mod mqtt;
mod servers;
mod talk;
