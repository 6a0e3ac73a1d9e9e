//! WebSockets over HTTP/2 (RFC 8441), with the h2 crate as the client: passed through, and carrying a session.

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::{Method, Request, Response};
use tokio::net::TcpStream;

use super::Authority;
use crate::support::plain::canned;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site, resolved, soon};

/// A client on one connection to a sidecar that is reached by TLS.
struct Client {
    site: Site,
    requests: SendRequest<Bytes>,
    _scratch: Scratch,
}

/// A stream that has become a WebSocket.
struct Stream {
    up: SendStream<Bytes>,
    down: RecvStream,
    read: Vec<u8>,
}

impl Client {
    async fn start(upstream: &str, more: &str) -> Self {
        let (scratch, authority) = (Scratch::new("h2-ws"), Authority::new());
        let files = authority.issue("localhost").files(&scratch);
        let site = Site::from_toml(&format!(
            "upstream = \"{upstream}\"\nadmin = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
             certificate = \"{}\"\nkey = \"{}\"\n{more}",
            files.certificate.display(),
            files.key.display()
        ));
        let socket = TcpStream::connect(site.at).await.expect("it listens");
        let tls = soon("TLS", authority.connect(socket, &["h2"])).await.expect("TLS");
        let (requests, connection) = h2::client::handshake(tls).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut requests = soon("settings", requests.ready()).await.expect("HTTP/2");
        // What a server can do stands in its settings, which come behind the first response at the latest.
        let probe = Request::get("https://localhost/_underpass/info").body(()).expect("a request");
        let (probe, _) = requests.send_request(probe, true).expect("a request");
        assert_eq!(soon("info", probe).await.expect("a response").status(), 200);
        assert!(requests.is_extended_connect_protocol_enabled());
        Self { site, requests, _scratch: scratch }
    }

    async fn connect(
        &mut self,
        path: &str,
        protocol: &str,
        fields: &[(&str, &str)],
    ) -> (Response<RecvStream>, SendStream<Bytes>) {
        let uri = format!("https://localhost{path}");
        let mut request = Request::builder().method(Method::CONNECT).uri(uri).extension(Protocol::from(protocol));
        for (name, value) in [("sec-websocket-version", "13"), ("origin", "https://localhost")].iter().chain(fields) {
            request = request.header(*name, *value);
        }
        let (response, up) =
            self.requests.send_request(request.body(()).expect("a request"), false).expect("a request");
        (soon("a response", response).await.expect("a response"), up)
    }

    async fn open(&mut self, path: &str, fields: &[(&str, &str)]) -> (Response<()>, Stream) {
        let (response, up) = self.connect(path, "websocket", fields).await;
        assert_eq!(response.status(), 200);
        let (head, down) = response.into_parts();
        (Response::from_parts(head, ()), Stream { up, down, read: Vec::new() })
    }
}

impl Stream {
    /// A short frame, masked with nothing.
    fn say(&mut self, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).expect("short");
        let frame = [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0], payload].concat();
        self.up.send_data(frame.into(), false).expect("an open stream");
    }

    /// The next frame's opcode and payload; `None` at the end.
    async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, length @ 0..126, rest @ ..] = self.read.as_slice()
                && rest.len() >= usize::from(*length)
            {
                let (opcode, end) = (first & 0xf, 2 + usize::from(*length));
                let payload = self.read[2..end].to_vec();
                self.read.drain(..end);
                return Some((opcode, payload));
            }
            if let [_, 126, high, low, rest @ ..] = self.read.as_slice()
                && rest.len() >= usize::from(u16::from_be_bytes([*high, *low]))
            {
                let (opcode, end) = (self.read[0] & 0xf, 4 + usize::from(u16::from_be_bytes([*high, *low])));
                let payload = self.read[4..end].to_vec();
                self.read.drain(..end);
                return Some((opcode, payload));
            }
            let data = soon("more of a stream", self.down.data()).await?.ok()?;
            let _ = self.down.flow_control().release_capacity(data.len());
            self.read.extend_from_slice(&data);
        }
    }

    async fn text(&mut self) -> String {
        let (_, payload) = self.hear().await.expect("a frame");
        String::from_utf8(payload).expect("UTF-8")
    }
}

#[tokio::test]
async fn a_websocket_over_http2_is_passed_through() {
    let mut backend = Backend::start().await;
    // Shorter than the conversation: a connection with a WebSocket on it is not idle.
    let mut client = Client::start(&format!("ws://{}", backend.at), "[client]\nidle = \"200ms\"\n").await;
    let fields =
        [("sec-websocket-protocol", "chat"), ("cookie", "a=1"), ("sec-websocket-key", "bXkgb3duIGtleSBteSBvd24=")];
    let (response, mut stream) = client.open("/chat?room=1", &fields).await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    for name in ["upgrade", "connection", "sec-websocket-accept"] {
        assert!(!response.headers().contains_key(name), "{name}");
    }
    let mut socket = backend.accept().await;
    assert_eq!(socket.path, "/chat?room=1");
    for (name, value) in
        [("host", "localhost"), ("origin", "https://localhost"), ("cookie", "a=1"), ("upgrade", "websocket")]
    {
        assert_eq!(socket.headers[name], value, "{name}");
    }
    assert_ne!(socket.headers["sec-websocket-key"], "bXkgb3duIGtleSBteSBvd24=");
    client.site.counts("underpass_tunnels_active", 1.0).await;
    for _ in 0..4 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        stream.say(1, b"up");
        assert_eq!(socket.next_text().await, "up");
        socket.send("down").await;
        assert_eq!(stream.text().await, "down");
    }
    // Requests go on beside it: nobody has said that the connection is to end.
    let beside = Request::get("https://localhost/_underpass/info").body(()).expect("a request");
    let (beside, _) = client.requests.send_request(beside, true).expect("the connection takes requests");
    assert_eq!(soon("info", beside).await.expect("a response").status(), 200);
    socket.close(4000, "bye").await;
    assert_eq!(stream.hear().await, Some((8, [&4000_u16.to_be_bytes()[..], b"bye"].concat())));
    stream.say(8, &4000_u16.to_be_bytes());
    assert_eq!(socket.closed().await.0, 4000);
    drop(socket);
    assert_eq!(stream.hear().await, None);
    drop(stream);
    client.site.counts("underpass_tunnels_active", 0.0).await;
    // Now it is.
    client.site.counts("underpass_connections_active", 0.0).await;
}

#[tokio::test]
async fn a_session_is_carried_by_a_websocket_over_http2() {
    let mut backend = Backend::start().await;
    let mut client = Client::start(&format!("ws://{}", backend.at), "").await;
    let open = Request::post("https://localhost/chat?underpass=open").body(()).expect("a request");
    let (opened, _) = client.requests.send_request(open, true).expect("a request");
    let mut body = soon("a response", opened).await.expect("a response").into_body();
    let body = soon("a body", body.data()).await.expect("a body").expect("a body");
    let url = resolved("/chat", &serde_json::from_slice::<serde_json::Value>(&body).expect("JSON")["session"]);
    let mut socket = backend.accept().await;
    let path = format!("{url}/ws");
    let (response, mut stream) = client.open(&path, &[("sec-websocket-protocol", "underpass.v1")]).await;
    assert_eq!(response.headers()["sec-websocket-protocol"], "underpass.v1");
    let greeting = stream.text().await;
    assert!(greeting.contains("\"url\""), "{greeting}");
    socket.send("one").await;
    while !String::from_utf8_lossy(&stream.hear().await.expect("a message").1).contains("one") {}
    client.site.counts("underpass_sessions_active{transport=\"ws\"}", 1.0).await;
    // The stream's end is the attachment's.
    stream.up.send_reset(h2::Reason::CANCEL);
    client.site.counts("underpass_sessions_active{transport=\"none\"}", 1.0).await;
}

#[tokio::test]
async fn what_does_not_become_a_websocket_over_http2_is_no_success() {
    let (backend, _asked) = canned("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
    let mut client = Client::start(&format!("ws://{backend}"), "").await;
    assert_eq!(client.connect("/chat", "websocket", &[]).await.0.status(), 403);
    assert_eq!(client.connect("/chat", "connect-udp", &[]).await.0.status(), 501);
    assert_eq!(client.connect("/_underpass/info", "websocket", &[]).await.0.status(), 502, "no WebSocket is there");
    let (backend, _asked) = canned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let mut client = Client::start(&format!("ws://{backend}"), "").await;
    assert_eq!(client.connect("/chat", "websocket", &[]).await.0.status(), 502);
}

#[tokio::test]
async fn a_websocket_over_http2_is_told_when_the_process_stops() {
    let mut backend = Backend::start().await;
    let drain = "[drain]\npre = 0\nspread = 0\ntimeout = \"5s\"\n";
    let mut client = Client::start(&format!("ws://{}", backend.at), drain).await;
    let (_, mut stream) = client.open("/chat", &[]).await;
    let mut socket = backend.accept().await;
    client.site.stop().await;
    let (opcode, payload) = stream.hear().await.expect("a close frame");
    assert_eq!((opcode, &payload[..2]), (8, &1012_u16.to_be_bytes()[..]));
    assert_eq!(socket.closed().await.0, 1001);
    stream.say(8, &1012_u16.to_be_bytes());
    drop((socket, stream, client.requests));
    assert_eq!(client.site.ended().await.connections, 0);
}

#[tokio::test]
async fn a_connection_and_the_heads_of_its_requests_count_in_the_memory_of_all() {
    const HELD: &str = "underpass_memory_held_bytes";
    const CONNECTION: f64 = 24.0 * 1024.0;
    // It accepts, and never says a word.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free address");
    let at = silent.local_addr().expect("a bound socket");
    let mut client = Client::start(&format!("http://{at}"), "").await;
    client.site.counts(HELD, CONNECTION).await;
    let large = "a".repeat(12 * 1024);
    let request = Request::get("https://localhost/").header("x-large", large).body(()).expect("a request");
    let (response, stream) = client.requests.send_request(request, true).expect("a request");
    let grown = async {
        while client.site.metric(HELD).await < CONNECTION + 12.0 * 1024.0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon("a head that counts", grown).await;
    drop((response, stream));
    client.site.counts(HELD, CONNECTION).await;
}
