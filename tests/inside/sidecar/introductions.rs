//! The PROXY protocol: whose connection it is says the balancer, and nobody else may.

use tokio::sync::mpsc::UnboundedReceiver;

use crate::support::plain::{Line, canned};
use crate::support::site::{Site, soon};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n";

fn get(more: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{more}Connection: close\r\n\r\n").into_bytes()
}

/// A header of version 2 with two fields that nobody reads.
fn binary(source: [u8; 4], command: u8) -> Vec<u8> {
    let tlvs = [&[3, 0, 4, 1, 2, 3, 4][..], &[4, 1, 0], &[0; 256]].concat();
    let length = u16::try_from(12 + tlvs.len()).expect("short").to_be_bytes();
    let addresses = [&source[..], &[10, 0, 0, 1, 18, 52, 0, 80]].concat();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x20 | command, 0x11][..], &length, &addresses, &tlvs].concat()
}

struct Balanced {
    site: Site,
    asked: UnboundedReceiver<String>,
}

impl Balanced {
    async fn start(trusted: &str, more: &str) -> Self {
        let (backend, asked) = canned(OK).await;
        let site = Site::from_toml(&format!(
            "upstream = \"ws://{backend}\"\ntrusted_proxies = [{trusted}]\nadmin = \"127.0.0.1:0\"\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\n{more}"
        ));
        Self { site, asked }
    }

    /// The addresses that the backend is told of a client that says these pieces.
    async fn told(&mut self, pieces: &[&[u8]]) -> String {
        let mut line = Line::to(self.site.at).await;
        for piece in pieces {
            line.say(piece).await;
            tokio::task::yield_now().await;
        }
        let answer = line.rest().await;
        assert!(answer.ends_with(b"ok"), "{}", String::from_utf8_lossy(&answer));
        let head = soon("a request at the backend", self.asked.recv()).await.expect("the backend lives");
        let chain = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("x-forwarded-for: ").map(str::to_owned));
        chain.expect("it is told")
    }

    async fn failures(&self, reason: &str) -> f64 {
        self.site.metric(&format!("underpass_proxy_header_failures_total{{reason=\"{reason}\"}}")).await
    }

    async fn is_closed(&self, bytes: &[u8]) {
        let mut line = Line::to(self.site.at).await;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut line.0, bytes).await;
        let mut read = Vec::new();
        let _reset = soon("its end", tokio::io::AsyncReadExt::read_to_end(&mut line.0, &mut read)).await;
        assert_eq!(String::from_utf8_lossy(&read), "");
    }
}

#[tokio::test]
async fn the_address_that_a_balancer_names_is_the_clients() {
    let mut balanced = Balanced::start("\"127.0.0.1\"", "").await;
    let request = get("");
    assert_eq!(balanced.told(&[LINE, &request]).await, "192.0.2.7");
    assert_eq!(balanced.told(&[&[LINE, &request].concat()]).await, "192.0.2.7");
    let bytes: Vec<&[u8]> = LINE.chunks(1).chain(request.chunks(1)).collect();
    assert_eq!(balanced.told(&bytes).await, "192.0.2.7");
    let header = binary([198, 51, 100, 9], 1);
    assert_eq!(balanced.told(&[&header[..9], &header[9..30], &header[30..], &request]).await, "198.51.100.9");
    assert_eq!(balanced.told(&[&binary([198, 51, 100, 9], 0), &request]).await, "127.0.0.1", "LOCAL");
    assert_eq!(balanced.told(&[b"PROXY UNKNOWN\r\n", &request]).await, "127.0.0.1");
}

#[tokio::test]
async fn what_a_named_client_forwards_is_believed_only_of_a_trusted_one() {
    let mut balanced = Balanced::start("\"127.0.0.1\", \"10.7.0.0/16\"", "").await;
    let request = get("X-Forwarded-For: 203.0.113.66\r\n");
    assert_eq!(balanced.told(&[LINE, &request]).await, "192.0.2.7");
    assert_eq!(balanced.told(&[&binary([10, 7, 0, 1], 1), &request]).await, "203.0.113.66, 10.7.0.1");
    assert_eq!(balanced.told(&[b"PROXY UNKNOWN\r\n", &request]).await, "203.0.113.66, 127.0.0.1");
}

#[tokio::test]
async fn only_trusted_peers_may_say_whose_connection_it_is() {
    let balanced = Balanced::start("\"192.0.2.1\"", "").await;
    balanced.is_closed(&[LINE, &get("")].concat()).await;
    assert_eq!(balanced.failures("untrusted").await, 1.0);
    assert_eq!(balanced.site.metric("underpass_connections_active").await, 0.0);
}

#[tokio::test]
async fn without_a_proxy_header_a_connection_is_closed() {
    let mut balanced = Balanced::start("\"127.0.0.1\"", "[client]\nhandshake = \"200ms\"\n").await;
    balanced.is_closed(&get("")).await;
    assert_eq!(balanced.failures("malformed").await, 1.0);
    for unfinished in [b"".as_slice(), b"PROXY TCP4 192.", &binary([1, 2, 3, 4], 1)[..40]] {
        balanced.is_closed(unfinished).await;
    }
    assert_eq!(balanced.failures("late").await, 3.0);
    // A balancer that only looks whether we are there.
    drop(Line::to(balanced.site.at).await);
    assert_eq!(balanced.told(&[LINE, &get("")]).await, "192.0.2.7");
    assert_eq!((balanced.failures("malformed").await, balanced.failures("late").await), (1.0, 3.0));
}

#[tokio::test]
async fn it_is_off_unless_it_is_asked_for() {
    let (backend, _asked) = canned(OK).await;
    let site = Site::start(backend, "trusted_proxies = [\"127.0.0.1\"]\n");
    let mut line = Line::to(site.at).await;
    line.say([LINE, &get("")].concat()).await;
    assert!(String::from_utf8_lossy(&line.rest().await).starts_with("HTTP/1.1 400 "));
}
