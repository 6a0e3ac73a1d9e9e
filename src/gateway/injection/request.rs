//! A request on a route that injects: what may be answered, and how it is asked so that the answer can be changed.
//!
//! Enters: the head of a request. Leaves: what kind of answer is expected; the head as the backend gets it. Must not touch:
//! answers.

use http::header::{ACCEPT, ACCEPT_ENCODING, IF_MODIFIED_SINCE, IF_NONE_MATCH, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::etag::unmarked;
use crate::client::unpack::Unpacker;
use crate::http::fields::tokens;

/// Where a trusted proxy says below which path it serves us.
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// What may be answered (Fetch Metadata, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A page that is about to be shown.
    Page,
    /// What a script fetches. It may be a page that is shown later: service workers keep some.
    Fetched,
    /// The script of a worker.
    Worker,
}

/// What the answer to this request may be.
pub(super) fn kind_of(method: &Method, headers: &HeaderMap) -> Option<Kind> {
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
pub(super) fn ask_for(kind: Kind, headers: &mut HeaderMap) -> bool {
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
pub(super) fn forwarded_prefix(headers: &HeaderMap) -> Option<String> {
    let path: String = tokens(headers, &FORWARDED_PREFIX).map(|part| part.trim_end_matches('/')).collect();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%+@=:".contains(&byte);
    let is_root = path.is_empty() && headers.contains_key(FORWARDED_PREFIX);
    let is_path = path.starts_with('/') && !path.starts_with("//");
    (is_root || (is_path && path.bytes().all(is_plain))).then_some(path)
}

#[cfg(test)]
mod tests {
    use http::header::ETAG;

    use super::super::etag::mark;
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
