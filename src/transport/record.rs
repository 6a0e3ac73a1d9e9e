//! What is written down of a response that a session carries, for the process that goes on with it: plain data, whose fields have
//! names.
//!
//! Enters and leaves: values. Must not touch: readers, encodings. A field that is added needs a default, for records of before it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::lifecycle::moving::pack;
use crate::registry::ReaderRecord;
use crate::session::Moment;

/// A source of a body.
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

/// A stream.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StreamingRecord {
    pub(super) reader: ReaderRecord,
    /// The greeting, if it was not written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) greeting: Option<String>,
    /// The last number written.
    pub(super) sent: u64,
    /// When the next heartbeat is due.
    pub(super) beat: Moment,
    /// When the stream is recycled, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recycle: Option<Moment>,
}

/// A poll that waits.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PollRecord {
    pub(super) reader: ReaderRecord,
    /// The cursor of the request.
    pub(super) after: u64,
    pub(super) frames: bool,
    pub(super) newline: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<String>,
    /// When it is answered at the latest.
    pub(super) deadline: Moment,
}

impl SourceRecord {
    /// In the form in which it travels. `None` when MessagePack has none for it, which is never.
    pub(super) fn to_bytes(&self) -> Option<Bytes> {
        pack(self).ok()
    }
}
