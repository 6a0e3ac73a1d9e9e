//! Tests of `peer`: a table of connections and headers against the client that comes out. Must not touch: sockets.

use http::HeaderValue;

use super::*;

/// Whom the tables trust: 10.0.0.0/8, fd00::/8 and unix sockets.
fn trusted() -> Trusted {
    Trusted {
        networks: vec!["10.0.0.0/8".parse().expect("a sound address"), "fd00::/8".parse().expect("a sound address")],
        unix: true,
    }
}

fn peer(from: &str, tls: bool, fields: &[(&'static str, &str)]) -> Peer {
    let peer = match from {
        "unix" => PeerAddr::Unix,
        address => PeerAddr::Tcp(SocketAddr::new(address.parse().expect("a sound address"), 40_000)),
    };
    let conn = ConnInfo { peer, tls, bytes: Arc::new(Traffic::default()) };
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
    let conn = ConnInfo { peer: PeerAddr::Unix, tls: false, bytes: Arc::new(Traffic::default()) };
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
    let appended = peer("10.0.0.1", false, &[("x-forwarded-proto", "https, http"), ("x-forwarded-host", "evil, good")]);
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
    let conn = ConnInfo { peer: PeerAddr::Unix, tls: false, bytes: Arc::new(Traffic::default()) };
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
