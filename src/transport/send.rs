//! Up: messages, acknowledgements and the close, by short requests (PROTOCOL 6, 7).
//!
//! Enters: a session and a request's body. Leaves: the progress of the session as JSON. Must not touch: how bodies are
//! encoded.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::fault::Fault;
use crate::budget::{Budget, Claim};
use crate::codec::batch::Form;
use crate::codec::progress;
use crate::http::incoming::IncomingBody;
use crate::http::timely::{Patience, Speed, TooSlow};
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
pub async fn send(
    session: &LiveSession,
    sending: Sending,
    body: IncomingBody,
    patience: Patience,
) -> Result<BytesMut, Fault> {
    let (limit, message) = (session.policy().body, session.policy().message);
    // What was decoded is counted before anything else is waited for: it may be many times its body.
    let (messages, waited) = match body {
        // It came with the head, so it is short, and counted where its messages go.
        IncomingBody::Buffered(whole) if whole.len() <= limit => (sending.form.decode(whole, message)?, false),
        body => (Box::pin(receive(session, &sending, body, patience)).await?, true),
    };
    if let Some(after) = sending.after {
        session.ack(after)?;
    }
    let waits = !waited && !messages.is_empty() && session.account().room() == 0;
    if waits && !Box::pin(wait(session, &messages)).await {
        return Err(busy(session));
    }
    match session.push(sending.seq, &messages, limit).await? {
        Pushed::Accepted { .. } => Ok(progress(session)),
        Pushed::Gap { next } => Err(Fault::Gap { next }),
        Pushed::Busy { next, .. } => Err(Fault::Busy { next }),
        Pushed::Ended(close) => Err(Fault::SessionClosed(close)),
    }
}

/// Waits until the session may take more memory, a bounded time; what waits for it is counted.
async fn wait(session: &LiveSession, messages: &[Message]) -> bool {
    let mut held = session.account().part();
    held.set(messages.iter().map(Message::cost).sum());
    session.wait_for_memory().await
}

/// Reads the messages of a body that comes in pieces, and counts it meanwhile. While memory is short and the session holds
/// its share of it, the body has to wait.
async fn receive(
    session: &LiveSession,
    sending: &Sending,
    body: IncomingBody,
    patience: Patience,
) -> Result<Vec<Message>, Fault> {
    let (limit, message) = (session.policy().body, session.policy().message);
    if session.account().room() == 0 {
        // What it acknowledges may be all that there is to wait for.
        sending.after.map(|after| session.ack(after)).transpose()?;
    }
    let mut held = session.account().part();
    let mut pieces = Pieces::new(body, limit, patience)?;
    while !pieces.ended {
        if !session.wait_for_memory().await {
            return Err(busy(session));
        }
        pieces.read().await?;
        held.set(pieces.whole.len());
    }
    sending.form.decode(pieces.whole.freeze(), message).map_err(Fault::from)
}

fn busy(session: &LiveSession) -> Fault {
    Fault::Busy { next: session.progress().counts.next }
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
///
/// # Errors
/// [`Fault::Moved`]; nothing was closed.
pub fn close(session: &LiveSession, close: Close) -> Result<BytesMut, Fault> {
    Ok(closed(&session.close(close)?))
}

/// The response to a close.
#[must_use]
pub fn closed(close: &Close) -> BytesMut {
    json!({ "close": close }).to_string().as_bytes().into()
}

/// Reads a whole body of at most `limit` bytes, each piece within `patience`; what has come of it counts for `budget`.
///
/// # Errors
/// [`Fault::TooLarge`], or [`Fault::BadRequest`] when it stalls or breaks off.
pub async fn read_body(
    body: IncomingBody,
    limit: usize,
    patience: Patience,
    budget: &Arc<Budget>,
) -> Result<Bytes, Fault> {
    match body {
        IncomingBody::Buffered(whole) if whole.len() <= limit => Ok(whole),
        // Boxed, so that the future of a short message, which is the usual case, does not have room for this wait.
        body => Box::pin(read_pieces(body, limit, patience, budget.claim())).await,
    }
}

async fn read_pieces(body: IncomingBody, limit: usize, patience: Patience, mut claim: Claim) -> Result<Bytes, Fault> {
    let mut pieces = Pieces::new(body, limit, patience)?;
    while !pieces.ended {
        pieces.read().await?;
        claim.set(pieces.whole.capacity());
    }
    Ok(pieces.whole.freeze())
}

/// So much of a body must have come before there is room for all that is announced, in bytes.
const TRUSTED: usize = 1024 * 1024;

/// A body that comes in pieces.
struct Pieces {
    body: IncomingBody,
    limit: usize,
    patience: Patience,
    speed: Speed,
    whole: BytesMut,
    ended: bool,
}

impl Pieces {
    fn new(body: IncomingBody, limit: usize, patience: Patience) -> Result<Self, Fault> {
        let announced = body.size_hint().lower();
        let pieces = Self { body, limit, patience, speed: Speed::default(), whole: BytesMut::new(), ended: false };
        if announced > limit as u64 { Err(pieces.too_large()) } else { Ok(pieces) }
    }

    fn too_large(&self) -> Fault {
        Fault::TooLarge { what: "the body".into(), limit: self.limit }
    }

    /// Reads one piece.
    async fn read(&mut self) -> Result<(), Fault> {
        let begin = Instant::now();
        let Some(frame) = next_frame(&mut self.body, self.patience.piece).await? else {
            self.ended = true;
            return Ok(());
        };
        let Ok(data) = frame.into_data() else { return Ok(()) };
        let slow = |slow: TooSlow| Fault::BadRequest(slow.to_string());
        self.speed.note(data.len(), begin.elapsed(), self.patience).map_err(slow)?;
        if self.whole.len() + data.len() > self.limit {
            return Err(self.too_large());
        }
        // There is room for all of it once so much has come, so that many MiB are not copied from buffer to buffer. Before
        // that, what is announced is no reason to take so much.
        if self.whole.len() >= TRUSTED && self.whole.capacity() < self.whole.len() + data.len() {
            let left = usize::try_from(self.body.size_hint().lower()).unwrap_or(0);
            self.whole.reserve(data.len() + left);
        }
        self.whole.extend_from_slice(&data);
        self.ended = self.body.is_end_stream();
        Ok(())
    }
}

async fn next_frame(body: &mut IncomingBody, patience: Duration) -> Result<Option<http_body::Frame<Bytes>>, Fault> {
    let stalled = |_| Fault::BadRequest(TooSlow::Stalled(patience).to_string());
    let broken = |error| Fault::BadRequest(format!("the body broke off: {error}; nothing of it was accepted"));
    timeout(patience, body.frame()).await.map_err(stalled)?.transpose().map_err(broken)
}

fn progress(session: &LiveSession) -> BytesMut {
    let Progress { counts, attached } = session.progress();
    let (next, sent, unacked) = (counts.next, counts.sent, counts.sent - counts.acked);
    progress::encode(next, attached.map(Transport::as_str), sent, unacked)
}
