//! One client's session, in every way that the peers offer: opening it, receiving messages, sending one.
//!
//! Enters: where the peer is, and which backend path is wished. Leaves: messages, as slices of what was read. Must not
//! touch: what is measured with them.

pub mod dialect;
mod down;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use h2::client::SendRequest;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

pub use self::dialect::url_of;
use self::down::{Down, Turn};
use crate::conn::{Body, Conn};
use crate::websocket::{self, TEXT};

/// A way to reach the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A WebSocket: to the backend itself, or through any proxy; underpass's tunnel is one of them.
    Ws,
    /// underpass, one-request SSE.
    Sse,
    /// underpass, opened by POST and read as SSE, acknowledging: what the browser client does.
    SseAck,
    /// underpass, one-request SSE as streams of an HTTP/2 connection.
    SseH2,
    /// underpass, opened by POST and read as an octet stream.
    Stream,
    /// underpass, long polls.
    Poll,
    /// underpass, its own WebSocket transport.
    Carried,
    /// sockjs-node, eventsource.
    SockjsEvents,
    /// sockjs-node, xhr polling.
    SockjsPoll,
    /// engine.io, polling.
    EnginePoll,
}

impl Kind {
    /// By its name on the command line.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "ws" => Self::Ws,
            "sse" => Self::Sse,
            "sse-ack" => Self::SseAck,
            "sse-h2" => Self::SseH2,
            "stream" => Self::Stream,
            "poll" => Self::Poll,
            "carried" => Self::Carried,
            "sockjs-events" => Self::SockjsEvents,
            "sockjs-poll" => Self::SockjsPoll,
            "engine-poll" => Self::EnginePoll,
            _ => bail!("there is no kind `{name}`"),
        })
    }
}

/// The target of a request that opens a session there.
pub fn marked(path: &str, mark: &str) -> String {
    let more = if path.contains('?') { '&' } else { '?' };
    format!("{path}{more}underpass={mark}")
}

/// Streams on one HTTP/2 connection.
const STREAMS: usize = 100;

/// The peer, as a client sees it.
pub struct Site {
    address: String,
    tls: Option<TlsConnector>,
    kind: Kind,
    /// The receive buffer of a socket, when the kernel shall not choose: slow readers have a small one.
    receive_buffer: Option<u32>,
    /// The HTTP/2 connection that still has room, and how many streams it has.
    shared: tokio::sync::Mutex<Option<(SendRequest<Bytes>, usize)>>,
}

impl Site {
    /// The peer at `address`; TLS is spoken when there is a certificate to trust.
    pub fn new(address: &str, ca: Option<&str>, kind: Kind, receive_buffer: Option<u32>) -> Result<Arc<Self>> {
        let tls = ca.map(|ca| connector(ca, kind)).transpose()?;
        let shared = tokio::sync::Mutex::new(None);
        Ok(Arc::new(Self { address: address.to_owned(), tls, kind, receive_buffer, shared }))
    }

    /// A new connection.
    pub async fn connect(&self) -> Result<Conn> {
        let socket = TcpSocket::new_v4()?;
        if let Some(size) = self.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        let socket = socket.connect(self.address.parse()?).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            Some(tls) => Ok(Conn::new(tls.connect(ServerName::try_from("localhost")?, socket).await?)),
            None => Ok(Conn::new(socket)),
        }
    }

    /// Opens a session whose backend has this path.
    pub async fn open(self: &Arc<Self>, path: &str) -> Result<Session> {
        match self.kind {
            Kind::Ws => self.open_ws(path).await,
            Kind::Sse => self.open_sse(path).await,
            Kind::SseH2 => self.open_h2(path).await,
            Kind::SseAck | Kind::Stream | Kind::Poll | Kind::Carried => self.open_token(path).await,
            Kind::SockjsEvents | Kind::SockjsPoll => self.open_sockjs(path).await,
            Kind::EnginePoll => self.open_engine(path).await,
        }
    }

    async fn open_ws(self: &Arc<Self>, path: &str) -> Result<Session> {
        let mut conn = self.connect().await?;
        conn.ask(&upgrade(path, ""), 101).await?;
        Ok(self.session(Down::Frames { conn, carried: false }, Up::Same))
    }

    async fn open_sse(self: &Arc<Self>, path: &str) -> Result<Session> {
        let mut conn = self.connect().await?;
        let head = conn.ask(&get(&marked(path, "sse")), 200).await?;
        let body = Body::One(Box::new(conn), head.length);
        Ok(self.session(Down::events(body), Up::Underpass { url: String::new(), conn: None, seq: 1 }))
    }

    async fn open_h2(self: &Arc<Self>, path: &str) -> Result<Session> {
        let request = http::Request::get(format!("https://localhost{}", marked(path, "sse"))).body(())?;
        let mut sender = self.shared_connection().await?.ready().await?;
        let answer = sender.send_request(request, true)?.0.await?;
        if answer.status() != 200 {
            bail!("the peer answered {} over HTTP/2", answer.status());
        }
        let down = Down::events(Body::Shared(answer.into_body()));
        Ok(self.session(down, Up::Underpass { url: String::new(), conn: None, seq: 1 }))
    }

    async fn shared_connection(&self) -> Result<SendRequest<Bytes>> {
        let mut shared = self.shared.lock().await;
        if let Some((sender, streams)) = shared.as_mut().filter(|(_, streams)| *streams < STREAMS) {
            *streams += 1;
            return Ok(sender.clone());
        }
        let (sender, connection) = h2::client::handshake(self.connect().await?.into_io()).await?;
        tokio::spawn(connection);
        *shared = Some((sender.clone(), 1));
        Ok(sender)
    }

    async fn open_token(self: &Arc<Self>, path: &str) -> Result<Session> {
        let mut conn = self.connect().await?;
        let facts = conn.fetch(&post(&marked(path, "open"), "application/json", b""), 200).await?;
        let url = url_of(&facts).context("no url in the answer to open")?;
        let down = self.attach(conn, &url, 0).await?;
        let known = Some(url.clone());
        let up = if self.kind == Kind::Carried { Up::Same } else { Up::Underpass { url, conn: None, seq: 1 } };
        Ok(Session { url: known, ..self.session(down, up) })
    }

    /// Reads a session from the message behind `after`.
    async fn attach(&self, mut conn: Conn, url: &str, after: u64) -> Result<Down> {
        Ok(match self.kind {
            Kind::SseAck => {
                let head = conn.ask(&get(&format!("{url}/sse?after={after}")), 200).await?;
                Down::events(Body::One(Box::new(conn), head.length))
            }
            Kind::Stream => {
                let head = conn.ask(&get(&format!("{url}/stream?after={after}")), 200).await?;
                Down::Octets { body: Body::One(Box::new(conn), head.length), pending: Default::default() }
            }
            Kind::Carried => {
                let request = upgrade(&format!("{url}/ws?after={after}"), "Sec-WebSocket-Protocol: underpass.v1\r\n");
                conn.ask(&request, 101).await?;
                Down::Frames { conn, carried: true }
            }
            _ => {
                let mut turn = Turn::underpass(conn, url.to_owned(), after);
                turn.ask().await?;
                Down::Turns(turn)
            }
        })
    }

    async fn open_sockjs(self: &Arc<Self>, path: &str) -> Result<Session> {
        let url = format!("{path}/000/{:016x}", crate::clock::now());
        let mut conn = self.connect().await?;
        let up = Up::Sockjs { url: url.clone(), conn: None };
        if self.kind == Kind::SockjsEvents {
            let url = format!("{url}/eventsource");
            let head = conn.ask(&get(&url), 200).await?;
            return Ok(self.session(Down::sockjs_events(Body::One(Box::new(conn), head.length), url), up));
        }
        conn.fetch(&post(&format!("{url}/xhr"), "text/plain", b""), 200).await?;
        let mut turn = Turn::sockjs(conn, url);
        turn.ask().await?;
        Ok(self.session(Down::Turns(turn), up))
    }

    async fn open_engine(self: &Arc<Self>, path: &str) -> Result<Session> {
        let mut conn = self.connect().await?;
        let url = format!("/engine.io/?EIO=4&transport=polling&target={path}");
        let facts = conn.fetch(&get(&url), 200).await?;
        let sid = dialect::string_after(&facts, b"\"sid\":\"").context("no sid in the answer of engine.io")?;
        let url = format!("{url}&sid={sid}");
        let mut turn = Turn::engine(conn, url.clone());
        turn.ask().await?;
        Ok(self.session(Down::Turns(turn), Up::Engine { url, conn: None }))
    }

    fn session(self: &Arc<Self>, down: Down, up: Up) -> Session {
        Session { site: Arc::clone(self), down, up, url: None, received: 0, bytes: 0 }
    }
}

/// How messages go up, with the second connection once there is one.
enum Up {
    /// On the connection that goes down.
    Same,
    Underpass {
        url: String,
        conn: Option<Conn>,
        seq: u64,
    },
    Sockjs {
        url: String,
        conn: Option<Conn>,
    },
    Engine {
        url: String,
        conn: Option<Conn>,
    },
}

/// One client's session.
pub struct Session {
    site: Arc<Site>,
    down: Down,
    up: Up,
    /// Where it is resumed, where that was said.
    url: Option<String>,
    /// Messages received.
    received: u64,
    /// Bytes received since the last acknowledgement, and 64 for each message.
    bytes: usize,
}

/// What counts beside the payload of each message (PROTOCOL 5.6), in bytes.
const BESIDE: usize = 64;
/// After so many bytes a client acknowledges: the sidecar's default.
const ACK_BYTES: usize = 64 * 1024;

impl Session {
    /// Waits until something comes, and hands out the messages of it. False when the session has ended.
    pub async fn receive(&mut self, each: &mut (dyn FnMut(&[u8]) + Send)) -> Result<bool> {
        let (mut count, mut bytes) = (0, 0);
        let more = self
            .down
            .receive(&self.site, &mut |message| {
                count += 1;
                bytes += message.len() + BESIDE;
                each(message);
            })
            .await?;
        self.received += count;
        self.bytes += bytes;
        if more == Next::Pong {
            self.send(b"").await?;
        }
        if self.bytes >= ACK_BYTES {
            self.bytes = 0;
            self.acknowledge().await?;
        }
        Ok(more != Next::Ended)
    }

    /// Reads until it is known how to send: one-request SSE says so in its first event.
    pub async fn prepare(&mut self) -> Result<()> {
        while self.down.is_untold() {
            if !self.receive(&mut |_| {}).await? {
                bail!("the stream ended before its first event");
            }
        }
        Ok(())
    }

    /// Sends one text message, and waits until the peer has taken it.
    pub async fn send(&mut self, text: &[u8]) -> Result<()> {
        let url = self.down.url();
        match &mut self.up {
            Up::Same => self.down.send(text).await,
            Up::Underpass { url: known, conn, seq } => {
                // One-request SSE says it in its first event only.
                let url = if known.is_empty() { url.as_deref().unwrap_or_default() } else { known };
                let request = post(&format!("{url}/send?seq={seq}&after={}", self.received), "text/plain", text);
                *seq += 1;
                second(&self.site, conn).await?.fetch(&request, 200).await.map(drop)
            }
            Up::Sockjs { url, conn } => {
                let body = [b"[\"", text, b"\"]"].concat();
                let request = post(&format!("{url}/xhr_send"), "text/plain", &body);
                second(&self.site, conn).await?.fetch(&request, 204).await.map(drop)
            }
            Up::Engine { url, conn } => {
                // Nothing to say is a pong, which engine.io asks for every 25 seconds.
                let body = if text.is_empty() { b"3".to_vec() } else { [b"4", text].concat() };
                let request = post(url, "text/plain", &body);
                second(&self.site, conn).await?.fetch(&request, 200).await.map(drop)
            }
        }
    }

    /// Cuts what comes down, and asks on for what has not come. Only for the sidecar's own transports.
    pub async fn reattach(&mut self) -> Result<()> {
        let Some(url) = self.down.url().or_else(|| self.url.clone()) else { bail!("this session cannot be resumed") };
        let after = self.received;
        self.url = Some(url.clone());
        // Gone first: what the old one still read would come twice.
        self.down = Down::Cut;
        let mut conn = self.site.connect().await?;
        self.down = match self.site.kind {
            Kind::Sse => {
                let head = conn.ask(&get(&format!("{url}/sse?after={after}")), 200).await?;
                let body = Body::One(Box::new(conn), head.length);
                Down::Events { body, pending: Default::default(), url: Some(url) }
            }
            _ => self.site.attach(conn, &url, after).await?,
        };
        Ok(())
    }

    /// Says what has come, where that is not said by reading on.
    pub async fn acknowledge(&mut self) -> Result<()> {
        match (&mut self.up, &self.down) {
            (Up::Underpass { url, conn, .. }, Down::Octets { .. } | Down::Events { .. }) if !url.is_empty() => {
                let request = post(&format!("{url}/ack?after={}", self.received), "text/plain", b"");
                second(&self.site, conn).await?.fetch(&request, 200).await.map(drop)
            }
            (Up::Same, Down::Frames { carried: true, .. }) => self.down.acknowledge(self.received).await,
            _ => Ok(()),
        }
    }
}

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    More,
    /// The peer wants a sign of life.
    Pong,
    Ended,
}

async fn second<'a>(site: &Site, conn: &'a mut Option<Conn>) -> Result<&'a mut Conn> {
    if conn.is_none() {
        *conn = Some(site.connect().await?);
    }
    Ok(conn.as_mut().expect("it was just made"))
}

/// A GET.
pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nAccept: */*\r\n\r\n").into_bytes()
}

/// A POST.
pub fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A handshake.
pub fn upgrade(path: &str, more: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: load\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
    )
    .into_bytes()
}

/// A masked text frame.
fn text_frame(text: &[u8]) -> Vec<u8> {
    websocket::frame(TEXT, text, true)
}

fn connector(ca: &str, kind: Kind) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![if kind == Kind::SseH2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
    Ok(TlsConnector::from(Arc::new(config)))
}
