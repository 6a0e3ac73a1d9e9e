//! TLS listeners against real clients: ALPN, renewal, and the limits of HTTP/2 connections. Must not touch: fixed ports.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use underpass::config::{Client, TlsFiles};
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::listener::tls::TlsSource;

use super::edge::{Edge, FOREVER, client, ok, one_ok, rest};

const SHORT: Duration = Duration::from_millis(150);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

struct Pair {
    directory: PathBuf,
    certificate: CertificateDer<'static>,
}

impl Pair {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("underpass-listener-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a writable temporary directory");
        let mut pair = Self { directory, certificate: CertificateDer::from(Vec::new()) };
        pair.renew();
        pair
    }

    fn renew(&mut self) {
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(self.files().certificate, issued.cert.pem()).expect("a writable temporary directory");
        fs::write(self.files().key, issued.signing_key.serialize_pem()).expect("a writable temporary directory");
        self.certificate = CertificateDer::from_pem_file(self.files().certificate).expect("a certificate");
    }

    fn files(&self) -> TlsFiles {
        TlsFiles { certificate: self.directory.join("chain.pem"), key: self.directory.join("key.pem") }
    }

    fn source(&self) -> Arc<TlsSource> {
        Arc::new(TlsSource::load(&self.files()).expect("sound files"))
    }

    /// A TLS connection that trusts just this certificate.
    async fn connect(&self, edge: &Edge, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions that the provider has")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").expect("a host name");
        TlsConnector::from(Arc::new(config)).connect(name, edge.connect().await).await
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Answers with the version it was asked in.
async fn version(request: Request<IncomingBody>) -> Response<Body> {
    Response::new(Body::full(format!("{:?}", request.version())))
}

async fn ask_http2(stream: TlsStream<TcpStream>) -> String {
    let (mut send, conn) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("an HTTP/2 connection");
    let conn = tokio::spawn(conn);
    let request =
        Request::get("https://localhost/").version(Version::HTTP_2).body(Empty::<Bytes>::new()).expect("sound parts");
    let body =
        send.send_request(request).await.expect("a whole answer").into_body().collect().await.expect("a whole answer");
    drop(send);
    conn.await.expect("the task does not panic").expect("the connection ends well");
    String::from_utf8_lossy(&body.to_bytes()).into_owned()
}

#[tokio::test]
async fn alpn_chooses_the_protocol() {
    let pair = Pair::new("alpn");
    let edge = Edge::tcp(client(), Some(pair.source()), version);
    let stream = pair.connect(&edge, &["h2", "http/1.1"]).await.expect("a TLS handshake");
    assert_eq!(ask_http2(stream).await, "HTTP/2.0");
    for alpn in [&["http/1.1"] as &[_], &[]] {
        let mut stream = pair.connect(&edge, alpn).await.expect("a TLS handshake");
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await
            .expect("the other end reads");
        assert!(rest(&mut stream).await.ends_with("\r\n\r\nHTTP/1.1"));
    }
    assert!(pair.connect(&edge, &["spdy/3"]).await.is_err());
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_connections() {
    let mut pair = Pair::new("renewed");
    let source = pair.source();
    let edge = Edge::tcp(client(), Some(Arc::clone(&source)), ok);
    let mut old = pair.connect(&edge, &[]).await.expect("a TLS handshake");
    pair.renew();
    assert!(pair.connect(&edge, &[]).await.is_err(), "the new one is not shown before the reload");
    source.reload().expect("sound files, or the old ones");
    pair.connect(&edge, &[]).await.expect("a TLS handshake");
    old.write_all(GET).await.expect("the other end reads");
    one_ok(&mut old).await;
}

#[tokio::test]
async fn idle_http2_connections_end() {
    let pair = Pair::new("idle");
    let edge = Edge::tcp(Client { idle: SHORT, ..client() }, Some(pair.source()), version);
    let stream = pair.connect(&edge, &["h2"]).await.expect("a TLS handshake");
    let io = TokioIo::new(stream);
    let (mut send, conn) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("an HTTP/2 connection");
    let conn = tokio::spawn(conn);
    let request = Request::get("https://localhost/").body(Empty::<Bytes>::new()).expect("sound parts");
    assert!(send.send_request(request).await.expect("a whole answer").status().is_success());
    // `send` stays, so only the server can end this.
    timeout(FOREVER, conn)
        .await
        .expect("an idle connection stays")
        .expect("the task does not panic")
        .expect("the connection ends well");
    assert!(send.is_closed());
}

#[tokio::test]
async fn a_tls_connection_that_promises_http2_must_say_something() {
    let pair = Pair::new("mute");
    let edge = Edge::tcp(Client { handshake: SHORT, ..client() }, Some(pair.source()), ok);
    let mut stream = pair.connect(&edge, &["h2"]).await.expect("a TLS handshake");
    rest(&mut stream).await;
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("all leave in time");
}

#[tokio::test]
async fn an_unfinished_tls_handshake_ends() {
    let pair = Pair::new("handshake");
    let edge = Edge::tcp(Client { handshake: SHORT, ..client() }, Some(pair.source()), ok);
    let start = Instant::now();
    assert_eq!(edge.throw(b"\x16\x03\x01").await, "");
    assert!(start.elapsed() >= SHORT);
}
