//! What stands behind the listeners, as they see it.
//!
//! Enters: a request. Leaves: its answer. Must not touch: how either crosses the wire.

use std::pin::Pin;

use http::{Request, Response};
use hyper::body::Incoming;

use crate::transport::Body;

/// An answer on its way.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Answers requests, each with a [`ConnInfo`](super::peer::ConnInfo) in its extensions.
pub trait Handler: Clone + Send + Sync + 'static {
    /// Answers one.
    fn handle(&self, request: Request<Incoming>) -> Answering;

    /// Whether its answer may be long in coming or long in ending. Such an exchange is taken out of hyper (see `held`),
    /// whose buffers would wait as well. Only asked of HTTP/1 requests without a body.
    fn waits(&self, request: &Request<Incoming>) -> bool;
}
