//! Who may read the down channel, and when the client was last heard of.
//!
//! Enters: attachments, signs of life. Leaves: whether a reader is current, when the grace is over. Must not touch:
//! messages.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Attachment, Moment};

/// The one attachment and the client's last sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    current: Option<Attachment>,
    /// The current attachment is itself a sign of life (a waiting poll).
    holds: bool,
    issued: u64,
    heard: Moment,
}

impl Lease {
    pub(super) fn new(now: Moment) -> Self {
        Self { current: None, holds: false, issued: 0, heard: now }
    }

    /// Issues a new attachment; the older one is superseded.
    pub(super) fn attach(&mut self, now: Moment, holds: bool) -> Attachment {
        self.issued += 1;
        let attachment = Attachment(self.issued);
        self.current = Some(attachment);
        self.holds = holds;
        self.heard = now;
        attachment
    }

    /// True when `attachment` was the current one.
    pub(super) fn detach(&mut self, now: Moment, attachment: Attachment) -> bool {
        let current = self.is_current(attachment);
        if current {
            if self.holds {
                self.heard = now;
            }
            self.current = None;
            self.holds = false;
        }
        current
    }

    pub(super) fn is_current(&self, attachment: Attachment) -> bool {
        self.current == Some(attachment)
    }

    pub(super) fn is_attached(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn hear(&mut self, now: Moment) {
        self.heard = self.heard.max(now);
    }

    pub(super) fn heard(&self) -> Moment {
        self.heard
    }

    /// When the client counts as gone; `None` while a poll waits.
    pub(super) fn deadline(&self, grace: Duration) -> Option<Moment> {
        (!(self.is_attached() && self.holds)).then(|| self.heard.after(grace))
    }
}
