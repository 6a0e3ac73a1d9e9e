//! What stands behind the listeners, as they see it.
//!
//! Enters: a request. Leaves: its answer. Must not touch: how either crosses the wire.

use std::pin::Pin;

use http::{Request, Response};

use super::peer::ConnInfo;
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;

/// A request on its way. Boxed: each future that it passes through would have room for it twice.
pub type Asking = Box<Request<IncomingBody>>;

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers requests.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one that came by this connection.
    fn handle(&self, request: Asking, conn: ConnInfo) -> Answering;

    /// How long its answer may be in coming, or in ending. An exchange that waits is taken out of hyper (see `held`),
    /// whose buffers would wait as well; any other does without it when it can. Only asked of HTTP/1.
    fn wait(&self, request: &Request<IncomingBody>) -> Wait;
}

/// How an exchange waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At most for a backend to answer.
    No,
    /// For what there is to tell.
    ToTell,
    /// For a backend to be dialled, before anything else. Few do so at once: the others wait without the memory that
    /// dialling takes.
    ToDial,
}
