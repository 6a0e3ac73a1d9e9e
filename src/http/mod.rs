//! HTTP/1.1 as both sides of the sidecar need it: bodies, reading and writing of heads, and the stream between us and
//! hyper.
//!
//! Enters: bytes of a client or of a backend; heads and bodies of the rooms above. Leaves: requests, responses, bytes.
//! Must not touch: connections (the listener's and upstream's), what a request is for (the gateway's).
//!
//! This is no complete HTTP/1. **What is whole and can be read in one way only is read here; everything else is hyper's,
//! as if nothing had been read.** Reading uses hyper's own parser with its settings, and `tests/inside/equivalence` generates
//! the proof that both see the same message.
//!
//! | file | is for |
//! |---|---|
//! | `fields` | header fields: lists of tokens, fields read from bytes |
//! | `read_request`, `read_response` | bytes to a request of a client, a response of a backend |
//! | `write_head` | heads to bytes, and the framing of bodies |
//! | `write_response` | a response on a bare socket, to its end |
//! | `as_written` | how a head was written, where its meaning does not say |
//! | `incoming`, `timely` | a body that a peer sends; how fast a client's must come |
//! | `body`, `source`, `rewriting` | the body of a response: known, pulled, relayed, changed on its way |
//! | `replay` | a stream with bytes put back in front of it |
//! | `bare` | a connection's own socket, if nothing lies over it that cannot go to another process |
//! | `block` | the buffer of each thread that sockets are read into |

pub mod as_written;
pub mod bare;
pub mod block;
pub mod body;
pub mod fields;
pub mod incoming;
pub mod read_request;
pub mod read_response;
pub mod replay;
pub mod rewriting;
pub mod source;
pub mod timely;
pub mod write_head;
pub mod write_response;
