//! Which proxied answers get the script, and what else of them changes for it.
//!
//! Enters: the head of a request on a route that injects, then the backend's answer to it. Leaves: the head as the
//! backend gets it, the answer as the client gets it. Must not touch: how the script gets into the bytes (`client::inject`,
//! `client::prelude`), answers to anything but what may be a page or a worker's script.
//!
//! A page with the tag is another representation than the backend's, so its `ETag` says so. Only tags of ours lead back to
//! a 304: a page that a browser kept from before is fetched anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::BytesMut;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, RANGE, TRAILER, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};

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
/// Where a trusted proxy says below which path it serves us.
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
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

/// What may be answered (Fetch Metadata, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A page that is about to be shown.
    Page,
    /// What a script fetches. It may be a page that is shown later: service workers keep some.
    Fetched,
    /// The script of a worker.
    Worker,
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

/// What the answer to this request may be.
fn kind_of(method: &Method, headers: &HeaderMap) -> Option<Kind> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if *method == Method::HEAD || headers.contains_key(RANGE) {
        return None;
    }
    let accept = text(ACCEPT.as_str()).to_ascii_lowercase();
    let is_by_script = headers.contains_key("x-requested-with");
    match (text("sec-fetch-dest"), text("sec-fetch-mode")) {
        ("document" | "iframe" | "frame" | "embed" | "object", _) => Some(Kind::Page),
        // A service worker passes on what it was asked for.
        ("empty", "navigate") => Some(Kind::Page),
        ("worker" | "sharedworker", _) => Some(Kind::Worker),
        ("empty", _) => {
            let may_be_page = accept.contains("text/html") || accept.contains("*/*");
            (*method == Method::GET && may_be_page && !is_by_script).then_some(Kind::Fetched)
        }
        ("", _) => (accept.contains("text/html") && !is_by_script).then_some(Kind::Page),
        _ => None,
    }
}

/// Makes the request ask for what can be changed. True when the client knows the answer as we have changed it.
fn ask_for(kind: Kind, headers: &mut HeaderMap) -> bool {
    let asked = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    let asked: Vec<String> = asked.flat_map(|list| list.split(',')).map(|tag| tag.trim().to_owned()).collect();
    let ours: Vec<String> = asked.iter().filter_map(|tag| unmarked(tag)).collect();
    let knows = !ours.is_empty();
    let mut theirs: Vec<String> = ours.into_iter().filter(|tag| !tag.is_empty()).collect();
    if kind == Kind::Fetched {
        // Mostly it is no page, and stays as it is.
        let known: Vec<_> =
            tokens(headers, &ACCEPT_ENCODING).filter(|coding| is_unpacked(coding)).map(str::to_owned).collect();
        let known = if known.is_empty() { "identity".to_owned() } else { known.join(", ") };
        if headers.contains_key(ACCEPT_ENCODING)
            && let Ok(known) = HeaderValue::try_from(known)
        {
            headers.insert(ACCEPT_ENCODING, known);
        }
        theirs.extend(asked.into_iter().filter(|tag| unmarked(tag).is_none()));
    } else {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if !knows {
            headers.remove(IF_MODIFIED_SINCE);
        }
    }
    headers.remove(IF_NONE_MATCH);
    if let (false, Ok(value)) = (theirs.is_empty(), HeaderValue::try_from(theirs.join(", "))) {
        headers.insert(IF_NONE_MATCH, value);
    }
    knows
}

/// Whether a member of `Accept-Encoding` is a coding that can be undone here, or none at all.
fn is_unpacked(member: &str) -> bool {
    let coding = member.split(';').next().unwrap_or_default().trim();
    coding != "*" && Unpacker::named(coding).is_some()
}

/// The path below which trusted proxies serve us, the outermost first; empty for `/`. `None` when it is not plain.
fn forwarded_prefix(headers: &HeaderMap) -> Option<String> {
    let path: String = tokens(headers, &FORWARDED_PREFIX).map(|part| part.trim_end_matches('/')).collect();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%+@=:".contains(&byte);
    let is_root = path.is_empty() && headers.contains_key(FORWARDED_PREFIX);
    let is_path = path.starts_with('/') && !path.starts_with("//");
    (is_root || (is_path && path.bytes().all(is_plain))).then_some(path)
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

/// What our tags end with: the version of the script, and whether the backend's own tag was strong.
fn ending(is_strong: bool) -> String {
    let hash = client::hash(client::File::Script);
    format!("-underpass-{}{}", &hash[..8.min(hash.len())], if is_strong { "s" } else { "w" })
}

/// Makes the backend's `ETag` ours. Weak: nobody may ask for a range of it. A page with a date only gets one as well, by
/// which we know that the client has the changed page.
fn mark(headers: &mut HeaderMap) {
    let theirs = headers.get(ETAG).and_then(|tag| tag.to_str().ok()).unwrap_or_default().trim().to_owned();
    let (is_strong, opaque) = theirs.strip_prefix("W/").map_or((true, theirs.as_str()), |weak| (false, weak));
    let opaque = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    if opaque.is_empty() && !headers.contains_key(LAST_MODIFIED) {
        headers.remove(ETAG);
        return;
    }
    if let Ok(ours) = HeaderValue::try_from(format!("W/\"{opaque}{}\"", ending(is_strong))) {
        headers.insert(ETAG, ours);
    }
}

/// The backend's tag in one of ours: empty where it had none; `None` when it is not ours, or of another version.
fn unmarked(tag: &str) -> Option<String> {
    let tag = tag.trim();
    let opaque = tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"')?.strip_suffix('"')?;
    if let Some(theirs) = opaque.strip_suffix(&ending(false)) {
        return Some(format!("W/\"{theirs}\""));
    }
    let theirs = opaque.strip_suffix(&ending(true))?;
    Some(if theirs.is_empty() { String::new() } else { format!("\"{theirs}\"") })
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
    fn what_may_be_a_page_is_told_from_the_rest() {
        let html = "text/html,application/xhtml+xml,*/*;q=0.8";
        type Fields<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(Fields<'_>, Option<Kind>)] = &[
            (&[("sec-fetch-dest", "document")], Some(Kind::Page)),
            (&[("sec-fetch-dest", "iframe"), ("accept", "*/*")], Some(Kind::Page)),
            (&[("sec-fetch-dest", "empty"), ("sec-fetch-mode", "navigate"), ("accept", html)], Some(Kind::Page)),
            (&[("sec-fetch-dest", "empty"), ("sec-fetch-mode", "cors"), ("accept", "*/*")], Some(Kind::Fetched)),
            (&[("sec-fetch-dest", "empty"), ("accept", "application/json")], None),
            (&[("sec-fetch-dest", "empty"), ("accept", html), ("x-requested-with", "XMLHttpRequest")], None),
            (&[("sec-fetch-dest", "worker")], Some(Kind::Worker)),
            (&[("sec-fetch-dest", "sharedworker")], Some(Kind::Worker)),
            (&[("sec-fetch-dest", "script"), ("accept", "*/*")], None),
            (&[("accept", html)], Some(Kind::Page)),
            (&[("accept", html), ("x-requested-with", "XMLHttpRequest")], None),
            (&[("accept", "*/*")], None),
            (&[], None),
            (&[("accept", html), ("range", "bytes=0-")], None),
        ];
        for (fields, expected) in cases {
            assert_eq!(kind_of(&Method::GET, &map(fields)), *expected, "{fields:?}");
            assert_eq!(kind_of(&Method::HEAD, &map(fields)), None, "{fields:?}");
        }
    }

    #[test]
    fn what_is_fetched_stays_compressed_and_known_unless_it_is_a_page() {
        for (accepted, sent) in [
            ("gzip, deflate, br, zstd", "gzip, deflate, br"),
            ("zstd, *;q=0.1", "identity"),
            ("GZIP;q=0.5", "GZIP;q=0.5"),
        ] {
            let mut asked =
                map(&[("accept-encoding", accepted), ("if-none-match", "\"a\""), ("if-modified-since", "x")]);
            assert!(!ask_for(Kind::Fetched, &mut asked));
            assert_eq!(
                (&asked[ACCEPT_ENCODING], &asked[IF_NONE_MATCH]),
                (&HeaderValue::from_static(sent), &HeaderValue::from_static("\"a\""))
            );
            assert!(asked.contains_key(IF_MODIFIED_SINCE));
        }
    }

    #[test]
    fn a_front_names_its_prefix_plainly_or_not_at_all() {
        for (value, expected) in [
            ("/app", Some("/app")),
            ("/app/", Some("/app")),
            ("/a, /b/", Some("/a/b")),
            ("app", None),
            ("//evil.example", None),
            ("/a\"><script>", None),
            ("/", Some("")),
        ] {
            assert_eq!(forwarded_prefix(&map(&[("x-forwarded-prefix", value)])).as_deref(), expected, "{value}");
        }
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

    #[test]
    fn tags_lead_back_to_the_backends_own() {
        for theirs in ["\"a\"", "W/\"a-w\"", "\"a-underpass-s\""] {
            let mut headers = map(&[("etag", theirs)]);
            mark(&mut headers);
            let ours = headers[ETAG].to_str().expect("text").to_owned();
            assert!(ours.starts_with("W/\"") && ours != theirs, "{ours}");
            let mut asked = map(&[("sec-fetch-dest", "document"), ("if-none-match", &format!("\"x\", {ours}"))]);
            assert!(ask_for(Kind::Page, &mut asked));
            assert_eq!(asked[IF_NONE_MATCH], theirs);
        }
        let mut dated = map(&[("last-modified", "x")]);
        mark(&mut dated);
        let ours = dated[ETAG].to_str().expect("text").to_owned();
        let fields = [("sec-fetch-dest", "document"), ("if-none-match", &*ours), ("if-modified-since", "x")];
        let mut asked = map(&fields);
        assert!(ask_for(Kind::Page, &mut asked));
        assert!(!asked.contains_key(IF_NONE_MATCH) && asked.contains_key(IF_MODIFIED_SINCE));
        let fields = [("sec-fetch-dest", "document"), ("if-none-match", "\"x\", *"), ("if-modified-since", "x")];
        let mut before = map(&fields);
        assert!(!ask_for(Kind::Page, &mut before));
        assert!(!before.contains_key(IF_NONE_MATCH) && !before.contains_key(IF_MODIFIED_SINCE));
    }
}
