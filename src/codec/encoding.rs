//! What a streaming transport needs from a codec.
//!
//! Enters: a greeting, messages, the end of the session, and events about the stream itself. Leaves: bytes at the end of a
//! buffer. Must not touch: when they are written.

use bytes::BytesMut;

use crate::session::{Close, Message};

/// How the items of a stream are encoded. Each method appends one whole item, except that codecs without message numbers
/// ignore those.
pub trait Encoding {
    /// The first item: `greeting` is the session's, as JSON, `from` the cursor that the stream starts behind.
    fn opening(&self, out: &mut BytesMut, from: u64, greeting: &str);
    /// A message with its number.
    fn message(&self, out: &mut BytesMut, number: u64, message: &Message);
    /// A sign of life: `sent` is the last number sent.
    fn heartbeat(&self, out: &mut BytesMut, sent: u64);
    /// The messages `from` to `to` are gone.
    fn lost(&self, out: &mut BytesMut, from: u64, to: u64);
    /// The end of the session with its number, the last item of the down channel.
    fn close(&self, out: &mut BytesMut, number: u64, close: &Close);
    /// A newer attachment reads the session now.
    fn superseded(&self, out: &mut BytesMut);
    /// This stream ends on purpose; the client is to come back after so many milliseconds.
    fn reconnect(&self, out: &mut BytesMut, after_ms: u32);
}
