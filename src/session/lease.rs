//! Who may read the down channel, and when the client was last heard of.
//!
//! Enters: attachments, signs of life. Leaves: whether a reader is the current one, when the grace is over. Must not touch:
//! messages.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::types::{Attachment, Moment, is_default};

/// The one attachment and the client's last sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    #[serde(default, skip_serializing_if = "is_default")]
    current: Option<Attachment>,
    /// The current attachment is a waiting poll, which is itself a sign of life.
    #[serde(default, skip_serializing_if = "is_default")]
    is_poll: bool,
    issued: u64,
    heard: Moment,
}

impl Lease {
    pub(super) fn new(now: Moment) -> Self {
        Self { current: None, is_poll: false, issued: 0, heard: now }
    }

    /// Issues a new attachment; the older one is superseded.
    pub(super) fn attach(&mut self, now: Moment, is_poll: bool) -> Attachment {
        self.issued += 1;
        let attachment = Attachment(self.issued);
        self.current = Some(attachment);
        self.is_poll = is_poll;
        self.heard = now;
        attachment
    }

    /// The newest attachment, which was detached, is the current one again. False when there is a newer one.
    pub(super) fn resume(&mut self, attachment: Attachment, is_poll: bool) -> bool {
        let resumes = self.current.is_none() && self.issued == attachment.0;
        if resumes {
            self.current = Some(attachment);
            self.is_poll = is_poll;
        }
        resumes
    }

    /// True when `attachment` was the current one.
    pub(super) fn detach(&mut self, now: Moment, attachment: Attachment) -> bool {
        let current = self.is_current(attachment);
        if current {
            if self.is_poll {
                self.heard = now;
            }
            self.current = None;
            self.is_poll = false;
        }
        current
    }

    pub(super) fn current(&self) -> Option<Attachment> {
        self.current
    }

    pub(super) fn is_current(&self, attachment: Attachment) -> bool {
        self.current == Some(attachment)
    }

    pub(super) fn is_attached(&self) -> bool {
        self.current.is_some()
    }

    /// When the client was last heard of; a poll that waits is heard of now.
    pub(super) fn last_heard(&self, now: Moment) -> Moment {
        if self.is_poll && self.current.is_some() { now.max(self.heard) } else { self.heard }
    }

    pub(super) fn hear(&mut self, now: Moment) {
        self.heard = self.heard.max(now);
    }

    pub(super) fn heard(&self) -> Moment {
        self.heard
    }

    /// When the grace is over and the client counts as gone; `None` while a poll waits.
    pub(super) fn deadline(&self, grace: Duration) -> Option<Moment> {
        (!(self.is_attached() && self.is_poll)).then(|| self.heard.after(grace))
    }
}
