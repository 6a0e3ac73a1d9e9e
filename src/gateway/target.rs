//! What a request that opens a session asks the backend for: the WebSocket's own path and query, without the parameters
//! that are ours (PROTOCOL 3 and 4).
//!
//! Enters: a path and a query. Leaves: what they mean to us, and the target as the backend gets it. Must not touch: the
//! parameters that are not ours, which stay byte for byte.

use std::borrow::Cow;

use bytes::Bytes;
use http::request;
use http::uri::PathAndQuery;

use crate::codec::sse::parse_id;
use crate::http::as_written::AsWritten;

/// The parameter that says what is wanted at the path of a WebSocket. Others of ours begin with it and a dot.
const MARK: &str = "underpass";

/// What a query says to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// `underpass=open`: a session.
    Open,
    /// `underpass=sse`: a session, streamed by the same request.
    Sse,
    /// It has a parameter of ours, but none that says what is wanted, or two that say different things.
    Unclear,
}

impl Mark {
    /// The mark of this query; `None` when nothing in it is ours.
    pub fn of(query: Option<&str>) -> Option<Self> {
        // As good as every query is without one.
        let query = query.filter(|query| query.contains(MARK) || query.contains('%'))?;
        let (mut has_ours, mut marked) = (false, None);
        for (name, value) in query.split('&').map(parsed) {
            has_ours |= is_ours(&name);
            if name != MARK {
                continue;
            }
            let said = match &*value {
                "open" => Self::Open,
                "sse" => Self::Sse,
                _ => Self::Unclear,
            };
            marked = Some(if marked.is_none_or(|earlier| earlier == said) { said } else { Self::Unclear });
        }
        has_ours.then(|| marked.unwrap_or(Self::Unclear))
    }
}

/// The parameters of a query that were ours.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ours {
    pub nonce: Option<String>,
    pub protocols: Option<String>,
    /// Event ids to resume from: `underpass.after` and `lastEventId`.
    pub after: Option<String>,
    pub last_event_id: Option<String>,
}

impl Ours {
    fn take(&mut self, name: &str, value: Cow<'_, str>) -> bool {
        let place = match name {
            "underpass.nonce" => &mut self.nonce,
            "underpass.protocols" => &mut self.protocols,
            "underpass.after" => &mut self.after,
            "lastEventId" if parse_id(&value).is_some() => &mut self.last_event_id,
            name => return is_ours(name),
        };
        *place = Some(value.into_owned());
        true
    }
}

/// What a marked request asks the backend for.
#[derive(Debug)]
pub struct Target {
    pub uri: PathAndQuery,
    /// The same as it was written, where `uri` has it encoded.
    pub written: Option<Bytes>,
}

/// The target of a request, and what in its query was ours: parameters named `underpass` or `underpass.…`, and a
/// `lastEventId` in the form of our ids. All others reach the backend byte for byte. `None` when it cannot be a target.
pub fn split(head: &request::Parts) -> (Option<Target>, Ours) {
    let (uri, ours) = without_ours(head.uri.path(), head.uri.query());
    let written = head.extensions.get::<AsWritten>().and_then(AsWritten::target);
    let written = written.and_then(|target| std::str::from_utf8(target).ok()).map(|target| {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        Bytes::from(without_ours(path, query).0)
    });
    (uri.parse().ok().map(|uri| Target { uri, written }), ours)
}

fn without_ours(path: &str, query: Option<&str>) -> (String, Ours) {
    let mut ours = Ours::default();
    let mut theirs = Vec::new();
    for parameter in query.into_iter().flat_map(|query| query.split('&')) {
        let (name, value) = parsed(parameter);
        if !ours.take(&name, value) {
            theirs.push(parameter);
        }
    }
    let target = if theirs.is_empty() { path.to_owned() } else { format!("{path}?{}", theirs.join("&")) };
    (target, ours)
}

fn parsed(parameter: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    form_urlencoded::parse(parameter.as_bytes()).next().unwrap_or_default()
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(MARK).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// How the resource at the path `to` of this host is written so that whoever asked for the path `from` finds it, whatever
/// a proxy in front has put before both or has taken away (RFC 3986 section 4.2: a relative-path reference).
pub(super) fn relative(from: &str, to: &str) -> String {
    let folder = &from[..=from.rfind('/').unwrap_or_default()];
    let shared = folder.bytes().zip(to.bytes()).take_while(|(a, b)| a == b).count();
    // Whole segments only.
    let shared = folder[..shared].rfind('/').map_or(0, |slash| slash + 1);
    let up = folder[shared..].matches('/').count();
    "../".repeat(up) + &to[shared..]
}

/// Whether `path` is `prefix` or lies below it, by whole segments.
pub(super) fn is_under(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix.trim_end_matches('/')) else { return false };
    rest.is_empty() || rest.starts_with('/') || prefix == "/"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::as_written::encoded;

    #[test]
    fn paths_match_by_whole_segments() {
        assert!(is_under("/chat", "/chat") && is_under("/chat/a", "/chat") && is_under("/chat/a", "/chat/"));
        assert!(is_under("/anything", "/") && is_under("*", "/"));
        assert!(!is_under("/chatter", "/chat"));
    }

    #[test]
    fn a_mark_is_found_however_it_is_written() {
        for (query, expected) in [
            ("underpass=open", Some(Mark::Open)),
            ("room=1&underpass=sse", Some(Mark::Sse)),
            ("%75nderpass=open&x", Some(Mark::Open)),
            ("underpass=%6fpen", Some(Mark::Open)),
            ("underpass=open&underpass=open", Some(Mark::Open)),
            ("underpass=open&underpass=sse", Some(Mark::Unclear)),
            ("underpass=open&underpass=open&underpass=x", Some(Mark::Unclear)),
            ("underpass", Some(Mark::Unclear)),
            ("underpass=OPEN", Some(Mark::Unclear)),
            ("underpass.nonce=x", Some(Mark::Unclear)),
            ("underpass.nonce=x&underpass=open", Some(Mark::Open)),
            ("", None),
            ("a=underpass=open", None),
            ("xunderpass=open&underpassx=1&Underpass=open", None),
            ("a=%75&b", None),
        ] {
            assert_eq!(Mark::of(Some(query)), expected, "{query}");
        }
        assert_eq!(Mark::of(None), None);
    }

    #[test]
    fn the_targets_query_stays_as_it_is_without_ours() {
        let head = |target: &str| {
            let (mut head, ()) = http::Request::new(()).into_parts();
            head.uri = target.parse().unwrap_or_else(|_| encoded(target).expect("a target"));
            let written = head.uri.path_and_query().is_some_and(|uri| uri != target);
            let written = written.then(|| AsWritten::default().with_target(Some(target.to_owned().into())));
            written.map(|written| head.extensions.insert(written));
            head
        };
        let split = |target: &str| split(&head(target));
        let (target, ours) = split("/chat?a=%20b&underpass.nonce=abc&c&underpass=open&underpass.x=1&a=2");
        assert_eq!(target.expect("a target").uri, "/chat?a=%20b&c&a=2");
        assert_eq!(ours.nonce.as_deref(), Some("abc"));
        let target = |target| split(target).0.expect("a target");
        assert_eq!(target("/chat?underpass=sse&underpass.after=x").uri, "/chat");
        assert_eq!(target("/a?lastEventId=17").uri, "/a?lastEventId=17");
        let unencoded = target("/a?filter={\"room\":1}&underpass=open");
        assert_eq!(unencoded.uri, "/a?filter={%22room%22:1}");
        assert_eq!(unencoded.written.expect("it differs"), "/a?filter={\"room\":1}");
        assert_eq!(target("/a?b&underpass=open").written, None);
        let id = format!("/a?lastEventId=n1-{}.17", "a".repeat(44));
        assert!(split(&id).1.last_event_id.is_some());
        assert_eq!(target("*").uri, "*");
    }

    #[test]
    fn relative_references_lead_there_under_whatever_prefix() {
        let s = "/_underpass/s/n1-x";
        for (from, to, expected) in [
            ("/chat", s, "_underpass/s/n1-x"),
            ("/", s, "_underpass/s/n1-x"),
            ("/a/chat", s, "../_underpass/s/n1-x"),
            ("/a//chat/", s, "../../../_underpass/s/n1-x"),
            ("/_underpassx/chat", s, "../_underpass/s/n1-x"),
            ("/_underpass/s/n1-x/sse", s, "../n1-x"),
            ("/_underpass/s/n1/ws", s, "../n1-x"),
            ("/_underpass/selftest/talk", s, "../s/n1-x"),
            ("/app/chat", "/app/_underpass/s/x", "_underpass/s/x"),
        ] {
            assert_eq!(relative(from, to), expected, "{from}");
        }
    }
}
