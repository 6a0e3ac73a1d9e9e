//! Up: messages, acknowledgements and the close, by short requests (PROTOCOL 6, 7).
//!
//! Enters: a session and a request's body. Leaves: the progress of the session as JSON. Must not touch: how bodies are
//! encoded.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::timeout;

use super::fault::Fault;
use crate::codec::batch::Form;
use crate::codec::progress;
use crate::http::incoming::IncomingBody;
use crate::registry::{LiveSession, Progress};
use crate::session::{Close, Message, Pushed};
use crate::terms::Transport;

/// What the query and headers of a `send` say of its body.
pub struct Sending {
    pub form: Form,
    /// The number of the first message.
    pub seq: Option<u64>,
    /// Acknowledges everything down up to here.
    pub after: Option<u64>,
}

/// Sends messages up; the response is the progress of the session.
///
/// # Errors
/// [`Fault`]; the number in it says what was accepted.
pub async fn send(session: &LiveSession, sending: Sending, body: Bytes) -> Result<BytesMut, Fault> {
    let messages = sending.form.decode(body, session.policy().message)?;
    if let Some(after) = sending.after {
        session.ack(after)?;
    }
    match session.push(sending.seq, &messages).await {
        Pushed::Accepted { .. } => {
            count(session, &messages);
            Ok(progress(session))
        }
        Pushed::Gap { next } => Err(Fault::Gap { next }),
        Pushed::Busy { next, .. } => Err(Fault::Busy { next }),
        Pushed::Ended(close) => Err(Fault::SessionClosed(close)),
    }
}

/// Acknowledges everything down up to `after`.
///
/// # Errors
/// [`Fault::BadCursor`] when so much was not sent; [`Fault::BadRequest`] without a cursor.
pub fn ack(session: &LiveSession, after: Option<u64>) -> Result<BytesMut, Fault> {
    let after = after.ok_or_else(|| Fault::BadRequest("`after` is missing: it is what an ack acknowledges".into()))?;
    session.ack(after)?;
    Ok(progress(session))
}

/// Closes the session for the client.
#[must_use]
pub fn close(session: &LiveSession, close: Close) -> BytesMut {
    closed(&session.close(close))
}

/// The response to a close.
#[must_use]
pub fn closed(close: &Close) -> BytesMut {
    json!({ "close": close }).to_string().as_bytes().into()
}

/// Reads a whole body of at most `limit` bytes, each piece within `patience`.
///
/// # Errors
/// [`Fault::TooLarge`], or [`Fault::BadRequest`] when it stalls or breaks off.
pub async fn read_body(body: IncomingBody, limit: usize, patience: Duration) -> Result<Bytes, Fault> {
    match body {
        IncomingBody::Buffered(whole) if whole.len() <= limit => Ok(whole),
        // Boxed, so that the future of a short message, which is the usual case, does not have room for this wait.
        body => Box::pin(read_pieces(body, limit, patience)).await,
    }
}

async fn read_pieces(mut body: IncomingBody, limit: usize, patience: Duration) -> Result<Bytes, Fault> {
    let too_large = || Fault::TooLarge { what: "the body".into(), limit };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = next_frame(&mut body, patience).await? {
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_large());
        }
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

async fn next_frame(body: &mut IncomingBody, patience: Duration) -> Result<Option<http_body::Frame<Bytes>>, Fault> {
    let stalled = |_| Fault::BadRequest(format!("the body stalled: nothing came for {} s", patience.as_secs()));
    let broken = |error| Fault::BadRequest(format!("the body broke off: {error}; nothing of it was accepted"));
    timeout(patience, body.frame()).await.map_err(stalled)?.transpose().map_err(broken)
}

fn progress(session: &LiveSession) -> BytesMut {
    let Progress { counts, attached } = session.progress();
    let (next, sent, unacked) = (counts.next, counts.sent, counts.sent - counts.acked);
    progress::encode(next, attached.map(Transport::as_str), sent, unacked)
}

fn count(session: &LiveSession, messages: &[Message]) {
    let bytes: usize = messages.iter().map(|message| message.payload().len()).sum();
    session.metrics().up(messages.len() as u64, bytes as u64);
}
