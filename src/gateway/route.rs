//! What a request is for: one of our endpoints, or a backend.
//!
//! Enters: a request's head, the configured routes. Leaves: its [`Purpose`], a target, a route. Must not touch: bodies, the
//! network. Where we dial is the configuration's affair alone.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::PathAndQuery;
use http::{Method, Request};
use percent_encoding::percent_decode_str;

use super::injection::Told;
use crate::client;
use crate::codec::sse::parse_id;
use crate::config::{self, Config};
use crate::listener::framing::request_fault;
use crate::listener::handler::Latency;
use crate::terms::Transport;
use crate::upstream::dial::Dialer;
use crate::upstream::headers::{lost_upgrade, wants_upgrade};
use crate::upstream::proxy::Proxy;
use crate::upstream::tls::UpstreamTlsError;

/// What a request is for, as its head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Two servers could read it differently. It is refused, and the connection is closed.
    Faulty(&'static str),
    /// Its path would be under the prefix if it were decoded or normalised once more. It is refused, because boxes and
    /// backends disagree on such paths.
    Disguised,
    /// For us: its path is under the prefix.
    Endpoint(Endpoint),
    /// A WebSocket handshake for a backend. Only a GET is one (RFC 6455 section 4.1): other methods are requests like any
    /// other, which no backend must get to see as a GET.
    Tunnel,
    /// It was a WebSocket handshake when it left the client, and a box on the way has taken its `Upgrade`.
    LostUpgrade,
    /// Any other request for a backend.
    Proxied,
}

/// An endpoint under the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `open/{target}`.
    Open { target: String },
    /// `sse/{target}`: one request that opens and streams.
    Sse { target: String },
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
            Self::Open { .. } | Self::Poll | Self::Session { verb: Verb::Send | Verb::Ack | Verb::Close, .. } => {
                "POST, OPTIONS"
            }
            Self::Sse { .. } | Self::Session { .. } => "GET, OPTIONS",
            Self::Selftest(Selftest::Talk) => "GET, OPTIONS",
            Self::Info | Self::Client(_) | Self::Selftest(Selftest::Page) => "GET, HEAD, OPTIONS",
            Self::Selftest(Selftest::Seen) | Self::Unknown => "GET, POST, OPTIONS",
        }
    }

    /// Whether it takes this method.
    pub(super) fn takes(&self, method: &Method) -> bool {
        // Every method may be tried at what is not there.
        *self == Self::Unknown || self.methods().split(", ").any(|allowed| allowed == method)
    }
}

impl Purpose {
    /// The purpose of this request, where our endpoints lie under `prefix`; the self-test's when it is on.
    pub(super) fn of<B>(request: &Request<B>, prefix: &str, selftest: bool) -> Self {
        if let Some(what) = request_fault(request) {
            return Self::Faulty(what);
        }
        let path = request.uri().path();
        match path.strip_prefix(prefix) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => match Endpoint::at(rest) {
                Endpoint::Selftest(_) if !selftest => Self::Endpoint(Endpoint::Unknown),
                endpoint => Self::Endpoint(endpoint),
            },
            _ if is_disguised(path, prefix) => Self::Disguised,
            _ if request.method() != Method::GET => Self::Proxied,
            _ if wants_upgrade(request.headers(), request.version()) => Self::Tunnel,
            _ if lost_upgrade(request.headers(), request.version()) => Self::LostUpgrade,
            _ => Self::Proxied,
        }
    }

    /// How long the response may take.
    pub(super) fn latency(&self) -> Latency {
        match self {
            Self::Endpoint(Endpoint::Open { .. } | Endpoint::Sse { .. } | Endpoint::Selftest(Selftest::Talk))
            | Self::Tunnel => Latency::UntilDialled,
            Self::Endpoint(Endpoint::Session { verb: Verb::Attach(_), .. }) => Latency::UntilMessage,
            Self::Endpoint(_) | Self::Faulty(_) | Self::Disguised | Self::LostUpgrade | Self::Proxied => Latency::Short,
        }
    }
}

impl Endpoint {
    /// The endpoint at this path behind the prefix.
    fn at(path: &str) -> Self {
        let path = path.strip_prefix('/').unwrap_or_default();
        let (head, tail) = path.split_once('/').map_or((path, None), |(head, tail)| (head, Some(tail)));
        // The target keeps the slash that stands before it.
        let target = || if tail.is_some() { path[head.len()..].to_owned() } else { "/".to_owned() };
        match (head, tail) {
            ("open", _) => Self::Open { target: target() },
            ("sse", _) => Self::Sse { target: target() },
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

/// A target's query, and the parameters in it that were ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ours {
    pub(super) nonce: Option<String>,
    pub(super) protocols: Option<String>,
    /// Event ids to resume from: `underpass.after` and `lastEventId`.
    pub(super) after: Option<String>,
    pub(super) last_event_id: Option<String>,
}

/// Splits the query of `open` and `sse`: parameters whose names begin with `underpass.` are ours, and so is a
/// `lastEventId` in the form of our ids; all others reach the backend byte for byte.
pub(super) fn split_query(query: Option<&str>) -> (Option<String>, Ours) {
    let mut ours = Ours::default();
    let Some(query) = query else { return (None, ours) };
    let mut theirs = Vec::new();
    for parameter in query.split('&') {
        let (name, value) = form_urlencoded::parse(parameter.as_bytes()).next().unwrap_or_default();
        if !ours.take(&name, value) {
            theirs.push(parameter);
        }
    }
    let all_taken = theirs.is_empty();
    ((!all_taken).then(|| theirs.join("&")), ours)
}

impl Ours {
    fn take(&mut self, name: &str, value: Cow<'_, str>) -> bool {
        let place = match name {
            "underpass.nonce" => &mut self.nonce,
            "underpass.protocols" => &mut self.protocols,
            "underpass.after" => &mut self.after,
            "lastEventId" if parse_id(&value).is_some() => &mut self.last_event_id,
            name => return name.starts_with("underpass."),
        };
        *place = Some(value.into_owned());
        true
    }
}

/// The target as the backend is asked for it; `None` when it cannot be one.
pub(super) fn target(path: &str, query: Option<&str>) -> Option<PathAndQuery> {
    match query {
        Some(query) => format!("{path}?{query}").parse().ok(),
        None => path.parse().ok(),
    }
}

/// A configured backend, ready to be dialled.
pub(super) struct Backend {
    pub(super) dialer: Arc<Dialer>,
    pub(super) proxy: Proxy,
    /// Where its pages get the script: the route's path, and what was told of it.
    pub(super) inject: Option<(String, Arc<Told>)>,
}

/// The configured routes, most specific first.
pub(super) struct Routes(Vec<(config::Route, Arc<Backend>)>);

impl Routes {
    /// Prepares every backend.
    pub(super) fn new(config: &Config) -> Result<Self, UpstreamTlsError> {
        let mut routes = Vec::new();
        for route in &config.routes {
            let dialer = Arc::new(Dialer::new(&route.upstream, &config.backend)?);
            let proxy = Proxy::new(Arc::clone(&dialer), &config.backend);
            let inject = route.inject.then(|| (route.path.clone(), Arc::default()));
            routes.push((route.clone(), Arc::new(Backend { dialer, proxy, inject })));
        }
        routes.sort_by_key(|(route, _)| (route.host.is_none(), std::cmp::Reverse(route.path.len())));
        Ok(Self(routes))
    }

    /// The backend for a host (as the client wrote it, with a port perhaps) and a path.
    pub(super) fn find(&self, host: &str, path: &str) -> Option<&Arc<Backend>> {
        let host = super::origin::split_port(host).0.trim_end_matches('.');
        let fits = |route: &config::Route| {
            route.host.as_ref().is_none_or(|named| named.eq_ignore_ascii_case(host)) && is_under(path, &route.path)
        };
        self.0.iter().find(|(route, _)| fits(route)).map(|(_, backend)| backend)
    }
}

/// Whether `path` is `prefix` or lies below it, by whole segments.
fn is_under(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix.trim_end_matches('/')) else { return false };
    rest.is_empty() || rest.starts_with('/') || prefix == "/"
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
    fn endpoints_are_found_with_their_targets() {
        assert_eq!(ours("/_underpass/open/chat/a"), Endpoint::Open { target: "/chat/a".into() });
        assert_eq!(ours("/_underpass/open"), Endpoint::Open { target: "/".into() });
        assert_eq!(ours("/_underpass/open//x"), Endpoint::Open { target: "//x".into() });
        assert_eq!(ours("/_underpass/sse/clock"), Endpoint::Sse { target: "/clock".into() });
        assert_eq!(ours("/_underpass/s/n1-x/polls"), Endpoint::Poll);
        for transport in Transport::ALL {
            let path = format!("/_underpass/s/n1-x/{}", transport.as_str());
            assert_eq!(ours(&path), Endpoint::Session { token: "n1-x".into(), verb: Verb::Attach(*transport) });
        }
        assert_eq!(ours("/_underpass/info"), Endpoint::Info);
        for path in ["/_underpass", "/_underpass/", "/_underpass/s/n1-x", "/_underpass/s/n1-x/poll/", "/_underpass/x"] {
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
            ("/_underpass/open/chat", Latency::UntilDialled),
            ("/_underpass/sse/chat", Latency::UntilDialled),
            (attach.as_str(), Latency::UntilMessage),
            ("/_underpass/s/n1-x/send", Latency::Short),
            ("/_underpass/info", Latency::Short),
            ("/chat", Latency::Short),
        ] {
            assert_eq!(purpose(Request::get(path)).latency(), expected, "{path}");
        }
    }

    #[test]
    fn the_targets_query_stays_as_it_is_without_ours() {
        let (query, ours) = split_query(Some("a=%20b&underpass.nonce=abc&c&underpass.x=1&a=2"));
        assert_eq!(query.as_deref(), Some("a=%20b&c&a=2"));
        assert_eq!(ours.nonce.as_deref(), Some("abc"));
        assert_eq!(split_query(Some("underpass.after=x")).0, None);
        assert_eq!(split_query(Some("lastEventId=17")).0.as_deref(), Some("lastEventId=17"));
        let id = format!("lastEventId=n1-{}.17", "a".repeat(44));
        assert!(split_query(Some(&id)).1.last_event_id.is_some());
    }

    #[test]
    fn paths_match_by_whole_segments() {
        assert!(is_under("/chat", "/chat") && is_under("/chat/a", "/chat") && is_under("/chat/a", "/chat/"));
        assert!(is_under("/anything", "/") && is_under("*", "/"));
        assert!(!is_under("/chatter", "/chat"));
    }
}
