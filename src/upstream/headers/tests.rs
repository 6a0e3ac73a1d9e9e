//! Enters: heads of all kinds. Leaves: what crosses. Must not touch: anything but `headers`.

use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value")))
        .collect()
}

fn list(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
    lines.sort();
    lines
}

fn forwarded(trusted: bool) -> Forwarded<'static> {
    Forwarded {
        chain: "192.0.2.1".into(),
        proto: "https",
        host: "app.example",
        trusted,
        prefix: "",
        identity: Vec::new(),
    }
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    let mut headers = map(&[
        ("connection", "close, X-Secret-Hop"),
        ("connection", "x-other"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("proxy-authenticate", "Basic"),
        ("proxy", "http://evil/"),
        ("te", "gzip, Trailers"),
        ("trailer", "x-sum"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAA"),
        ("x-secret-hop", "1"),
        ("x-other", "1"),
        ("x-kept", "1"),
    ]);
    end_to_end(&mut headers);
    assert_eq!(list(&headers), ["te: trailers", "trailer: x-sum", "x-kept: 1"]);
}

#[test]
fn te_without_trailers_goes() {
    let mut headers = map(&[("te", "gzip;q=0.5")]);
    end_to_end(&mut headers);
    assert!(headers.is_empty());
}

#[test]
fn connection_cannot_remove_what_identifies() {
    let named = "X-Forwarded-For, Cookie, Authorization, Origin, Host, Content-Length, Sec-WebSocket-Key, X-Real-IP";
    let mut headers = map(&[("connection", named)]);
    for name in named.split(", ") {
        headers.insert(name.parse::<HeaderName>().expect("a name"), HeaderValue::from_static("1"));
    }
    end_to_end(&mut headers);
    assert_eq!(headers.len(), 8, "{headers:?}");
}

#[test]
fn ours_survives_being_named_in_connection() {
    let mut headers =
        map(&[("connection", "X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host"), ("x-forwarded-for", "6.6.6.6")]);
    outgoing(&mut headers, &forwarded(false), None);
    assert_eq!(
        list(&headers),
        ["x-forwarded-for: 192.0.2.1", "x-forwarded-host: app.example", "x-forwarded-proto: https"]
    );
}

#[test]
fn a_stranger_is_not_believed_and_a_trusted_proxy_is() {
    let claims = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("forwarded", "for=6.6.6.6"),
        ("x-real-ip", "6.6.6.6"),
        ("true-client-ip", "6.6.6.6"),
        ("x-forwarded-port", "1"),
        ("x-mine", "1"),
    ];
    let mut headers = map(&claims);
    set_forwarded(&mut headers, &forwarded(false));
    let ours = ["x-forwarded-for: 192.0.2.1", "x-forwarded-host: app.example", "x-forwarded-proto: https"];
    assert_eq!(list(&headers), [&ours[..], &["x-mine: 1"]].concat());

    let mut headers = map(&claims);
    set_forwarded(&mut headers, &forwarded(true));
    assert_eq!(headers.get_all("x-forwarded-for").iter().count(), 1);
    assert_eq!(headers["x-forwarded-for"], "192.0.2.1");
    for kept in ["forwarded", "x-real-ip", "true-client-ip", "x-forwarded-port", "x-mine"] {
        assert!(headers.contains_key(kept), "{kept}");
    }
}

#[test]
fn whatever_a_stranger_calls_its_address_or_its_target_does_not_cross() {
    let claims = "Client-IP, X-Client-IP, True-Client-IP, Fly-Client-IP, Fastly-Client-IP, X-Cluster-Client-IP, \
                  X-Azure-ClientIP, X-Azure-SocketIP, CF-Connecting-IP, CF-Connecting-IPv6, CF-Pseudo-IPv4, \
                  DO-Connecting-IP, X-Sucuri-ClientIP, X-NF-Client-Connection-IP, X-Vercel-Proxied-For, \
                  X-Vercel-Forwarded-For, X-Original-Forwarded-For, X-Forwarded, Forwarded-For, X-Forward-For, \
                  Forwarded-For-IP, X-Envoy-External-Address, X-Envoy-Original-Path, X-Appengine-User-IP, \
                  X-Appengine-Remote-Addr, X-Originating-IP, X-Remote-IP, X-Remote-Addr, Remote-Addr, X-Host, \
                  X-Original-Host, X-Original-URL, X-Original-URI, X-Rewrite-URL, X-HTTP-Host-Override, X-Real-IP";
    for name in claims.split(", ").map(|name| name.trim().to_lowercase()) {
        for alias in [name.clone(), name.replace('-', "_")] {
            let mut headers = map(&[(&alias, "6.6.6.6"), ("connection", &name)]);
            outgoing(&mut headers, &forwarded(false), None);
            assert!(!headers.contains_key(&alias), "{alias}");
        }
        let mut headers = map(&[(&name, "6.6.6.6"), ("connection", &name)]);
        outgoing(&mut headers, &forwarded(true), None);
        assert_eq!(headers[&name], "6.6.6.6", "of a trusted proxy it stays");
    }
    let mut others = map(&[("x-client-ipad", "1"), ("x-original-filename", "1"), ("x-hostname", "1"), ("x-ip", "1")]);
    set_forwarded(&mut others, &forwarded(false));
    assert_eq!(others.len(), 4 + 3);
}

#[test]
fn a_value_that_cannot_be_a_field_never_falls_back_to_the_clients() {
    let mut headers = map(&[("x-forwarded-for", "6.6.6.6"), ("x-forwarded-host", "evil")]);
    let broken = Forwarded { chain: "a\r\nb".into(), host: "", ..forwarded(true) };
    set_forwarded(&mut headers, &broken);
    assert_eq!(list(&headers), ["x-forwarded-proto: https"]);
}

#[test]
fn twins_of_what_matters_go_and_other_names_stay() {
    let mut headers = map(&[("x_custom", "1"), ("x.custom", "1"), ("x-forwarded-for", "1")]);
    for alias in [
        "x_forwarded_for",
        "x.forwarded.for",
        "x-forwarded_for",
        "x_forwarded.proto",
        "X_Forwarded_Host",
        "x_forwarded_prefix",
        "x_real_ip",
        "transfer_encoding",
        "content_length",
        "sec_websocket_key",
    ] {
        headers.insert(alias.to_lowercase().parse::<HeaderName>().expect("a name"), HeaderValue::from_static("6"));
    }
    drop_aliases(&mut headers);
    assert_eq!(list(&headers), ["x-forwarded-for: 1", "x.custom: 1", "x_custom: 1"]);
}

#[test]
fn cookie_crumbs_become_one_line() {
    let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2; c=3")]);
    outgoing(&mut headers, &forwarded(false), None);
    assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
}

#[test]
fn the_host_is_the_authority_where_there_is_one() {
    let parts = |uri: &str, host: Option<&str>| {
        let mut request = Request::builder().uri(uri);
        if let Some(host) = host {
            request = request.header(HOST, host);
        }
        request.body(()).expect("a request").into_parts().0
    };
    assert_eq!(host(&parts("/a", Some("x.example"))).expect("a host"), "x.example");
    assert_eq!(host(&parts("http://me@y.example:8/a", Some("x.example"))).expect("a host"), "y.example:8");
    assert_eq!(host(&parts("/a", None)), None);
}

#[test]
fn targets_keep_their_bytes() {
    for (uri, expected) in [
        ("/a%2Fb//c;p?x=%20&&y=/?", "/a%2Fb//c;p?x=%20&&y=/?"),
        ("//evil.example/a", "//evil.example/a"),
        ("http://evil.example", "/"),
        ("http://evil.example?q=1", "/?q=1"),
        ("http://evil.example/a@b?q", "/a@b?q"),
        ("*", "*"),
    ] {
        assert_eq!(Uri::from(origin_form(&uri.parse().expect("a target"))).to_string(), expected, "{uri}");
    }
}

#[test]
fn an_opening_request_becomes_an_ordinary_handshake() {
    let original = map(&[
        ("host", "ignored.example"),
        ("user-agent", "Browser/1"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("authorization", "Bearer t"),
        ("origin", "https://app.example"),
        ("accept-language", "de"),
        ("x-tenant", "7"),
        ("accept", "text/event-stream"),
        ("accept-encoding", "gzip"),
        ("cache-control", "max-age=0"),
        ("referer", "https://app.example/page"),
        ("priority", "u=1"),
        ("sec-ch-ua", "x"),
        ("last-event-id", "n1-x.7"),
        ("content-type", "application/json"),
        ("content-length", "12"),
        ("expect", "100-continue"),
        ("if-none-match", "\"x\""),
        ("range", "bytes=0-"),
        ("sec-fetch-mode", "cors"),
        ("sec-websocket-key", "theirs"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("te", "trailers"),
        ("connection", "keep-alive"),
        ("x-forwarded-for", "6.6.6.6"),
    ]);
    let target = "/chat?room=1&x=%20".parse().expect("a target");
    let protocols = ["a".to_owned(), "bad name".to_owned(), "b.v1".to_owned()];
    let host = HeaderValue::from_static("app.example:8443");
    let key = HeaderValue::from_static("a key");
    let mut parts = session_handshake(&original, &target, &protocols, &forwarded(false), &host, key);
    let key = parts.headers.remove(SEC_WEBSOCKET_KEY).expect("a key");
    assert_eq!(key, "a key");
    assert_eq!((parts.method, parts.uri.to_string().as_str()), (Method::GET, "/chat?room=1&x=%20"));
    let expected = [
        "accept-encoding: gzip",
        "accept-language: de",
        "authorization: Bearer t",
        "cache-control: no-cache",
        "connection: Upgrade",
        "cookie: a=1; b=2",
        "host: app.example:8443",
        "origin: https://app.example",
        "pragma: no-cache",
        "sec-websocket-protocol: a, b.v1",
        "sec-websocket-version: 13",
        "upgrade: websocket",
        "user-agent: Browser/1",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: app.example",
        "x-forwarded-proto: https",
        "x-tenant: 7",
    ];
    assert_eq!(list(&parts.headers), expected);
}

#[test]
fn a_tunnels_handshake_is_the_clients_own() {
    let request = Request::builder()
        .uri("http://app.example/ws?x=%2F")
        .header("connection", "keep-alive, Upgrade, Sec-WebSocket-Key, X-Hop")
        .header("upgrade", "WebSocket")
        .header("x-hop", "1")
        .header("content-length", "5")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "a, b")
        .header("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")
        .body(())
        .expect("a request");
    let parts = tunnel_handshake(&request.into_parts().0, &forwarded(false));
    assert_eq!(parts.uri, "/ws?x=%2F");
    let expected = [
        "connection: Upgrade",
        "host: app.example",
        "sec-websocket-extensions: permessage-deflate; client_max_window_bits",
        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-protocol: a, b",
        "sec-websocket-version: 13",
        "upgrade: websocket",
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: app.example",
        "x-forwarded-proto: https",
    ];
    assert_eq!(list(&parts.headers), expected);
}

#[test]
fn an_upgrade_is_asked_for_or_was_lost_on_the_way() {
    let whole = [("connection", "keep-alive, upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-key", "k")];
    assert!(wants_upgrade(&map(&whole), Version::HTTP_11));
    assert!(!lost_upgrade(&map(&whole), Version::HTTP_11));
    assert!(!wants_upgrade(&map(&whole), Version::HTTP_10));
    assert!(lost_upgrade(&map(&whole), Version::HTTP_10));
    for missing in 0..2 {
        let mut fields = whole.to_vec();
        fields.remove(missing);
        assert!(!wants_upgrade(&map(&fields), Version::HTTP_11));
        assert!(lost_upgrade(&map(&fields), Version::HTTP_11));
    }
    let other = [("connection", "upgrade"), ("upgrade", "h2c")];
    assert!(!wants_upgrade(&map(&other), Version::HTTP_11) && !lost_upgrade(&map(&other), Version::HTTP_11));
}
