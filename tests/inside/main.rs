//! Everything that `cargo test` alone can try: no test here needs a program that is not built here. One folder a subject;
//! docs/ARCHITECTURE.md, section 13, has the index.

#[expect(missing_docs, reason = "what tests say to each other")]
#[path = "../support/mod.rs"]
pub mod support;

mod binary;

mod codec;
mod config;
mod equivalence;
mod handover;
mod hostile;
mod listener;
mod readers;
mod repository;
mod security;
mod selftest;
mod sidecar;
mod simulation;
mod smuggling;
mod tls;
mod tree;
mod upstream;
