//! What is about every request, as tower layers: `app` puts them together.
//!
//! Enters: requests and responses of whatever service is below. Leaves: the same, with what failed written as a response.
//! Must not touch: what a request is for.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::FutureExt as _;
use http::{Request, Response};
use pin_project_lite::pin_project;
use tower::Service;

use super::error::Refusal;
use super::pages::{Page, navigates};
use super::{Routed, protect};
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;
use crate::metrics::Metrics;
use crate::terms::ErrorCode;

/// Ends a request in which something panics with a 500. The panic hook has logged the panic. State that it may have left
/// is plain data behind locks that recover, so the next request may come.
pub async fn catch_panic<E>(
    response: impl Future<Output = Result<Response<Body>, E>>,
    metrics: Arc<Metrics>,
) -> Result<Response<Body>, E> {
    let caught = AssertUnwindSafe(response).catch_unwind().await;
    caught.unwrap_or_else(|_| {
        metrics.refused(ErrorCode::Internal);
        let message = "this server failed at this request: its log says how, please report it";
        let mut response = Refusal::internal(message).respond();
        protect(&mut response);
        Ok(response)
    })
}

/// Makes responses of refusals. Each is counted and logged here, once, whichever service below has refused.
#[derive(Clone, Debug)]
pub struct WriteRefusals<S> {
    inner: S,
    metrics: Arc<Metrics>,
    /// The service below refused before it had the request.
    refused: Option<Box<Refusal>>,
}

impl<S> WriteRefusals<S> {
    /// Around this service.
    pub fn new(inner: S, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics, refused: None }
    }
}

impl<S> Service<Request<IncomingBody>> for WriteRefusals<S>
where
    S: Service<Request<IncomingBody>, Response = Response<Body>, Error = Refusal>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Written<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        if self.refused.is_none() {
            self.refused = ready!(self.inner.poll_ready(cx)).err().map(Box::new);
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<IncomingBody>) -> Self::Future {
        let metrics = Arc::clone(&self.metrics);
        let page = navigates(request.method(), request.headers()).then(|| Box::new(page_for(&request)));
        match self.refused.take() {
            refused @ Some(_) => Written { inner: None, refused, metrics, page },
            None => Written { inner: Some(self.inner.call(request)), refused: None, metrics, page },
        }
    }
}

pin_project! {
    /// A response on its way, whatever becomes of it.
    pub struct Written<F> {
        #[pin]
        inner: Option<F>,
        refused: Option<Box<Refusal>>,
        metrics: Arc<Metrics>,
        page: Option<Box<Page>>,
    }
}

/// The page that the route of this request has for its refusals.
fn page_for(request: &Request<IncomingBody>) -> Page {
    let routed = request.extensions().get::<Routed>();
    let backend = routed.and_then(|routed| routed.live.backends.find(&routed.peer.host, request.uri().path()));
    backend.and_then(|backend| backend.page.clone()).unwrap_or(Page::Ours)
}

impl<F: Future<Output = Result<Response<Body>, Refusal>>> Future for Written<F> {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let responded = match (this.refused.take(), this.inner.as_pin_mut()) {
            (Some(refusal), _) => Err(*refusal),
            (None, Some(inner)) => ready!(inner.poll(cx)),
            (None, None) => return Poll::Pending,
        };
        Poll::Ready(Ok(responded.unwrap_or_else(|refusal| write(refusal, this.metrics, this.page.take()))))
    }
}

fn write(refusal: Refusal, metrics: &Metrics, page: Option<Box<Page>>) -> Response<Body> {
    metrics.refused(refusal.code);
    refusal.log();
    let code = refusal.code.as_str();
    let mut response = refusal.respond();
    if let Some(page) = page {
        response = page.instead_of(response, code);
    }
    protect(&mut response);
    response
}
