//! The rest of a response that another process has begun.
//!
//! Enters: what was written down of a source there. Leaves: a source that goes on, as if nothing had happened. Must not touch:
//! heads, framing, connections.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::poll::{self, PollRecord};
use super::sse::IdForm;
use super::streaming::{Streaming, StreamingRecord};
use crate::codec::frames::Frames;
use crate::codec::sse::Events;
use crate::http::source::Source;
use crate::lifecycle::moving::pack;
use crate::registry::Registry;

/// A source, for the process that goes on with it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SourceRecord {
    /// Server-sent events, with the token in their ids or without it.
    Sse {
        token: bool,
        streaming: StreamingRecord,
    },
    Stream(StreamingRecord),
    Poll(PollRecord),
}

impl SourceRecord {
    /// In the form in which it travels.
    pub(super) fn to_bytes(&self) -> Option<Bytes> {
        pack(self).ok()
    }
}

/// The source that this was written down of. `None` when it cannot go on here: its client has to come back.
#[must_use]
pub fn go_on(registry: &Registry, record: &[u8]) -> Option<Box<dyn Source + Send>> {
    Some(match rmp_serde::from_slice(record).ok()? {
        SourceRecord::Sse { token, streaming } => {
            let reader = streaming.read_on(registry)?;
            let ids = if token { IdForm::Token(reader.session().clone()) } else { IdForm::Bare };
            Box::new(Streaming::again(reader, Events(ids), streaming))
        }
        SourceRecord::Stream(streaming) => Box::new(Streaming::again(streaming.read_on(registry)?, Frames, streaming)),
        SourceRecord::Poll(record) => poll::go_on(registry, record)?,
    })
}
