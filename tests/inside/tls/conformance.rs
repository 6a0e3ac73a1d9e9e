//! HTTP/2 as RFC 9113 and RFC 7541 have it: one table of what a client may do wrong or right, and what must follow.
//!
//! The cases are those of h2spec, written anew. Each has a connection of its own to a listener over TLS.
//!
//! In two points h2 is not strict. It says PROTOCOL_ERROR where the specification has a code that says more (of compression, of
//! sizes, of closed streams): PROTOCOL_ERROR is taken everywhere. And it passes over pseudo-fields in trailers instead of calling
//! the request malformed: nothing of them is passed on.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;

use super::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, Frames, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
    block, frame, get, request, setting,
};
use super::listener::Own;
use crate::listener::edge::{Edge, client};

const PRIORITY: u8 = 2;
const CONTINUATION: u8 = 9;
const UNKNOWN: u8 = 0xF0;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

/// What must follow.
enum Then {
    /// The connection ends, with one of these codes if it says one.
    Ends(&'static [u32]),
    /// Stream 1 is reset with one of these codes, or answered with a 400 before anybody saw it, or the connection ends. Other
    /// streams go on.
    Resets(&'static [u32]),
    /// Stream 1 is answered, whole.
    Served,
    /// The ping `12345678` is answered.
    Pong,
}

use Then::{Ends, Pong, Resets, Served};

struct Case(&'static str, Vec<u8>, Then);

/// What is behind the preface and empty settings.
fn cases() -> Vec<Case> {
    let mut all = frames_and_compression();
    all.extend(streams());
    all.extend(kinds_of_frames());
    all.extend(messages());
    all
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"12345678")
}

fn post(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &request("POST", "/"))
}

fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

/// An ordinary request with these fields behind its own.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &[request("GET", "/"), block(fields)].concat())
}

/// A header block as it is.
fn raw(block: &[u8]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &[request("GET", "/"), block.to_vec()].concat())
}

fn frames_and_compression() -> Vec<Case> {
    let begun = frame(HEADERS, END_STREAM, 1, &request("GET", "/"));
    let reserved = {
        let mut bytes = ping();
        bytes[5] |= 0x80;
        bytes
    };
    vec![
        Case(
            "4.1 a kind that nobody knows is passed over",
            [frame(UNKNOWN, 0xFF, 0, b"12345678"), get(1)].concat(),
            Served,
        ),
        Case("4.1 flags that mean nothing are passed over", frame(PING, 0x16, 0, b"12345678"), Pong),
        Case("4.1 the reserved bit of a stream's number is passed over", reserved, Pong),
        Case("4.2 a frame of the largest size", [post(1), frame(DATA, END_STREAM, 1, &[0; 16_384])].concat(), Served),
        Case(
            "4.2 data over the largest size",
            [post(1), frame(DATA, END_STREAM, 1, &[0; 16_385])].concat(),
            Resets(&[FRAME_SIZE]),
        ),
        Case(
            "4.2 headers over the largest size",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0; 16_385]),
            Ends(&[FRAME_SIZE]),
        ),
        Case("4.3 an index that is not in the table", raw(&[0xFF, 0x80, 0x01]), Ends(&[COMPRESSION])),
        Case("4.3 index 0", raw(&[0x80]), Ends(&[COMPRESSION])),
        Case(
            "4.3 a table larger than was allowed",
            frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &[&[0x3F, 0xE2, 0xFF, 0x03], &request("GET", "/")[..]].concat(),
            ),
            Ends(&[COMPRESSION]),
        ),
        Case("4.3 a table's size behind fields", raw(&[0x20]), Ends(&[COMPRESSION])),
        Case(
            "4.3 Huffman code with a padding of more than 7 bits",
            raw(&[0x00, 0x81, 0x1F, 0x82, 0x1F, 0xFF]),
            Ends(&[COMPRESSION]),
        ),
        Case("4.3 Huffman code with a padding of zeros", raw(&[0x00, 0x01, b'a', 0x81, 0x18]), Ends(&[COMPRESSION])),
        Case(
            "4.3 Huffman code of the end of a string",
            raw(&[0x00, 0x01, b'a', 0x84, 0xFF, 0xFF, 0xFF, 0xFF]),
            Ends(&[COMPRESSION]),
        ),
        Case("4.3 a string that is longer than its block", raw(&[0x00, 0x7E, b'a']), Ends(&[COMPRESSION])),
        Case("4.3 another frame within a block", [begun.clone(), ping()].concat(), Ends(&[PROTOCOL])),
        Case(
            "4.3 a block that goes on at another stream",
            [begun.clone(), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
            Ends(&[PROTOCOL]),
        ),
        Case(
            "5.5 a kind that nobody knows within a block",
            [begun, frame(UNKNOWN, 0, 1, b"x")].concat(),
            Ends(&[PROTOCOL]),
        ),
    ]
}

fn streams() -> Vec<Case> {
    let reset = |stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
    let data = frame(DATA, END_STREAM, 1, b"x");
    vec![
        Case("5.1 data of a stream that is idle", data.clone(), Ends(&[PROTOCOL])),
        Case("5.1 the reset of a stream that is idle", reset(1), Ends(&[PROTOCOL])),
        Case(
            "5.1 a window of a stream that is idle",
            frame(WINDOW_UPDATE, 0, 1, &9u32.to_be_bytes()),
            Ends(&[PROTOCOL]),
        ),
        Case(
            "5.1 a continuation of a stream that is idle",
            frame(CONTINUATION, END_HEADERS, 1, &request("GET", "/")),
            Ends(&[PROTOCOL]),
        ),
        Case("5.1 data behind the end", [get(1), data.clone()].concat(), Resets(&[STREAM_CLOSED])),
        Case("5.1 headers behind the end", [get(1), get(1)].concat(), Resets(&[STREAM_CLOSED, PROTOCOL])),
        Case(
            "5.1 a continuation behind the end",
            [get(1), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            Ends(&[STREAM_CLOSED, PROTOCOL]),
        ),
        Case("5.1 data behind a reset", [post(1), reset(1), data].concat(), Resets(&[STREAM_CLOSED])),
        Case("5.1.1 a number that is even", get(2), Ends(&[PROTOCOL])),
        Case("5.1.1 a number below another", [get(5), get(3)].concat(), Ends(&[PROTOCOL, STREAM_CLOSED])),
        Case(
            "5.1.2 more streams than there may be",
            (0..140).flat_map(|at| post(2 * at + 1)).collect(),
            Resets(&[REFUSED, PROTOCOL]),
        ),
    ]
}

fn kinds_of_frames() -> Vec<Case> {
    let padded = [&[200], &request("GET", "/")[..]].concat();
    let prioritised = [&[0, 0, 0, 0, 15], &request("GET", "/")[..]].concat();
    let padding = [&[3], &request("GET", "/")[..], &[0; 3]].concat();
    let most = 0x7FFF_FFFFu32.to_be_bytes();
    let pieces: Vec<u8> = {
        let block = request("GET", "/");
        let (first, rest) = block.split_at(5);
        let (second, third) = rest.split_at(7);
        [
            frame(HEADERS, END_STREAM, 1, first),
            frame(CONTINUATION, 0, 1, second),
            frame(CONTINUATION, 0, 1, &[]),
            frame(CONTINUATION, END_HEADERS, 1, third),
        ]
        .concat()
    };
    vec![
        Case("6.1 data of no stream", frame(DATA, 0, 0, b"x"), Ends(&[PROTOCOL])),
        Case(
            "6.1 data with more padding than there is",
            [post(1), frame(DATA, PADDED | END_STREAM, 1, &[9, 1, 2])].concat(),
            Ends(&[PROTOCOL]),
        ),
        Case(
            "6.1 data with padding",
            [post(1), frame(DATA, PADDED | END_STREAM, 1, &[2, b'x', 0, 0])].concat(),
            Served,
        ),
        Case(
            "6.2 headers of no stream",
            frame(HEADERS, END_HEADERS | END_STREAM, 0, &request("GET", "/")),
            Ends(&[PROTOCOL]),
        ),
        Case(
            "6.2 headers with more padding than there is",
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &padded),
            Ends(&[PROTOCOL]),
        ),
        Case("6.2 headers with padding", frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &padding), Served),
        Case(
            "6.2 headers with a priority",
            frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, &prioritised),
            Served,
        ),
        Case(
            "6.3 a priority of a stream that is idle",
            [frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), get(1)].concat(),
            Served,
        ),
        Case("6.3 a priority of no stream", frame(PRIORITY, 0, 0, &[0, 0, 0, 0, 1]), Ends(&[PROTOCOL])),
        Case("6.3 a priority of four bytes", [post(1), frame(PRIORITY, 0, 1, &[0; 4])].concat(), Resets(&[FRAME_SIZE])),
        Case("6.4 the reset of no stream", frame(RST_STREAM, 0, 0, &[0; 4]), Ends(&[PROTOCOL])),
        Case("6.4 a reset of three bytes", [post(1), frame(RST_STREAM, 0, 1, &[0; 3])].concat(), Ends(&[FRAME_SIZE])),
        Case(
            "6.5 an acknowledgement of settings with a payload",
            frame(SETTINGS, ACK, 0, &setting(3, 1)),
            Ends(&[FRAME_SIZE]),
        ),
        Case("6.5 settings of a stream", frame(SETTINGS, 0, 1, &[]), Ends(&[PROTOCOL])),
        Case("6.5 settings of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), Ends(&[FRAME_SIZE])),
        Case("6.5.2 ENABLE_PUSH is 0 or 1", frame(SETTINGS, 0, 0, &setting(2, 2)), Ends(&[PROTOCOL])),
        Case("6.5.2 a window of 2^31", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), Ends(&[FLOW_CONTROL])),
        Case("6.5.2 a frame size that is too small", frame(SETTINGS, 0, 0, &setting(5, 16_383)), Ends(&[PROTOCOL])),
        Case("6.5.2 a frame size that is too large", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), Ends(&[PROTOCOL])),
        Case("6.5.2 a setting that nobody knows", [frame(SETTINGS, 0, 0, &setting(0xFF, 7)), get(1)].concat(), Served),
        Case(
            "6.5.3 the last of equal settings counts",
            [frame(SETTINGS, 0, 0, &[setting(4, 0), setting(4, 99)].concat()), get(1)].concat(),
            Served,
        ),
        Case("6.7 a ping", ping(), Pong),
        Case("6.7 an answer to no ping", [frame(PING, ACK, 0, b"87654321"), ping()].concat(), Pong),
        Case("6.7 a ping of a stream", frame(PING, 0, 1, b"12345678"), Ends(&[PROTOCOL])),
        Case("6.7 a ping of six bytes", frame(PING, 0, 0, b"123456"), Ends(&[FRAME_SIZE])),
        Case("6.8 a goodbye of a stream", frame(GOAWAY, 0, 1, &[0; 8]), Ends(&[PROTOCOL])),
        Case("6.9 a window of the connection by 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Ends(&[PROTOCOL])),
        Case(
            "6.9 a window of a stream by 0",
            [post(1), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat(),
            Resets(&[PROTOCOL]),
        ),
        Case("6.9 a window of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 1]), Ends(&[FRAME_SIZE])),
        Case(
            "6.9.1 a window of the connection over 2^31",
            [frame(WINDOW_UPDATE, 0, 0, &most), frame(WINDOW_UPDATE, 0, 0, &most)].concat(),
            Ends(&[FLOW_CONTROL]),
        ),
        Case(
            "6.9.1 a window of a stream over 2^31",
            [post(1), frame(WINDOW_UPDATE, 0, 1, &most), frame(WINDOW_UPDATE, 0, 1, &most)].concat(),
            Resets(&[FLOW_CONTROL]),
        ),
        Case("6.10 a block in pieces", pieces, Served),
        Case(
            "6.10 a continuation behind the end of a block",
            [post(1), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            Ends(&[PROTOCOL]),
        ),
        Case(
            "6.10 a continuation of no stream",
            [frame(HEADERS, END_STREAM, 1, &[]), frame(CONTINUATION, END_HEADERS, 0, &[])].concat(),
            Ends(&[PROTOCOL]),
        ),
        Case(
            "6.6 a push of a client",
            [post(1), frame(5, END_HEADERS, 1, &[&[0, 0, 0, 2], &request("GET", "/")[..]].concat())].concat(),
            Ends(&[PROTOCOL]),
        ),
    ]
}

fn messages() -> Vec<Case> {
    let body = |length: &str, trailers: &[(&str, &str)], flags| {
        let head = [request("POST", "/"), block(&[("content-length", length)])].concat();
        let mut out = [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, 0, 1, b"four")].concat();
        out.extend(frame(HEADERS, END_HEADERS | flags, 1, &block(trailers)));
        out
    };
    let plain = |length: &str, data: &[u8]| {
        let head = [request("POST", "/"), block(&[("content-length", length)])].concat();
        [frame(HEADERS, END_HEADERS, 1, &head), frame(DATA, END_STREAM, 1, data)].concat()
    };
    let [method, scheme, host, path] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/")];
    vec![
        Case("8.1 a request", get(1), Served),
        Case("8.1 trailers", body("4", &[("x-trailer", "1")], END_STREAM), Served),
        Case("8.1 trailers that are not the end", body("4", &[("x-trailer", "1")], 0), Resets(&[PROTOCOL])),
        Case(
            "8.1 trailers with a pseudo-field, which is passed over",
            body("4", &[(":method", "GET")], END_STREAM),
            Served,
        ),
        Case("8.1.1 the length that was announced", plain("4", b"four"), Served),
        Case("8.1.1 less than was announced", plain("5", b"four"), Resets(&[PROTOCOL])),
        Case("8.1.1 more than was announced", plain("3", b"four"), Resets(&[PROTOCOL])),
        Case("8.2.1 a name in capitals", with(&[("X-Capital", "1")]), Resets(&[PROTOCOL])),
        Case("8.2.1 a value with a line break", with(&[("x-break", "1\r\nx: 2")]), Resets(&[PROTOCOL])),
        Case("8.2.1 a name with a blank", with(&[("x blank", "1")]), Resets(&[PROTOCOL])),
        Case("8.2.2 a field of the connection", with(&[("connection", "keep-alive")]), Resets(&[PROTOCOL])),
        Case("8.2.2 a coding of the transfer", with(&[("transfer-encoding", "chunked")]), Resets(&[PROTOCOL])),
        Case("8.2.2 TE with trailers", with(&[("te", "trailers")]), Served),
        Case("8.2.2 TE with something else", with(&[("te", "gzip")]), Resets(&[PROTOCOL])),
        Case("8.2.3 a cookie in crumbs", with(&[("cookie", "a=1"), ("cookie", "b=2")]), Served),
        Case("8.3 a pseudo-field that nobody knows", with(&[(":unknown", "1")]), Resets(&[PROTOCOL])),
        Case("8.3 a pseudo-field of responses", with(&[(":status", "200")]), Resets(&[PROTOCOL])),
        Case(
            "8.3 a pseudo-field behind others",
            headers(&[method, scheme, host, ("x", "1"), path]),
            Resets(&[PROTOCOL]),
        ),
        Case("8.3.1 no method", headers(&[scheme, host, path]), Resets(&[PROTOCOL])),
        Case("8.3.1 no scheme", headers(&[method, host, path]), Resets(&[PROTOCOL])),
        Case("8.3.1 no path", headers(&[method, scheme, host]), Resets(&[PROTOCOL])),
        Case("8.3.1 an empty path", headers(&[method, scheme, host, (":path", "")]), Resets(&[PROTOCOL])),
        Case("8.3.1 two methods", headers(&[method, method, scheme, host, path]), Resets(&[PROTOCOL])),
        Case("8.3.1 two schemes", headers(&[method, scheme, scheme, host, path]), Resets(&[PROTOCOL])),
        Case("8.3.1 two paths", headers(&[method, scheme, host, path, path]), Resets(&[PROTOCOL])),
    ]
}

/// Answers once the whole body is there.
async fn patient(request: Request<IncomingBody>) -> Response<Body> {
    let body = request.into_body().collect().await.map(|whole| whole.to_bytes()).unwrap_or_else(|_| Bytes::new());
    Response::new(Body::full(format!("{} bytes", body.len())))
}

/// What came of stream 1 and of the connection; `None` when it is as it must be.
async fn run(own: &Own, edge: &Edge, case: &Case) -> Option<String> {
    let Case(_, bytes, then) = case;
    let mut frames = Frames::begin(own.connect(edge, &["h2"]).await.expect("a TLS handshake"), &[]).await;
    frames.say(bytes).await;
    // Whatever comes of it, an end of it comes: the answer to this ping, or the end of the connection.
    frames.say(&frame(PING, 0, 0, b"the last")).await;
    let (mut served, mut reset, mut pong, mut last) = (false, None, false, false);
    loop {
        let Some(came) = frames.next_of(&[HEADERS, DATA, RST_STREAM, GOAWAY, PING]).await else {
            return (!matches!(then, Ends(_) | Resets(_))).then(|| "the connection ended".into());
        };
        match came.kind {
            GOAWAY => {
                let allowed = matches!(then, Ends(codes) | Resets(codes) if came.code() == PROTOCOL || codes.contains(&came.code()));
                return (!allowed).then(|| format!("a goodbye with {}", came.code()));
            }
            RST_STREAM if came.stream == 1 || matches!(then, Resets(codes) if codes.contains(&REFUSED)) => {
                reset = Some(came.code())
            }
            PING if came.payload == b"the last" => last = true,
            PING => pong |= came.flags & ACK != 0 && came.payload == b"12345678",
            // A 400 in the static table (RFC 7541 appendix A), or a 431.
            HEADERS if came.stream == 1 && matches!(came.payload.first(), Some(0x8C)) => reset = Some(PROTOCOL),
            _ => served |= came.stream == 1 && came.ends_stream(),
        }
        match then {
            Resets(codes) if reset.is_some_and(|code| codes.contains(&code)) => return None,
            Resets(_) if served => return Some("it was served".into()),
            Resets(codes) if reset.is_some() => return Some(format!("reset with {reset:?}, not with {codes:?}")),
            Served if served => return None,
            Served if reset.is_some() => return Some(format!("reset with {reset:?}")),
            Pong if pong => return None,
            Ends(_) if last => return Some(format!("the connection goes on; served: {served}, reset: {reset:?}")),
            _ => {}
        }
    }
}

#[tokio::test]
async fn http2_is_as_its_specification_has_it() {
    let own = Own::new();
    let edge = Edge::tcp(client(), Some(own.source()), patient);
    let mut wrong = Vec::new();
    let cases = cases();
    for case in &cases {
        if let Some(what) = run(&own, &edge, case).await {
            wrong.push(format!("{}: {what}", case.0));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() >= 80, "{} cases", cases.len());
}

#[tokio::test]
async fn what_is_no_preface_ends_the_connection() {
    let own = Own::new();
    let edge = Edge::tcp(client(), Some(own.source()), patient);
    let first_a_ping = [PREFACE, &ping()].concat();
    for bytes in [&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..], b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &first_a_ping]
    {
        let mut frames = Frames::new(own.connect(&edge, &["h2"]).await.expect("a TLS handshake"));
        frames.say(bytes).await;
        while let Some(came) = frames.next().await {
            assert!(came.kind == SETTINGS || (came.kind == GOAWAY && came.code() == PROTOCOL), "{came:?}");
        }
    }
}
