//! What connections are given: where their requests go, and what bounds them.
//!
//! Enters: the parts. Leaves: one value that all listeners share, and one that each step of a connection can have. Must not
//! touch: any of them.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::idle::Connections;
use super::peer::ConnInfo;
use crate::budget::Budget;
use crate::config::{Client, Trusted};
use crate::lifecycle::Lifecycle;
use crate::limits::Limits;
use crate::metrics::Metrics;

/// What all listeners share.
#[derive(Clone)]
pub struct ListenerContext<H> {
    /// Where requests go.
    pub handler: H,
    /// The bounds of a connection.
    pub client: Arc<Client>,
    /// Who may introduce others by the PROXY protocol; follows the configuration.
    pub trusted: Arc<ArcSwap<Trusted>>,
    /// The connections of all listeners together, which it bounds.
    pub connections: Arc<Connections>,
    /// Bounds what all buffers take.
    pub budget: Arc<Budget>,
    /// Bounds what one client may take.
    pub limits: Arc<Limits>,
    /// When to stop.
    pub lifecycle: Lifecycle,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// What a connection is given.
pub(super) struct ConnContext<H> {
    /// A pointer: every connection has one of these.
    pub(super) shared: Arc<ListenerContext<H>>,
    pub(super) info: ConnInfo,
}

impl<H> Clone for ConnContext<H> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), info: self.info.clone() }
    }
}
