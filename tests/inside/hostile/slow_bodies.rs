//! Bodies of proxied requests that do not come: the client is told, and the backend's connection is free.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::plain::{self, Line};
use crate::support::site::{Site, soon};

const CLIENT: &str = "[client]\nbody = \"300ms\"\nbody_rate = 1000\n";
const HEAD: &str = "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n";

#[tokio::test]
async fn a_proxied_body_must_come_piece_by_piece_and_not_drip() {
    let (at, mut backend) = plain::played().await;
    let site = Site::start(at, CLIENT);
    for drips in [false, true] {
        let start = Instant::now();
        let client = Line::to(site.at).await;
        let (mut reading, mut writing) = tokio::io::split(client.0);
        let slow = async {
            let mut wire = HEAD.to_owned();
            loop {
                let _ = tokio::io::AsyncWriteExt::write_all(&mut writing, wire.as_bytes()).await;
                wire = if drips { "x".into() } else { String::new() };
                sleep(Duration::from_millis(50)).await;
            }
        };
        let told = async {
            let mut upstream = plain::next(&mut backend).await;
            let head = upstream.head().await;
            assert!(head.to_lowercase().starts_with("post /upload "), "{head}");
            // The rest of it, and the end of the connection.
            soon("the end of the backend's connection", upstream.rest()).await;
            let mut answer = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);
            let _reset = soon("the end of the client's", read).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = tokio::select! {
            answer = told => answer,
            () = slow => unreachable!("it never ends"),
        };
        assert!(answer.starts_with("HTTP/1.1 408 "), "drips: {drips}: {answer}");
        let why = if drips { "comes too slowly" } else { "the body stalled" };
        assert!(answer.contains(why) && answer.to_lowercase().contains("\r\nconnection: close\r\n"), "{answer}");
        assert!(start.elapsed() >= Duration::from_millis(300));
    }
}

#[tokio::test]
async fn a_backend_that_takes_a_body_slowly_is_not_its_clients_fault() {
    const SIZE: usize = 16 * 1024 * 1024;
    let (at, mut backend) = plain::played().await;
    let site = Site::start(at, CLIENT);
    let upload = tokio::spawn(async move { site.post("/upload", vec![7; SIZE]).await });
    let mut upstream = plain::next(&mut backend).await;
    upstream.head().await;
    // Longer than the client may be waited for, and more than the kernel takes meanwhile.
    sleep(Duration::from_millis(900)).await;
    upstream.bytes(SIZE).await;
    upstream.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(soon("the answer", upload).await.expect("no panic").status, 200);
}
