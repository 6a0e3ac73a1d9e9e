//! What is written down of sessions for the process that takes this one's place: plain data, whose fields have names.
//!
//! Enters and leaves: values. Must not touch: live sessions. A field that is added needs a default, for records of before it.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::owner::Change;
use crate::session::{Attachment, Close, Session, is_default};
use crate::terms::{Ending, Transport};
use crate::upstream::wire::WireState;

/// A session, as its successor reads it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    pub(super) token: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) protocol: String,
    pub(super) session: Session,
    /// What its client was told when it was opened: MessagePack of a [`crate::config::Session`], made and read once for all
    /// sessions that have the same.
    pub(super) policy: Bytes,
    /// What lies between the backend's socket and the session; `None` without a socket.
    pub(super) wire: Option<WireState>,
    #[serde(default)]
    pub(super) owner: OwnerRecord,
    #[serde(default)]
    pub(super) facts: Facts,
}

/// What is known of a session beside its state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Facts {
    /// The transport of the newest attachment.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) newest: Option<Transport>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) change: Change,
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) bytes: [u64; 2],
    /// Why it ends, if it does.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) ending: Option<Ending>,
    /// It was counted as ended, and its end was logged.
    #[serde(default, skip_serializing_if = "is_default")]
    pub(super) reported: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct OwnerRecord {
    /// An address, or `unix`.
    pub(super) client: String,
    pub(super) route: String,
    pub(super) path: String,
    /// Seconds after the registry's epoch.
    pub(super) opened: u32,
}

/// A reader, for a connection that goes on in another process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderRecord {
    /// The public name of the session.
    pub(super) session: String,
    pub(super) transport: Transport,
    pub(super) attachment: Attachment,
    /// The cursor at which reading started.
    pub(super) from: u64,
}

/// An ended session that is remembered.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct EndedRecord {
    pub(super) token: String,
    pub(super) close: Close,
    pub(super) age: Duration,
}

/// A nonce that opened a session.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NonceRecord {
    pub(super) nonce: String,
    pub(super) purpose: [u8; 16],
    pub(super) age: Duration,
    /// The public name of the session.
    pub(super) session: String,
    /// The fields of the backend's answer.
    #[serde(default)]
    pub(super) fields: Vec<(String, Vec<u8>)>,
}
