//! Whose backend a request is for: routes by host and path, unix sockets, and what a backend is told of the client.

use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;

use crate::support::plain::{Line, canned};
use crate::support::site::{Backend, Site, soon};

#[tokio::test]
async fn the_longest_path_of_the_named_host_decides() {
    let mut backends = Vec::new();
    for name in ["default", "chat", "rooms", "chat-rooms"] {
        let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
        backends.push(canned(body).await);
    }
    let at = |index: usize| backends[index].0;
    let site = Site::start(
        at(0),
        &format!(
            "[[route]]\nhost = \"chat.example.\"\nupstream = \"ws://{}\"\n[[route]]\npath = \"/rooms\"\nupstream = \
             \"ws://{}\"\n[[route]]\nhost = \"chat.example\"\npath = \"/rooms\"\nupstream = \"ws://{}\"\n",
            at(1),
            at(2),
            at(3)
        ),
    );
    for (host, path, expected) in [
        ("other.example", "/", "default"),
        ("other.example", "/roomsy", "default"),
        ("other.example", "/rooms", "rooms"),
        ("other.example", "/rooms/1", "rooms"),
        ("chat.example", "/", "chat"),
        ("CHAT.example:8080", "/x", "chat"),
        ("chat.example.", "/rooms/1", "chat-rooms"),
        ("chat.example.evil.example", "/", "default"),
    ] {
        let mut client = Line::to(site.at).await;
        client.say(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        let (_, body) = client.answer().await;
        assert_eq!(body, expected, "{host}{path}");
    }
    // What the client claims of its way changes nothing.
    let reply = site.request(Method::GET, "/", &[("x-forwarded-host", "chat.example")], "").await;
    assert_eq!(reply.text(), "default");
}

#[tokio::test]
async fn a_wildcard_is_one_label_and_comes_between_names_and_any_host() {
    let mut backends = Vec::new();
    for name in ["any", "wild", "named"] {
        let body = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}", name.len());
        backends.push(canned(body).await);
    }
    let route =
        |host: &str, index: usize| format!("[[route]]\nhost = \"{host}\"\nupstream = \"ws://{}\"\n", backends[index].0);
    let site = Site::start(backends[0].0, &[route("*.Rooms.example", 1), route("a.rooms.example", 2)].concat());
    for (host, expected) in [
        ("a.rooms.example:8080", "named"),
        ("B.rooms.example.", "wild"),
        ("rooms.example", "any"),
        ("c.b.rooms.example", "any"),
        ("evilrooms.example", "any"),
    ] {
        let mut client = Line::to(site.at).await;
        client.say(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.answer().await.1, expected, "{host}");
    }
}

#[tokio::test]
async fn sessions_follow_the_routes_as_well() {
    let (mut here, mut there) = (Backend::start().await, Backend::start().await);
    let site = Site::start(here.at, &format!("[[route]]\npath = \"/rooms\"\nupstream = \"ws://{}\"\n", there.at));
    site.open("/rooms/7").await;
    assert_eq!(there.accept().await.path, "/rooms/7");
    site.open("/roomsy").await;
    assert_eq!(here.accept().await.path, "/roomsy");
    let _tunnel = site.websocket("/rooms/raw", &[]).await;
    assert_eq!(there.accept().await.path, "/rooms/raw");
}

#[tokio::test]
async fn a_backend_behind_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("underpass-it-{}.sock", std::process::id()));
    let listener = UnixListener::bind(&path).expect("the path is ours");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut ws = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
                while let Some(Ok(message)) = ws.next().await {
                    if message.is_text() {
                        ws.send(message).await.expect("it is taken");
                    }
                }
            });
        }
    });
    let site = Site::from_toml(&format!("listen = \"127.0.0.1:0\"\nupstream = \"unix:{}\"\n", path.display()));
    let opened = site.open("/").await;
    site.post(&format!("{}/send?as=text", opened.url), "hello").await.json();
    assert_eq!(site.get(&format!("{}/poll", opened.url)).await.json()["messages"][0], "hello");
    let mut tunnel = site.websocket("/", &[]).await;
    tunnel.send("raw".into()).await.expect("it is taken");
    assert_eq!(soon("an echo", tunnel.next()).await.expect("one").expect("no error").into_data(), "raw");
    std::fs::remove_file(&path).expect("the socket was bound there");
}

#[tokio::test]
async fn a_unix_listener_serves_sessions() {
    let path = std::env::temp_dir().join(format!("underpass-it-door-{}.sock", std::process::id()));
    let backend = Backend::echo().await;
    let _site = Site::start(backend, &format!("[[listener]]\naddress = \"unix:{}\"\n", path.display()));
    let mut socket = tokio::net::UnixStream::connect(&path).await.expect("it listens");
    socket
        .write_all(b"POST /?underpass=open HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        .await
        .expect("it is taken");
    let (head, body) = Line(socket).answer().await;
    assert!(head.starts_with("http/1.1 200 ") && body.contains("\"token\""), "{head}{body}");
}

/// The peer of a proxied request, as the backend is told.
#[tokio::test]
async fn what_an_untrusted_peer_says_of_itself_is_replaced() {
    for (trusted, expected) in [("[]", "127.0.0.1"), ("[\"127.0.0.1\"]", "192.0.2.9, 127.0.0.1")] {
        let (at, mut asked) = canned("HTTP/1.1 204 No Content\r\n\r\n").await;
        let site = Site::start(at, &format!("trusted_proxies = {trusted}\n"));
        let headers = [("x-forwarded-for", "192.0.2.9"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "h")];
        site.request(Method::GET, "/", &headers, "").await;
        let head = soon("a request", asked.recv()).await.expect("one").to_ascii_lowercase();
        assert!(head.contains(&format!("x-forwarded-for: {expected}\r\n")), "{head}");
        let proto = if trusted == "[]" { "http" } else { "https" };
        assert!(head.contains(&format!("x-forwarded-proto: {proto}\r\n")), "{head}");
    }
}
