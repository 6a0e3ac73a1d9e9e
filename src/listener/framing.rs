//! Requests on whose meaning two servers could disagree. Pure.
//!
//! Enters: a request's head as it was parsed. Leaves: why it must be refused, if it must. Must not touch: the answer;
//! the gateway gives 400.
//!
//! hyper itself refuses most of what smuggling is made of (`tests/inside/smuggling.rs` has the corpus). What it lets
//! through is refused here. One case never arrives: of `Content-Length` beside `Transfer-Encoding` it keeps the latter
//! alone and closes the connection after the answer, which RFC 9112 section 6.3 allows and which leaves nothing to smuggle
//! by.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use http::uri::{Authority, Uri};
use http::{Request, Version};

use super::peer::is_plain_host;
use crate::http::incoming::IncomingBody;

/// In the extensions of a request that stands for bytes that are none: why they are none.
#[derive(Clone, Copy, Debug)]
pub struct Malformed(pub &'static str);

impl Malformed {
    /// The request that stands for them, so that they are answered as any other.
    pub(super) fn request(what: &'static str) -> Request<IncomingBody> {
        let mut request = Request::new(IncomingBody::Buffered(Bytes::new()));
        request.extensions_mut().insert(Self(what));
        request
    }
}

/// Why this request is to be answered with 400 before anything else looks at it; `None` when it is sound.
#[must_use]
pub fn request_fault<B>(request: &Request<B>) -> Option<&'static str> {
    let malformed = request.extensions().get::<Malformed>().map(|malformed| malformed.0);
    malformed.or_else(|| host_fault(request)).or_else(|| body_fault(request))
}

fn host_fault<B>(request: &Request<B>) -> Option<&'static str> {
    let authority = request.uri().authority();
    if authority.is_some_and(|authority| authority.as_str().contains('@')) {
        return Some("the target names a user");
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Some("more than one Host");
    }
    match (host, authority) {
        (Some(host), authority) => host_value_fault(host, authority, request.uri()),
        (None, None) if request.version() >= Version::HTTP_11 => Some("no Host"),
        // RFC 9112 section 3.2: obligatory in HTTP/1.1 even beside an absolute target. HTTP/2 has its own field.
        (None, Some(_)) if request.version() == Version::HTTP_11 => Some("no Host"),
        (None, _) => None,
    }
}

fn host_value_fault(host: &HeaderValue, authority: Option<&Authority>, uri: &Uri) -> Option<&'static str> {
    let Some(host) = host.to_str().ok().filter(|host| is_plain_host(host)) else {
        return Some("Host is not a host");
    };
    let differs = |authority: &Authority| without_default(host, uri) != without_default(authority.as_str(), uri);
    authority.is_some_and(differs).then_some("Host differs from the target's")
}

/// The authority in lower case, without the scheme's own port.
fn without_default(authority: &str, uri: &Uri) -> String {
    let port = if uri.scheme_str() == Some("https") { ":443" } else { ":80" };
    authority.strip_suffix(port).unwrap_or(authority).to_ascii_lowercase()
}

fn body_fault<B>(request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next()?;
    if request.version() != Version::HTTP_11 {
        return Some("Transfer-Encoding outside HTTP/1.1");
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Some("Transfer-Encoding is not just chunked");
    }
    headers.contains_key(CONTENT_LENGTH).then_some("Content-Length beside Transfer-Encoding")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(version: Version, target: &str, fields: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request_fault(&request.body(()).expect("sound parts"))
    }

    #[test]
    fn sound_requests_pass() {
        let h11 = Version::HTTP_11;
        let chunked = [("host", "a"), ("transfer-encoding", "Chunked")];
        assert_eq!(fault(h11, "/", &[("host", "a.example:8080")]), None);
        assert_eq!(fault(h11, "/", &[("host", "[::1]:8080"), ("content-length", "3")]), None);
        assert_eq!(fault(h11, "/", &chunked), None);
        assert_eq!(fault(h11, "http://A.example/", &[("host", "a.EXAMPLE:80")]), None);
        assert_eq!(fault(h11, "*", &[("host", "a")]), None);
        assert_eq!(fault(Version::HTTP_10, "/", &[]), None);
        assert_eq!(fault(Version::HTTP_2, "https://a/", &[]), None);
        assert_eq!(fault(Version::HTTP_2, "https://a/", &[("host", "a:443")]), None);
    }

    #[test]
    fn ambiguous_hosts_are_refused() {
        let h11 = Version::HTTP_11;
        type Row = (Version, &'static str, &'static [(&'static str, &'static str)], &'static str);
        let table: &[Row] = &[
            (h11, "/", &[("host", "a"), ("host", "a")], "more than one Host"),
            (h11, "/", &[], "no Host"),
            (h11, "http://a/", &[], "no Host"),
            (Version::HTTP_2, "/", &[], "no Host"),
            (h11, "/", &[("host", "")], "Host is not a host"),
            (h11, "/", &[("host", "u@a")], "Host is not a host"),
            (h11, "/", &[("host", "a/b")], "Host is not a host"),
            (h11, "/", &[("host", "a, b")], "Host is not a host"),
            (h11, "http://a/", &[("host", "b")], "Host differs from the target's"),
            (h11, "http://a:81/", &[("host", "a")], "Host differs from the target's"),
            (h11, "http://a:443/", &[("host", "a")], "Host differs from the target's"),
            (h11, "http://u@a/", &[("host", "a")], "the target names a user"),
            (Version::HTTP_2, "https://a/", &[("host", "b")], "Host differs from the target's"),
        ];
        for (version, target, fields, why) in table {
            assert_eq!(fault(*version, target, fields), Some(*why), "{target} {fields:?}");
        }
    }

    #[test]
    fn ambiguous_bodies_are_refused() {
        let h11 = Version::HTTP_11;
        let te = |value| ("transfer-encoding", value);
        let host = ("host", "a");
        assert!(fault(h11, "/", &[host, te("chunked"), ("content-length", "3")]).is_some());
        assert!(fault(Version::HTTP_10, "/", &[host, te("chunked")]).is_some());
        assert!(fault(h11, "/", &[host, te("gzip, chunked")]).is_some());
        assert!(fault(h11, "/", &[host, te("chunked"), te("chunked")]).is_some());
        assert!(fault(h11, "/", &[host, te("identity")]).is_some());
    }
}
