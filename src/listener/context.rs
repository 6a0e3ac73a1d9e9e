//! What a connection is given: where its requests go, and what bounds it.
//!
//! Enters: the parts. Leaves: one value that each step of the connection can have. Must not touch: any of them.

use std::sync::Arc;

use super::idle::Idleness;
use super::peer::ConnInfo;
use crate::config::Client;
use crate::lifecycle::Lifecycle;

/// What a connection is given.
#[derive(Clone)]
pub(super) struct ConnContext<H> {
    /// Where its requests go.
    pub(super) handler: H,
    pub(super) info: ConnInfo,
    /// Its bounds.
    pub(super) client: Arc<Client>,
    pub(super) lifecycle: Lifecycle,
    /// Whether it is idle.
    pub(super) idleness: Arc<Idleness>,
}
