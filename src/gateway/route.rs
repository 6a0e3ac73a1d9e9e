//! What a request is for: one of our endpoints, or a backend.
//!
//! Enters: path and query as received, the configured routes. Leaves: an [`Endpoint`], a target, a route. Must not
//! touch: methods, headers, the network. Where we dial is the configuration's affair alone.

use std::borrow::Cow;
use std::sync::Arc;

use http::uri::PathAndQuery;
use percent_encoding::percent_decode_str;

use super::injection::Told;
use crate::client;
use crate::codec::sse::parse_id;
use crate::config::{self, Config};
use crate::terms::Transport;
use crate::upstream::dial::Dialer;
use crate::upstream::proxy::Proxy;
use crate::upstream::tls::UpstreamTlsError;

/// An endpoint under the prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Endpoint<'a> {
    /// `open/{target}`.
    Open { target: &'a str },
    /// `sse/{target}`: one request that opens and streams.
    Sse { target: &'a str },
    /// `s/{token}/{verb}`.
    Session { token: &'a str, verb: Verb },
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

impl Endpoint<'_> {
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
}

/// How a path lies to the prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    /// Under it.
    Ours(Endpoint<'a>),
    /// It would be under it if it were decoded or normalised once more: refused, since boxes and backends disagree on it.
    Ambiguous,
    /// Elsewhere.
    Beside,
}

/// Finds the endpoint of a path.
pub(super) fn place<'a>(path: &'a str, prefix: &str) -> Place<'a> {
    match path.strip_prefix(prefix) {
        Some("") => Place::Ours(Endpoint::Unknown),
        Some(rest) if rest.starts_with('/') => Place::Ours(endpoint(&rest[1..])),
        _ if is_disguised(path, prefix) => Place::Ambiguous,
        _ => Place::Beside,
    }
}

fn endpoint(rest: &str) -> Endpoint<'_> {
    let (head, tail) = rest.split_once('/').map_or((rest, None), |(head, tail)| (head, Some(tail)));
    // The target keeps the slash that stands before it.
    let target = || if tail.is_some() { &rest[head.len()..] } else { "/" };
    match (head, tail) {
        ("open", _) => Endpoint::Open { target: target() },
        ("sse", _) => Endpoint::Sse { target: target() },
        ("s", Some(tail)) => session(tail),
        ("info", None) => Endpoint::Info,
        ("poll", None) => Endpoint::Poll,
        ("selftest", None) => Endpoint::Selftest(Selftest::Page),
        ("selftest", Some("seen")) => Endpoint::Selftest(Selftest::Seen),
        ("selftest", Some("talk")) => Endpoint::Selftest(Selftest::Talk),
        (name, None) => client::File::named(name).map_or(Endpoint::Unknown, Endpoint::Client),
        _ => Endpoint::Unknown,
    }
}

fn session(tail: &str) -> Endpoint<'_> {
    let Some((token, verb)) = tail.split_once('/') else { return Endpoint::Unknown };
    let verb = match verb {
        "send" => Verb::Send,
        "ack" => Verb::Ack,
        "close" => Verb::Close,
        // The poll for several, by the path of one of them, so that a balancer finds their node.
        "polls" => return Endpoint::Poll,
        word => match Transport::named(word) {
            Some(transport) => Verb::Attach(transport),
            None => return Endpoint::Unknown,
        },
    };
    Endpoint::Session { token, verb }
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
    use super::*;

    const PREFIX: &str = "/_underpass";

    fn ours(path: &str) -> Endpoint<'_> {
        match place(path, PREFIX) {
            Place::Ours(endpoint) => endpoint,
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn endpoints_are_found_with_their_targets() {
        assert_eq!(ours("/_underpass/open/chat/a"), Endpoint::Open { target: "/chat/a" });
        assert_eq!(ours("/_underpass/open"), Endpoint::Open { target: "/" });
        assert_eq!(ours("/_underpass/open//x"), Endpoint::Open { target: "//x" });
        assert_eq!(ours("/_underpass/sse/clock"), Endpoint::Sse { target: "/clock" });
        assert_eq!(ours("/_underpass/s/n1-x/polls"), Endpoint::Poll);
        for transport in Transport::ALL {
            let path = format!("/_underpass/s/n1-x/{}", transport.as_str());
            assert_eq!(ours(&path), Endpoint::Session { token: "n1-x", verb: Verb::Attach(*transport) });
        }
        assert_eq!(ours("/_underpass/info"), Endpoint::Info);
        for path in ["/_underpass", "/_underpass/", "/_underpass/s/n1-x", "/_underpass/s/n1-x/poll/", "/_underpass/x"] {
            assert_eq!(ours(path), Endpoint::Unknown, "{path}");
        }
    }

    #[test]
    fn disguised_prefixes_are_ambiguous_and_others_beside() {
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
            assert_eq!(place(path, PREFIX), Place::Ambiguous, "{path}");
        }
        for path in ["/", "/_underpassx", "/a//b", "/%41", "/x/_underpass", "/..//..", "*"] {
            assert_eq!(place(path, PREFIX), Place::Beside, "{path}");
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
