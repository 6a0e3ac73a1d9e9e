//! **underpass**: SSE, octet streams and long polls in front of an unmodified WebSocket backend.

pub mod config;
pub mod session;
