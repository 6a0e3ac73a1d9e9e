//! What the backend sees of a client: everything that is the client's own, nothing that it only claims to be.

use super::house::watch_panics;
use super::raw::{self, handshake};
use super::recorder::{Recorder, Seen};
use crate::support::site::{Site, marked};

/// The ways by which a request becomes one to the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    Sse,
    Tunnel,
    Plain,
}

const WAYS: [Way; 4] = [Way::Open, Way::Sse, Way::Tunnel, Way::Plain];
const TRUSTING: &str = "trusted_proxies = [\"127.0.0.1\"]\n";

struct Stage {
    backend: Recorder,
    site: Site,
}

impl Stage {
    async fn new(config: &str) -> Self {
        watch_panics();
        let backend = Recorder::polite().await;
        let site = Site::start(backend.at, config);
        Self { backend, site }
    }

    /// What the backend is asked when a client goes this way.
    async fn seen(&self, way: Way, target: &str, headers: &[(&str, &str)]) -> Seen {
        let answer = match way {
            Way::Open => raw::ask(self.site.at, "POST", &marked(target, "open"), headers, b"").await,
            Way::Sse => {
                // With cookies it must say which page it comes from; a request that was typed comes from none.
                let headers: Vec<_> = headers.iter().copied().chain([("Sec-Fetch-Site", "none")]).collect();
                raw::ask(self.site.at, "GET", &marked(target, "sse"), &headers, b"").await
            }
            Way::Tunnel => {
                let connection = headers.iter().find(|(name, _)| *name == "Connection").map_or("", |(_, value)| value);
                let connection = format!("Upgrade, {connection}");
                let more: Vec<_> = headers.iter().copied().filter(|(name, _)| *name != "Connection").collect();
                let more: Vec<_> = more.into_iter().chain([("Connection", connection.as_str())]).collect();
                raw::ask(self.site.at, "GET", target, &handshake(&more), b"").await
            }
            Way::Plain => raw::ask(self.site.at, "GET", target, headers, b"").await,
        };
        assert_eq!(answer.status, if way == Way::Tunnel { 101 } else { 200 }, "{way:?} {target} {answer:?}");
        let mut requests = self.backend.take();
        assert_eq!(requests.len(), 1, "{way:?} {requests:?}");
        let record = self.backend.record();
        assert!(record.faults.is_empty(), "{:?}", record.faults);
        requests.remove(0)
    }
}

#[tokio::test]
async fn path_and_query_arrive_as_they_were_written() {
    let stage = Stage::new("").await;
    for target in [
        "/",
        "/chat?room=1",
        "/a%2Fb/%zz/..//x?y=%20+&&=&%00",
        "/a/../b/./c",
        "//x//",
        "/;x=1;y?;z",
        "/?",
        "/?a?b#",
        "/a'(b)*!$,@:~_-|",
        "/?q=`{}^|",
        "/%C3%A9/%ff",
        "/?lastEventId=17",
        "/?lastEventId=item-7.3",
        "/?Underpass=1&underpassx=2&xunderpass.nonce=3",
    ] {
        // A fragment never reaches a server; what is left of it here is the client's mistake.
        let sent = target.split('#').next().unwrap_or_default();
        for way in WAYS {
            let seen = stage.seen(way, target, &[]).await;
            assert!(seen.target() == sent || seen.target() == target, "{way:?}: {} for {target}", seen.target());
        }
    }
}

#[tokio::test]
async fn what_is_ours_in_the_query_stays_here() {
    let stage = Stage::new("").await;
    for (query, theirs) in [
        ("?a=1&underpass.protocols=p&b=%20", "?a=1&b=%20"),
        ("?underpass.nonce=", ""),
        ("?underpass.x=1&underpass.=2", ""),
        ("?%75nderpass.x=1&c", "?c"),
        ("?underpass%2ex=secret&c", "?c"),
        ("?underpass.x=1&&c", "?&c"),
    ] {
        for way in [Way::Open, Way::Sse] {
            // The same nonce would open nothing the second time.
            let query = query.replace("nonce=", &format!("nonce=a-nonce-for-{way:?}-it-is"));
            let seen = stage.seen(way, &format!("/t{query}"), &[]).await;
            assert_eq!(seen.target(), format!("/t{theirs}"), "{way:?} {query}");
        }
        // Without a word on what is wanted, it is nobody's.
        for headers in [vec![], handshake(&[])] {
            for method in ["GET", "POST", "HEAD", "PUT", "OPTIONS"] {
                let answer = raw::ask(stage.site.at, method, &format!("/t{query}"), &headers, b"").await;
                assert!(matches!(answer.status, 400 | 204), "{method} {query} {answer:?}");
            }
        }
        assert!(stage.backend.take().is_empty(), "{query}");
    }
    let seen = stage.seen(Way::Sse, "/t?underpass.protocols=a,b", &[]).await;
    assert_eq!(seen.field("sec-websocket-protocol").replace(' ', ""), "a,b");
}

#[tokio::test]
async fn the_clients_own_fields_arrive() {
    let stage = Stage::new("").await;
    let fields = [
        ("Host", "good.example:8443"),
        ("Origin", "https://good.example:8443"),
        ("Cookie", "a=1; b=\"x y\""),
        ("Authorization", "Bearer abc.def"),
        ("User-Agent", "tester/1.0 (x; y)"),
        ("Accept-Language", "de, en;q=0.5"),
        ("X-Custom", "1"),
        ("X-Api-Key", "k"),
        ("DNT", "1"),
        ("X-Request-Id", "r"),
        ("traceparent", "00-1-1-01"),
        ("X_Custom", "2"),
        ("X.Custom", "3"),
        ("X-Latin", "caf\u{e9}"),
    ];
    for way in WAYS {
        let seen = stage.seen(way, "/t", &fields).await;
        for (name, value) in fields {
            assert_eq!(seen.field(name), value, "{name} by {way:?}");
        }
        assert_eq!(seen.field("x-forwarded-host"), "good.example:8443", "{way:?}");
    }
    let protocols = br#"{"protocols":["chat.v2","chat.v1"]}"#;
    raw::ask(stage.site.at, "POST", "/t?underpass=open", &[], protocols).await;
    assert_eq!(stage.backend.take()[0].field("sec-websocket-protocol"), "chat.v2, chat.v1");
    let asked = [("Sec-WebSocket-Protocol", "x, y"), ("Sec-WebSocket-Extensions", "permessage-deflate")];
    let seen = stage.seen(Way::Tunnel, "/t", &asked).await;
    assert_eq!(
        (seen.field("sec-websocket-protocol").as_str(), seen.field("sec-websocket-extensions").as_str()),
        ("x, y", "permessage-deflate")
    );
}

/// Cookies and names that come on several lines are one header, as servers read it.
#[tokio::test]
async fn there_is_one_host_and_one_cookie() {
    let stage = Stage::new("").await;
    for way in WAYS {
        let seen = stage.seen(way, "/t", &[("Cookie", "a=1"), ("Cookie", "b=2")]).await;
        assert_eq!((seen.field("cookie").as_str(), seen.field("host").as_str()), ("a=1; b=2", "localhost"), "{way:?}");
    }
}

#[tokio::test]
async fn what_belongs_to_one_connection_does_not_arrive() {
    let stage = Stage::new("").await;
    let fields = [
        ("Connection", "keep-alive, X-Mine, X-Also"),
        ("X-Mine", "1"),
        ("X-Also", "2"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "x"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("Proxy-Authenticate", "x"),
        ("Proxy", "http://evil/"),
        ("TE", "gzip"),
        ("HTTP2-Settings", "AAMAAABk"),
    ];
    for way in WAYS {
        let seen = stage.seen(way, "/t", &fields).await;
        for (name, _) in &fields[1..] {
            assert!(!seen.has(name), "{name} by {way:?}: {seen:?}");
        }
        let connection = seen.field("connection").to_ascii_lowercase();
        assert_eq!(connection, if way == Way::Plain { "" } else { "upgrade" }, "{way:?}");
    }
}

/// What describes the opening request is no part of the handshake, and no extension is offered that we could not read.
#[tokio::test]
async fn a_sessions_handshake_is_an_ordinary_one() {
    let stage = Stage::new("").await;
    let fields = [
        ("Content-Type", "text/plain"),
        ("Content-Encoding", "identity"),
        ("Accept", "text/event-stream"),
        ("Cache-Control", "max-age=0"),
        ("Referer", "http://localhost/page"),
        ("Priority", "u=1, i"),
        ("Upgrade-Insecure-Requests", "1"),
        ("Sec-CH-UA", "\"x\""),
        ("X-Requested-With", "XMLHttpRequest"),
        ("Range", "bytes=0-"),
        ("If-None-Match", "x"),
        ("Last-Event-ID", "17"),
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-WebSocket-Extensions", "permessage-deflate"),
        ("Sec-WebSocket-Protocol", "evil"),
        ("Sec-WebSocket-Version", "8"),
        ("Sec-WebSocket-Key", "evil"),
        ("Sec-WebSocket-Accept", "x"),
    ];
    for way in [Way::Open, Way::Sse] {
        // A browser leaves `Origin` out of a GET to its own site, but never out of a handshake.
        let origin = if way == Way::Open { ("Origin", "http://localhost") } else { ("Accept-Language", "de") };
        let all: Vec<_> = fields.into_iter().chain([("Accept-Encoding", "gzip"), origin]).collect();
        let seen = stage.seen(way, "/t", &all).await;
        for (name, _) in fields
            .iter()
            .filter(|(name, _)| !matches!(*name, "Sec-WebSocket-Version" | "Sec-WebSocket-Key" | "Cache-Control"))
        {
            assert!(!seen.has(name), "{name} by {way:?}: {seen:?}");
        }
        assert_eq!((seen.field("sec-websocket-version").as_str(), seen.field("upgrade").as_str()), ("13", "websocket"));
        assert_eq!(seen.field("sec-websocket-key").len(), 24, "a key of ours: {seen:?}");
        assert!(!seen.has("content-length") && !seen.has("transfer-encoding"), "{seen:?}");
        assert_eq!(seen.line, "GET /t HTTP/1.1");
        // What a browser's WebSocket says of itself.
        assert_eq!((seen.field("pragma").as_str(), seen.field("cache-control").as_str()), ("no-cache", "no-cache"));
        assert_eq!(
            (seen.field("accept-encoding").as_str(), seen.field("origin").as_str()),
            ("gzip", "http://localhost")
        );
    }
}

/// Traefik CVE-2024-45410: a field named in `Connection` is dropped by the next hop, unless it matters.
#[tokio::test]
async fn connection_cannot_remove_what_matters() {
    let stage = Stage::new("").await;
    let fields = [
        (
            "Connection",
            "X-Forwarded-For, x-forwarded-host, X-Forwarded-Proto, Cookie, Host, Authorization, Origin, User-Agent",
        ),
        ("Connection", "X-Real-IP, Sec-WebSocket-Key, Sec-WebSocket-Version, Upgrade, close"),
        ("Cookie", "a=1"),
        ("Authorization", "b"),
        ("Origin", "http://localhost"),
        ("User-Agent", "u"),
    ];
    for way in [Way::Open, Way::Sse, Way::Plain] {
        let seen = stage.seen(way, "/t", &fields).await;
        for (name, value) in [
            ("Cookie", "a=1"),
            ("Authorization", "b"),
            ("Origin", "http://localhost"),
            ("User-Agent", "u"),
            ("Host", "localhost"),
            ("X-Forwarded-For", "127.0.0.1"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Host", "localhost"),
        ] {
            assert_eq!(seen.field(name), value, "{name} by {way:?}");
        }
        assert_eq!(seen.has("sec-websocket-key"), way != Way::Plain);
    }
    let seen = stage
        .seen(Way::Tunnel, "/t", &[("Connection", "Sec-WebSocket-Key, X-Forwarded-For, Cookie"), ("Cookie", "a=1")])
        .await;
    assert_eq!((seen.field("cookie").as_str(), seen.field("x-forwarded-for").as_str()), ("a=1", "127.0.0.1"));
}

/// Names that a CGI-like backend takes for the real ones.
#[tokio::test]
async fn twins_of_fields_that_matter_do_not_arrive() {
    for config in ["", TRUSTING] {
        let stage = Stage::new(config).await;
        let twins = [
            "X_Forwarded_For",
            "X.Forwarded.For",
            "X_Forwarded-For",
            "X-Forwarded_Host",
            "x_forwarded_proto",
            "X_Real_IP",
            "X.Real.IP",
            "Sec_WebSocket_Key",
            "User_Agent",
            "Content_Length",
            "Transfer_Encoding",
            "Content.Length",
            "True_Client_IP",
            "X_Forwarded_User",
        ];
        let fields = twins.map(|name| (name, "6.6.6.6"));
        for way in WAYS {
            let seen = stage.seen(way, "/t", &fields).await;
            for name in twins {
                assert!(!seen.has(name), "{name} by {way:?}: {seen:?}");
            }
        }
    }
}

const CLAIMS: &[(&str, &str)] = &[
    ("X-Forwarded-For", "6.6.6.6, 10.0.0.1"),
    ("X-Forwarded-For", "7.7.7.7"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Host", "evil.example"),
    ("X-Forwarded-Port", "666"),
    ("X-Forwarded-User", "root"),
    ("X-Forwarded-Prefix", "/x"),
    ("Forwarded", "for=6.6.6.6;host=evil.example;proto=https"),
    ("X-Real-IP", "6.6.6.6"),
    ("X-Client-IP", "6.6.6.6"),
    ("True-Client-IP", "6.6.6.6"),
    ("CF-Connecting-IP", "6.6.6.6"),
    ("X-Cluster-Client-IP", "6.6.6.6"),
];

#[tokio::test]
async fn what_an_untrusted_peer_says_of_itself_is_replaced() {
    for config in ["", "trusted_proxies = [\"10.0.0.0/8\", \"::1\", \"unix\"]\n"] {
        let stage = Stage::new(config).await;
        for way in WAYS {
            let seen = stage.seen(way, "/t", CLAIMS).await;
            assert_eq!(seen.field("x-forwarded-for"), "127.0.0.1", "{way:?}");
            assert_eq!(seen.field("x-forwarded-proto"), "http", "{way:?}");
            assert_eq!(seen.field("x-forwarded-host"), "localhost", "{way:?}");
            let text = format!("{seen:?}");
            for claim in ["6.6.6.6", "7.7.7.7", "evil", "666", "root"] {
                assert!(!text.contains(claim), "{claim} by {way:?}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_trusted_proxy_says_is_extended() {
    let stage = Stage::new(TRUSTING).await;
    for way in WAYS {
        let seen = stage.seen(way, "/t", CLAIMS).await;
        assert_eq!(seen.field("x-forwarded-for"), "6.6.6.6, 10.0.0.1, 7.7.7.7, 127.0.0.1", "{way:?}");
        assert_eq!(seen.field("x-forwarded-proto"), "https", "{way:?}");
        assert_eq!(seen.field("x-forwarded-host"), "evil.example", "{way:?}");
        assert_eq!((seen.field("x-real-ip").as_str(), seen.has("forwarded")), ("6.6.6.6", true), "{way:?}");
        assert_eq!(seen.field("host"), "localhost", "{way:?}");
    }
    // What is no value is not passed on as one.
    let junk =
        [("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "evil/../x"), ("X-Forwarded-For", "unknown, , \"x\"")];
    for way in WAYS {
        let seen = stage.seen(way, "/t", &junk).await;
        assert_eq!(
            (seen.field("x-forwarded-proto").as_str(), seen.field("x-forwarded-host").as_str()),
            ("http", "localhost"),
            "{way:?}"
        );
        assert!(seen.field("x-forwarded-for").ends_with(", 127.0.0.1"), "{way:?} {seen:?}");
    }
}
