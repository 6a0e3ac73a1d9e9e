//! What a request is for: one of our endpoints, or a backend.
//!
//! Enters: a request's head. Leaves: its [`Purpose`]. Must not touch: bodies, the network, which backend it is for.

use http::{HeaderValue, Method, Request};
use percent_encoding::percent_decode_str;

use super::target::Mark;
use crate::client;
use crate::listener::framing::request_fault;
use crate::listener::handler::{Latency, OutOfMemory};
use crate::terms::Transport;
use crate::upstream::headers::{lost_upgrade, wants_upgrade};

/// What a request is for, as its head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Two servers could read it differently. It is refused, and the connection is closed.
    Faulty(&'static str),
    /// There is no memory for it.
    Unaffordable,
    /// It is for a host that is not served here.
    Misdirected,
    /// A TRACE for a backend, which would answer with the request's own credentials.
    Untraceable,
    /// Its path would be under the prefix if it were decoded or normalised once more. It is refused, because boxes and
    /// backends disagree on such paths.
    Disguised,
    /// For us: its path is under the prefix, or its query says so.
    Endpoint(Endpoint),
    /// A WebSocket handshake for a backend. Only a GET is one (RFC 6455 section 4.1): other methods are requests like any
    /// other, which no backend must get to see as a GET.
    Tunnel,
    /// It was a WebSocket handshake when it left the client, and a box on the way has taken its `Upgrade`.
    LostUpgrade,
    /// A handshake of another protocol, which its route passes.
    Switch(HeaderValue),
    /// Any other request for a backend.
    Proxied,
}

/// An endpoint: a path under the prefix, or a mark in the query of a WebSocket's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `?underpass=open` at the path of a WebSocket.
    Open,
    /// `?underpass=sse` there: one request that opens and streams.
    Sse,
    /// A parameter of ours that says neither.
    Unclear,
    /// `s/{token}/{verb}`.
    Session { token: String, verb: Verb },
    /// `poll`: of several sessions.
    Poll,
    /// `info`.
    Info,
    /// `client.js` and its kin.
    Client(client::File),
    /// `selftest` and what it needs; unknown when it is off.
    Selftest(Selftest),
    /// Under the prefix, but none of them.
    Unknown,
}

/// The parts of the self-test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Selftest {
    /// `selftest`: the page.
    Page,
    /// `selftest/seen`: what arrived of a request.
    Seen,
    /// `selftest/talk`: a WebSocket that we answer ourselves.
    Talk,
}

/// What is done with a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// The word is the transport's: `sse`, `ws`.
    Attach(Transport),
    /// `send`.
    Send,
    /// `ack`.
    Ack,
    /// `close`.
    Close,
}

impl Endpoint {
    /// The methods it takes, as `Allow` lists them. `OPTIONS` is for preflight.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Open | Self::Poll | Self::Session { verb: Verb::Send | Verb::Ack | Verb::Close, .. } => {
                "POST, OPTIONS"
            }
            Self::Sse | Self::Session { .. } => "GET, OPTIONS",
            Self::Selftest(Selftest::Talk) => "GET, OPTIONS",
            Self::Info | Self::Client(_) | Self::Selftest(Selftest::Page) => "GET, HEAD, OPTIONS",
            Self::Selftest(Selftest::Seen) | Self::Unclear | Self::Unknown => "GET, POST, OPTIONS",
        }
    }

    /// Whether it takes this method.
    pub(super) fn takes(&self, method: &Method) -> bool {
        // Every method may be tried at what is not there.
        matches!(self, Self::Unclear | Self::Unknown) || self.methods().split(", ").any(|allowed| allowed == method)
    }
}

impl Purpose {
    /// Whether its path is one of the backend's: no token of ours is in it.
    pub(super) fn is_at_target(&self) -> bool {
        let opens = |endpoint: &Endpoint| matches!(endpoint, Endpoint::Open | Endpoint::Sse);
        matches!(self, Self::Proxied | Self::Tunnel | Self::Switch(_))
            || matches!(self, Self::Endpoint(endpoint) if opens(endpoint))
    }

    /// The purpose of this request, where our endpoints lie under `prefix`; the self-test's when it is on.
    pub(super) fn of<B>(request: &Request<B>, prefix: &str, selftest: bool) -> Self {
        if request.extensions().get::<OutOfMemory>().is_some() {
            return Self::Unaffordable;
        }
        if let Some(what) = request_fault(request) {
            return Self::Faulty(what);
        }
        let path = request.uri().path();
        let mark = Mark::of(request.uri().query());
        match path.strip_prefix(prefix) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                Self::Endpoint(match (Endpoint::at(rest), mark) {
                    (Endpoint::Selftest(_), _) if !selftest => Endpoint::Unknown,
                    (Endpoint::Selftest(Selftest::Talk), Some(mark)) => Endpoint::marked(mark),
                    (endpoint, _) => endpoint,
                })
            }
            _ if is_disguised(path, prefix) => Self::Disguised,
            _ if let Some(mark) = mark => Self::Endpoint(Endpoint::marked(mark)),
            _ if request.method() == Method::TRACE => Self::Untraceable,
            _ if request.method() != Method::GET => Self::Proxied,
            _ if wants_upgrade(request.headers(), request.version()) => Self::Tunnel,
            _ if lost_upgrade(request.headers(), request.version()) => Self::LostUpgrade,
            _ => Self::Proxied,
        }
    }

    /// How long the response may take.
    pub(super) fn latency(&self) -> Latency {
        match self {
            Self::Endpoint(Endpoint::Open | Endpoint::Sse | Endpoint::Selftest(Selftest::Talk))
            | Self::Tunnel
            | Self::Switch(_) => Latency::UntilDialled,
            Self::Endpoint(Endpoint::Session { verb: Verb::Attach(_), .. }) => Latency::UntilMessage,
            Self::Endpoint(_) | Self::LostUpgrade | Self::Proxied => Latency::Short,
            Self::Faulty(_) | Self::Unaffordable | Self::Misdirected | Self::Untraceable | Self::Disguised => {
                Latency::Short
            }
        }
    }
}

impl Endpoint {
    /// The endpoint at this path behind the prefix.
    fn at(path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or_default();
        let (head, tail) = path.split_once('/').map_or((path, None), |(head, tail)| (head, Some(tail)));
        match (head, tail) {
            ("s", Some(tail)) => Self::of_session(tail),
            ("info", None) => Self::Info,
            ("poll", None) => Self::Poll,
            ("selftest", None) => Self::Selftest(Selftest::Page),
            ("selftest", Some("seen")) => Self::Selftest(Selftest::Seen),
            ("selftest", Some("talk")) => Self::Selftest(Selftest::Talk),
            (name, None) => client::File::named(name).map_or(Self::Unknown, Self::Client),
            _ => Self::Unknown,
        }
    }

    /// The endpoint of a marked query.
    fn marked(mark: Mark) -> Self {
        match mark {
            Mark::Open => Self::Open,
            Mark::Sse => Self::Sse,
            Mark::Unclear => Self::Unclear,
        }
    }

    fn of_session(tail: &str) -> Self {
        let Some((token, verb)) = tail.split_once('/') else { return Self::Unknown };
        let verb = match verb {
            "send" => Verb::Send,
            "ack" => Verb::Ack,
            "close" => Verb::Close,
            // The poll for several, by the path of one of them, so that a balancer finds their node.
            "polls" => return Self::Poll,
            word => match Transport::named(word) {
                Some(transport) => Verb::Attach(transport),
                None => return Self::Unknown,
            },
        };
        Self::Session { token: token.to_owned(), verb }
    }

    /// Whether it opens a session, at the path of a WebSocket.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self, Self::Open | Self::Sse | Self::Unclear)
    }

    /// Whether pages of any origin may ask for it: public, and asked for by script tags, which do not say their origin, or
    /// by a link in a mail.
    pub(super) fn is_public(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Selftest(Selftest::Page))
    }
}

/// True when decoding, empty segments or dot segments lead under the prefix.
fn is_disguised(path: &str, prefix: &str) -> bool {
    let told_by = |byte: &u8| matches!(byte, b'%' | b'\\' | b';');
    if !path.as_bytes().iter().any(told_by) && !path.as_bytes().windows(2).any(|two| matches!(two, b"//" | b"/.")) {
        return false;
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy().replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in decoded.split('/').map(|segment| segment.split(';').next().unwrap_or_default()) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let normal = format!("/{}", segments.join("/"));
    normal.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use http::request::Builder;

    use super::*;

    const PREFIX: &str = "/_underpass";

    fn ours(path: &str) -> Endpoint {
        match purpose(Request::get(path)) {
            Purpose::Endpoint(endpoint) => endpoint,
            other => panic!("{path} is {other:?}"),
        }
    }

    fn purpose(request: Builder) -> Purpose {
        Purpose::of(&request.header("host", "app.example").body(()).expect("a request"), PREFIX, true)
    }

    #[test]
    fn endpoints_are_found_by_path_and_by_mark() {
        assert_eq!(ours("/chat/a?room=1&underpass=open"), Endpoint::Open);
        assert_eq!(ours("/?underpass=sse"), Endpoint::Sse);
        assert_eq!(ours("/chat?underpass.nonce=x"), Endpoint::Unclear);
        assert_eq!(ours("/_underpass/selftest/talk?underpass=open"), Endpoint::Open);
        assert_eq!(ours("/_underpass/info?underpass=open"), Endpoint::Info);
        assert_eq!(ours("/_underpass/s/n1-x/polls"), Endpoint::Poll);
        for transport in Transport::ALL {
            let path = format!("/_underpass/s/n1-x/{}", transport.as_str());
            assert_eq!(ours(&path), Endpoint::Session { token: "n1-x".into(), verb: Verb::Attach(*transport) });
        }
        assert_eq!(ours("/_underpass/info"), Endpoint::Info);
        for path in [
            "/_underpass",
            "/_underpass/",
            "/_underpass/s/n1-x",
            "/_underpass/s/n1-x/poll/",
            "/_underpass/x",
            "/_underpass/open/chat",
        ] {
            assert_eq!(ours(path), Endpoint::Unknown, "{path}");
        }
    }

    #[test]
    fn paths_that_lead_under_the_prefix_when_they_are_normalised_are_disguised() {
        for path in [
            "/%5funderpass/info",
            "//_underpass/info",
            "/a/../_underpass/info",
            "/./_underpass",
            "/a/..;/_underpass/x",
            "/a/%2e%2e/_underpass/x",
            "/\\_underpass/info",
            "/_underpass;x/info",
        ] {
            assert!(is_disguised(path, PREFIX), "{path}");
        }
        assert_eq!(purpose(Request::get("//_underpass/info")), Purpose::Disguised);
        for path in ["/", "/_underpassx", "/a//b", "/%41", "/x/_underpass", "/..//..", "*"] {
            assert!(!is_disguised(path, PREFIX), "{path}");
            assert_eq!(purpose(Request::get(path)), Purpose::Proxied, "{path}");
        }
    }

    #[test]
    fn only_a_get_that_asks_for_an_upgrade_is_a_tunnel() {
        let handshake = |method: &str| {
            let request = Request::builder().method(method).uri("/chat").header("sec-websocket-key", "x");
            request.header("upgrade", "websocket").header("connection", "Upgrade")
        };
        assert_eq!(purpose(handshake("GET")), Purpose::Tunnel);
        assert_eq!(purpose(handshake("POST")), Purpose::Proxied);
        assert_eq!(purpose(handshake("GET").uri("/chat?underpass=sse")), Purpose::Endpoint(Endpoint::Sse));
        let lost = Request::get("/chat").header("sec-websocket-key", "x");
        assert_eq!(purpose(lost), Purpose::LostUpgrade);
    }

    #[test]
    fn what_two_servers_could_read_differently_is_faulty_wherever_it_leads() {
        for path in ["/", "/_underpass/info"] {
            assert!(matches!(purpose(Request::get(path).header("host", "other")), Purpose::Faulty(_)), "{path}");
        }
    }

    #[test]
    fn the_self_test_is_there_only_when_it_is_on() {
        let request = Request::get("/_underpass/selftest").header("host", "a").body(()).expect("a request");
        assert_eq!(Purpose::of(&request, PREFIX, false), Purpose::Endpoint(Endpoint::Unknown));
        assert_eq!(ours("/_underpass/selftest"), Endpoint::Selftest(Selftest::Page));
    }

    #[test]
    fn what_waits_is_known_from_the_head() {
        let attach = format!("/_underpass/s/n1-x/{}", Transport::Poll.as_str());
        for (path, expected) in [
            ("/chat?underpass=open", Latency::UntilDialled),
            ("/chat?underpass=sse", Latency::UntilDialled),
            (attach.as_str(), Latency::UntilMessage),
            ("/_underpass/s/n1-x/send", Latency::Short),
            ("/_underpass/info", Latency::Short),
            ("/chat", Latency::Short),
        ] {
            assert_eq!(purpose(Request::get(path)).latency(), expected, "{path}");
        }
    }
}
