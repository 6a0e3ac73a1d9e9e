//! A backend that is broken or hostile: the client gets one sound answer or a clean end, and nobody waits for ever.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::house::{House, no_panics, watch_panics};
use super::raw::{self, Wire, find, request};
use super::recorder::{Recorder, Reply, ok, switch};
use crate::support::site::{Opened, Site, soon};

/// Sends one plain request; everything that comes back.
async fn proxied(reply: &'static [u8]) -> (String, usize) {
    watch_panics();
    let backend = Recorder::start(move |_| Reply::now(reply)).await;
    let site = Site::start(backend.at, "[backend]\nresponse = \"400ms\"\n[client]\nidle = \"300ms\"\n");
    let mut wire = Wire::open(site.at).await;
    wire.write(&request("GET", "/x", &[("Connection", "close")], b"")).await;
    let text = String::from_utf8_lossy(&wire.rest().await).into_owned();
    let answers = text.matches("HTTP/1.1 ").count();
    (text, answers)
}

#[tokio::test]
async fn heads_that_are_none_are_a_bad_gateway() {
    for reply in [
        b"HTTP/1.1 200 OK\r\nX: 1\rX-Injected: 1\r\nContent-Length: 0\r\n\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\nX: 1\r\n X-Injected: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: 1\0\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Injected\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nX-Injected",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"HTTP/1.1 99 OK\r\n\r\n",
        b"hello\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nX-Injected",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\nX-Injected",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
    ] {
        let (text, answers) = proxied(reply).await;
        assert!(text.starts_with("HTTP/1.1 502") && text.contains("backend_unreachable"), "{text:?}");
        assert_eq!((answers, text.contains("Injected")), (1, false), "{text:?}");
    }
    no_panics();
}

/// Two lengths of one answer: whatever is taken for it, the rest is nobody's.
#[tokio::test]
async fn a_second_answer_of_the_backend_belongs_to_nobody() {
    for reply in [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Injected: 1\r\nContent-Length: 0\r\n\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 99\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: 1\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 99\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: 1\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\nHTTP/1.1 200 OK\r\nX-Injected: 1\r\n\r\n",
    ] {
        let (text, answers) = proxied(reply).await;
        assert_eq!((answers, text.contains("Injected")), (1, false), "{text:?}");
        let lengths = text.to_ascii_lowercase().matches("content-length").count();
        let codings = text.to_ascii_lowercase().matches("transfer-encoding").count();
        assert!(lengths + codings <= 1, "{text:?}");
    }
}

/// The next client must not get what was left on a pooled connection.
#[tokio::test]
async fn leftovers_do_not_answer_the_next_request() {
    watch_panics();
    let two = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nX-Injected: 1\r\nContent-Length: 4\r\n\r\nevil";
    let backend =
        Recorder::start(move |seen| Reply::now(if seen.target() == "/first" { two.to_vec() } else { ok("") })).await;
    let site = Site::start(backend.at, "");
    for round in 0..20 {
        for path in ["/first", "/second"] {
            let answer = raw::ask(site.at, "GET", path, &[], b"").await;
            // A connection that turned out to be poisoned may cost its request, never give it another's answer.
            assert!(answer.status == 502 || answer.body == b"ok", "{round} {path}: {answer:?}");
            assert!(answer.header("x-injected").is_none());
        }
    }
}

/// A backend that accepts, reads once, and then writes this for ever.
async fn endless(
    first: &'static [u8],
    piece: &'static [u8],
) -> (std::net::SocketAddr, tokio::sync::mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    let (sender, ended) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let sender = sender.clone();
            tokio::spawn(async move {
                let _ = socket.read(&mut [0; 4096]).await;
                let _ = socket.write_all(first).await;
                let many = piece.repeat(1000);
                let mut written = 0;
                while socket.write_all(&many).await.is_ok() {
                    written += many.len();
                }
                let _ = sender.send(written).await;
            });
        }
    });
    (at, ended)
}

#[tokio::test]
async fn endless_heads_are_cut_off() {
    watch_panics();
    for (first, piece) in [
        (b"HTTP/1.1 200 OK\r\n".as_slice(), b"X-More: and more\r\n".as_slice()),
        (b"HTTP/1.1 200 OK\r\nX: ", b"aaaaaaaaaaaaaaaa"),
        (b"HTTP/1.1 200 ", b"OK OK OK OK OK OK "),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"aaaaaaaaaaaaaaaa"),
    ] {
        let (at, mut ended) = endless(first, piece).await;
        let site = Site::start(at, "[backend]\nresponse = \"400ms\"\nhandshake = \"400ms\"\n");
        let plain = raw::ask(site.at, "GET", "/x", &[], b"").await;
        assert!(matches!(plain.status, 502 | 504), "{plain:?}");
        let open = raw::ask(site.at, "POST", "/x?underpass=open", &[], b"").await;
        assert!(matches!(open.status, 502 | 504), "{open:?}");
        assert!(matches!(open.refused().as_str(), "backend_unreachable" | "backend_timeout"));
        for _ in 0..2 {
            soon("the end of an endless backend's connection", ended.recv()).await.expect("it ends");
        }
    }
    no_panics();
}

/// What a refusing backend says is quoted up to 4 KiB, and waited for no longer than that takes.
#[tokio::test]
async fn an_endless_refusal_is_cut_short() {
    let (at, mut ended) = endless(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n", b"no\xff<b>\r\n\0").await;
    let site = Site::start(at, "");
    let answer = raw::ask(site.at, "POST", "/x?underpass=open", &[], b"").await;
    assert_eq!((answer.status, answer.refused().as_str()), (403, "backend_refused"));
    let said = answer.json()["error"]["backend"]["body"].as_str().expect("a body").to_owned();
    assert!(said.starts_with("no\u{fffd}<b>\r\n\0") && said.chars().count() <= 4096, "{}", said.len());
    soon("its end", ended.recv()).await.expect("it ends");
}

/// A backend that has answered the handshake of one session, and speaks bytes.
struct Bare {
    site: Site,
    opened: Opened,
    socket: TcpStream,
}

impl Bare {
    async fn open(config: &str, behind: &[u8]) -> Self {
        watch_panics();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let site = Site::start(listener.local_addr().expect("an address"), config);
        let accepting = async {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while find(&head, b"\r\n\r\n").is_none() {
                socket.read_buf(&mut head).await.expect("a handshake");
            }
            let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let at = find(text.as_bytes(), b"sec-websocket-key: ").expect("a key") + 19;
            let accept = derive_accept_key(&head[at..at + 24]);
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            socket.write_all(&[answer.as_bytes(), behind].concat()).await.expect("it is taken");
            socket
        };
        let (opened, socket) = tokio::join!(site.open("/chat"), accepting);
        Self { site, opened, socket }
    }

    /// The messages and the close that a client is told.
    async fn told(&self) -> (Vec<String>, serde_json::Value) {
        let (mut messages, mut after) = (Vec::new(), 0);
        loop {
            let answer = self.site.get(&format!("{}/poll?after={after}&wait=5", self.opened.url)).await.json();
            let list = answer["messages"].as_array().expect("messages");
            messages.extend(list.iter().map(|message| message.as_str().unwrap_or("binary").to_owned()));
            after = answer["after"].as_u64().expect("a cursor");
            if !answer["close"].is_null() {
                return (messages, answer["close"].clone());
            }
        }
    }

    /// The code of the close frame that the backend is sent, if any.
    async fn code(mut self) -> Option<u16> {
        let mut bytes = Vec::new();
        while matches!(soon("the end", self.socket.read_buf(&mut bytes)).await, Ok(count) if count > 0) {}
        let mut rest = &bytes[..];
        // All frames of ours are short and masked.
        while let [first, second, mask @ ..] = rest {
            let length = usize::from(second & 0x7f);
            assert!(second & 0x80 != 0 && length < 126, "not a short masked frame: {rest:?}");
            if *first == 0x88 {
                return (length >= 2).then(|| u16::from_be_bytes([mask[4] ^ mask[0], mask[5] ^ mask[1]]));
            }
            rest = mask.get(4 + length..).unwrap_or_default();
        }
        None
    }
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    [&[first, u8::try_from(payload.len()).expect("short")], payload].concat()
}

#[tokio::test]
async fn a_backend_that_breaks_websocket_ends_its_session_and_is_told_why() {
    let close = |code: u16| frame(0x88, &code.to_be_bytes());
    let mut cases = vec![
        ("masked", vec![0x81, 0x82, 0, 0, 0, 0, b'h', b'i'], 1002),
        ("reserved bit", frame(0xc1, b"hi"), 1002),
        ("opcode 3", frame(0x83, b"hi"), 1002),
        ("opcode 11", frame(0x8b, b""), 1002),
        ("fragmented ping", frame(0x09, b""), 1002),
        ("continuation of nothing", frame(0x80, b"hi"), 1002),
        ("two beginnings", [frame(0x01, b"a"), frame(0x81, b"b")].concat(), 1002),
        ("long ping", [&[0x89, 126, 0, 126][..], &[b'p'; 126]].concat(), 1002),
        ("close of one byte", frame(0x88, &[3]), 1002),
        ("long reason", [&[0x88, 126, 0, 126, 3, 232][..], &[b'r'; 124]].concat(), 1002),
        ("reason that is none", frame(0x88, &[3, 232, 0xff]), 1007),
        ("text that is none", frame(0x81, b"\xff"), 1007),
        ("half a surrogate", frame(0x81, b"\xed\xa0\x80"), 1007),
        ("text in two halves that is none", [frame(0x01, b"\xc3"), frame(0x80, b"x")].concat(), 1007),
    ];
    cases.extend([0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535].map(|code| ("close", close(code), 1002)));
    for (name, bytes, code) in cases {
        let mut bare = Bare::open("", b"").await;
        let before = frame(0x81, b"before");
        bare.socket.write_all(&[before, bytes.clone()].concat()).await.expect("it is taken");
        let (messages, told) = bare.told().await;
        assert_eq!(messages, ["before"], "{name}");
        // Of a close frame with a code that may not be, the codec makes one with 1002.
        let expected = if name == "close" { (Some(1002), Some(true)) } else { (Some(1006), Some(false)) };
        assert_eq!((told["code"].as_u64(), told["clean"].as_bool()), expected, "{bytes:?}: {told}");
        assert!(told["reason"].as_str().is_some_and(|reason| reason.len() <= 123), "{told}");
        let sent = bare.code().await;
        assert!(sent == Some(code) || (code == 1007 && sent == Some(1002)), "{name} {bytes:?}: {sent:?}");
    }
    no_panics();
}

/// RFC 6455 section 4.1: what was not offered may not be chosen.
#[tokio::test]
async fn what_was_not_offered_may_not_be_chosen() {
    watch_panics();
    for (more, status) in [
        ("Sec-WebSocket-Protocol: chat\r\n", 200),
        ("Sec-WebSocket-Protocol: evil\r\n", 502),
        ("Sec-WebSocket-Protocol: CHAT\r\n", 502),
        ("Sec-WebSocket-Protocol: chat, other\r\n", 502),
        ("Sec-WebSocket-Extensions: permessage-deflate\r\n", 502),
    ] {
        let backend = Recorder::start(move |seen| {
            let head = String::from_utf8(switch(seen)).expect("text");
            Reply::now(head.replace("Upgrade: websocket\r\n", &format!("Upgrade: websocket\r\n{more}")))
        })
        .await;
        let site = Site::start(backend.at, "");
        let offer: &[u8] = br#"{"protocols":["other","chat"]}"#;
        let answer = raw::ask(site.at, "POST", "/chat?underpass=open", &[], offer).await;
        assert_eq!(answer.status, status, "{more}");
        if status == 502 {
            assert_eq!(answer.refused(), "backend_unreachable");
        }
        let answer = raw::ask(site.at, "POST", "/chat?underpass=open", &[], b"").await;
        assert_eq!(answer.status, 502, "{more} where nothing was offered");
    }
}

/// Reasons and protocols are text of the backend: they come out as one JSON string and end nothing.
#[tokio::test]
async fn a_reason_cannot_inject_events() {
    let reason = "x\n\ndata: evil\r\rid: 9\0\u{2028}\"}";
    let payload = [&[0x0f, 0xa1], reason.as_bytes()].concat();
    let mut bare = Bare::open("", &frame(0x81, b"early")).await;
    bare.socket.write_all(&frame(0x88, &payload)).await.expect("it is taken");
    let mut wire = Wire::open(bare.site.at).await;
    wire.write(format!("GET {}/sse HTTP/1.0\r\nHost: a\r\n\r\n", bare.opened.url).as_bytes()).await;
    let events = super::event_stream::events(&wire.rest().await);
    let last = events.last().expect("a close");
    assert_eq!((last.name.as_str(), last.id.as_str()), ("close", "2"), "{events:?}");
    let told: serde_json::Value = serde_json::from_str(&last.data).expect("JSON");
    assert_eq!(told, serde_json::json!({"code": 4001, "reason": reason, "clean": true}));
    assert!(events.iter().all(|event| event.data != "evil"), "{events:?}");
}

#[tokio::test]
async fn messages_without_end_are_too_large() {
    let limit = "[session]\nmessage = 1000\n";
    for (name, first, piece) in [
        ("one byte each", frame(0x01, b"a"), frame(0x00, b"a")),
        ("binary", frame(0x02, &[0; 100]), frame(0x00, &[0; 100])),
        ("with pings between", frame(0x01, b"a"), [frame(0x00, b"a"), frame(0x89, b"")].concat()),
    ] {
        let mut bare = Bare::open(limit, b"").await;
        let _ = bare.socket.write_all(&[first, piece.repeat(2000)].concat()).await;
        let (messages, told) = bare.told().await;
        assert!(messages.is_empty(), "{name}");
        assert_eq!((told["code"].as_u64(), told["clean"].as_bool()), (Some(1009), Some(true)), "{name}: {told}");
        let _ = bare.socket.shutdown().await;
        assert_eq!(bare.code().await, Some(1009), "{name}");
    }
    // Announced only.
    let mut bare = Bare::open(limit, b"").await;
    bare.socket.write_all(&[0x82, 127, 0x7f, 255, 255, 255, 255, 255, 255, 255]).await.expect("it is taken");
    assert_eq!(bare.told().await.1["code"], 1009);
}

/// Empty fragments mean nothing, however many.
#[tokio::test]
async fn empty_fragments_cost_nothing() {
    let mut bare = Bare::open("[session]\nmessage = 1000\n", b"").await;
    let many =
        [frame(0x01, b"a"), frame(0x00, b"").repeat(200_000), frame(0x80, b"b"), frame(0x88, &[3, 232])].concat();
    bare.socket.write_all(&many).await.expect("it is taken");
    let (messages, told) = bare.told().await;
    assert_eq!((messages, told["code"].as_u64()), (vec!["ab".to_owned()], Some(1000)));
}

/// A backend that pings without end and reads nothing, while no client is attached: the pongs are bounded, the session is
/// as before.
#[tokio::test]
async fn a_flood_of_pings_does_no_harm() {
    let mut house = House::open("").await;
    let at = house.url("ack?after=0");
    for _ in 0..50_000 {
        house.socket.ws.feed(Message::Ping(vec![b'p'; 100].into())).await.expect("the sidecar reads on");
    }
    house.socket.ws.flush().await.expect("the sidecar reads on");
    assert_eq!(raw::ask(house.site.at, "POST", &at, &[], b"").await.status, 200);
    house.lives_on().await;
    let mut pongs = 0;
    while let Ok(Some(Ok(message))) = tokio::time::timeout(Duration::from_millis(200), house.socket.ws.next()).await {
        pongs += usize::from(message.is_pong());
    }
    assert!(pongs < 50_000, "every ping was answered: nothing bounds them");
    no_panics();
}
