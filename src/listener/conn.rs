//! One connection, in a task of its own: TLS if there is any, then the protocol that it speaks.
//!
//! Enters: an accepted socket. Leaves: requests for the handler, each with its connection's
//! [`ConnInfo`](super::peer::ConnInfo). Must not touch: paths, sessions, statuses.

use std::error::Error as StdError;
use std::sync::Arc;

use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::context::ConnContext;
use super::guard::{ConnPermits, Guarded};
use super::handler::Handler;
use super::http1::Http1;
use super::hyper_server::serve_http2;
use super::socket::Socket;
use super::tls::TlsSource;
use crate::http::incoming::BoxError;
use crate::lifecycle::Phase;
use crate::metrics::Metrics;

/// Drives one connection to its end; `tls` is how it is secured, and who counts handshakes that fail.
pub(super) fn drive<H: Handler>(
    context: ConnContext<H>,
    socket: Socket,
    permits: ConnPermits,
    tls: Option<(Arc<TlsSource>, Arc<Metrics>)>,
) {
    let (peer, traffic) = (context.info.peer, Arc::clone(&context.info.bytes));
    let stream = Guarded::new(socket, context.client.write, traffic, Some(permits));
    let Some((tls, metrics)) = tls else { return drop(tokio::spawn(Http1::new(context, stream))) };
    tokio::spawn(async move {
        if let Err(error) = drive_tls(&tls, stream, context, &metrics).await {
            tracing::debug!(%peer, error = &*error as &dyn StdError, "connection ended");
        }
    });
}

async fn drive_tls<H: Handler>(
    tls: &TlsSource,
    stream: Guarded<Socket>,
    context: ConnContext<H>,
    metrics: &Metrics,
) -> Result<(), BoxError> {
    let limit = context.client.handshake;
    let accept = Box::pin(timeout(limit, TlsAcceptor::from(tls.config()).accept(stream)));
    let accepted = tokio::select! {
        accepted = accept => accepted.map_err(BoxError::from).and_then(|stream| stream.map_err(BoxError::from)),
        () = context.lifecycle.reached(Phase::Closing) => return Ok(()),
    };
    let stream = accepted.inspect_err(|_| metrics.handshake_failed())?;
    // The protocol is settled by ALPN, so nothing has to be guessed from the first bytes.
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_http2(context, stream).await
    } else {
        tokio::spawn(Http1::new(context, stream));
        Ok(())
    }
}
