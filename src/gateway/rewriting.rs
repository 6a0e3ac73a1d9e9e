//! What a backend gets to see otherwise than its clients have written it, and the way back.
//!
//! Enters: the head of a request on its way to a backend; the head of the answer. Leaves: both as the other side is to have
//! them. Must not touch: where we dial, bodies, requests on routes that ask for none of this.
//!
//! A path is a text here, and a prefix is put before it or taken away as it stands. So that nobody leaves a prefix that is
//! put before all paths, one that climbs (`..`, however it is written) is refused where paths are changed.

use bytes::Bytes;
use http::header::{HOST, LOCATION, ORIGIN, SET_COOKIE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use super::target::is_under;
use crate::config;
use crate::listener::peer::Peer;

/// How the requests of a route are written anew.
pub(super) struct Rewriting {
    /// The path that is taken away; empty for nothing.
    strip: String,
    /// What is put before what is left; empty for nothing.
    add: String,
    host: Option<HeaderValue>,
    origin: Option<HeaderValue>,
    /// The scheme that the backend is asked by.
    scheme: &'static str,
}

impl Rewriting {
    /// For a route; `None` where everything stays as it is.
    pub(super) fn of(route: &config::Route) -> Option<Self> {
        let config::Rewriting { strip, add, host, origin } = &route.rewriting;
        let strip = if *strip { route.path.trim_end_matches('/').to_owned() } else { String::new() };
        let value = |text: &Option<String>| text.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
        let (host, origin) = (value(host), value(origin));
        if strip.is_empty() && add.is_empty() && host.is_none() && origin.is_none() {
            return None;
        }
        let scheme = if route.upstream.tls.is_some() { "https" } else { "http" };
        Some(Self { strip, add: add.clone(), host, origin, scheme })
    }

    /// What is taken away, for the backend's knowledge.
    pub(super) fn stripped(&self) -> &str {
        &self.strip
    }

    /// The target as the backend gets it; what is wrong with it, if that cannot be.
    pub(super) fn target(&self, target: &PathAndQuery) -> Result<PathAndQuery, &'static str> {
        if (self.strip.is_empty() && self.add.is_empty()) || !target.path().starts_with('/') {
            return Ok(target.clone());
        }
        if climbs(target.path()) {
            return Err("the path has a `..` segment: write it without");
        }
        self.changed(target.as_str()).parse().map_err(|_| "the path cannot be sent to the backend")
    }

    /// The same of a target that was written otherwise than a URI is.
    pub(super) fn as_written(&self, target: &Bytes) -> Bytes {
        std::str::from_utf8(target).map_or_else(|_| target.clone(), |target| self.changed(target).into())
    }

    fn changed(&self, target: &str) -> String {
        let (path, query) = target.split_at(target.find('?').unwrap_or(target.len()));
        let rest = path.strip_prefix(self.strip.as_str()).unwrap_or(path);
        let slash = if self.add.is_empty() && rest.is_empty() { "/" } else { "" };
        format!("{}{rest}{slash}{query}", self.add)
    }

    /// `Host` as the backend gets it, where it is not the client's.
    pub(super) fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Writes a request's target, `Host` and `Origin` anew. Its target must be in origin form.
    pub(super) fn request(&self, uri: &mut Uri, headers: &mut HeaderMap) -> Result<(), &'static str> {
        if let Some(target) = uri.path_and_query() {
            *uri = Uri::from(self.target(target)?);
        }
        if let Some(host) = &self.host {
            headers.insert(HOST, host.clone());
        }
        self.origin(headers);
        Ok(())
    }

    /// Writes `Origin` anew, where there is one.
    pub(super) fn origin(&self, headers: &mut HeaderMap) {
        if let (Some(origin), true) = (&self.origin, headers.contains_key(ORIGIN)) {
            headers.insert(ORIGIN, origin.clone());
        }
    }

    /// Writes the addresses in an answer anew, as its client knows them: `Location`, and the paths of cookies. `host` is
    /// the one that the backend was asked by.
    pub(super) fn answer(&self, headers: &mut HeaderMap, host: &str, peer: &Peer) {
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        if let Some(location) = location.and_then(|location| self.location(location, host, peer))
            && let Ok(location) = HeaderValue::from_str(&location)
        {
            headers.insert(LOCATION, location);
        }
        if self.strip.is_empty() && self.add.is_empty() {
            return;
        }
        if let http::header::Entry::Occupied(mut cookies) = headers.entry(SET_COOKIE) {
            for cookie in cookies.iter_mut() {
                let text = cookie.to_str().ok().and_then(|text| self.cookie(text));
                if let Some(text) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
                    *cookie = text;
                }
            }
        }
    }

    fn location(&self, location: &str, host: &str, peer: &Peer) -> Option<String> {
        if location.starts_with('/') && !location.starts_with("//") {
            return self.outward(location);
        }
        let (scheme, rest) = location.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let is_web = ["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
        if !is_web || !authority.eq_ignore_ascii_case(host) {
            return None;
        }
        let outward = self.outward(path);
        let path = outward.as_deref().unwrap_or(if path.is_empty() { "/" } else { path });
        match self.host {
            None => outward.as_deref().map(|path| format!("{scheme}://{authority}{path}")),
            // What the backend believes to be its own address; by another scheme it means that scheme.
            Some(_) if scheme.eq_ignore_ascii_case(self.scheme) => Some(path.to_owned()),
            Some(_) => Some(format!("{scheme}://{}{path}", peer.host)),
        }
    }

    /// A path of the backend as clients know it; `None` where it is the same, or the backend knew that already.
    fn outward(&self, path: &str) -> Option<String> {
        let end = path.find(['?', '#']).unwrap_or(path.len());
        if (self.strip.is_empty() && self.add.is_empty()) || !is_under(&path[..end], &self.add) {
            return None;
        }
        if self.add.is_empty() && is_under(&path[..end], &self.strip) {
            return None;
        }
        let outward = format!("{}{}", self.strip, &path[self.add.len()..]);
        Some(if outward.starts_with('/') { outward } else { format!("/{outward}") })
    }

    /// A cookie for the paths that its client knows. One for all paths stays so.
    fn cookie(&self, cookie: &str) -> Option<String> {
        let mut changed = false;
        let parts: Vec<String> = cookie
            .split(';')
            .enumerate()
            .map(|(at, part)| {
                let Some((name, path)) = part.split_once('=') else { return part.to_owned() };
                if at == 0 || !name.trim().eq_ignore_ascii_case("path") || path.trim() == "/" {
                    return part.to_owned();
                }
                let Some(outward) = self.outward(path.trim()) else { return part.to_owned() };
                changed = true;
                format!("{name}={outward}")
            })
            .collect();
        changed.then(|| parts.join(";"))
    }
}

/// Whether a segment of this path is `..`, as it is or decoded.
fn climbs(path: &str) -> bool {
    if !path.contains("..") && !path.contains('%') {
        return false;
    }
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    decoded.split(['/', '\\']).any(|segment| segment.split(';').next() == Some(".."))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Config;
    use crate::listener::peer::{ConnInfo, PeerAddr};

    fn rewriting(keys: &str) -> Rewriting {
        let text = format!("listen = \"127.0.0.1:0\"\n[[route]]\n{keys}\n");
        let config = Config::parse(text, "f").unwrap_or_else(|errors| panic!("{errors}"));
        Rewriting::of(&config.routes[0]).expect("it rewrites")
    }

    fn peer() -> Peer {
        let conn = ConnInfo { peer: PeerAddr::Unix, tls: true, certificate: None, bytes: Arc::default() };
        let host = HeaderMap::from_iter([(HOST, HeaderValue::from_static("front.example"))]);
        Peer::of(&conn, &host, None, &config::Trusted::default())
    }

    #[test]
    fn a_route_without_its_keys_changes_nothing() {
        let config = Config::parse("listen = \"127.0.0.1:0\"\nupstream = \"ws://a/\"", "f").expect("sound");
        assert!(Rewriting::of(&config.routes[0]).is_none());
    }

    #[test]
    fn paths_lose_the_route_and_gain_the_upstreams() {
        let table = [
            ("path = \"/app\"\nupstream = \"ws://b\"\nstrip_path = true", "/app/x?q=/app", "/x?q=/app"),
            ("path = \"/app\"\nupstream = \"ws://b\"\nstrip_path = true", "/app", "/"),
            ("path = \"/app\"\nupstream = \"ws://b\"\nstrip_path = true", "/app?x", "/?x"),
            ("path = \"/app\"\nupstream = \"ws://b/base/\"\nstrip_path = true", "/app/x", "/base/x"),
            ("path = \"/app\"\nupstream = \"ws://b/base\"\nstrip_path = true", "/app", "/base"),
            ("path = \"/app\"\nupstream = \"ws://b/base\"\nstrip_path = true", "/app/", "/base/"),
            ("upstream = \"ws://b/base\"", "/app/x", "/base/app/x"),
            ("upstream = \"unix:/b\"\nadd_path = \"/base\"", "/%2e/x", "/base/%2e/x"),
            ("upstream = \"ws://b\"\nsend_host = \"b\"", "/a/../b", "/a/../b"),
        ];
        for (keys, from, to) in table {
            let target = rewriting(keys).target(&from.parse().expect("a target"));
            assert_eq!(target.map(|target| target.to_string()).as_deref(), Ok(to), "{keys} {from}");
        }
    }

    #[test]
    fn nobody_climbs_out_of_a_prefix() {
        let base = rewriting("upstream = \"ws://b/base\"");
        for path in ["/../x", "/a/..", "/%2e%2e/x", "/a/.%2E/x", "/a%2f..%2fx", "/..;a/x", "/a/..%5cx"] {
            assert!(base.target(&path.parse().expect("a target")).is_err(), "{path}");
        }
        for path in ["/..a", "/a..", "/...", "/a?../b", "/%2e"] {
            assert!(base.target(&path.parse().expect("a target")).is_ok(), "{path}");
        }
    }

    #[test]
    fn redirects_and_cookies_lead_where_the_client_is() {
        let app = "path = \"/app\"\nupstream = \"ws://b/base\"\nstrip_path = true";
        let stripped = "path = \"/app\"\nupstream = \"ws://b\"\nstrip_path = true";
        let host = "upstream = \"ws://b\"\nsend_host = \"b.internal:9000\"";
        let table = [
            (app, "/base/login?next=/base/x", Some("/app/login?next=/base/x")),
            (app, "/base", Some("/app")),
            (app, "/basement", None),
            (app, "/other", None),
            (app, "https://sent.example/base/x", Some("https://sent.example/app/x")),
            (app, "http://other.example/base/x", None),
            (app, "//sent.example/base/x", None),
            (app, "x/y", None),
            (stripped, "/login", Some("/app/login")),
            (stripped, "/app/login", None),
            ("upstream = \"ws://b/base\"", "/base", Some("/")),
            ("upstream = \"ws://b/base\"", "/base/x", Some("/x")),
            (host, "http://sent.example/x", Some("/x")),
            (host, "http://sent.example", Some("/")),
            (host, "https://sent.example/x", Some("https://front.example/x")),
            (host, "https://elsewhere/x", None),
        ];
        for (keys, location, expected) in table {
            let found = rewriting(keys).location(location, "sent.example", &peer());
            assert_eq!(found.as_deref(), expected, "{keys} {location}");
        }
        let cookies = [
            ("a=1; Path=/base; HttpOnly", Some("a=1; Path=/app; HttpOnly")),
            ("a=1; path=/base/x", Some("a=1; path=/app/x")),
            ("a=1; Path=/", None),
            ("path=/base", None),
            ("a=1; Path=/other", None),
        ];
        for (cookie, expected) in cookies {
            assert_eq!(rewriting(app).cookie(cookie).as_deref(), expected, "{cookie}");
        }
    }
}
