//! Which header fields cross to the other side, and what we say of the client.
//!
//! Enters: the head of a request or a response. Leaves: the same without what belongs to one connection only, without
//! what a stranger claims of itself, and with our own words. Must not touch: bodies, the network, a clock.
//!
//! **The order is the defence**: first everything that `Connection` names is taken out, then ours is put in, so that
//! nobody can name ours there and have it removed (`Connection: X-Forwarded-For`). And what identifies a request
//! (`Host`, `Cookie`, `Authorization` …) is never removed on the word of `Connection`.

use std::borrow::Cow;

use http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT,
    HOST, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, ORIGIN,
    PRAGMA, RANGE, REFERER, RETRY_AFTER, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, TE, TRAILER, UPGRADE, UPGRADE_INSECURE_REQUESTS, USER_AGENT,
};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Uri, Version, request};

use crate::http::fields::{has_token, tokens};
use crate::http::write_head::origin_form;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Fields of one connection (RFC 9110 section 7.6.1 and its forerunners), and `Proxy`, which CGI programs take for the
/// address of a proxy of their own.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "http2-settings",
    "transfer-encoding",
    "upgrade",
    "proxy",
];

/// Fields in which a client, or a proxy in front of it, says who the client is or what it asked for: those that servers,
/// frameworks and their middleware read. With them go all whose names begin or end as below.
const ABOUT_THE_CLIENT: [&str; 21] = [
    "forwarded",
    "x-forwarded",
    "forwarded-for-ip",
    "x-forward-for",
    "x-real-ip",
    "x-host",
    "x-original-host",
    "x-original-url",
    "x-original-uri",
    "x-original-proto",
    "x-rewrite-url",
    "x-http-host-override",
    "x-envoy-external-address",
    "x-envoy-original-path",
    "x-envoy-peer-metadata",
    "x-appengine-user-ip",
    "x-azure-socketip",
    "cf-connecting-ipv6",
    "cf-pseudo-ipv4",
    "x-nf-client-connection-ip",
    "x-vercel-proxied-for",
];
/// `X-Forwarded-For`, `-Host`, `-Proto`, `-Port`, `-Prefix`, `-Server` and whatever comes to be.
const BEGINS_ABOUT_THE_CLIENT: &str = "x-forwarded-";
/// `Client-IP`, `X-Client-IP`, `True-Client-IP`, `Fly-Client-IP`, `Fastly-Client-IP`, `X-Cluster-Client-IP`,
/// `X-Azure-ClientIP`, `CF-Connecting-IP`, `X-Original-Forwarded-For`, `X-Remote-Addr`, `X-Originating-IP` …
const ENDS_ABOUT_THE_CLIENT: [&str; 7] =
    ["client-ip", "clientip", "connecting-ip", "forwarded-for", "remote-addr", "remote-ip", "originating-ip"];

/// What `Connection` cannot remove, besides the fields about the client and the `Sec-` family.
const PROTECTED: [HeaderName; 11] = [
    HOST,
    COOKIE,
    SET_COOKIE,
    AUTHORIZATION,
    ORIGIN,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    USER_AGENT,
    TRAILER,
    EXPECT,
];

/// What an opening request says of itself and a browser's WebSocket handshake does not say (Fetch, "WebSocket opening
/// handshake"); with it go `Content-…`, `Sec-Fetch-…`, `Sec-CH-…` and `Sec-WebSocket-…`.
const NOT_FOR_A_HANDSHAKE: [HeaderName; 15] = [
    ACCEPT,
    REFERER,
    HeaderName::from_static("priority"),
    HeaderName::from_static("x-requested-with"),
    UPGRADE_INSECURE_REQUESTS,
    EXPECT,
    TE,
    TRAILER,
    RANGE,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_MODIFIED_SINCE,
    IF_UNMODIFIED_SINCE,
    IF_RANGE,
    HeaderName::from_static("last-event-id"),
];

/// Fields of the answer to a handshake on which a browser acts by itself, whether it was a 101 or not. Without the
/// challenge: browsers answer one from what they know, but never ask anybody because of a WebSocket.
const ACTED_ON: [HeaderName; 9] = [
    SET_COOKIE,
    RETRY_AFTER,
    STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    HeaderName::from_static("accept-ch"),
    HeaderName::from_static("critical-ch"),
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
    HeaderName::from_static("reporting-endpoints"),
];

/// Room for the fields of an ordinary handshake: more than these are rare.
const HANDSHAKE_FIELDS: usize = 12;

/// What we tell the backend of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forwarded<'a> {
    /// The value of `X-Forwarded-For`; the gateway has appended the peer to a trusted proxy's list, or begun a new one.
    pub chain: Cow<'a, str>,
    /// `http` or `https`, as the client speaks it.
    pub proto: &'a str,
    /// The host that the client asked for; empty when it named none.
    pub host: &'a str,
    /// Whether the peer is a trusted proxy, whose other fields about the client are kept.
    pub trusted: bool,
    /// What was taken away from the path, for `X-Forwarded-Prefix`; empty when nothing was.
    pub prefix: &'a str,
    /// The fields about the client's certificate: nobody but us sets them. Empty where clients are not asked for one.
    pub identity: Vec<(HeaderName, Option<HeaderValue>)>,
}

/// Takes out what concerns one connection only: the hop-by-hop fields, and each field that `Connection` names unless it
/// is protected. For requests and responses. Of `TE` only `trailers` stays, of `Trailer` everything: hyper needs both
/// to send trailers on.
pub fn end_to_end(headers: &mut HeaderMap) {
    let trailers = has_token(headers, &TE, "trailers");
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION)
        .filter_map(|token| HeaderName::from_bytes(token.as_bytes()).ok())
        .filter(|name| !is_protected(name.as_str()))
        .collect();
    for name in named {
        headers.remove(name);
    }
    take_out(headers, |name| *name == TE || HOP_BY_HOP.contains(&name.as_str()));
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Takes out the twins of fields that matter: `X_Forwarded_For` or `X.Forwarded.For` are one with `X-Forwarded-For` for
/// a backend that folds names as CGI does. Other names with `_` or `.` stay.
pub fn drop_aliases(headers: &mut HeaderMap) {
    take_out(headers, |name| is_alias(name.as_str()));
}

/// Says who the client is: replaces `X-Forwarded-For`, `-Proto` and `-Host`. Everything else that an untrusted peer
/// says about that goes; a trusted peer's stays. A value that cannot be a field is left out, never the client's.
pub fn set_forwarded(headers: &mut HeaderMap, forwarded: &Forwarded<'_>) {
    if !forwarded.trusted {
        take_out(headers, |name| is_about_client(name.as_str()));
    }
    let ours =
        [(FORWARDED_FOR, &*forwarded.chain), (FORWARDED_PROTO, forwarded.proto), (FORWARDED_HOST, forwarded.host)];
    for (name, value) in ours {
        match HeaderValue::from_str(value) {
            Ok(value) if !value.is_empty() => drop(headers.insert(name, value)),
            _ => drop(headers.remove(name)),
        }
    }
    set_identity(headers, &forwarded.identity);
    if !forwarded.prefix.is_empty() {
        // Behind what a trusted proxy has taken away before us.
        let front = headers.get(FORWARDED_PREFIX).map(HeaderValue::as_bytes).unwrap_or_default();
        let whole = [front.strip_suffix(b"/").unwrap_or(front), forwarded.prefix.as_bytes()].concat();
        if let Ok(whole) = HeaderValue::from_bytes(&whole) {
            headers.insert(FORWARDED_PREFIX, whole);
        }
    }
}

/// Takes the fields out that tell of a client's certificate, with their twins, and sets those that have a value.
fn set_identity(headers: &mut HeaderMap, identity: &[(HeaderName, Option<HeaderValue>)]) {
    if identity.is_empty() {
        return;
    }
    let is_one = |name: &str| identity.iter().any(|(field, _)| field == name);
    take_out(headers, |name| is_one(name.as_str()) || is_one(&name.as_str().replace(['_', '.'], "-")));
    for (name, value) in identity {
        if let Some(value) = value {
            headers.insert(name.clone(), value.clone());
        }
    }
}

/// The host a request is for, which becomes `Host` towards the backend: the authority of an HTTP/2 request or of an
/// absolute target (RFC 9112 section 3.2.2), else its `Host`. A user name in the authority is left out.
#[must_use]
pub fn host(parts: &request::Parts) -> Option<HeaderValue> {
    request_host(&parts.uri, &parts.headers)
}

/// The same of a request's parts.
#[must_use]
pub fn request_host(uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    let Some(authority) = uri.authority() else { return headers.get(HOST).cloned() };
    let host = authority.as_str().rsplit('@').next().unwrap_or_default();
    HeaderValue::from_str(host).ok()
}

/// The handshake of a session, made from the request that opens it: what says who the client is stays (cookies,
/// `Authorization`, `Origin`, `User-Agent`, languages, fields of its own), what describes the opening request goes.
/// `host` becomes `Host`, `key` the handshake's key. Subprotocol names that are no tokens are left out: the gateway refuses them before. No
/// extensions are offered.
#[must_use]
pub fn session_handshake(
    original: &HeaderMap,
    target: &PathAndQuery,
    protocols: &[String],
    forwarded: &Forwarded<'_>,
    host: &HeaderValue,
    key: HeaderValue,
) -> request::Parts {
    let mut headers = HeaderMap::with_capacity(HANDSHAKE_FIELDS);
    for (name, value) in original.iter().filter(|(name, _)| fits_handshake(name)) {
        headers.append(name.clone(), value.clone());
    }
    outgoing(&mut headers, forwarded, Some(host.clone()));
    headers.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(SEC_WEBSOCKET_KEY, key);
    if let Some(protocols) = protocol_list(protocols) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols);
    }
    upgrade_request(target, headers)
}

/// The handshake of a passed-through WebSocket: the client's own, `Sec-WebSocket-…` untouched, so that key, version,
/// subprotocols and extensions are settled between client and backend.
#[must_use]
pub fn tunnel_handshake(original: &request::Parts, forwarded: &Forwarded<'_>) -> request::Parts {
    let mut headers = original.headers.clone();
    outgoing(&mut headers, forwarded, host(original));
    // A handshake has no body (RFC 6455 section 4.1); one that was announced must not be waited for.
    for name in [CONTENT_LENGTH, EXPECT, TE, TRAILER] {
        headers.remove(name);
    }
    upgrade_request(&origin_form(&original.uri), headers)
}

/// The handshake of another protocol: the client's own, method and all, with `protocol` as the only one in `Upgrade`.
#[must_use]
pub fn other_handshake(original: &request::Parts, forwarded: &Forwarded<'_>, protocol: &HeaderValue) -> request::Parts {
    let mut parts = tunnel_handshake(original, forwarded);
    parts.method = original.method.clone();
    parts.headers.insert(UPGRADE, protocol.clone());
    parts
}

/// The one protocol to which a request of HTTP/1.1 asks to switch; `None` when it does not, or leaves a choice.
#[must_use]
pub fn asked_upgrade(headers: &HeaderMap, version: Version) -> Option<&str> {
    let mut asked = tokens(headers, &UPGRADE);
    let (protocol, more) = (asked.next()?, asked.next());
    let is_asked = version == Version::HTTP_11 && has_token(headers, &CONNECTION, "upgrade");
    (is_asked && more.is_none()).then_some(protocol)
}

/// The head of a request on its way to the backend, all but `Expect` and what a handshake adds: end-to-end fields, one
/// `Cookie` line (HTTP/2 may split it, RFC 9113 section 8.2.3), our forwarding fields, one `Host`.
pub(crate) fn outgoing(headers: &mut HeaderMap, forwarded: &Forwarded<'_>, host: Option<HeaderValue>) {
    end_to_end(headers);
    drop_aliases(headers);
    join_cookies(headers);
    set_forwarded(headers, forwarded);
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
}

/// Whether the request asks to become a WebSocket: `Upgrade: websocket` and `Connection: Upgrade`, HTTP/1.1.
#[must_use]
pub fn wants_upgrade(headers: &HeaderMap, version: Version) -> bool {
    version == Version::HTTP_11
        && has_token(headers, &UPGRADE, "websocket")
        && has_token(headers, &CONNECTION, "upgrade")
}

/// Whether the request was a WebSocket handshake when it left the client, and a box on the way took its `Upgrade`, its
/// `Connection` or its HTTP version: it has the key still.
#[must_use]
pub fn lost_upgrade(headers: &HeaderMap, version: Version) -> bool {
    headers.contains_key(SEC_WEBSOCKET_KEY) && !wants_upgrade(headers, version)
}

/// Removes every field whose name is one of these. One look at each name: as a rule there is nothing to remove.
fn take_out(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    let gone: Vec<HeaderName> = headers.keys().filter(|name| goes(name)).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
}

fn is_about_client(name: &str) -> bool {
    name.starts_with(BEGINS_ABOUT_THE_CLIENT)
        || ABOUT_THE_CLIENT.contains(&name)
        || ENDS_ABOUT_THE_CLIENT.iter().any(|end| name.ends_with(end))
}

fn is_protected(name: &str) -> bool {
    is_about_client(name) || name.starts_with("sec-") || PROTECTED.iter().any(|protected| protected == name)
}

fn is_alias(name: &str) -> bool {
    if !name.bytes().any(|byte| matches!(byte, b'_' | b'.')) {
        return false;
    }
    let meant = name.replace(['_', '.'], "-");
    is_protected(&meant) || HOP_BY_HOP.contains(&meant.as_str())
}

fn fits_handshake(name: &HeaderName) -> bool {
    let families = ["content-", "sec-fetch-", "sec-ch-", "sec-websocket-"];
    !NOT_FOR_A_HANDSHAKE.contains(name) && !families.iter().any(|family| name.as_str().starts_with(family))
}

/// The fields of the answer to a handshake on which a browser acts, for the answer that stands in for it.
#[must_use]
pub fn acted_on(answer: &HeaderMap) -> HeaderMap {
    let named = |name: &HeaderName| ACTED_ON.contains(name);
    answer.iter().filter(|(name, _)| named(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1 {
        let whole = HeaderValue::from_bytes(&crumbs.join(b"; ".as_slice()));
        headers.insert(COOKIE, whole.expect("values of fields, joined by visible ASCII, are a value"));
    }
}

fn protocol_list(protocols: &[String]) -> Option<HeaderValue> {
    // A subprotocol name has the grammar of a field name (RFC 6455 section 4.1, RFC 9110 section 5.1).
    let is_token = |name: &&String| HeaderName::from_bytes(name.as_bytes()).is_ok();
    let list = protocols.iter().filter(is_token).map(String::as_str).collect::<Vec<_>>().join(", ");
    if list.is_empty() { None } else { HeaderValue::from_str(&list).ok() }
}

fn upgrade_request(target: &PathAndQuery, mut headers: HeaderMap) -> request::Parts {
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::GET;
    parts.uri = Uri::from(target.clone());
    parts.headers = headers;
    parts
}

#[cfg(test)]
mod tests;
