//! Which proxied answers get the script, and what else of them changes for it.
//!
//! Enters: the head of a request on a route that injects, then the backend's answer to it. Leaves: the head as the
//! backend gets it, the answer as the client gets it. Must not touch: how the script gets into the bytes (`client::inject`,
//! `client::prelude`), answers to anything but what may be a page or a worker's script.

mod etag;
mod request;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, TRAILER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};

use self::etag::mark;
use self::request::{Kind, ask_for, forwarded_prefix, kind_of};
use super::target::relative;
use crate::client;
use crate::client::inject::{Injector, Outcome};
use crate::client::policy::{Decision, Page};
use crate::client::prelude::Prelude;
use crate::client::unpack::{PIECE, Unpacker};
use crate::config::Script;
use crate::http::body::Body;
use crate::http::fields::tokens;
use crate::http::incoming::IncomingBody;
use crate::http::rewriting::{Rewrite, RewritingBody};
use crate::listener::peer::Peer;

/// What digests say of the bytes is no longer true.
const DIGESTS: &[&str] = &["content-md5", "digest", "content-digest", "repr-digest"];
/// How many bytes are given to the injector at once, when none are unpacked.
const WHOLE: usize = 64 * 1024;
/// Asks for a digest of each script (Integrity Policy).
const INTEGRITY_POLICY: HeaderName = HeaderName::from_static("integrity-policy");

/// How the answers of a route get the script.
pub(super) struct Injection {
    /// The route's path.
    pub(super) route: String,
    pub(super) script: Script,
    told: Arc<Told>,
}

/// What was told of a route already.
#[derive(Debug, Default)]
struct Told {
    policy: AtomicBool,
    coding: AtomicBool,
}

/// A request that was sent on; its answer may get the script.
pub(super) struct Expected {
    kind: Kind,
    /// The client knows the answer as we have changed it.
    knows: bool,
    /// The path of the script, as the browser knows it.
    script: String,
    /// How the answer writes that.
    reference: String,
}

impl Injection {
    /// For a route; `None` where it has nothing to do.
    pub(super) fn of(route: &str, script: Script) -> Option<Self> {
        let told = Arc::default();
        (script.pages || script.workers).then(|| Self { route: route.to_owned(), script, told })
    }

    /// Prepares a request whose answer may get the script; `None` when it asks for something else, and is then as it was.
    pub(super) fn prepare<B>(&self, request: &mut Request<B>, peer: &Peer, prefix: &str) -> Option<Expected> {
        let kind = kind_of(request.method(), request.headers())?;
        if !(if kind == Kind::Worker { self.script.workers } else { self.script.pages }) {
            return None;
        }
        let front = if peer.trusted { forwarded_prefix(request.headers()) } else { None };
        let script = format!("{}{prefix}/client.js", front.as_deref().unwrap_or_default());
        // What is fetched may be shown at any address. What is shown at its own stays right below a path that a front takes
        // away without a word.
        let is_relative = front.is_none() && kind != Kind::Fetched;
        let reference = if is_relative { relative(request.uri().path(), &script) } else { script.clone() };
        Some(Expected { kind, knows: ask_for(kind, request.headers_mut()), script, reference })
    }

    /// An answer to anything else on such a route. A cache must not show it to a navigation, nor the other way round.
    pub(super) fn aside(&self, mut response: Response<IncomingBody>) -> Response<Body> {
        let (status, headers) = (response.status(), response.headers());
        if (self.script.pages && is_page(status, headers)) || (self.script.workers && is_script(status, headers)) {
            vary(response.headers_mut());
        }
        response.map(Body::Proxied)
    }
}

impl Expected {
    /// Makes the client's answer of the backend's.
    pub(super) fn answer(
        &self,
        injection: &Injection,
        response: Response<IncomingBody>,
        peer: &Peer,
    ) -> Response<Body> {
        let Injection { route, script, told } = injection;
        let (mut head, body) = response.into_parts();
        if head.status == StatusCode::NOT_MODIFIED && self.knows {
            mark(&mut head.headers);
            return Response::from_parts(head, Body::Proxied(body));
        }
        let fits = if self.kind == Kind::Worker { is_script } else { is_page };
        if !fits(head.status, &head.headers) {
            return Response::from_parts(head, Body::Proxied(body));
        }
        vary(&mut head.headers);
        let codings: Vec<_> = head.headers.get_all(CONTENT_ENCODING).into_iter().map(HeaderValue::as_bytes).collect();
        let coding = String::from_utf8_lossy(&codings.join(&b',')).into_owned();
        let Some(unpacker) = Unpacker::named(&coding) else {
            if !told.coding.swap(true, Ordering::Relaxed) {
                let what = "page without our script: its backend compresses it although asked not to; turn that off";
                tracing::warn!(route = %route, coding = %coding, "{what}");
            }
            return Response::from_parts(head, Body::Proxied(body));
        };
        let piece = if matches!(unpacker, Unpacker::Identity) { WHOLE } else { PIECE };
        let page = self.page(&head.headers, peer, *script);
        let writer = match self.kind {
            Kind::Worker => {
                if let Decision::Forbidden(change) = page.decide_for_worker() {
                    warn_of_policy(told, route, &change);
                    return Response::from_parts(head, Body::Proxied(body));
                }
                Writer::Worker(Prelude::new(self.reference.clone()))
            }
            Kind::Page | Kind::Fetched => Writer::Page(Box::new(Injector::new(page)), Arc::clone(told), route.clone()),
        };
        adjust(&mut head.headers);
        let changing = Changing { unpacker, writer };
        Response::from_parts(head, Body::Rewriting(Box::new(RewritingBody::new(body, piece, Box::new(changing)))))
    }

    fn page(&self, headers: &HeaderMap, peer: &Peer, script: Script) -> Page {
        let policies = headers.get_all(CONTENT_SECURITY_POLICY).into_iter();
        let mut attributes = String::new();
        if script.raw {
            attributes.push_str(" data-ws=\"raw\"");
        }
        let wants_integrity = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).contains("script");
        if headers.get_all(INTEGRITY_POLICY).iter().any(wants_integrity) {
            attributes.push_str(&format!(" integrity=\"{}\" crossorigin=\"anonymous\"", client::integrity()));
        }
        Page {
            scheme: peer.proto.to_owned(),
            host: peer.host.clone(),
            script: self.script.clone(),
            reference: self.reference.clone(),
            hash: client::hash(client::File::Script).to_owned(),
            attributes,
            policies: policies.map(|policy| String::from_utf8_lossy(policy.as_bytes()).into_owned()).collect(),
        }
    }
}

/// Says it once: every page of a route has the same policy, mostly.
fn warn_of_policy(told: &Told, route: &str, change: &str) {
    if !told.policy.swap(true, Ordering::Relaxed) {
        tracing::warn!(route = %route, %change, "page without our script: its Content-Security-Policy forbids it");
    }
}

fn vary(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("Sec-Fetch-Dest"));
}

/// Whether the answer is an HTML page that may be changed, in a charset in which ASCII is itself.
fn is_page(status: StatusCode, headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| {
        let values = headers.get_all(name).into_iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        values.collect::<Vec<_>>().join(",").to_ascii_lowercase()
    };
    let content_type = text(&CONTENT_TYPE);
    let (kind, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
    let charset = parameters.split(';').find_map(|one| one.trim().strip_prefix("charset=")).unwrap_or_default();
    let charset = charset.trim_matches(['"', '\'', ' ']);
    let is_foreign = ["utf-16", "utf-32", "utf-7", "iso-2022", "hz-gb", "ucs-2", "unicode", "iso-10646", "csunicode"]
        .iter()
        .any(|name| charset.starts_with(name) && charset != "unicode-1-1-utf-8");
    matches!(status.as_u16(), 200 | 201 | 203)
        && kind.trim() == "text/html"
        && !is_foreign
        && !is_kept(headers)
        && !text(&CONTENT_DISPOSITION).trim_start().starts_with("attachment")
}

/// Whether the answer is a script that a worker may run (HTML, "fetch a classic worker script") and that may be changed.
fn is_script(status: StatusCode, headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_js =
        ["text/javascript", "application/javascript", "application/x-javascript", "text/ecmascript"].contains(&kind);
    status == StatusCode::OK && is_js && !is_kept(headers)
}

/// Whether nobody on the way may change it (RFC 9111 section 5.2.2.6).
fn is_kept(headers: &HeaderMap) -> bool {
    tokens(headers, &CACHE_CONTROL).any(|directive| directive.eq_ignore_ascii_case("no-transform"))
}

/// What the head said of bytes that change.
fn adjust(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, CONTENT_ENCODING, ACCEPT_RANGES, TRAILER] {
        headers.remove(name);
    }
    for digest in DIGESTS {
        headers.remove(*digest);
    }
    mark(headers);
}

/// Unpacks an answer and writes the script into it.
struct Changing {
    unpacker: Unpacker,
    writer: Writer,
}

enum Writer {
    /// A tag in a page; what was told of its route, and the route's path.
    Page(Box<Injector>, Arc<Told>, String),
    /// The text before a worker's.
    Worker(Prelude),
}

impl Rewrite for Changing {
    fn write(&mut self, bytes: &[u8], out: &mut BytesMut) -> std::io::Result<()> {
        if matches!(self.unpacker, Unpacker::Identity) {
            return self.writer.write(bytes, out);
        }
        let mut plain = BytesMut::new();
        self.unpacker.write(bytes, &mut plain)?;
        self.writer.write(&plain, out)
    }

    fn end(&mut self, out: &mut BytesMut) -> std::io::Result<()> {
        let mut plain = BytesMut::new();
        self.unpacker.end(&mut plain)?;
        self.writer.write(&plain, out)?;
        match &mut self.writer {
            Writer::Page(injector, ..) => injector.end(out),
            Writer::Worker(prelude) => {
                prelude.end(out);
                Ok(())
            }
        }
    }
}

impl Writer {
    fn write(&mut self, plain: &[u8], out: &mut BytesMut) -> std::io::Result<()> {
        match self {
            Self::Page(injector, ..) => injector.write(plain, out),
            Self::Worker(prelude) => {
                prelude.write(plain, out);
                Ok(())
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Self::Page(injector, told, route) = self
            && let Outcome::Forbidden(change) = injector.outcome()
        {
            warn_of_policy(told, route, &change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_bytes(name.as_bytes()).expect("a name"), value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn pages_are_told_from_other_answers() {
        let page = |fields: &[(&str, &str)]| is_page(StatusCode::OK, &map(fields));
        for kind in ["text/html", "Text/HTML; charset=UTF-8", "text/html;charset=\"windows-1252\""] {
            assert!(page(&[("content-type", kind)]), "{kind}");
        }
        for kind in
            ["", "text/plain", "application/xhtml+xml", "text/html; charset=UTF-16LE", "text/html;charset=iso-2022-jp"]
        {
            assert!(!page(&[("content-type", kind)]), "{kind}");
        }
        let html = ("content-type", "text/html");
        assert!(!page(&[html, ("content-disposition", "Attachment; filename=a.html")]));
        assert!(page(&[html, ("content-disposition", "inline")]));
        assert!(!page(&[html, ("cache-control", "private"), ("cache-control", "max-age=1, no-transform")]));
        assert!(
            !is_page(StatusCode::PARTIAL_CONTENT, &map(&[html])) && !is_page(StatusCode::NO_CONTENT, &map(&[html]))
        );
    }
}
