//! What a backend gets to see otherwise than its clients wrote it: paths, `Host`, `Origin`; and a backend that is the sidecar
//! itself.

use crate::support::plain::{Line, canned};
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site, soon};

const ROUTE: &str = "[[route]]\npath = \"/app\"\nstrip_path = true\nsend_host = \"chat.internal:9000\"\n\
                     send_origin = \"https://chat.internal\"\n";

fn site(upstream: &str) -> Site {
    Site::from_toml(&format!("listen = \"127.0.0.1:0\"\n{ROUTE}upstream = \"{upstream}\"\n"))
}

#[tokio::test]
async fn proxied_requests_are_written_anew_and_their_answers_lead_back() {
    let answer = "HTTP/1.1 302 Found\r\nLocation: http://chat.internal:9000/base/login?from=/base/\r\n\
                  Set-Cookie: a=1; Path=/base\r\nSet-Cookie: b=2; Path=/; HttpOnly\r\nContent-Length: 0\r\n\r\n";
    let (backend, mut asked) = canned(answer).await;
    let site = site(&format!("http://{backend}/base"));
    let reply = site.request(http::Method::POST, "/app/x?y=/app", &[("origin", "http://a.example")], "body").await;
    let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
    assert!(head.starts_with("post /base/x?y=/app http/1.1\r\n"), "{head}");
    for field in [
        "host: chat.internal:9000",
        "origin: https://chat.internal",
        "x-forwarded-prefix: /app",
        &format!("x-forwarded-host: {}", site.at),
    ] {
        assert!(head.contains(&format!("\r\n{field}\r\n")), "{field} in {head}");
    }
    assert_eq!(reply.header("location"), Some("/app/login?from=/base/"));
    let cookies: Vec<_> = reply.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1; Path=/app", "b=2; Path=/; HttpOnly"]);
}

#[tokio::test]
async fn without_its_keys_a_route_sends_what_the_client_wrote() {
    let (backend, mut asked) = canned("HTTP/1.1 302 Found\r\nLocation: http://a/x\r\nContent-Length: 0\r\n\r\n").await;
    let site = Site::start(backend, "");
    let reply = site.request(http::Method::GET, "/app/../x", &[("origin", "http://a.example")], "").await;
    let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
    assert!(
        head.starts_with("get /app/../x http/1.1\r\n") && head.contains(&format!("host: {}\r\n", site.at)),
        "{head}"
    );
    assert!(head.contains("origin: http://a.example\r\n") && !head.contains("x-forwarded-prefix"), "{head}");
    assert_eq!(reply.header("location"), Some("http://a/x"));
}

#[tokio::test]
async fn handshakes_are_written_anew_for_tunnels_and_sessions() {
    let mut backend = Backend::start().await;
    let site = site(&format!("ws://{}/base", backend.at));
    let origin = format!("http://{}", site.at);
    let mut client = site.websocket("/app/chat?room=1", &[("origin", &origin)]).await;
    let mut passed = backend.accept().await;
    futures_util::SinkExt::send(&mut client, "hello".into()).await.expect("it is open");
    assert_eq!(passed.next_text().await, "hello");
    let opened = site.request(http::Method::POST, "/app/chat?room=1&underpass=open", &[("origin", &origin)], "").await;
    assert_eq!(opened.status, 200, "{}", opened.text());
    assert!(opened.json()["session"]["url"].as_str().is_some_and(|url| url.starts_with("../_underpass/s/")));
    let session = backend.accept().await;
    for socket in [&passed, &session] {
        assert_eq!(socket.path, "/base/chat?room=1");
        assert_eq!(socket.headers["host"], "chat.internal:9000");
        assert_eq!(socket.headers["origin"], "https://chat.internal");
        assert_eq!(socket.headers["x-forwarded-prefix"], "/app");
    }
}

#[tokio::test]
async fn a_target_that_is_no_uri_is_written_anew_as_it_was() {
    let (backend, mut asked) = canned("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let site = site(&format!("http://{backend}/base"));
    let mut line = Line::to(site.at).await;
    line.say("GET /app/x?a=\"<b>\" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    line.rest().await;
    let head = soon("a request", asked.recv()).await.expect("the backend lives");
    assert!(head.starts_with("GET /base/x?a=\"<b>\" HTTP/1.1\r\n"), "{head}");
    let mut line = Line::to(site.at).await;
    line.say(
        "POST /app/x?a=\"<b>\"&underpass=open HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    )
    .await;
    line.rest().await;
    let head = soon("a handshake", asked.recv()).await.expect("the backend lives");
    assert!(head.starts_with("GET /base/x?a=\"<b>\" HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn a_prefix_that_is_added_cannot_be_left() {
    let (backend, mut asked) = canned("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let site = site(&format!("http://{backend}/base"));
    for path in ["/app/../admin", "/app/%2e%2e/admin", "/app/x%2f..%2f..%2fadmin", "/app/..%5cadmin"] {
        for more in ["", "?underpass=open"] {
            let mut line = Line::to(site.at).await;
            let method = if more.is_empty() { "GET" } else { "POST" };
            line.say(format!(
                "{method} {path}{more} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            ))
            .await;
            let answer = String::from_utf8_lossy(&line.rest().await).into_owned();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{path}{more}: {answer}");
        }
    }
    assert!(asked.try_recv().is_err(), "the backend was asked");
}

#[tokio::test]
async fn a_backend_that_is_the_sidecar_itself_is_a_loop() {
    let scratch = Scratch::new("loop");
    let (own, other) = (scratch.path("own.sock"), scratch.path("other.sock"));
    std::os::unix::fs::symlink(&own, &other).expect("a name for it");
    let site = Site::from_toml(&format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"unix:{}\"\n[[listener]]\naddress = \"unix:{}\"\n",
        other.display(),
        own.display()
    ));
    for reply in [site.get("/x").await, site.post("/x?underpass=open", "").await] {
        assert_eq!((reply.status.as_u16(), reply.error().as_str()), (508, "loop_detected"));
    }
}
