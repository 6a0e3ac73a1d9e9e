//! **underpass**: SSE, octet streams and long polls in front of an unmodified WebSocket backend.
//!
//! A sidecar for clients on networks that break WebSockets. Each such client has a session: one upstream WebSocket that
//! outlives the client's connections, so that nothing is lost or doubled when a connection is cut or the client changes
//! transport, in either direction. Where WebSocket works it is passed through byte for byte; everything else is proxied.
//!
//! The rooms, in the order in which data passes through them:
//!
//! ```text
//! down   backend ─► upstream::socket ─► registry::driver ─► session ─► transport ─► codec ─► client
//! up     client ─► listener ─► gateway ─► transport::send ─► codec ─► session ─► registry::driver ─► upstream::socket ─► backend
//! beside client ─► listener ─► gateway ─► transport::tunnel or upstream::proxy ─► backend
//! ```
//!
//! # Words
//!
//! | word | is |
//! |---|---|
//! | **backend** | the unmodified server behind us |
//! | **upstream** | our WebSocket to it |
//! | **client** | who talks to us |
//! | **down / up** | backend to client / client to backend |
//! | **message** | one whole WebSocket message; *frame* is RFC 6455's, or one of our binary framing |
//! | **session** | one client's conversation with the backend |
//! | **transport** | how an HTTP exchange carries a session: ws, sse, stream, poll |
//! | **codec** | messages to bytes and back, pure |
//! | **number** | messages of a session are numbered from 1 in each direction |
//! | **cursor** | the highest down number a client has received; presenting it acknowledges |
//! | **attachment** | the right to read a session's down channel; one at a time, the newest wins |
//! | **grace** | how long a session lives without a sign of life from its client |
//! | **replay** | what is kept of written messages for a client that never acknowledges |
//! | **token / id** | a session's secret / its public name |
//! | **budget** | the memory that all payloads of the process together may take; a session's *account* is what it holds of it |
//! | **drain** | stopping in good order |

// Every public item is documented in the rooms that others build on: the core, the codecs and the configuration. In the
// other rooms the lint produced lines such as "The file.", so there a doc comment is written where it says something.

pub mod admin;
pub mod app;
pub mod budget;
pub mod certificate;
pub mod check;
pub mod client;
#[warn(missing_docs)]
pub mod codec;
#[warn(missing_docs)]
pub mod config;
pub mod control;
pub mod demo;
pub mod gateway;
pub mod handover;
pub mod http;
pub mod lifecycle;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod probe;
pub mod registry;
pub mod selftest;
#[warn(missing_docs)]
pub mod session;
pub mod terms;
pub mod transport;
pub mod upstream;
