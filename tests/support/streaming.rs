//! An answer that streams, read as events or as frames. Must not touch: the codecs of the sidecar.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

use super::site::soon;

/// An answer that streams.
pub struct Streaming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    buffer: BytesMut,
    /// So much of the buffer was searched for the end of an event.
    searched: usize,
}

/// One server-sent event, as the fields stand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub event: String,
    pub id: String,
    pub data: String,
}

impl Event {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl Streaming {
    pub(super) fn new(head: http::response::Parts, body: Incoming) -> Self {
        Self { status: head.status, headers: head.headers, body, buffer: BytesMut::new(), searched: 0 }
    }

    /// More bytes; false at a clean end.
    pub async fn more(&mut self) -> bool {
        match soon("more of a stream", self.body.frame()).await {
            Some(frame) => {
                if let Ok(data) = frame.expect("no error").into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                true
            }
            None => false,
        }
    }

    /// The next event that has data; `None` at the end.
    pub async fn event(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.buffer[self.searched..].windows(2).position(|pair| pair == b"\n\n") {
                let block = self.buffer.split_to(self.searched + end + 2);
                self.searched = 0;
                let event = parse_event(std::str::from_utf8(&block).expect("UTF-8"));
                if let Some(event) = event {
                    return Some(event);
                }
            }
            self.searched = self.buffer.len().saturating_sub(1);
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next event that is no heartbeat.
    pub async fn told(&mut self) -> Event {
        loop {
            let event = self.event().await.expect("the stream goes on");
            if event.event != "heartbeat" {
                return event;
            }
        }
    }

    /// The next frame of an octet stream, as kind and payload.
    pub async fn frame(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if self.buffer.len() >= 5 {
                let length = u32::from_be_bytes([self.buffer[1], self.buffer[2], self.buffer[3], self.buffer[4]]);
                let whole = 5 + length as usize;
                if self.buffer.len() >= whole {
                    let mut frame = self.buffer.split_to(whole).freeze();
                    return Some((frame[0], frame.split_off(5)));
                }
            }
            if !self.more().await {
                return None;
            }
        }
    }
}

/// One block of an event stream; `None` when it has no data.
pub fn parse_event(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Option<String> = None;
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.event = value.to_owned(),
            "id" => event.id = value.to_owned(),
            "data" => match &mut data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => data = Some(value.to_owned()),
            },
            _ => {}
        }
    }
    event.data = data?;
    Some(event)
}
