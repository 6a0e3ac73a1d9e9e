//! Each endpoint with each method, and paths that are nothing.

use super::house::House;
use super::raw;

const METHODS: [&str; 9] = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"];

#[tokio::test]
async fn each_endpoint_takes_its_own_methods_only() {
    let mut house = House::open("").await;
    let mut endpoints: Vec<(String, &[&str])> = vec![
        ("/chat?underpass=open".into(), &["POST"]),
        ("/chat?underpass=sse".into(), &["GET"]),
        ("/_underpass/info".into(), &["GET", "HEAD"]),
    ];
    for verb in ["sse", "stream", "poll", "ws"] {
        endpoints.push((house.url(verb), &["GET"]));
    }
    for verb in ["send", "ack", "close", "polls"] {
        endpoints.push((house.url(verb), &["POST"]));
    }
    for (path, allowed) in &endpoints {
        for method in METHODS.into_iter().filter(|method| !allowed.contains(method)) {
            let before = house.standing().await;
            let answer = house.ask(method, path, &[], b"").await;
            answer.is_protected();
            match method {
                "OPTIONS" => assert_eq!((answer.status, answer.body.len()), (204, 0), "{path}"),
                "HEAD" => assert_eq!((answer.status, answer.body.len()), (405, 0), "{path}"),
                _ => {
                    let code = answer.refused();
                    assert_eq!((answer.status, code.as_str()), (405, "method_not_allowed"), "{method} {path}");
                    assert!(answer.message().contains(allowed[0]), "{}", answer.message());
                    let allow: Vec<_> = answer.header("allow").expect("Allow").split(", ").collect();
                    assert!(allowed.iter().all(|method| allow.contains(method)), "{allow:?} {path}");
                    assert!(!allow.contains(&method), "{allow:?} {path}");
                }
            }
            assert_eq!(house.standing().await, before, "{method} {path}");
        }
    }
    house.lives_on().await;
    let info = raw::ask(house.site.at, "HEAD", "/_underpass/info", &[], b"").await;
    assert_eq!((info.status, info.body.len()), (200, 0));
}

/// Methods in small letters, and CONNECT, whatever it asks for.
#[tokio::test]
async fn methods_that_are_none() {
    let mut house = House::open("").await;
    let (send, close) = (house.url("send?as=text"), house.url("close"));
    for (method, path) in [("post", send.as_str()), ("Post", &close), ("POSTX", &close), ("GETPOST", &send)] {
        let answer = house.ask(method, path, &[("Content-Length", "0")], b"").await;
        assert_eq!((answer.status, answer.refused().as_str()), (405, "method_not_allowed"), "{method}");
    }
    for target in [&close, &send, "/chat?underpass=open", "/", "localhost:80", "*"] {
        let mut wire = house.wire().await;
        wire.write(
            format!("CONNECT {target} HTTP/1.1\r\nHost: localhost:80\r\n\r\nGET /hidden HTTP/1.1\r\n").as_bytes(),
        )
        .await;
        let answer = wire.answer(false).await.expect("an answer");
        assert!(matches!(answer.status, 400 | 405), "CONNECT {target}: {answer:?}");
    }
    house.lives_on().await;
}

#[tokio::test]
async fn paths_that_are_nothing_are_not_found_and_reach_nobody() {
    let mut house = House::open("").await;
    let token = house.opened.session["token"].as_str().expect("a token").to_owned();
    for path in [
        "/_underpass",
        "/_underpass/",
        "/_underpass/x",
        "/_underpass/opens/chat",
        "/_underpass/s",
        "/_underpass/s/",
        "/_underpass/info/",
        "/_underpass/info/x",
        "/_underpass/OPEN/chat",
        "/_underpass/metrics",
        "/_underpass//info",
        "/_underpass/s/s/s/s/s",
        "/_underpass/%69nfo",
        "/_underpass/open%2fchat",
        "/_underpass/\u{e9}",
    ] {
        for method in ["GET", "POST"] {
            let answer = raw::ask(house.site.at, method, path, &[], b"").await;
            assert!(matches!(answer.status, 404), "{method} {path}: {answer:?}");
            assert_eq!(answer.refused(), "not_found", "{path}");
        }
    }
    for verb in ["", "/", "/pollz", "/poll/", "/poll/x", "/POLL", "/%70oll", "/poll%00", "/poll;x", "/sse.js", "//poll"]
    {
        let path = format!("/_underpass/s/{token}{verb}");
        let answer = raw::ask(house.site.at, "GET", &path, &[], b"").await;
        assert!(matches!(answer.status, 404), "{path}: {answer:?}");
        assert_eq!(answer.refused(), "not_found", "{path}");
    }
    let before = house.standing().await;
    for method in ["PUT", "DELETE", "TRACE"] {
        let answer = raw::ask(house.site.at, method, "/_underpass/x", &[], b"").await;
        assert!(matches!(answer.status, 404 | 405), "{answer:?}");
        answer.refused();
    }
    assert_eq!(house.standing().await, before);
    house.lives_on().await;
}

/// `TRACE` would echo cookies and tokens to scripts: ours does not, and a backend, which might, is not asked.
#[tokio::test]
async fn nothing_echoes_a_request() {
    let house = House::open("").await;
    for path in ["/", "/page?x=1"] {
        let answer = raw::ask(house.site.at, "TRACE", path, &[("Cookie", "planted=secret")], b"").await;
        assert_eq!((answer.status, answer.refused().as_str()), (405, "method_not_allowed"), "{path}");
        assert!(!answer.header("allow").expect("Allow").contains("TRACE"));
    }
    for path in [house.url("poll"), "/_underpass/info".into(), "/_underpass/x".into()] {
        let answer = raw::ask(house.site.at, "TRACE", &path, &[("Cookie", "planted=secret")], b"").await;
        assert!(!String::from_utf8_lossy(&answer.body).contains("planted"), "{answer:?}");
    }
}
