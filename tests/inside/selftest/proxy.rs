//! An HTTP proxy, and a box before a server, each of a few lines.
//!
//! Enters: connections. Leaves: the same bytes, or a refusal. Must not touch: anything behind the first request's head.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Longer than any test.
const FOREVER: Duration = Duration::from_secs(3600);

/// What becomes of a connection, by the head of its first request.
pub(crate) type Rule = fn(&str) -> Verdict;

pub(crate) enum Verdict {
    /// Passed to this address; `CONNECT` is answered and kept.
    Pass(SocketAddr),
    /// Passed to the box's own server.
    Through,
    /// To the box's own server, and cut after so long.
    Cut(Duration),
    /// Nothing comes back, until the client leaves.
    Hold,
    /// Answered with this.
    Answer(&'static str),
}

/// Stands before `site`, or wherever the rule says.
pub(crate) async fn start(site: SocketAddr, rule: Rule) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve(socket, site, rule));
        }
    });
    at
}

async fn serve(mut client: TcpStream, site: SocketAddr, rule: Rule) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.ok()?);
    }
    let text = String::from_utf8_lossy(&head).to_lowercase();
    let (to, life) = match rule(&text) {
        Verdict::Pass(to) => (to, FOREVER),
        Verdict::Through => (site, FOREVER),
        Verdict::Cut(after) => (site, after),
        Verdict::Answer(answer) => {
            client.write_all(answer.as_bytes()).await.ok()?;
            return client.shutdown().await.ok();
        }
        Verdict::Hold => {
            let mut server = TcpStream::connect(site).await.ok()?;
            server.write_all(&head).await.ok()?;
            // Read on, so that the server finds nothing amiss.
            tokio::spawn(async move { tokio::io::copy(&mut server, &mut tokio::io::sink()).await });
            while client.read(&mut [0; 64]).await.ok()? > 0 {}
            return None;
        }
    };
    let mut server = TcpStream::connect(to).await.ok()?;
    if text.starts_with("connect ") {
        client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.ok()?;
    } else {
        server.write_all(&head).await.ok()?;
    }
    timeout(life, copy_bidirectional(&mut client, &mut server)).await.ok().map(|_| ())
}

/// Where a request to a proxy leads.
pub(crate) fn asked(head: &str) -> SocketAddr {
    let target = head.split(' ').nth(1).expect("a target").trim_start_matches("http://");
    target.split('/').next().and_then(|at| at.parse().ok()).expect("an address")
}
