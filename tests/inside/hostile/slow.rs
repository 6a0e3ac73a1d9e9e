//! Clients that take their time: bounded, each by its own deadline, and never at the expense of an honest one.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::time::{sleep, timeout};

use super::house::{House, no_panics};
use super::raw::{self, request};
use crate::support::site::soon;

/// How long it takes the sidecar to end this connection, which sends `pieces` one by one and then nothing.
async fn endured(house: &House, first: &str, piece: &str, pause: Duration) -> Duration {
    let mut wire = house.wire().await;
    let start = Instant::now();
    wire.write(first.as_bytes()).await;
    let (mut reading, mut writing) = wire.socket.into_split();
    let dripping = async {
        while !piece.is_empty() && writing.write_all(piece.as_bytes()).await.is_ok() {
            sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    let ending = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);
    tokio::select! {
        _ = soon("the end of a slow connection", ending) => {}
        () = dripping => {}
    }
    start.elapsed()
}

#[tokio::test]
async fn slow_headers_are_cut_off_however_they_drip() {
    let mut house =
        House::open("[client]\nheader = \"400ms\"\nhandshake = \"400ms\"\nidle = \"400ms\"\nbody = \"400ms\"\n").await;
    // Below the defaults.
    let most = Duration::from_secs(8);
    let send = house.url("send?as=text");
    let slow_body = format!("POST {send} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nx");
    let drip = Duration::from_millis(50);
    let (silent, half, drips, lines, body) = tokio::join!(
        endured(&house, "", "", drip),
        endured(&house, "GET / HTTP/1.1\r\nHost: a\r\nX-Sl", "", drip),
        endured(&house, "GET / HTTP/1.1\r\nHost: a\r\nX: ", "y", drip),
        endured(&house, "GET / HTTP/1.1\r\nHost: a\r\n", "X: y\r\n", drip),
        endured(&house, &slow_body, "", drip),
    );
    for (what, took) in [("silent", silent), ("half", half), ("drips", drips), ("lines", lines), ("body", body)] {
        assert!(took >= Duration::from_millis(350) && took < most, "{what}: {took:?}");
    }
    house.lives_on().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_let_go_and_its_session_lives() {
    let mut house = House::open("[client]\nwrite = \"400ms\"\n[session]\nbuffer = \"32MiB\"\n").await;
    let mut wire = house.wire().await;
    wire.write(&request("GET", &house.url("sse"), &[], b"")).await;
    while house.standing().await["attached"] != "sse" {
        tokio::task::yield_now().await;
    }
    let text = "x".repeat(500_000);
    for _ in 0..30 {
        house.socket.send(&text).await;
    }
    soon("the end of the attachment", async {
        while !house.standing().await["attached"].is_null() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(house.standing().await["unacked"].as_u64().map(|unacked| unacked > 0), Some(true));
    // Nothing is lost of what was written into the void.
    let mut cursor = 0;
    while cursor < 30 {
        let poll = house.url(&format!("poll?after={cursor}"));
        let answer = raw::ask(house.site.at, "GET", &poll, &[], b"").await.json();
        assert_eq!(answer["from"], cursor);
        cursor = answer["after"].as_u64().expect("a cursor");
    }
    house.cursor = cursor;
    house.lives_on().await;
    drop(wire);
}

#[tokio::test]
async fn a_websocket_client_that_never_reads_is_let_go_and_its_session_lives() {
    let mut house = House::open("[client]\nwrite = \"400ms\"\n[session]\nbuffer = \"32MiB\"\n").await;
    let client = house.site.websocket(&house.url("ws"), &[("sec-websocket-protocol", "underpass.v1")]).await;
    let text = "x".repeat(500_000);
    for _ in 0..30 {
        house.socket.send(&text).await;
    }
    soon("the end of the attachment", async {
        while !house.standing().await["attached"].is_null() {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(raw::ask(house.site.at, "POST", &house.url("ack?after=1"), &[], b"").await.status, 200);
    house.no_harm().await;
    drop(client);
}

#[tokio::test]
async fn a_tunnel_whose_client_never_reads_is_let_go() {
    let mut house = House::open("[client]\nwrite = \"400ms\"\n").await;
    let _client = house.site.websocket("/tunnel", &[]).await;
    let mut socket = house.backend.accept().await;
    let text = "x".repeat(500_000);
    soon("the end of the tunnel", async {
        use futures_util::SinkExt as _;
        while socket.ws.send(text.as_str().into()).await.is_ok() {}
    })
    .await;
    house.lives_on().await;
}

#[tokio::test]
async fn many_silent_connections_do_not_stop_an_honest_client() {
    let mut house = House::open("").await;
    let mut held = Vec::new();
    for number in 0..400 {
        let mut wire = house.wire().await;
        match number % 4 {
            0 => {}
            1 => wire.write(b"GET / HT").await,
            2 => {
                wire.write(
                    format!("POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n", house.url("send")).as_bytes(),
                )
                .await
            }
            _ => wire.write(b"GET /_underpass/info HTTP/1.1\r\nHost: a\r\n\r\n").await,
        }
        held.push(wire);
    }
    let start = Instant::now();
    for _ in 0..10 {
        house.lives_on().await;
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop(held);
    no_panics();
}

#[tokio::test]
async fn connections_beyond_the_cap_wait_for_a_place() {
    let mut house = House::open("workers = 1\n[client]\nconnections = 8\n").await;
    let info = request("GET", "/_underpass/info", &[], b"");
    // Busy, each: those that are idle would make room.
    let mut held = Vec::new();
    for _ in 0..8 {
        // Both ends: a connection lives as long as either.
        held.push((house.site.websocket("/chat", &[]).await, house.backend.accept().await));
    }
    let mut ninth = house.wire().await;
    ninth.write(&info).await;
    let early = timeout(Duration::from_millis(300), ninth.answer(false)).await;
    assert!(early.is_err(), "nine connections where eight are allowed: {early:?}");
    held.pop();
    assert_eq!(ninth.answer(false).await.expect("a place").status, 200);
    held.clear();
    house.lives_on().await;
}
