//! What one client does to take what belongs to all: each attack by its name, on a thread of its own.
//!
//! | attack | does, until the driver ends |
//! |---|---|
//! | `calm` | nothing, for comparison |
//! | `slow-headers` | 500 connections, each a byte of a head every half second |
//! | `slow-bodies` | 500 POSTs, each a byte of the body every half second |
//! | `preface` | 300 TLS connections that say `PRI`, and no more, of HTTP/2 |
//! | `windows` | 10 connections of HTTP/2 with windows of 0, each 100 GETs of 100 MB |
//! | `unread` | 200 sessions whose backend sends 64 MB to each, and none is read |
//! | `hoard` | 2,000 connections that ask once and stay |
//! | `opens` | sessions, 500 a second, left behind |
//! | `failing` | openings that the backend refuses and requests that cannot be, 1,000 a second: each is a line of the log |
//! | `json` | 40 connections that send 1 MiB of empty messages each, again and again, to one session |
//! | `handshakes` | 200 WebSockets at a path whose backend never answers, again and again |
//!
//! Enters: where the peer is. Leaves: how often an attacker began anew. Must not touch: honest clients, their thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{interval, sleep, timeout};

use crate::conn::Conn;
use crate::options::Options;
use crate::session::{Kind, Site, get, post, upgrade};

/// Between two bytes of who is slow.
const DRIP: Duration = Duration::from_millis(500);

/// After so long an attacker who was sent away is back.
const AGAIN: Duration = Duration::from_millis(200);

/// Begins the attack; what it counts grows as long as the process lives.
pub fn begin(name: &str, options: &Options) -> Result<Arc<AtomicU64>> {
    let (count, begun) = match name {
        "calm" => (0, Arc::default()),
        "slow-headers" | "slow-bodies" => (500, Arc::default()),
        "preface" => (300, Arc::default()),
        "windows" => (10, Arc::default()),
        "hoard" => (2000, Arc::default()),
        "unread" | "handshakes" => (200, Arc::default()),
        "opens" | "failing" => (10, Arc::default()),
        "json" => (40, Arc::default()),
        _ => bail!("there is no attack `{name}`"),
    };
    let begun: Arc<AtomicU64> = begun;
    let kind = if matches!(name, "preface" | "windows") { Kind::SseH2 } else { Kind::Sse };
    let small = (name == "unread").then_some(4096);
    let site = Site::new(&options.address, options.ca.as_deref(), kind, small)?;
    let attacker = Attacker { name: name.to_owned(), site, begun: Arc::clone(&begun), spoilt: Arc::default() };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            for _ in 0..count {
                let attacker = attacker.clone();
                tokio::spawn(async move {
                    loop {
                        attacker.begun.fetch_add(1, Relaxed);
                        // Sent away, which is the peer's right.
                        let _ = attacker.once().await;
                        sleep(AGAIN).await;
                    }
                });
            }
            std::future::pending::<()>().await
        });
    });
    Ok(begun)
}

#[derive(Clone)]
struct Attacker {
    name: String,
    site: Arc<Site>,
    begun: Arc<AtomicU64>,
    /// The session that all bodies go to.
    spoilt: Arc<tokio::sync::Mutex<Option<String>>>,
}

impl Attacker {
    async fn once(&self) -> Result<()> {
        match self.name.as_str() {
            "slow-headers" => self.drip(b"GET /small HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await,
            "slow-bodies" => {
                self.drip(b"POST /small HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n").await
            }
            "preface" => self.preface().await,
            "windows" => self.windows().await,
            "hoard" => {
                let mut conn = self.site.connect().await?;
                conn.fetch(&get("/small"), 200).await?;
                gone(conn).await
            }
            "unread" => {
                let _session = self.site.open("/flood-65536-1024").await?;
                std::future::pending().await
            }
            "opens" => self.opens().await,
            "failing" => self.failing().await,
            "json" => self.explode().await,
            _ => {
                let mut conn = self.site.connect().await?;
                conn.ask(&upgrade("/never", ""), 101).await.map(drop)
            }
        }
    }

    /// Begins, and goes on with a byte at a time.
    async fn drip(&self, begin: &[u8]) -> Result<()> {
        let mut conn = self.site.connect().await?;
        conn.write(begin).await?;
        loop {
            sleep(DRIP).await;
            conn.write(b"x").await?;
        }
    }

    async fn preface(&self) -> Result<()> {
        let mut conn = self.site.connect().await?;
        conn.write(b"PRI").await?;
        gone(conn).await
    }

    async fn windows(&self) -> Result<()> {
        let io = self.site.connect().await?.into_io();
        let (sender, connection) =
            h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(io).await?;
        let driven = tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..100 {
            let request = http::Request::get("https://localhost/big").body(())?;
            answers.push(sender.clone().ready().await?.send_request(request, true)?.0);
        }
        Ok(driven.await??)
    }

    /// 50 a second, one connection for all, as a client does that has keep-alive.
    async fn opens(&self) -> Result<()> {
        let (mut conn, mut ticks) = (self.site.connect().await?, interval(Duration::from_millis(20)));
        loop {
            ticks.tick().await;
            self.begun.fetch_add(1, Relaxed);
            conn.fetch(&post("/idle?underpass=open", "application/json", b""), 200).await?;
        }
    }

    /// 100 a second, half of them refused by the backend, half by the peer.
    async fn failing(&self) -> Result<()> {
        let (mut conn, mut ticks) = (self.site.connect().await?, interval(Duration::from_millis(20)));
        loop {
            ticks.tick().await;
            for target in ["/refuse?underpass=open", "/idle?underpass=nothing"] {
                self.begun.fetch_add(1, Relaxed);
                conn.write(&post(target, "application/json", b"")).await?;
                let head = conn.head().await?.context("closed")?;
                let mut left = head.length;
                while conn.piece(&mut left).await?.is_some() {}
            }
        }
    }

    /// As many messages as a mebibyte has room for.
    async fn explode(&self) -> Result<()> {
        let mut conn = self.site.connect().await?;
        let url = {
            let mut spoilt = self.spoilt.lock().await;
            if spoilt.is_none() {
                let facts = conn.fetch(&post("/never-read?underpass=open", "application/json", b""), 200).await?;
                let url = crate::session::url_of(&facts).context("no url in the answer to open")?;
                *spoilt = Some(url);
            }
            spoilt.clone().context("it was just made")?
        };
        let mut body = b"{\"messages\":[\"\"".to_vec();
        while body.len() < 1024 * 1024 - 8 {
            body.extend_from_slice(b",\"\"");
        }
        body.extend_from_slice(b"]}");
        loop {
            self.begun.fetch_add(1, Relaxed);
            conn.write(&post(&format!("{url}/send"), "application/json", &body)).await?;
            let head = timeout(Duration::from_secs(60), conn.head()).await??.context("closed")?;
            let mut left = head.length;
            while conn.piece(&mut left).await?.is_some() {}
        }
    }
}

/// Until the peer ends it.
async fn gone(mut conn: Conn) -> Result<()> {
    while conn.fill().await? {
        conn.buffer.clear();
    }
    Ok(())
}
