//! Bytes that are messages, nearly messages, or none.
//!
//! Enters: chance. Leaves: requests and responses of which each part is mostly usual and sometimes odd, the same after some
//! mutations, and bytes put together at random. Must not touch: what any reader makes of them.
//!
//! Each part is odd on its own and seldom, so that most messages have one oddity or none: a reader that errs in one point
//! is not saved by another.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::judge::ACCEPT;

/// Bytes that print legibly when they fail.
#[derive(Clone)]
pub(crate) struct Text(pub(crate) Vec<u8>);

impl std::fmt::Debug for Text {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}", self.0.escape_ascii())
    }
}

type Part = BoxedStrategy<Vec<u8>>;

/// One of these, each as likely as the others.
fn one_of(parts: &'static [&'static [u8]]) -> Part {
    select(parts).prop_map(<[u8]>::to_vec).boxed()
}

/// As a rule one of the first; seldom one of the others.
fn mostly(usual: &'static [&'static [u8]], odd: &'static [&'static [u8]]) -> Part {
    prop_oneof![60 => one_of(usual), 1 => one_of(odd)].boxed()
}

// === parts ===

const TARGETS: &[&[u8]] =
    &[b"/", b"/a?b=1", b"/a/%20;c?d=e&f", b"*", b"http://a/x", b"HTTP://A.example:81/", b"//x", b"/?"];
const ODD_TARGETS: &[&[u8]] = &[
    b"",
    b"a",
    b"a:80",
    b"?x",
    b"/#f",
    b"/{}|\"<>\\^`",
    b"/\xc3\xa9",
    b"/\xff",
    b"/\0",
    b"/\x7f",
    b"/a b",
    b"/a\tb",
    b"https://[::1]:1/",
    b"http://u:p@a/",
    b"http://",
    b"http://a",
    b"http:///x",
    b"x://a/?#",
    b"/%",
    b"*x",
    b"http://a:99999/",
];

fn target() -> Part {
    let long = select(&[30_usize, 255, 4090, 8185, 16_380, 65_533, 65_534, 65_535][..])
        .prop_map(|length| [b"/", &vec![b'a'; length][..]].concat());
    let any = vec(any::<u8>(), 1..6).prop_map(|bytes| [b"/", &bytes[..]].concat());
    prop_oneof![40 => one_of(TARGETS), 3 => one_of(ODD_TARGETS), 1 => long, 1 => any].boxed()
}

fn method() -> Part {
    let usual: &[&[u8]] = &[b"GET", b"GET", b"POST", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"];
    let odd: &[&[u8]] = &[
        b"HEAD",
        b"CONNECT",
        b"get",
        b"M-SEARCH",
        b"PRI",
        b"!#$%&'*+-.^_`|~",
        b"",
        b"G\0T",
        b"G\x80T",
        b"TRACE",
        b"(GET",
    ];
    prop_oneof![14 => one_of(usual), 1 => one_of(odd)].boxed()
}

fn version() -> Part {
    mostly(
        &[b"HTTP/1.1"],
        &[b"HTTP/1.0", b"http/1.1", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.1 ", b"HTTP/01.1", b"HTTP/1.", b"HTTP/11", b""],
    )
}

fn line_end() -> Part {
    prop_oneof![120 => Just(b"\r\n".to_vec()), 6 => Just(b"\n".to_vec()), 1 => one_of(&[b"\r", b"\r\r\n", b"\n\r", b"", b" \r\n"])]
        .boxed()
}

fn before() -> Part {
    prop_oneof![20 => Just(Vec::new()), 1 => one_of(&[b"\r\n", b"\n", b"\r\n\r\n", b"\n\r\n", b"\r", b" ", b"\0"])]
        .boxed()
}

const NAMES: &[&[u8]] = &[
    b"Host",
    b"Accept",
    b"Cookie",
    b"cookie",
    b"X-A",
    b"x-a",
    b"X-a",
    b"Origin",
    b"User-Agent",
    b"Via",
    b"Set-Cookie",
    b"Date",
    b"ETag",
    b"X_Y",
    b"X.Y",
    b"Sec-WebSocket-Key",
    b"Keep-Alive",
    b"Content-Type",
    b"Content-Lengt",
    b"Content_Length",
    b"TEE",
];
const ODD_NAMES: &[&[u8]] = &[
    b"",
    b" X",
    b"X Y",
    b"X\0",
    b"X\x80",
    b"(X)",
    b"X:",
    b"!#$%&'*+-.^_`|~1",
    b"\"",
    b"Transfer-Encodin\x67",
    b"\tX",
    b"X\x7f",
    b"0",
];
const VALUES: &[&[u8]] =
    &[b"a", b"a.example:8080", b"", b"a=1; b=2", b"\"q\\\"\"", b"text/html, */*;q=0.1", b"a b\tc", b"x: y", b"1", b"0"];
const ODD_VALUES: &[&[u8]] = &[
    b"\xe9",
    b"\x80\xff",
    b"a\0",
    b"a\x7f",
    b"a\x01",
    b"a\rb",
    b"a\r\n b",
    b"a\r\n\tb",
    b"a\nb",
    b"\xf0\x9f\xa6\x80",
    b"\x0b",
    b"\r",
    b"\r\nX",
];
const COLONS: &[&[u8]] = &[b": ", b":", b":\t", b":  ", b": \t "];
const ODD_COLONS: &[&[u8]] = &[b" : ", b" :", b"\t:", b"", b"::", b":\r\n ", b"=", b":\0"];

/// A field of no meaning for the framing.
fn field() -> Part {
    let name = prop_oneof![80 => one_of(NAMES), 1 => one_of(ODD_NAMES)];
    let value = prop_oneof![60 => one_of(VALUES), 3 => one_of(ODD_VALUES), 1 => vec(any::<u8>(), 0..12)];
    let space = mostly(&[b""], &[b" ", b"\t", b" \t "]);
    line(
        name.boxed(),
        mostly(COLONS, ODD_COLONS),
        (value, space).prop_map(|(value, space)| [value, space].concat()).boxed(),
    )
}

fn line(name: Part, colon: Part, value: Part) -> Part {
    (name, colon, value, line_end()).prop_map(|(name, colon, value, end)| [name, colon, value, end].concat()).boxed()
}

/// A field that says something of the connection, or of how the message goes on.
fn about_the_connection() -> Part {
    let connections: &[&[u8]] = &[
        b"close",
        b"Close",
        b"keep-alive",
        b"Keep-Alive",
        b"keep-alive, close",
        b"close, keep-alive",
        b"TE",
        b"Upgrade",
        b"upgrade, close",
        b"\x80, close",
        b"close\x80",
        b"",
        b",",
        b"close,",
        b"\"close\"",
        b"closed",
        b" ,close",
        b"x close",
    ];
    let named = |name: &'static [&'static [u8]], values: &'static [&'static [u8]]| {
        line(one_of(name), mostly(COLONS, ODD_COLONS), one_of(values))
    };
    prop_oneof![
        6 => named(&[b"Connection", b"connection", b"CONNECTION"], connections),
        1 => named(&[b"Expect", b"eXpect"], &[b"100-continue", b"100-Continue", b"x", b""]),
        1 => named(&[b"TE", b"te", b"tE"], &[b"trailers", b"gzip", b"trailers, deflate;q=0.5", b""]),
        1 => named(&[b"Trailer", b"trailer"], &[b"X-T", b"Content-Length", b""]),
        1 => named(&[b"Upgrade", b"UPGRADE"], &[b"websocket", b"h2c", b"TLS/1.0, x/2", b""]),
        1 => named(&[b"HTTP2-Settings", b"Proxy-Connection", b"Keep-Alive"], &[b"AAMAAABkAARAAAAAAAIAAAAA", b"close", b"timeout=1"]),
    ]
    .boxed()
}

// === the length ===

/// Ways to write the length of a body; each is all lines that tell it.
const LENGTHS: &[fn(usize) -> Vec<String>] = &[
    |n| vec![format!("+{n}")],
    |n| vec![format!("-{n}")],
    |n| vec![format!("0x{n:x}")],
    |n| vec![format!("00{n}")],
    |n| vec![format!("{n:040}")],
    |n| vec![format!("{n}, {n}")],
    |n| vec![format!("{n},{}", n + 1)],
    |n| vec![n.to_string(), n.to_string()],
    |n| vec![n.to_string(), (n + 1).to_string()],
    |n| vec![(n + 1).to_string(), n.to_string()],
    |n| vec![n.to_string(), String::new()],
    |_| vec![String::new()],
    |n| vec![format!("\t {n} \t")],
    |n| vec![format!("{n}\u{b}")],
    |n| vec![format!("{n};")],
    |n| vec![format!("{n}.0")],
    |n| vec![format!("{n}e0")],
    |n| vec![format!("{n}_0")],
    |n| vec![format!("{n} 0")],
    |n| vec![format!("\"{n}\"")],
    |n| vec![format!("{n}\u{b2}")],
    |n| vec![format!("{n}\r\n 0")],
    |n| vec![format!("{}", u128::from(u64::MAX) + 1 + n as u128)],
    |n| vec![format!("{}", u64::MAX - n as u64)],
    |n| vec![format!("{}", i64::MAX as u64 + n as u64)],
    |n| vec![(n + 1).to_string()],
    |n| vec![n.saturating_sub(1).to_string()],
    |n| vec![format!("{}", n + (1 << 32))],
];

const CODINGS: &[&[u8]] = &[
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: Chunked\r\n",
    b"Transfer-Encoding:\tchunked\r\n",
    b"Transfer-Encoding : chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: chunked, gzip\r\n",
    b"Transfer-Encoding: \x0bchunked\r\n",
    b"Transfer-Encoding:\r\n",
    b"Transfer-Encoding: chunked\n",
    b"Transfer-Encodin\x00g: chunked\r\n",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n",
];

/// What a head says of a body, and the body.
#[derive(Clone, Debug)]
struct Framing {
    lines: Vec<Vec<u8>>,
    body: Vec<u8>,
}

fn framing() -> impl Strategy<Value = Framing> {
    let body = prop_oneof![
        2 => Just(Vec::new()),
        4 => one_of(&[b"hi", b"{}", b"0\r\n\r\n", b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n"]),
        2 => vec(any::<u8>(), 0..20),
    ];
    let name =
        mostly(&[b"Content-Length", b"content-length"], &[b"CONTENT-LENGTH", b"Content-Length ", b"Content-length\0"]);
    let colon = mostly(COLONS, ODD_COLONS);
    let odd = prop_oneof![5 => Just(None), 1 => select(LENGTHS).prop_map(Some)];
    let coding = prop_oneof![20 => Just(None), 1 => one_of(CODINGS).prop_map(Some)];
    let told = prop_oneof![1 => Just(false), 5 => Just(true)];
    (body, name, colon, line_end(), odd, coding, told).prop_map(|(body, name, colon, end, odd, coding, told)| {
        let values = match (told, odd) {
            (false, _) => Vec::new(),
            (true, Some(odd)) => odd(body.len()),
            (true, None) => vec![body.len().to_string()],
        };
        let lines = values.iter().map(|value| [&name[..], &colon, value.as_bytes(), &end].concat());
        Framing { lines: lines.chain(coding).collect(), body }
    })
}

// === heads ===

/// Fields in any order, sometimes near as many as are read.
fn fields() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let fill = prop_oneof![
        20 => Just(0),
        1 => 5..15_usize,
        1 => 26..36_usize,
        1 => 58..68_usize,
        1 => 95..105_usize,
    ];
    let named = prop_oneof![8 => Just(None), 1 => about_the_connection().prop_map(Some)];
    (vec(field(), 0..5), vec(named, 2), fill).prop_map(|(mut fields, named, fill)| {
        fields.extend(named.into_iter().flatten());
        fields.extend((0..fill).map(|at| format!("F{at}: x\r\n").into_bytes()));
        fields
    })
}

/// How long a head is made by a field of padding, if it is shorter.
fn length() -> impl Strategy<Value = Option<usize>> {
    let near = |bound: usize| bound - 2..bound + 3;
    prop_oneof![
        24 => Just(None),
        1 => near(300).prop_map(Some),
        1 => near(4096).prop_map(Some),
        1 => near(8192).prop_map(Some),
        1 => near(16 * 1024).prop_map(Some),
    ]
}

/// What stands behind a message.
fn behind() -> Part {
    let next: &[&[u8]] = &[
        b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"x",
        b"\r\n",
        b"\x81\x02hi",
        b"0\r\n\r\n",
    ];
    prop_oneof![5 => Just(Vec::new()), 3 => one_of(next), 1 => vec(any::<u8>(), 0..30)].boxed()
}

/// Where the lines about the length go among the others.
fn assemble(
    start: Vec<u8>,
    mut fields: Vec<Vec<u8>>,
    framing: Framing,
    at: &Index,
    (length, end, behind): (Option<usize>, Vec<u8>, Vec<u8>),
) -> Text {
    for line in framing.lines {
        let at = at.index(fields.len() + 1);
        fields.insert(at, line);
    }
    let mut all = [start, fields.concat()].concat();
    let padding = "Pad: \r\n";
    if let Some(space) = length.and_then(|length| length.checked_sub(all.len() + padding.len() + end.len())) {
        all.extend_from_slice(format!("Pad: {}\r\n", "p".repeat(space)).as_bytes());
    }
    Text([all, end, framing.body, behind].concat())
}

/// A request.
pub(crate) fn request() -> BoxedStrategy<Text> {
    let space = || mostly(&[b" "], &[b"  ", b"\t", b"", b"\r\n"]);
    let start = (before(), method(), space(), target(), space(), version(), line_end()).prop_map(
        |(before, method, gap, target, space, version, end)| {
            [before, method, gap, target, space, version, end].concat()
        },
    );
    let tail = (length(), line_end(), behind());
    (start, fields(), framing(), any::<Index>(), tail)
        .prop_map(|(start, fields, framing, at, tail)| assemble(start, fields, framing, &at, tail))
        .boxed()
}

fn status_line(codes: Part) -> impl Strategy<Value = Vec<u8>> {
    let space = || mostly(&[b" "], &[b"  ", b"\t", b""]);
    let reason = prop_oneof![
        10 => one_of(&[b"OK", b"OK", b"Not Found", b"No Content", b"Switching Protocols", b"", b"Gone Fishing"]),
        1 => one_of(&[b"\xe9", b"O\0K", b" OK", b"OK ", b"O\tK", b"O\x7fK", b"O\rK", b"ok"]),
    ];
    let before = prop_oneof![30 => Just(Vec::new()), 1 => before()];
    (before, version(), space(), codes, space(), reason, line_end()).prop_map(
        |(before, version, gap, code, space, reason, end)| [before, version, gap, code, space, reason, end].concat(),
    )
}

/// A response; nothing behind it as a rule, for what is not asked for is never taken.
pub(crate) fn response() -> BoxedStrategy<Text> {
    let usual: &[&[u8]] = &[b"200", b"200", b"404", b"204", b"304", b"500", b"302", b"205"];
    let odd: &[&[u8]] = &[
        b"100", b"101", b"103", b"199", b"206", b"299", b"599", b"600", b"999", b"099", b"20", b"2000", b"2x0", b"000",
        b"-20", b"+20", b"",
    ];
    let start = status_line(prop_oneof![8 => one_of(usual), 1 => one_of(odd)].boxed());
    let behind = prop_oneof![15 => Just(Vec::new()), 1 => behind()];
    let tail = (length(), line_end(), behind);
    (start, fields(), framing(), any::<Index>(), tail)
        .prop_map(|(start, fields, mut framing, at, tail)| {
            // As a rule these have no body; two of them whatever their length says.
            let bodiless =
                start.windows(4).any(|code| [b" 204", b" 205", b" 304"].iter().any(|bodiless| code == *bodiless));
            if bodiless && at.index(4) > 0 {
                framing.body.clear();
            }
            assemble(start, fields, framing, &at, tail)
        })
        .boxed()
}

/// The answer to a handshake.
pub(crate) fn switch() -> BoxedStrategy<Text> {
    let start = status_line(mostly(&[b"101"], &[b"100", b"102", b"200", b"1010", b"10"]));
    let fixed =
        |name: &'static [u8], values: Part| line(Just(name.to_vec()).boxed(), mostly(COLONS, ODD_COLONS), values);
    let accept = prop_oneof![30 => Just(ACCEPT.as_bytes().to_vec()), 1 => one_of(&[b"", b"x"])].boxed();
    let named = (
        fixed(b"Upgrade", mostly(&[b"websocket", b"WebSocket", b"h2c, websocket"], &[b"h2c", b""])),
        fixed(
            b"Connection",
            mostly(&[b"Upgrade", b"upgrade", b"keep-alive, Upgrade", b"upgrade, close"], &[b"close", b""]),
        ),
        fixed(b"Sec-WebSocket-Accept", accept),
    );
    let framing = prop_oneof![4 => Just(Framing { lines: Vec::new(), body: Vec::new() }), 1 => framing()];
    let tail = (length(), line_end(), behind());
    (start, named, fields(), framing, any::<Index>(), tail)
        .prop_map(|(start, (upgrade, connection, accept), mut fields, framing, at, tail)| {
            for line in [upgrade, connection, accept] {
                fields.insert(at.index(fields.len() + 1), line);
            }
            assemble(start, fields, framing, &at, tail)
        })
        .boxed()
}

// === anything ===

/// Pieces that mean something to a reader.
const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b" ",
    b"\t",
    b":",
    b",",
    b"\0",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"0",
    b"1",
    b"2",
    b"+",
    b"-",
    b"GET / HTTP/1.1\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"HTTP/1.1 204 No Content\r\n",
    b"Host: a\r\n",
    b"Content-Length: ",
    b"Content-Length: 0\r\n",
    b"Content-Length: 2\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"TE: trailers\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: websocket\r\n",
    b"X: y\r\n",
    b"hi",
];

/// Tokens at random; most begin as a message does.
pub(crate) fn soup() -> BoxedStrategy<Text> {
    let start =
        one_of(&[b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 204 \r\n", b""]);
    (start, vec(one_of(TOKENS), 0..8), one_of(&[b"\r\n", b"\n", b""]))
        .prop_map(|(start, tokens, end)| Text([start, tokens.concat(), end].concat()))
        .boxed()
}

/// Bytes at random.
pub(crate) fn noise() -> BoxedStrategy<Text> {
    vec(any::<u8>(), 0..200).prop_map(Text).boxed()
}

#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Put(Index, Vec<u8>),
    Delete(Index, usize),
    Repeat(Index, usize),
    /// The end of the other one from here on.
    Splice(Index, Index),
    ChangeCase(Index, usize),
    /// The line end behind here becomes another.
    LineEnd(Index, Vec<u8>),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    prop_oneof![
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Flip(at, byte)),
        3 => (at(), one_of(TOKENS)).prop_map(|(at, bytes)| Mutation::Put(at, bytes)),
        2 => (at(), 1..4_usize).prop_map(|(at, count)| Mutation::Delete(at, count)),
        1 => (at(), 1..40_usize).prop_map(|(at, count)| Mutation::Repeat(at, count)),
        1 => (at(), at()).prop_map(|(at, from)| Mutation::Splice(at, from)),
        2 => (at(), 1..20_usize).prop_map(|(at, count)| Mutation::ChangeCase(at, count)),
        2 => (at(), one_of(&[b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b""])).prop_map(|(at, end)| Mutation::LineEnd(at, end)),
    ]
}

fn mutate(mut bytes: Vec<u8>, other: &[u8], mutation: &Mutation) -> Vec<u8> {
    let place = |at: &Index| at.index(bytes.len() + 1);
    let run = |at: &Index, count: usize| place(at)..(place(at) + count).min(bytes.len());
    match mutation {
        Mutation::Flip(at, byte) => {
            let at = place(at);
            if let Some(found) = bytes.get_mut(at) {
                *found = *byte;
            }
        }
        Mutation::Put(at, new) => drop(bytes.splice(place(at)..place(at), new.iter().copied())),
        Mutation::Delete(at, count) => drop(bytes.drain(run(at, *count))),
        Mutation::Repeat(at, count) => {
            let run = run(at, *count);
            let again = bytes[run.clone()].to_vec();
            bytes.splice(run.end..run.end, again);
        }
        Mutation::Splice(at, from) => {
            bytes.truncate(place(at));
            bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
        }
        Mutation::ChangeCase(at, count) => {
            let run = run(at, *count);
            bytes[run].iter_mut().filter(|byte| byte.is_ascii_alphabetic()).for_each(|byte| *byte ^= 0x20);
        }
        Mutation::LineEnd(at, end) => {
            let at = place(at);
            if let Some(found) = bytes[at..].windows(2).position(|two| two == b"\r\n") {
                bytes.splice(at + found..at + found + 2, end.iter().copied());
            }
        }
    }
    bytes
}

/// Messages of this kind with something changed.
pub(crate) fn mutated(message: fn() -> BoxedStrategy<Text>) -> BoxedStrategy<Text> {
    (message(), message(), vec(mutation(), 1..3))
        .prop_map(|(Text(bytes), Text(other), mutations)| {
            Text(mutations.iter().fold(bytes, |bytes, mutation| mutate(bytes, &other, mutation)))
        })
        .boxed()
}
