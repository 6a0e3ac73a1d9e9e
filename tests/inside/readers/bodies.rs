//! Judges the readers of bodies: messages in four forms, frames of a WebSocket, `open`, `poll` and `close`.
//!
//! Enters: any bytes. Leaves: which reader took what the bytes do not say. Must not touch: how the bytes came about.

use bytes::{Bytes, BytesMut};
use underpass::codec::batch::{Form, MOST_MESSAGES};
use underpass::codec::frames::{self, Frame, WsPayload};
use underpass::codec::request::{MAX_POLLED, OpenRequest, PollRequest, decode_close};
use underpass::session::{Close, Message};

/// The most bytes of one message: few, so that short bodies go beyond it.
const MOST: usize = 1000;

/// A reader and its name.
type Reader = (&'static str, fn(&[u8]));

/// Every reader by its name, for whoever measures what it takes. What it makes of the bytes is let go.
pub(crate) const READERS: &[Reader] = &[
    ("json", |body| drop(read(Form::Json, body))),
    ("frames", |body| drop(read(Form::Frames, body))),
    ("form", |body| drop(read(Form::Form, body))),
    ("text", |body| drop(read(Form::Text, body))),
    ("binary", |body| drop(read(Form::Binary, body))),
    ("a frame of the `ws` transport", |body| drop(Frame::from_ws_binary(Bytes::copy_from_slice(body)))),
    ("open", |body| drop(OpenRequest::decode(body))),
    ("poll", |body| drop(PollRequest::decode(body))),
    ("close", |body| drop(decode_close(body))),
];

fn read(form: Form, body: &[u8]) -> Option<Vec<Message>> {
    form.decode(Bytes::copy_from_slice(body), MOST).ok()
}

/// How many of the readers take these bytes.
///
/// # Errors
/// What was taken that cannot be in them.
pub(crate) fn judge(body: &[u8]) -> Result<usize, String> {
    let mut taken = 0;
    for form in [Form::Json, Form::Frames, Form::Form, Form::Text, Form::Binary] {
        if let Some(messages) = read(form, body) {
            taken += 1;
            batch(body, &messages).map_err(|what| format!("{form:?}: {what}"))?;
        }
    }
    taken += usize::from(whole_frames(body)?) + usize::from(websocket_frames(body)?) + usize::from(requests(body)?);
    Ok(taken)
}

/// No form makes more of a body than it holds, and its messages come back from frames.
fn batch(body: &[u8], messages: &[Message]) -> Result<(), String> {
    let payload: usize = messages.iter().map(|message| message.payload().len()).sum();
    if payload > body.len() || messages.len() > MOST_MESSAGES.min(body.len().max(1)) {
        return Err(format!("{} messages of {payload} bytes in a body of {}", messages.len(), body.len()));
    }
    if let Some(message) = messages.iter().find(|message| message.payload().len() > MOST) {
        return Err(format!("a message of {} bytes", message.payload().len()));
    }
    let mut out = BytesMut::new();
    messages.iter().for_each(|message| frames::message(&mut out, message));
    let again = frames::messages(out.freeze(), MOST);
    if again.as_deref() == Ok(messages) { Ok(()) } else { Err(format!("{messages:?} come back as {again:?}")) }
}

/// Frames that were taken are the bytes that they write.
fn whole_frames(body: &[u8]) -> Result<bool, String> {
    let Ok(read) = frames::decode_all(Bytes::copy_from_slice(body)) else { return Ok(false) };
    let mut again = BytesMut::new();
    read.iter().for_each(|frame| frame.encode(&mut again));
    if again == body { Ok(true) } else { Err(format!("{read:?} are {again:?}")) }
}

/// The same of one WebSocket message, as text and as binary.
fn websocket_frames(body: &[u8]) -> Result<bool, String> {
    let binary = Frame::from_ws_binary(Bytes::copy_from_slice(body)).ok();
    let text = std::str::from_utf8(body).ok().and_then(|text| Frame::from_ws_text(text).ok());
    for frame in [&binary, &text].into_iter().flatten() {
        let again = match frame.to_ws() {
            WsPayload::Text(text) => Bytes::from(text),
            WsPayload::Binary(bytes) => bytes,
        };
        if again != body {
            return Err(format!("{frame:?} is {again:?}"));
        }
    }
    Ok(binary.is_some() || text.is_some())
}

/// What `open`, `poll` and `close` take is what PROTOCOL allows.
fn requests(body: &[u8]) -> Result<bool, String> {
    let (open, poll, close) = (OpenRequest::decode(body), PollRequest::decode(body), decode_close(body));
    let taken = open.is_ok() || poll.is_ok() || close.is_ok();
    let is_url_safe =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    let is_plain = |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
    let sound = open.as_ref().is_ok_and(|open| {
        open.nonce.as_ref().is_none_or(|nonce| (16..=64).contains(&nonce.len()) && is_url_safe(nonce))
            && open.protocols.iter().all(is_plain)
    }) || open.is_err();
    if !sound {
        return Err(format!("{open:?}"));
    }
    if let Ok(PollRequest { sessions }) = &poll
        && (sessions.is_empty() || sessions.len() > MAX_POLLED || sessions.iter().any(|(token, _)| !is_url_safe(token)))
    {
        return Err(format!("{poll:?}"));
    }
    match close {
        Ok(Close { code, reason, .. }) if !matches!(code, 1000 | 3000..=4999) || reason.len() > 123 => {
            Err(format!("close {code} {reason:?}"))
        }
        _ => Ok(taken),
    }
}
