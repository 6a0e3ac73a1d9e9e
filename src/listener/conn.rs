//! One connection, in a task of its own: who introduces it and TLS, if there are any, then the protocol that it speaks.
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
use super::peer::ClientCertificate;
use super::proxy_protocol::Introductions;
use super::socket::Socket;
use super::tls::TlsSource;
use crate::http::incoming::BoxError;
use crate::lifecycle::Phase;
use crate::metrics::Metrics;

/// What a connection goes through before HTTP.
#[derive(Clone)]
pub(super) struct Layers {
    /// Where it begins with a header of the PROXY protocol.
    pub(super) introductions: Option<Arc<Introductions>>,
    /// How it is secured, and who counts handshakes that fail.
    pub(super) tls: Option<(Arc<TlsSource>, Arc<Metrics>)>,
}

/// Drives one connection to its end.
pub(super) fn drive<H: Handler>(mut context: ConnContext<H>, socket: Socket, permits: ConnPermits, layers: Layers) {
    let traffic = Arc::clone(&context.info.bytes);
    let mut stream = Guarded::new(socket, Arc::clone(&context.shared.client), traffic, Some(permits));
    let Layers { introductions, tls } = layers;
    let Some(introductions) = introductions else { return introduced(context, stream, tls) };
    tokio::spawn(async move {
        if let Some(peer) = introductions.admit(&mut stream, &context).await {
            context.info.peer = peer;
            introduced(context, stream, tls);
        }
    });
}

/// A connection whose other end is known.
fn introduced<H: Handler>(
    context: ConnContext<H>,
    stream: Guarded<Socket>,
    tls: Option<(Arc<TlsSource>, Arc<Metrics>)>,
) {
    let Some((tls, metrics)) = tls else { return drop(tokio::spawn(Http1::new(context, stream))) };
    let peer = context.info.peer;
    tokio::spawn(async move {
        if let Err(error) = drive_tls(&tls, stream, context, &metrics).await {
            tracing::debug!(%peer, error = &*error as &dyn StdError, "connection ended");
        }
    });
}

async fn drive_tls<H: Handler>(
    tls: &TlsSource,
    stream: Guarded<Socket>,
    mut context: ConnContext<H>,
    metrics: &Metrics,
) -> Result<(), BoxError> {
    let limit = context.shared.client.handshake;
    let accept = Box::pin(timeout(limit, TlsAcceptor::from(tls.config()).accept(stream)));
    let accepted = tokio::select! {
        accepted = accept => accepted.map_err(BoxError::from).and_then(|stream| stream.map_err(BoxError::from)),
        () = context.shared.lifecycle.reached(Phase::Closing) => return Ok(()),
    };
    let stream = accepted.inspect_err(|_| metrics.handshake_failed())?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    context.info.certificate = certificate.map(|certificate| Arc::new(ClientCertificate::of(certificate)));
    // The protocol is settled by ALPN, so nothing has to be guessed from the first bytes.
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_http2(context, stream).await
    } else {
        tokio::spawn(Http1::new(context, stream));
        Ok(())
    }
}
