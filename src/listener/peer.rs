//! Who the client is: the socket's other end, or, when that is a trusted proxy, whom it speaks for. Pure.
//!
//! Enters: what is known of the connection, a request's headers, and whom the operator trusts. Leaves: a [`Peer`]. Must
//! not touch: the network; what a client may do is never decided by its address, only how much of it.
//!
//! The field `Forwarded` (RFC 7239) is not read: proxies that set it set the `X-Forwarded-` fields as well, and two
//! sources for one fact can disagree.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::Authority;

use super::traffic::Traffic;
use crate::certificate::{facts, fingerprint};
use crate::config::Trusted;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The other end of an accepted socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerAddr {
    /// An address and port.
    Tcp(SocketAddr),
    /// A process on this machine; it has no address.
    Unix,
}

/// What is known of the connection that a request came by.
#[derive(Clone, Debug)]
pub struct ConnInfo {
    /// The socket's other end, or whom that has introduced by the PROXY protocol.
    pub peer: PeerAddr,
    /// Whether it speaks TLS to us.
    pub tls: bool,
    /// The certificate that it has shown, verified.
    pub certificate: Option<Arc<ClientCertificate>>,
    /// What the connection has carried so far.
    pub bytes: Arc<Traffic>,
}

/// A client's certificate, as a backend is told of it.
#[derive(Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its subject; empty if that cannot be told.
    pub subject: HeaderValue,
    /// Its SHA-256 in hexadecimal digits.
    pub fingerprint: HeaderValue,
}

impl ClientCertificate {
    /// Of a certificate in DER.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let value = |text: String| HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""));
        let subject = facts(der).map(|facts| facts.subject).unwrap_or_default();
        Self { subject: value(subject), fingerprint: value(fingerprint(der)) }
    }
}

/// The client of a request, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address; `None` behind a unix socket that does not say.
    pub client: Option<IpAddr>,
    /// The socket's other end; `None` for a unix socket.
    near: Option<IpAddr>,
    /// Whom a trusted proxy speaks for, as it says; empty when there is none.
    hops: String,
    /// `http` or `https`: what the client used.
    pub proto: &'static str,
    /// The host, with port if any, that the client asked for; empty if it is not usable.
    pub host: String,
    /// Whether the socket's other end is a trusted proxy.
    pub trusted: bool,
    /// The certificate that the socket's other end has shown.
    pub certificate: Option<Arc<ClientCertificate>>,
}

// === impl Peer ===

impl Peer {
    /// Who sent a request with these `headers` by this connection; `authority` is the one of its target, if it has one.
    ///
    /// Of a trusted proxy, the forwarding fields are believed: `X-Forwarded-For` from the right up to the first address
    /// that is not trusted itself; of `X-Forwarded-Proto` and `X-Forwarded-Host` the last value, which the proxy
    /// itself has set, if it is valid. Of anyone else they are ignored.
    #[must_use]
    pub fn of(conn: &ConnInfo, headers: &HeaderMap, authority: Option<&Authority>, trusted: &Trusted) -> Self {
        let address = conn.peer.ip();
        let is_trusted = conn.peer.is_trusted(trusted);
        let mut peer = Self {
            client: address,
            near: address,
            hops: String::new(),
            proto: if conn.tls { "https" } else { "http" },
            host: asked_host(headers, authority),
            trusted: is_trusted,
            certificate: conn.certificate.clone(),
        };
        if is_trusted {
            peer.believe(headers, trusted);
        }
        peer
    }

    /// The value of `X-Forwarded-For` for the backend; empty when there is nothing to say, and the field is then to be
    /// left out.
    #[must_use]
    pub fn chain(&self) -> String {
        match self.near {
            Some(near) if self.hops.is_empty() => near.to_string(),
            Some(near) => format!("{}, {near}", self.hops),
            None => self.hops.clone(),
        }
    }

    /// Its address as the log has it; `unix` where there is none.
    #[must_use]
    pub fn client_text(&self) -> String {
        self.client.map_or_else(|| "unix".to_owned(), |client| client.to_string())
    }

    fn believe(&mut self, headers: &HeaderMap, trusted: &Trusted) {
        let hops = list(headers, &FORWARDED_FOR);
        self.client = walk(&hops, trusted).or(self.near);
        self.hops = hops.join(", ");
        if let Some(proto) = list(headers, &FORWARDED_PROTO).last().and_then(|value| scheme(value)) {
            self.proto = proto;
        }
        if let Some(host) = list(headers, &FORWARDED_HOST).last().and_then(|value| plain_host(value)) {
            self.host = host;
        }
    }
}

// === impl PeerAddr ===

impl PeerAddr {
    /// The address, an IPv4 address that arrived at an IPv6 socket as what it is.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }

    /// Whether it may speak for others.
    pub(super) fn is_trusted(&self, trusted: &Trusted) -> bool {
        self.ip().map_or(trusted.unix, |address| contains(trusted, address))
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// From the right, over trusted proxies, to the first address that is none; to the leftmost when all are. Whatever is no
/// address ends the walk: nobody vouches for what stands left of it.
fn walk(hops: &[&str], trusted: &Trusted) -> Option<IpAddr> {
    let mut furthest = None;
    for hop in hops.iter().rev() {
        let Some(address) = hop_address(hop) else { break };
        furthest = Some(address);
        if !contains(trusted, address) {
            break;
        }
    }
    furthest
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|hop| hop.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse::<IpAddr>().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|at| at.ip()))?;
    Some(address.to_canonical())
}

fn contains(trusted: &Trusted, address: IpAddr) -> bool {
    trusted.networks.iter().any(|network| network.contains(&address))
}

/// All values of a field that is a list, over all its lines; empty ones and lines that are not ASCII are left out.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<&'a str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty()).collect()
}

fn scheme(value: &str) -> Option<&'static str> {
    let is = |name| value.eq_ignore_ascii_case(name);
    if is("https") || is("wss") {
        Some("https")
    } else if is("http") || is("ws") {
        Some("http")
    } else {
        None
    }
}

/// What the request itself asks for. When both are there they are equal, or `framing::request_fault` has refused it.
fn asked_host(headers: &HeaderMap, authority: Option<&Authority>) -> String {
    let field = || headers.get(HOST).and_then(|host| host.to_str().ok());
    authority.map(Authority::as_str).or_else(field).and_then(plain_host).unwrap_or_default()
}

/// A host with an optional port and nothing else.
pub(super) fn plain_host(value: &str) -> Option<String> {
    is_plain_host(value).then(|| value.to_ascii_lowercase())
}

/// True for what [`plain_host`] takes. Every request asks this, so the usual form is seen without a parser.
pub(super) fn is_plain_host(value: &str) -> bool {
    let (name, port) = value.split_at(value.bytes().position(|byte| byte == b':').unwrap_or(value.len()));
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let number = || port[1..].bytes().all(|byte| byte.is_ascii_digit()) && port[1..].parse::<u16>().is_ok();
    if !name.is_empty() && name.bytes().all(usual) && (port.is_empty() || number()) {
        return true;
    }
    value.parse().is_ok_and(|authority: Authority| !authority.host().is_empty() && !value.contains('@'))
}

#[cfg(test)]
mod tests {
    //! Tests of `peer`: a table of connections and headers against the client that comes out. Must not touch: sockets.

    use super::*;

    /// Whom the tables trust: 10.0.0.0/8, fd00::/8 and unix sockets.
    fn trusted() -> Trusted {
        Trusted {
            networks: vec![
                "10.0.0.0/8".parse().expect("a sound address"),
                "fd00::/8".parse().expect("a sound address"),
            ],
            unix: true,
        }
    }

    fn peer(from: &str, tls: bool, fields: &[(&'static str, &str)]) -> Peer {
        let peer = match from {
            "unix" => PeerAddr::Unix,
            address => PeerAddr::Tcp(SocketAddr::new(address.parse().expect("a sound address"), 40_000)),
        };
        let conn = ConnInfo { peer, tls, certificate: None, bytes: Arc::default() };
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).expect("a sound value"));
        }
        Peer::of(&conn, &headers, None, &trusted())
    }

    #[test]
    fn who_the_client_is() {
        let table: &[(&str, &[&str], &str, &str)] = &[
            // from, X-Forwarded-For lines, client, chain
            ("192.0.2.9", &[], "192.0.2.9", "192.0.2.9"),
            ("192.0.2.9", &["198.51.100.1"], "192.0.2.9", "192.0.2.9"),
            ("::ffff:192.0.2.9", &[], "192.0.2.9", "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", &["192.0.2.9"], "192.0.2.9", "192.0.2.9, 10.0.0.1"),
            ("10.0.0.1", &["192.0.2.9"], "192.0.2.9", "192.0.2.9, 10.0.0.1"),
            ("10.0.0.1", &["203.0.113.66, 192.0.2.9"], "192.0.2.9", "203.0.113.66, 192.0.2.9, 10.0.0.1"),
            (
                "10.0.0.1",
                &["203.0.113.66", "192.0.2.9, 10.0.0.2"],
                "192.0.2.9",
                "203.0.113.66, 192.0.2.9, 10.0.0.2, 10.0.0.1",
            ),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3", "10.0.0.3, 10.0.0.2, 10.0.0.1"),
            ("10.0.0.1", &["192.0.2.9, unknown"], "10.0.0.1", "192.0.2.9, unknown, 10.0.0.1"),
            ("10.0.0.1", &["192.0.2.9, junk, 10.0.0.2"], "10.0.0.2", "192.0.2.9, junk, 10.0.0.2, 10.0.0.1"),
            ("10.0.0.1", &["192.0.2.9:4711"], "192.0.2.9", "192.0.2.9:4711, 10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::1]:4711"], "2001:db8::1", "[2001:db8::1]:4711, 10.0.0.1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1", "[2001:db8::1], 10.0.0.1"),
            ("10.0.0.1", &["::ffff:192.0.2.9"], "192.0.2.9", "::ffff:192.0.2.9, 10.0.0.1"),
            ("10.0.0.1", &[" , 192.0.2.9 ,"], "192.0.2.9", "192.0.2.9, 10.0.0.1"),
            ("fd00::1", &["2001:db8::7"], "2001:db8::7", "2001:db8::7, fd00::1"),
            ("unix", &["192.0.2.9"], "192.0.2.9", "192.0.2.9"),
        ];
        for (from, lines, client, chain) in table {
            let fields: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let peer = peer(from, false, &fields);
            assert_eq!(peer.client, Some(client.parse().expect("a sound address")), "client of {from} {lines:?}");
            assert_eq!(peer.chain(), *chain, "chain of {from} {lines:?}");
        }
    }

    #[test]
    fn a_unix_peer_has_no_address() {
        let silent = peer("unix", false, &[("host", "a")]);
        assert_eq!((silent.client, silent.chain().as_str(), silent.trusted), (None, "", true));
        let conn = ConnInfo { peer: PeerAddr::Unix, tls: false, certificate: None, bytes: Arc::default() };
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("192.0.2.9"));
        let distrusted = Peer::of(&conn, &headers, None, &Trusted::default());
        assert_eq!((distrusted.client, distrusted.chain().as_str(), distrusted.trusted), (None, "", false));
    }

    #[test]
    fn scheme_and_host_are_taken_from_trusted_proxies_only() {
        let forwarded = [("host", "inner:80"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "App.Example")];
        let near = peer("10.0.0.1", false, &forwarded);
        assert_eq!((near.proto, near.host.as_str(), near.trusted), ("https", "app.example", true));
        let far = peer("192.0.2.9", false, &forwarded);
        assert_eq!((far.proto, far.host.as_str(), far.trusted), ("http", "inner:80", false));
        assert_eq!(peer("192.0.2.9", true, &forwarded).proto, "https");
        assert_eq!(peer("10.0.0.1", true, &[("x-forwarded-proto", "ws")]).proto, "http");
    }

    #[test]
    fn the_last_forwarded_value_counts_and_must_be_valid() {
        let appended =
            peer("10.0.0.1", false, &[("x-forwarded-proto", "https, http"), ("x-forwarded-host", "evil, good")]);
        assert_eq!((appended.proto, appended.host.as_str()), ("http", "good"));
        for (proto, host) in [("gopher", "a@b"), ("https;", "a/b"), ("h\u{7f}", "a b"), ("", "")] {
            let fields = [("host", "asked"), ("x-forwarded-proto", proto), ("x-forwarded-host", host)];
            let fields: Vec<_> = fields.into_iter().filter(|(_, value)| HeaderValue::from_str(value).is_ok()).collect();
            let odd = peer("10.0.0.1", true, &fields);
            assert_eq!((odd.proto, odd.host.as_str()), ("https", "asked"), "{proto} {host}");
        }
    }

    #[test]
    fn the_targets_authority_comes_before_the_host_field() {
        let conn = ConnInfo { peer: PeerAddr::Unix, tls: false, certificate: None, bytes: Arc::default() };
        let authority = Authority::from_static("A.example:8080");
        let mut headers = HeaderMap::new();
        assert_eq!(Peer::of(&conn, &headers, Some(&authority), &trusted()).host, "a.example:8080");
        assert_eq!(Peer::of(&conn, &headers, None, &trusted()).host, "");
        headers.insert(HOST, HeaderValue::from_static("user@a.example"));
        assert_eq!(Peer::of(&conn, &headers, None, &trusted()).host, "");
    }

    #[test]
    fn addresses_are_shown_as_what_they_are() {
        let mapped = PeerAddr::Tcp("[::ffff:192.0.2.9]:80".parse().expect("a sound address"));
        assert_eq!(mapped.to_string(), "192.0.2.9:80");
        assert_eq!(PeerAddr::Unix.to_string(), "unix");
    }

    #[test]
    fn plain_names_pass_for_hosts_as_the_parser_has_them() {
        for host in ["a", "A.example", "1.2.3.4", "a-b.c", "-", ".", "a.", "xn--a", "a:80", "[::1]:80"] {
            assert!(is_plain_host(host), "{host}");
            assert!(host.parse::<Authority>().is_ok(), "{host}");
        }
        for none in ["", "a b", "a/b", "u@a", ":80", "[::1", "a:b:c", "\u{e9}"] {
            assert!(!is_plain_host(none), "{none}");
        }
    }
}
