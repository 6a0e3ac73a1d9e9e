//! Which proxied answers get the script's tag, and what else of them changes for it.
//!
//! Enters: the head of a request on a route that injects, then the backend's answer to it. Leaves: the head as the
//! backend gets it, the answer as the client gets it. Must not touch: how the tag gets into the bytes (`client::inject`),
//! answers to anything but a navigation.
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
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use crate::client;
use crate::client::inject::{Injector, Outcome};
use crate::client::policy::Page;
use crate::client::unpack::{PIECE, Unpacker};
use crate::http::body::Body;
use crate::http::incoming::IncomingBody;
use crate::http::rewriting::{Rewrite, RewritingBody};
use crate::listener::peer::Peer;

/// What digests say of the bytes is no longer true.
const DIGESTS: &[&str] = &["content-md5", "digest", "content-digest", "repr-digest"];
/// How many bytes are given to the injector at once, when none are unpacked.
const WHOLE: usize = 64 * 1024;

/// What was told of a route already.
#[derive(Debug, Default)]
pub(super) struct Told {
    policy: AtomicBool,
    coding: AtomicBool,
}

/// A navigation that was sent on; its answer may be a page.
pub(super) struct Navigation {
    /// The client knows the page as we have changed it.
    knows: bool,
}

/// Prepares the request for a page; `None` when it asks for something else, and is then as it was.
pub(super) fn prepare(method: &Method, headers: &mut HeaderMap) -> Option<Navigation> {
    if *method == Method::HEAD || headers.contains_key(RANGE) || !is_navigation(headers) {
        return None;
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let asked = headers.get_all(IF_NONE_MATCH).into_iter().filter_map(|value| value.to_str().ok());
    let ours: Vec<String> = asked.flat_map(|list| list.split(',')).filter_map(unmarked).collect();
    headers.remove(IF_NONE_MATCH);
    let knows = !ours.is_empty();
    if !knows {
        headers.remove(IF_MODIFIED_SINCE);
    }
    let theirs = ours.into_iter().filter(|tag| !tag.is_empty()).collect::<Vec<_>>().join(", ");
    if let (false, Ok(value)) = (theirs.is_empty(), HeaderValue::try_from(theirs)) {
        headers.insert(IF_NONE_MATCH, value);
    }
    Some(Navigation { knows })
}

/// A page that is to be shown, as opposed to a part of one that a script fetches (Fetch Metadata, section 2.1).
fn is_navigation(headers: &HeaderMap) -> bool {
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match headers.get("sec-fetch-dest") {
        Some(dest) => matches!(dest.as_bytes(), b"document" | b"iframe" | b"frame"),
        None => text(&ACCEPT).to_ascii_lowercase().contains("text/html") && !headers.contains_key("x-requested-with"),
    }
}

impl Navigation {
    /// Makes the client's answer of the backend's. `told` is of the route at `path`.
    pub(super) fn answer(
        &self,
        response: Response<IncomingBody>,
        peer: &Peer,
        prefix: &str,
        (path, told): (&str, &Arc<Told>),
    ) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        if head.status == StatusCode::NOT_MODIFIED && self.knows {
            mark(&mut head.headers);
            return Response::from_parts(head, Body::Proxied(body));
        }
        if !is_page(head.status, &head.headers) {
            return Response::from_parts(head, Body::Proxied(body));
        }
        vary(&mut head.headers);
        let codings: Vec<_> = head.headers.get_all(CONTENT_ENCODING).into_iter().map(HeaderValue::as_bytes).collect();
        let coding = String::from_utf8_lossy(&codings.join(&b',')).into_owned();
        let Some(unpacker) = Unpacker::named(&coding) else {
            if !told.coding.swap(true, Ordering::Relaxed) {
                let what = "page without our script: its backend compresses it although asked not to; turn that off";
                tracing::warn!(route = path, coding = %coding, "{what}");
            }
            return Response::from_parts(head, Body::Proxied(body));
        };
        let piece = if matches!(unpacker, Unpacker::Identity) { WHOLE } else { PIECE };
        let page = page(&head.headers, peer, prefix);
        adjust(&mut head.headers);
        let route = path.to_owned();
        let pages = Pages { unpacker, injector: Injector::new(page), told: Arc::clone(told), route };
        Response::from_parts(head, Body::Rewriting(Box::new(RewritingBody::new(body, piece, Box::new(pages)))))
    }
}

/// An answer to anything else on such a route. A cache must not show it to a navigation, nor the other way round.
pub(super) fn aside(mut response: Response<IncomingBody>) -> Response<Body> {
    if is_page(response.status(), response.headers()) {
        vary(response.headers_mut());
    }
    response.map(Body::Proxied)
}

fn vary(headers: &mut HeaderMap) {
    headers.append(VARY, HeaderValue::from_static("Sec-Fetch-Dest"));
}

fn page(headers: &HeaderMap, peer: &Peer, prefix: &str) -> Page {
    let policies = headers.get_all(CONTENT_SECURITY_POLICY).into_iter();
    Page {
        scheme: peer.proto.to_owned(),
        host: peer.host.clone(),
        script: format!("{prefix}/client.js"),
        hash: client::hash(client::File::Script).to_owned(),
        policies: policies.map(|policy| String::from_utf8_lossy(policy.as_bytes()).into_owned()).collect(),
    }
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
    let is_kept = text(&CACHE_CONTROL).split(',').any(|directive| directive.trim() == "no-transform");
    matches!(status.as_u16(), 200 | 201 | 203)
        && kind.trim() == "text/html"
        && !is_foreign
        && !is_kept
        && !text(&CONTENT_DISPOSITION).trim_start().starts_with("attachment")
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

/// Unpacks a page and writes the tag into it.
struct Pages {
    unpacker: Unpacker,
    injector: Injector,
    told: Arc<Told>,
    route: String,
}

impl Rewrite for Pages {
    fn write(&mut self, bytes: &[u8], out: &mut BytesMut) -> std::io::Result<()> {
        if matches!(self.unpacker, Unpacker::Identity) {
            return self.injector.write(bytes, out);
        }
        let mut plain = BytesMut::new();
        self.unpacker.write(bytes, &mut plain)?;
        self.injector.write(&plain, out)
    }

    fn end(&mut self, out: &mut BytesMut) -> std::io::Result<()> {
        let mut plain = BytesMut::new();
        self.unpacker.end(&mut plain)?;
        self.injector.write(&plain, out)?;
        self.injector.end(out)
    }
}

impl Drop for Pages {
    /// Says it once: every page of a route has the same policy, mostly.
    fn drop(&mut self) {
        if let Outcome::Forbidden(change) = self.injector.outcome()
            && !self.told.policy.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(route = %self.route, %change, "page without our script: its Content-Security-Policy forbids it");
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
    fn navigations_are_told_from_fetches() {
        let html = "text/html,application/xhtml+xml,*/*;q=0.8";
        let cases: &[(&[(&str, &str)], bool)] = &[
            (&[("sec-fetch-dest", "document")], true),
            (&[("sec-fetch-dest", "iframe"), ("accept", "*/*")], true),
            (&[("sec-fetch-dest", "empty"), ("accept", html)], false),
            (&[("accept", html)], true),
            (&[("accept", html), ("x-requested-with", "XMLHttpRequest")], false),
            (&[("accept", "*/*")], false),
            (&[], false),
            (&[("accept", html), ("range", "bytes=0-")], false),
        ];
        for (fields, expected) in cases {
            assert_eq!(prepare(&Method::GET, &mut map(fields)).is_some(), *expected, "{fields:?}");
            assert!(prepare(&Method::HEAD, &mut map(fields)).is_none(), "{fields:?}");
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
            assert!(prepare(&Method::GET, &mut asked).expect("a navigation").knows);
            assert_eq!(asked[IF_NONE_MATCH], theirs);
        }
        let mut dated = map(&[("last-modified", "x")]);
        mark(&mut dated);
        let ours = dated[ETAG].to_str().expect("text").to_owned();
        let fields = [("sec-fetch-dest", "document"), ("if-none-match", &*ours), ("if-modified-since", "x")];
        let mut asked = map(&fields);
        assert!(prepare(&Method::GET, &mut asked).expect("a navigation").knows);
        assert!(!asked.contains_key(IF_NONE_MATCH) && asked.contains_key(IF_MODIFIED_SINCE));
        let fields = [("sec-fetch-dest", "document"), ("if-none-match", "\"x\", *"), ("if-modified-since", "x")];
        let mut before = map(&fields);
        assert!(!prepare(&Method::GET, &mut before).expect("a navigation").knows);
        assert!(!before.contains_key(IF_NONE_MATCH) && !before.contains_key(IF_MODIFIED_SINCE));
    }
}
