//! What connections hold of the memory that all may take, and which of their requests are refused when there is none.
//!
//! Enters: heads of requests, as far as they have come. Leaves: claims on the budget, marks of requests that are to be refused.
//! Must not touch: the answer; the gateway gives 503.
//!
//! A head that drips costs its client nothing and us all that has come of it, so while memory is short no large one is waited
//! for. Whoever sends all of it is served: what its request takes beside it has bounds of its own. When memory is spent, nothing
//! large is begun at all.

use std::sync::Arc;

use bytes::Bytes;
use http::Request;

use super::handler::OutOfMemory;
use crate::budget::{Budget, Level};
use crate::http::incoming::IncomingBody;

const KIB: usize = 1024;
/// What hyper has for a connection of HTTP/1 from its beginning to read and to write, each (`INIT_BUFFER_SIZE`).
const BUFFER: usize = 8 * KIB;
/// What it has for one of HTTP/2 (h2's `FramedRead` and `FramedWrite`).
pub(super) const HTTP2: usize = (8 + 16) * KIB;
/// What a field takes beside its bytes in a map of fields: about.
const FIELD: usize = 64;

/// What hyper has for a connection of HTTP/1 on which a head of up to so many bytes comes.
pub(super) fn http1(head: usize) -> usize {
    BUFFER.max(head) + BUFFER
}

/// Whether the rest of a head is not waited for, of which so much has come.
pub(super) fn refuses_rest(budget: &Budget, came: usize) -> bool {
    Budget::counts(came) && budget.level() != Level::Free
}

/// Whether no request is begun that takes hyper's buffers.
pub(super) fn refuses_buffers(budget: &Budget) -> bool {
    budget.level() == Level::Spent
}

/// Counts the head of a request, which takes so many bytes, for as long as the request lives. When memory is spent a large one is
/// marked to be refused.
pub(super) fn hold_head<B>(budget: &Arc<Budget>, request: &mut Request<B>, bytes: usize) {
    if !Budget::counts(bytes) {
        return;
    }
    if budget.level() == Level::Spent {
        request.extensions_mut().insert(OutOfMemory);
        return;
    }
    let mut claim = budget.claim();
    claim.set(bytes);
    request.extensions_mut().insert(Arc::new(claim));
}

/// About how much the head of a request takes that hyper has read.
pub(super) fn size_of_head<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| name.as_str().len() + value.len() + FIELD;
    target + request.headers().iter().map(field).sum::<usize>()
}

/// A request that stands for one that is refused before it is read.
pub(super) fn refused() -> Request<IncomingBody> {
    let mut request = Request::new(IncomingBody::Buffered(Bytes::new()));
    request.extensions_mut().insert(OutOfMemory);
    request
}
