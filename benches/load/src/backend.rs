//! The unmodified WebSocket server that every peer stands in front of. What it does is said by the path, so that one
//! backend serves every row.
//!
//! | path | does |
//! |---|---|
//! | `/idle` | nothing |
//! | `/hello` | one message at once |
//! | `/tick` | a message of 64 bytes each second, at a moment of the second that differs from session to session |
//! | `/flood-N-S` | after 0.3 s, N messages of S bytes as fast as they are taken |
//! | `/echo` | sends each message back |
//! | `/never` | does not answer |
//! | `/never-read` | does not read |
//! | `/refuse` | is no WebSocket: 403 |
//! | `/take-N` | expects N texts that begin with their number, from 0, and says whether that is what came |
//! | `/small`, `/big` | no WebSocket: 64 bytes, 100 MB |
//! | `/stats` | no WebSocket: its counters, as JSON |
//!
//! Enters: connections. Leaves: stamped messages. Must not touch: what a peer makes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval_at, sleep};

use crate::conn::{Conn, Head};
use crate::stamp;
use crate::websocket::{self, BINARY, CLOSE, PING, PONG, TEXT};

/// Bytes of the big body.
pub const BIG: u64 = 100_000_000;

/// How much is written at once in a flood.
const BLOCK: usize = 64 * 1024;

#[derive(Default)]
struct Stats {
    opened: AtomicU64,
    closed: AtomicU64,
    /// Bytes of floods that the kernel has taken.
    flooded: AtomicU64,
}

/// Serves until killed.
pub async fn serve(address: &str) -> Result<()> {
    let listener = TcpListener::bind(address).await?;
    let stats = Arc::new(Stats::default());
    println!("{}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let stats = Arc::clone(&stats);
        tokio::spawn(async move {
            // A peer that goes away is the usual end of a connection here.
            let _ = connection(socket, &stats).await;
        });
    }
}

async fn connection(socket: TcpStream, stats: &Stats) -> Result<()> {
    let mut conn = Conn::new(socket);
    while let Some(head) = conn.head().await? {
        if head.path() == "/refuse" {
            conn.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await?;
            continue;
        }
        if let Some(key) = head.field("sec-websocket-key") {
            if head.path() == "/never" {
                return std::future::pending().await;
            }
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                websocket::accept(key)
            );
            conn.write(answer.as_bytes()).await?;
            let which = stats.opened.fetch_add(1, Relaxed);
            let done = session(&mut conn, head.path(), which, stats).await;
            stats.closed.fetch_add(1, Relaxed);
            return done;
        }
        plain(&mut conn, &head, stats).await?;
    }
    Ok(())
}

async fn plain(conn: &mut Conn, head: &Head, stats: &Stats) -> Result<()> {
    if head.path() == "/big" {
        conn.write(format!("HTTP/1.1 200 OK\r\nContent-Length: {BIG}\r\n\r\n").as_bytes()).await?;
        let block = vec![b'x'; BLOCK];
        let mut left = usize::try_from(BIG)?;
        while left > 0 {
            let count = left.min(block.len());
            conn.write(&block[..count]).await?;
            left -= count;
        }
        return Ok(());
    }
    let body = match head.path() {
        "/stats" => {
            let (opened, closed) = (stats.opened.load(Relaxed), stats.closed.load(Relaxed));
            format!(r#"{{"open":{},"flooded":{}}}"#, opened - closed, stats.flooded.load(Relaxed))
        }
        _ => "x".repeat(64),
    };
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    conn.write(answer.as_bytes()).await
}

async fn session(conn: &mut Conn, path: &str, which: u64, stats: &Stats) -> Result<()> {
    match path.trim_start_matches('/').split('-').collect::<Vec<_>>()[..] {
        ["never", "read"] => return std::future::pending().await,
        ["tick"] => return tick(conn, which).await,
        ["take", count] => return take(conn, count.parse()?).await,
        ["flood", count, size] => flood(conn, count.parse()?, size.parse()?, stats).await?,
        ["hello"] => {
            let mut message = Vec::new();
            push(&mut message, 0, 64);
            conn.write(&message).await?;
        }
        _ => {}
    }
    let echo = path == "/echo";
    while conn.fill().await? {
        if answer(conn, echo).await? {
            return Ok(());
        }
    }
    Ok(())
}

async fn tick(conn: &mut Conn, which: u64) -> Result<()> {
    // The golden ratio spreads any number of sessions evenly over the second.
    let phase = Duration::from_secs_f64((which as f64 * 0.618_033_988_75).fract());
    let mut ticks = interval_at(Instant::now() + phase, Duration::from_secs(1));
    let (mut message, mut number) = (Vec::new(), 0);
    loop {
        tokio::select! {
            more = conn.fill() => if !more? || answer(conn, false).await? { return Ok(()) },
            _ = ticks.tick() => {
                message.clear();
                push(&mut message, number, 64);
                number += 1;
                conn.write(&message).await?;
            }
        }
    }
}

async fn flood(conn: &mut Conn, count: u64, size: usize, stats: &Stats) -> Result<()> {
    sleep(Duration::from_millis(300)).await;
    let mut block = Vec::with_capacity(BLOCK + size);
    let time = crate::clock::now();
    for number in 0..count {
        websocket::head(&mut block, TEXT, size, false);
        stamp::write_at(&mut block, time, number, size);
        if block.len() >= BLOCK || number + 1 == count {
            conn.write(&block).await?;
            stats.flooded.fetch_add(block.len() as u64, Relaxed);
            block.clear();
        }
    }
    Ok(())
}

async fn take(conn: &mut Conn, count: u64) -> Result<()> {
    let mut got = 0;
    while conn.fill().await? {
        while let Some((opcode, payload)) = websocket::take(&mut conn.buffer) {
            if opcode == CLOSE {
                return conn.write(&websocket::frame(CLOSE, &payload, false)).await;
            }
            if opcode != TEXT {
                continue;
            }
            let digits = payload.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let number: u64 = std::str::from_utf8(&payload[..digits])?.parse()?;
            let right = number == got;
            got += 1;
            if got == count || !right {
                let said = if right { format!("took {got}") } else { format!("{number} came for {}", got - 1) };
                conn.write(&websocket::frame(TEXT, said.as_bytes(), false)).await?;
            }
        }
    }
    Ok(())
}

fn push(out: &mut Vec<u8>, number: u64, size: usize) {
    websocket::head(out, TEXT, size, false);
    stamp::write(out, number, size);
}

/// Answers what was read. True after a close.
async fn answer(conn: &mut Conn, echo: bool) -> Result<bool> {
    let mut out = Vec::new();
    while let Some((opcode, payload)) = websocket::take(&mut conn.buffer) {
        match opcode {
            CLOSE => {
                conn.write(&websocket::frame(CLOSE, &payload, false)).await.context("while closing")?;
                return Ok(true);
            }
            PING => out.extend(websocket::frame(PONG, &payload, false)),
            TEXT | BINARY if echo => out.extend(websocket::frame(opcode, &payload, false)),
            _ => {}
        }
    }
    if !out.is_empty() {
        conn.write(&out).await?;
    }
    Ok(false)
}
