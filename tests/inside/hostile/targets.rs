//! Whatever a request says, we dial where the configuration says, and ask for what was asked.

use super::house::{no_panics, watch_panics};
use super::raw::{Wire, handshake, request};
use super::recorder::{Recorder, Reply, ok};
use crate::support::site::{Site, marked};

/// Our backend, another server that must never hear of us, and a sidecar.
struct Stage {
    backend: Recorder,
    evil: Recorder,
    site: Site,
}

impl Stage {
    async fn new() -> Self {
        watch_panics();
        let (backend, evil) = (Recorder::polite().await, Recorder::polite().await);
        let site = Site::start(backend.at, "");
        Self { backend, evil, site }
    }

    /// Throws bytes at the sidecar: the status, and the targets that the backend was asked for.
    async fn throw(&self, bytes: &[u8]) -> (u16, Vec<String>) {
        let bytes = String::from_utf8_lossy(bytes).replace("EVIL", &self.evil.at.to_string());
        let mut wire = Wire::open(self.site.at).await;
        wire.write(bytes.as_bytes()).await;
        let answer = wire.answer(false).await;
        let record = self.backend.record();
        assert!(record.faults.is_empty(), "{:?}", record.faults);
        assert_eq!(self.evil.connections(), 0, "{bytes:?} made us dial where it said");
        let targets = self.backend.take().iter().map(|seen| seen.target().to_owned()).collect();
        (answer.map_or(0, |answer| answer.status), targets)
    }

    /// The same target as a plain request, an upgrade, and what opens a session.
    async fn target(&self, target: &str, more: &[(&str, &str)]) -> [(u16, Vec<String>); 4] {
        [
            self.throw(&request("GET", target, more, b"")).await,
            self.throw(&request("GET", target, &handshake(more), b"")).await,
            self.throw(&request("POST", &marked(target, "open"), more, b"")).await,
            self.throw(&request("GET", &marked(target, "sse"), more, b"")).await,
        ]
    }
}

/// DNS rebinding: a page of `evil.example`, whose name leads to us all of a sudden, is of our own origin.
#[tokio::test]
async fn a_host_that_is_not_served_reaches_nothing() {
    let mut stage = Stage::new().await;
    stage.site =
        Site::start(stage.backend.at, "hosts = [\"localhost\", \"127.0.0.1\", \"[::1]\", \"*.good.example\"]\n");
    for host in
        ["evil.example", "good.example", "a.b.good.example", "localhost.evil.example", "127.0.0.1.evil", "[::2]"]
    {
        for host in [host.to_owned(), format!("{host}:8080")] {
            let origin = format!("http://{host}");
            for (status, targets) in stage.target("/chat", &[("Host", &host), ("Origin", &origin)]).await {
                assert_eq!((status, targets.len()), (421, 0), "{host}");
            }
            let (status, _) = stage.throw(&request("GET", "/_underpass/info", &[("Host", &host)], b"")).await;
            assert_eq!(status, 421, "{host}");
        }
    }
    let (status, _) = stage.throw(b"GET /_underpass/info HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, 421, "no host at all");
    // What a stranger says of another host changes nothing.
    let forwarded = [("Host", "evil.example"), ("X-Forwarded-Host", "localhost")];
    assert_eq!(stage.throw(&request("GET", "/", &forwarded, b"")).await.0, 421);
    for host in ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:8080", "[::1]:8080", "a.good.example"] {
        assert_eq!(stage.throw(&request("GET", "/", &[("Host", host)], b"")).await.0, 200, "{host}");
    }
}

#[tokio::test]
async fn paths_that_look_like_other_places_arrive_as_sent() {
    let stage = Stage::new().await;
    for target in [
        "//EVIL/",
        "///EVIL/x",
        "/@EVIL/",
        "/:80@EVIL/",
        "/http://EVIL/",
        "/http:EVIL",
        "/%2f%2fEVIL/",
        "/%2F/EVIL",
        "/..//EVIL/",
        "/../../EVIL",
        "/%2e%2e/EVIL",
        "/\\EVIL/",
        "/\\\\EVIL",
        "/%5c%5cEVIL",
        "/.EVIL",
        "/?http://EVIL/",
        "/?@EVIL",
        "/;@EVIL/",
        "/_underpassx/EVIL",
        "/_UNDERPASS/info",
        "/%255funderpass/info",
    ] {
        let sent = target.replace("EVIL", &stage.evil.at.to_string());
        let [plain, upgrade, open, sse] = stage.target(target, &[]).await;
        assert_eq!(plain, (200, vec![sent.clone()]), "{target}");
        assert_eq!(upgrade, (101, vec![sent.clone()]), "{target}");
        assert_eq!((open, sse), ((200, vec![sent.clone()]), (200, vec![sent])), "{target}");
    }
    no_panics();
}

/// What is no path at all: refused, or taken as what it is worth, but never dialled.
#[tokio::test]
async fn targets_that_are_no_paths_are_not_dialled() {
    let stage = Stage::new().await;
    for target in [
        "@EVIL/",
        "http:EVIL",
        "EVIL",
        "EVIL/x",
        "evil",
        "\\EVIL",
        "?x",
        "http:///x",
        "://EVIL/",
        "*",
        "http://user@EVIL/",
    ] {
        for [bytes, upgrade] in [[request("GET", target, &[], b""), request("GET", target, &handshake(&[]), b"")]] {
            for bytes in [bytes, upgrade] {
                let (status, targets) = stage.throw(&bytes).await;
                assert!(matches!(status, 0 | 101 | 200 | 400 | 404), "{target}: {status}");
                assert!(targets.iter().all(|seen| seen.starts_with(['/', '*'])), "{target}: {targets:?}");
            }
        }
        for (method, mark) in [("POST", "open"), ("GET", "sse")] {
            let (status, targets) = stage.throw(&request(method, &marked(target, mark), &[], b"")).await;
            assert!(targets.iter().all(|seen| seen.starts_with(['/', '*'])), "{mark} {target}: {status} {targets:?}");
        }
    }
}

#[tokio::test]
async fn absolute_targets_and_other_hosts_only_name_the_host() {
    let stage = Stage::new().await;
    let host = stage.evil.at.to_string();
    let named = [("Host", host.as_str())];
    for (target, path) in [
        ("http://EVIL/x?y", "/x?y"),
        ("http://EVIL", "/"),
        ("https://EVIL/x", "/x"),
        ("HTTP://EVIL/x", "/x"),
        ("ws://EVIL/x", "/x"),
        ("gopher://EVIL/x", "/x"),
    ] {
        for (bytes, status) in
            [(request("GET", target, &named, b""), 200), (request("GET", target, &handshake(&named), b""), 101)]
        {
            let (got, targets) = stage.throw(&bytes).await;
            assert_eq!((got, targets), (status, vec![path.to_owned()]), "{target}");
        }
    }
    let (status, targets) = stage.throw(&request("POST", "http://EVIL/x?underpass=open", &named, b"")).await;
    assert_eq!((status, targets), (200, vec!["/x".to_owned()]));
    // One that differs from `Host` could mean either.
    for target in ["http://EVIL/x", "http://user@EVIL/x", "http://EVIL:80/x"] {
        assert_eq!(
            stage.throw(&request("GET", target, &[("Host", "localhost")], b"")).await,
            (400, vec![]),
            "{target}"
        );
    }
    for target in stage.target("/x", &named).await {
        assert_eq!(target.1, ["/x"]);
    }
}

#[tokio::test]
async fn headers_that_name_other_places_change_nothing() {
    let stage = Stage::new().await;
    let evil = stage.evil.at.to_string();
    let (url, forwarded) = (format!("http://{evil}/"), format!("host=\"{evil}\";proto=http"));
    for header in [
        ("X-Forwarded-Host", evil.as_str()),
        ("X-Forwarded-Server", &evil),
        ("X-Host", &evil),
        ("X-Original-URL", &url),
        ("X-Rewrite-URL", &url),
        ("Forwarded", &forwarded),
        ("Location", &url),
        ("Destination", &url),
        ("X-HTTP-Host-Override", &evil),
        ("Alt-Svc", &evil),
        ("Via", &evil),
        ("Origin", "http://localhost"),
        ("Referer", &url),
        ("X-Backend", &evil),
        ("X-Upstream", &evil),
        ("X-Accel-Redirect", &url),
    ] {
        for (status, targets) in stage.target("/x", &[header]).await {
            assert!(matches!(status, 200 | 101), "{header:?}: {status}");
            assert_eq!(targets, ["/x"], "{header:?}");
        }
    }
    for target in ["EVIL", "http://EVIL/", "/x", "//EVIL"] {
        let bytes = format!("CONNECT {target} HTTP/1.1\r\nHost: EVIL\r\n\r\n");
        let (status, targets) = stage.throw(bytes.as_bytes()).await;
        assert!(matches!(status, 400 | 405), "CONNECT {target}: {status}");
        assert!(targets.is_empty(), "CONNECT {target}: {targets:?}");
    }
}

/// A prefix that another box or the backend could see where we do not.
#[tokio::test]
async fn disguised_prefixes_are_refused() {
    let stage = Stage::new().await;
    for path in [
        "//_underpass/info",
        "/./_underpass/info",
        "/a/../_underpass/info",
        "/a/%2e%2e/_underpass/info",
        "/a/%2E./_underpass/info",
        "/%5funderpass/info",
        "/%5Funderpass/info",
        "/_%75nderpass/info",
        "/_underpass%2finfo",
        "/_underpass%2Finfo",
        "/_underpass;x/info",
        "/a/..;/_underpass/info",
        "/a/..;x=1/_underpass/info",
        "/;/_underpass/info",
        "/\\_underpass/info",
        "/_underpass\\info",
        "/%5c_underpass/info",
        "/..//../_underpass/info",
        "/%2f_underpass/info",
        "/_underpass%00/../_underpass/info",
        "/_underpass%3bx/info",
        "/%5funderpass/s/x/poll",
        "/%5funderpass/open/x",
        "/%5f%75%6e%64%65%72%70%61%73%73",
    ] {
        for bytes in [
            request("GET", path, &[], b""),
            request("POST", path, &[], b""),
            request("GET", path, &handshake(&[]), b""),
            request("GET", &format!("http://localhost{path}"), &[], b""),
        ] {
            assert_eq!(stage.throw(&bytes).await, (400, vec![]), "{path}");
        }
    }
    assert_eq!(stage.backend.connections(), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    watch_panics();
    let evil = Recorder::polite().await;
    let to = evil.at;
    let backend = Recorder::start(move |_| {
        Reply::now(format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: http://{to}/x\r\nContent-Length: 0\r\n\r\n"))
    })
    .await;
    let stage = Stage { site: Site::start(backend.at, ""), backend, evil };
    let [plain, upgrade, open, sse] = stage.target("/x", &[]).await;
    assert_eq!((plain.0, upgrade.0, open.0, sse.0), (307, 307, 502, 200));
    let _ = ok("");
}
