//! The rest of a response that another process has begun.
//!
//! Enters: what was written down of a source there. Leaves: a source that goes on, as if nothing had happened. Must not touch:
//! heads, framing, connections.

use super::poll;
use super::record::{SourceRecord, StreamingRecord};
use super::sse::IdForm;
use super::streaming::Streaming;
use crate::codec::frames::Frames;
use crate::codec::sse::Events;
use crate::http::source::Source;
use crate::registry::{Reader, Registry};

/// The source that this was written down of. `None` when it cannot go on here: its client has to come back.
#[must_use]
pub fn go_on(registry: &Registry, record: &[u8]) -> Option<Box<dyn Source + Send>> {
    Some(match rmp_serde::from_slice(record).ok()? {
        SourceRecord::Sse { token, streaming } => {
            let reader = read_on(registry, &streaming)?;
            let ids = if token { IdForm::Token(reader.session().clone()) } else { IdForm::Bare };
            Box::new(Streaming::again(reader, Events(ids), streaming))
        }
        SourceRecord::Stream(streaming) => {
            Box::new(Streaming::again(read_on(registry, &streaming)?, Frames, streaming))
        }
        SourceRecord::Poll(record) => poll::again(registry.read_on(record.reader.clone(), record.after)?, record),
    })
}

fn read_on(registry: &Registry, record: &StreamingRecord) -> Option<Reader> {
    registry.read_on(record.reader.clone(), record.sent)
}
