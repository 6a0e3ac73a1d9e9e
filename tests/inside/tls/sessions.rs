//! Sessions over TLS: to us by HTTP/1.1 and HTTP/2, and from us to a backend with a private authority.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use super::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, RST_STREAM, frame, request};
use super::{Authority, Pair};
use crate::support::plain::{self, Line, canned};
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site, resolved, soon};

/// An authority, and a certificate of it for `localhost`.
struct Papers {
    authority: Authority,
    pair: Pair,
}

impl Papers {
    fn new() -> Self {
        let authority = Authority::new();
        Self { pair: authority.issue("localhost"), authority }
    }

    async fn connect(&self, at: SocketAddr, alpn: &str) -> TlsStream<TcpStream> {
        let socket = TcpStream::connect(at).await.expect("it listens");
        soon("TLS", self.authority.connect(socket, &[alpn])).await.expect("TLS")
    }

    /// A sidecar that is reached by TLS only.
    fn site(&self, scratch: &Scratch, upstream: &str) -> Site {
        self.site_with(scratch, upstream, "")
    }

    /// The same, whose listener has these keys as well.
    fn site_with(&self, scratch: &Scratch, upstream: &str, more: &str) -> Site {
        let files = self.pair.files(scratch);
        Site::from_toml(&format!(
            "{upstream}[[listener]]\naddress = \"127.0.0.1:0\"\ncertificate = \"{}\"\nkey = \"{}\"\n{more}",
            files.certificate.display(),
            files.key.display()
        ))
    }
}

#[tokio::test]
async fn a_balancer_introduces_before_tls() {
    let (backend, mut asked) = canned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let (scratch, papers) = (Scratch::new("introduced"), Papers::new());
    let upstream = format!("upstream = \"ws://{backend}\"\ntrusted_proxies = [\"127.0.0.1\"]\n");
    let site = papers.site_with(&scratch, &upstream, "proxy_protocol = true\n");
    let mut socket = TcpStream::connect(site.at).await.expect("it listens");
    socket.write_all(b"PROXY TCP6 2001:db8::9 ::1 4660 443\r\n").await.expect("it is taken");
    let mut line = Line(soon("TLS", papers.authority.connect(socket, &["http/1.1"])).await.expect("TLS"));
    line.say("GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(line.head().await.starts_with("http/1.1 200 "));
    let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
    assert!(
        head.contains("x-forwarded-for: 2001:db8::9\r\n") && head.contains("x-forwarded-proto: https\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn a_session_over_tls_and_http_1_1() {
    let mut backend = Backend::start().await;
    let (scratch, papers) = (Scratch::new("h1"), Papers::new());
    let site = papers.site(&scratch, &format!("upstream = \"ws://{}\"\n", backend.at));
    let mut line = Line(papers.connect(site.at, "http/1.1").await);
    line.say("POST /chat?underpass=open HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    let (_, body) = line.answer().await;
    let url = resolved("/chat", &serde_json::from_str::<serde_json::Value>(&body).expect("JSON")["session"]);
    let mut socket = backend.accept().await;
    assert_eq!(socket.headers["x-forwarded-proto"], "https");
    socket.send("one").await;
    line.say(format!("GET {url}/poll HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    assert!(line.answer().await.1.contains("[\"one\"]"));
    line.say(format!("GET {url}/sse?after=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    line.head().await;
    line.until("event: session\n").await;
    socket.send("two").await;
    line.until("id: 2\ndata: two\n\n").await;
}

type Sender = http2::SendRequest<Full<Bytes>>;

async fn ask(sender: &mut Sender, method: &str, path: &str, body: &'static str) -> Response<Incoming> {
    let request = Request::builder().method(method).uri(format!("https://localhost{path}")).version(Version::HTTP_2);
    let request = request.body(Full::from(body)).expect("a request");
    soon("an answer", sender.send_request(request)).await.expect("an answer")
}

async fn json(response: Response<Incoming>) -> serde_json::Value {
    let body = soon("a body", response.into_body().collect()).await.expect("a body").to_bytes();
    serde_json::from_slice(&body).expect("JSON")
}

async fn read_until(stream: &mut Response<Incoming>, seen: &mut BytesMut, what: &str) {
    while !String::from_utf8_lossy(seen).contains(what) {
        let frame = soon(what, stream.body_mut().frame()).await.expect("not ended").expect("no error");
        seen.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
}

#[tokio::test]
async fn all_of_a_session_over_one_http_2_connection() {
    let mut backend = Backend::start().await;
    let (scratch, papers) = (Scratch::new("h2"), Papers::new());
    let site = papers.site(&scratch, &format!("upstream = \"ws://{}\"\n", backend.at));
    let io = TokioIo::new(papers.connect(site.at, "h2").await);
    let (mut sender, conn) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(conn);
    let opened = json(ask(&mut sender, "POST", "/chat?x=1&underpass=open", "").await).await;
    let url = resolved("/chat", &opened["session"]);
    let mut socket = backend.accept().await;
    assert_eq!((socket.path.as_str(), socket.headers["host"].as_bytes()), ("/chat?x=1", &b"localhost"[..]));

    let mut sse = ask(&mut sender, "GET", &format!("{url}/sse"), "").await;
    assert_eq!(sse.headers()["content-type"], "text/event-stream");
    assert!(sse.headers().get("connection").is_none() && sse.headers().get("transfer-encoding").is_none());
    let mut seen = BytesMut::new();
    read_until(&mut sse, &mut seen, "event: session").await;
    socket.send("while the stream is open").await;
    read_until(&mut sse, &mut seen, "id: 1\ndata: while the stream is open\n\n").await;
    // Sends and acknowledgements go beside the stream.
    let sent = json(ask(&mut sender, "POST", &format!("{url}/send?seq=1&after=1&as=text"), "up").await).await;
    assert_eq!(sent, serde_json::json!({"next": 2, "attached": "sse", "sent": 1, "unacked": 0}));
    assert_eq!(socket.next_text().await, "up");
    // A poll takes over; the stream ends cleanly.
    let poll = ask(&mut sender, "GET", &format!("{url}/poll?after=1&wait=0.05"), "").await;
    assert_eq!(json(poll).await["messages"], serde_json::json!([]));
    read_until(&mut sse, &mut seen, "event: superseded\n").await;
    assert!(soon("the end", sse.body_mut().frame()).await.is_none_or(|frame| frame.is_ok()));
    // A stream that the client lets go of is detached.
    let mut stream = ask(&mut sender, "GET", &format!("{url}/stream?after=1"), "").await;
    read_until(&mut stream, &mut BytesMut::new(), "\"from\":1").await;
    drop(stream);
    let detached = async {
        while !json(ask(&mut sender, "POST", &format!("{url}/ack?after=1"), "").await).await["attached"].is_null() {}
    };
    soon("the stream to be detached", detached).await;
}

/// An echoing backend behind TLS.
async fn secured_backend(papers: &Papers) -> SocketAddr {
    let acceptor = TlsAcceptor::from(papers.pair.server(None, &[]));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else { return };
                let mut ws = tokio_tungstenite::accept_async(stream).await.expect("a handshake");
                while let Some(Ok(message)) = ws.next().await {
                    if message.is_text() {
                        ws.send(message).await.expect("it is taken");
                    }
                }
            });
        }
    });
    at
}

#[tokio::test]
async fn a_backend_behind_a_private_authority() {
    let (scratch, papers) = (Scratch::new("wss"), Papers::new());
    let port = secured_backend(&papers).await.port();
    let ca = scratch.file("ca.pem", &papers.authority.pem());
    let upstream = format!("listen = \"127.0.0.1:0\"\nupstream = \"wss://localhost:{port}\"\n");
    let site = Site::from_toml(&format!("{upstream}ca = \"{}\"\n", ca.display()));
    let opened = site.open("/").await;
    site.post(&format!("{}/send?as=text", opened.url), "hello").await.json();
    assert_eq!(site.get(&format!("{}/poll", opened.url)).await.json()["messages"][0], "hello");
    let mut tunnel = site.websocket("/", &[]).await;
    tunnel.send("raw".into()).await.expect("it is taken");
    assert_eq!(soon("an echo", tunnel.next()).await.expect("one").expect("no error").into_data(), "raw");

    let stranger = scratch.file("other.pem", &Papers::new().authority.pem());
    let site = Site::from_toml(&format!("{upstream}ca = \"{}\"\n", stranger.display()));
    let reply = site.post("/?underpass=open", "").await;
    assert_eq!((reply.status.as_u16(), reply.error().as_str()), (502, "backend_unreachable"));
}

#[tokio::test]
async fn a_proxied_body_that_does_not_come_ends_its_stream_and_frees_the_backend() {
    let (at, mut backend) = plain::played().await;
    let (scratch, papers) = (Scratch::new("h2body"), Papers::new());
    let site = papers.site(&scratch, &format!("client.body = \"300ms\"\nupstream = \"http://{at}\"\n"));
    let mut frames = Frames::begin(papers.connect(site.at, "h2").await, &[]).await;
    frames.say(&frame(HEADERS, END_HEADERS, 1, &request("POST", "/upload"))).await;
    frames.say(&frame(DATA, 0, 1, b"the beginning")).await;
    let mut upstream = plain::next(&mut backend).await;
    let head = upstream.head().await;
    assert!(head.to_lowercase().starts_with("post /upload "), "{head}");
    soon("the end of the backend's connection", upstream.rest()).await;
    while let Some(came) = frames.next_of(&[HEADERS, DATA, RST_STREAM]).await {
        if came.kind == RST_STREAM || came.ends_stream() {
            break;
        }
    }
    // The connection goes on.
    frames.say(&frame(HEADERS, END_HEADERS | END_STREAM, 3, &request("GET", "/_underpass/info"))).await;
    while let Some(came) = frames.next_of(&[DATA]).await {
        if came.ends_stream() {
            return assert_eq!(came.stream, 3);
        }
    }
    panic!("the connection ended");
}
