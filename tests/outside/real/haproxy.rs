//! The PROXY protocol as haproxy speaks it, in both versions, over TCP: the backend is told of haproxy's own client.

use std::process::Command;

use crate::networks::boxes::{Box_, Place, Spec, reverse};
use crate::programs;
use crate::support::plain::{Line, canned};
use crate::support::site::{Site, soon};

#[tokio::test]
async fn haproxy_introduces_its_clients_in_version_1() {
    introduce(reverse("haproxy, send-proxy", "haproxy", "", |place| passing(place, "send-proxy"))).await;
}

#[tokio::test]
async fn haproxy_introduces_its_clients_in_version_2() {
    let how = |place: &Place| passing(place, "send-proxy-v2 proxy-v2-options ssl,cert-cn,crc32c");
    introduce(reverse("haproxy, send-proxy-v2", "haproxy", "", how)).await;
}

/// haproxy passes bytes, and says before them for whom.
fn passing(place: &Place, how: &str) -> Command {
    let Place { port, site, .. } = place;
    let config = place.file(
        "haproxy.cfg",
        &format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5s\n  timeout server 5s\n\
             frontend front\n  bind 127.0.0.1:{port}\n  default_backend back\nbackend back\n  server site {site} {how}\n"
        ),
    );
    let mut command = place.program("haproxy");
    command.arg("-db").arg("-f").arg(config);
    command
}

async fn introduce(spec: Spec) {
    if programs::command("haproxy").is_none() {
        assert!(!programs::full(), "{}: needs haproxy; run tests/run", spec.name);
        return programs::say(&format!("{}: left out: needs haproxy; run tests/run", spec.name));
    }
    let (backend, mut asked) = canned("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let site = Site::from_toml(&format!(
        "upstream = \"ws://{backend}\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n"
    ));
    let box_ = Box_::start(&spec, |_| site.at).await;
    // From an address that nobody else here has.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.6.5.4:0".parse().expect("an address")).expect("all of 127/8 is ours");
    let mut line = Line(soon("haproxy", socket.connect(box_.at())).await.expect("it listens"));
    line.say("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(line.rest().await.ends_with(b"ok"), "{}", box_.said());
    let head = soon("a request", asked.recv()).await.expect("the backend lives").to_ascii_lowercase();
    assert!(head.contains("x-forwarded-for: 127.6.5.4\r\n"), "{head}");
}
