//! What passes as it was written: as many fields as a backend likes, names of fields, targets.

use crate::support::plain::{Line, canned};
use crate::support::site::Site;

// === how many fields ===

/// A response with so many `Link` fields.
async fn linking(many: usize) -> std::net::SocketAddr {
    let links = "Link: </part.js>; rel=modulepreload\r\n".repeat(many);
    canned(format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{links}Content-Length: 2\r\n\r\nok")).await.0
}

#[tokio::test]
async fn a_response_may_have_more_than_a_hundred_fields() {
    for many in [90, 120, 900] {
        let site = Site::start(linking(many).await, "");
        // Read byte by byte: a client of hyper's would refuse more than a hundred itself.
        let mut client = Line::to(site.at).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert_eq!(head.matches("\r\nlink: ").count(), many);
    }
}

#[tokio::test]
async fn the_number_of_a_responses_fields_and_their_bytes_are_bounded_by_keys() {
    for (many, keys, status) in [
        (120, "backend.header_fields = 60\n", 502),
        (50, "backend.header_fields = 60\n", 200),
        (600, "backend.header_bytes = \"16KiB\"\n", 502),
        (400, "backend.header_bytes = \"16KiB\"\n", 200),
    ] {
        let site = Site::start(linking(many).await, keys);
        let mut client = Line::to(site.at).await;
        client.say("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{many} fields with {keys}: {head}");
    }
}
