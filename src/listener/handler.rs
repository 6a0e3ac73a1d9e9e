//! What stands behind the listeners, as they see it: a router that decides from a request's head, and a tower service
//! that responds.
//!
//! Enters: a request. Leaves: its response. Must not touch: how either crosses the wire.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;

use http::{Request, Response};
use tower::ServiceExt as _;

use super::peer::ConnInfo;
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;
use crate::http::source::Source;

/// A response on its way.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

/// Decides what a request is for, once, and from its head alone.
pub trait Route: Clone + Send + Sync + 'static {
    /// Decides for a request that came by this connection. The decision goes with the request, in its extensions, to
    /// the service; the listener needs to know how long the response may take.
    fn route(&self, request: &mut Request<IncomingBody>, conn: &ConnInfo) -> Latency;

    /// True when a request that was routed is to be answered by the process to which this one hands over.
    fn has_moved(&self, _request: &Request<IncomingBody>) -> bool {
        false
    }

    /// The rest of a response that another process has begun, of what [`Source::record`] said there. `None` when it cannot
    /// go on here.
    fn go_on(&self, _record: &[u8]) -> Option<Box<dyn Source + Send>> {
        None
    }
}

/// How long a response may take. Only asked for HTTP/1: an exchange that waits is taken out of hyper, whose buffers would
/// wait as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// At most until a backend responds.
    Short,
    /// Until a message arrives, or for as long as the session lives.
    UntilMessage,
    /// Until a backend was dialled, which comes before anything else. Where the request has a
    /// [`DialQueue`](super::dialling::DialQueue) in its extensions, it waits there for its turn, without the memory that
    /// dialling takes.
    UntilDialled,
}

/// In the extensions of a request that looks like one of HTTP/1.1: its connection carries others at the same time.
#[derive(Clone, Copy, Debug)]
pub struct SharedConnection;

/// In the extensions of a request that is to be refused: there is no memory for it.
#[derive(Clone, Copy, Debug)]
pub struct OutOfMemory;

/// What the listener serves. [`Stack`] makes one of a router and a tower service.
pub trait Handler: Clone + Send + Sync + 'static {
    /// See [`Route::route`].
    fn route(&self, request: &mut Request<IncomingBody>, conn: &ConnInfo) -> Latency;

    /// Responds to a request that was routed.
    fn respond(&self, request: Request<IncomingBody>) -> ResponseFuture;

    /// See [`Route::has_moved`].
    fn has_moved(&self, request: &Request<IncomingBody>) -> bool;

    /// See [`Route::go_on`].
    fn go_on(&self, record: &[u8]) -> Option<Box<dyn Source + Send>>;
}

/// Shared by all connections: each has a pointer to it and not the whole stack, whose layers are some words long.
impl<H: Handler> Handler for Arc<H> {
    fn route(&self, request: &mut Request<IncomingBody>, conn: &ConnInfo) -> Latency {
        (**self).route(request, conn)
    }

    fn respond(&self, request: Request<IncomingBody>) -> ResponseFuture {
        (**self).respond(request)
    }

    fn has_moved(&self, request: &Request<IncomingBody>) -> bool {
        (**self).has_moved(request)
    }

    fn go_on(&self, record: &[u8]) -> Option<Box<dyn Source + Send>> {
        (**self).go_on(record)
    }
}

/// A router, and the service that gets the routed requests.
#[derive(Clone, Debug)]
pub struct Stack<R, S> {
    /// Decides what each request is for.
    pub router: R,
    /// Responds. Layers put around it see every request, routed, and every response.
    pub service: S,
}

impl<R, S> Handler for Stack<R, S>
where
    R: Route,
    S: tower::Service<Request<IncomingBody>, Response = Response<Body>, Error = Infallible, Future: Send>,
    S: Clone + Send + Sync + 'static,
{
    fn route(&self, request: &mut Request<IncomingBody>, conn: &ConnInfo) -> Latency {
        self.router.route(request, conn)
    }

    fn respond(&self, request: Request<IncomingBody>) -> ResponseFuture {
        let service = self.service.clone();
        Box::pin(async move {
            let Ok(response) = service.oneshot(request).await;
            response
        })
    }

    fn has_moved(&self, request: &Request<IncomingBody>) -> bool {
        self.router.has_moved(request)
    }

    fn go_on(&self, record: &[u8]) -> Option<Box<dyn Source + Send>> {
        self.router.go_on(record)
    }
}
