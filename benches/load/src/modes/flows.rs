//! Modes in which messages flow: CPU, delay, loss.
//!
//! Enters: options. Leaves: CPU by message. Must not touch: memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::samples::Samples;
use super::{backend, open, settle};
use crate::clock;
use crate::options::Options;
use crate::session::{Session, get};
use crate::stamp;

/// Sessions that open at a time.
const AT_ONCE: usize = 16;

/// One message a second on each session: CPU by message, and how old each is when it comes.
pub async fn tick(options: &Options) -> Result<String> {
    let samples = Arc::new(Samples::default());
    for mut session in open(&options.site()?, "/tick", options.count, AT_ONCE).await? {
        let samples = Arc::clone(&samples);
        tokio::spawn(async move {
            let mut each = |message: &[u8]| {
                let sent = stamp::time(message).unwrap_or_default();
                samples.add(clock::now().saturating_sub(sent));
            };
            while session.receive(&mut each).await.is_ok_and(|more| more) {}
        });
    }
    settle(1.5).await;
    let cpu = options.peer.cpu()?;
    samples.set_open(true);
    settle(options.seconds).await;
    samples.set_open(false);
    let cpu = options.peer.cpu()? - cpu;
    let (count, p50, p99) = samples.summary();
    let expected = options.count as f64 * options.seconds;
    Ok(format!(
        r#"{{"us":{:.2},"p50_ms":{p50:.4},"p99_ms":{p99:.3},"came":{:.4}}}"#,
        cpu as f64 / 1e3 / count as f64,
        count as f64 / expected
    ))
}

/// As fast as they go; every message is counted, and its number must be the next.
pub async fn flood(options: &Options) -> Result<String> {
    let path = format!("/flood-{}-{}", options.messages, options.size);
    let sessions = open(&options.site()?, &path, options.count, options.count).await?;
    let cpu = options.peer.cpu()?;
    let mut readers = JoinSet::new();
    for session in sessions {
        readers.spawn(timeout(Duration::from_secs(120), drain(session, options.messages)));
    }
    let (mut lost, mut start) = (0, u64::MAX);
    while let Some(reader) = readers.join_next().await {
        let Ok(drained) = reader? else { bail!("a flood did not end in two minutes") };
        let drained = drained?;
        lost += drained.lost;
        start = start.min(drained.began);
    }
    let wall = clock::now().saturating_sub(start) as f64 / 1e9;
    let cpu = options.peer.cpu()? - cpu;
    let total = options.messages as f64 * options.count as f64;
    Ok(format!(
        r#"{{"s_per_million":{:.4},"messages_per_s":{:.0},"lost":{lost}}}"#,
        cpu as f64 / 1e9 / total * 1e6,
        total / wall
    ))
}

/// What became of one client's flood.
struct Drained {
    /// When the backend began with it.
    began: u64,
    /// How many messages did not come, or not in order.
    lost: u64,
}

/// Reads until the last message has come or the session ends.
async fn drain(mut session: Session, messages: u64) -> Result<Drained> {
    let (mut expected, mut wrong, mut began) = (0, 0, u64::MAX);
    while expected < messages {
        let mut each = |message: &[u8]| {
            let number = stamp::number(message).unwrap_or(u64::MAX);
            if number == 0 {
                began = stamp::time(message).unwrap_or(u64::MAX);
            }
            wrong += u64::from(number != expected);
            expected += 1;
        };
        if !session.receive(&mut each).await? {
            break;
        }
    }
    Ok(Drained { began, lost: wrong + messages - expected.min(messages) })
}

/// Closed loop: a message up, its echo down, again.
pub async fn echo(options: &Options) -> Result<String> {
    let samples = Arc::new(Samples::default());
    for session in open(&options.site()?, "/echo", options.count, AT_ONCE).await? {
        let samples = Arc::clone(&samples);
        tokio::spawn(async move {
            if let Err(error) = round_trips(session, &samples).await {
                eprintln!("a round trip failed: {error}");
            }
        });
    }
    settle(0.5).await;
    let cpu = options.peer.cpu()?;
    samples.set_open(true);
    settle(options.seconds).await;
    samples.set_open(false);
    let cpu = options.peer.cpu()? - cpu;
    let (count, p50, p99) = samples.summary();
    Ok(format!(
        r#"{{"us":{:.2},"per_s":{:.0},"p50_ms":{p50:.3},"p99_ms":{p99:.3}}}"#,
        cpu as f64 / 1e3 / count as f64,
        count as f64 / options.seconds
    ))
}

pub async fn round_trips(mut session: Session, samples: &Samples) -> Result<()> {
    // What says how to send comes first on a stream.
    session.prepare().await?;
    let (mut message, mut number) = (Vec::new(), 0);
    loop {
        let start = clock::now();
        message.clear();
        stamp::write_at(&mut message, start, number, 64);
        session.send(&message).await?;
        let mut back = false;
        while !back {
            let mut each = |echo: &[u8]| back |= stamp::number(echo) == Some(number);
            if !session.receive(&mut each).await? {
                bail!("the session ended");
            }
        }
        samples.add(clock::now() - start);
        number += 1;
    }
}

/// Opens, takes the first message, goes away; until the backend has seen the last one go.
pub async fn connect(options: &Options) -> Result<String> {
    let site = options.site()?;
    let (done, idle) = (Arc::new(AtomicU64::new(0)), backend(options).await?.0);
    let (cpu, start) = (options.peer.cpu()?, Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (site, done, messages) = (Arc::clone(&site), Arc::clone(&done), options.messages);
        clients.spawn(async move {
            while done.fetch_add(1, Relaxed) < messages {
                let mut session = site.open("/hello").await?;
                let mut came = false;
                while !came && session.receive(&mut |_| came = true).await? {}
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let wall = start.elapsed().as_secs_f64();
    while backend(options).await?.0 > idle {
        sleep(Duration::from_millis(50)).await;
        if start.elapsed() > Duration::from_secs(90) {
            bail!("sessions stay open at the backend");
        }
    }
    let cpu = options.peer.cpu()? - cpu;
    let each = cpu as f64 / 1e6 / options.messages as f64;
    Ok(format!(r#"{{"cpu_ms":{each:.4},"per_s":{:.0}}}"#, options.messages as f64 / wall))
}

/// Plain GETs of one path, on connections that stay open.
pub async fn plain(options: &Options, path: &str) -> Result<String> {
    let (site, request) = (options.site()?, get(path));
    let (cpu, start) = (options.peer.cpu()?, Instant::now());
    let mut clients = JoinSet::new();
    for _ in 0..options.count {
        let (site, request, requests) = (Arc::clone(&site), request.clone(), options.messages);
        clients.spawn(async move {
            let (mut conn, mut bytes) = (site.connect().await?, 0);
            for _ in 0..requests {
                let mut left = conn.ask(&request, 200).await?.length;
                while let Some(piece) = conn.piece(&mut left).await? {
                    bytes += piece.len();
                }
            }
            anyhow::Ok(bytes)
        });
    }
    let mut bytes = 0;
    while let Some(client) = clients.join_next().await {
        bytes += client??;
    }
    let (cpu, wall) = (options.peer.cpu()? - cpu, start.elapsed().as_secs_f64());
    let requests = options.messages as f64 * options.count as f64;
    Ok(format!(
        r#"{{"us":{:.2},"s_per_gb":{:.4},"per_s":{:.0}}}"#,
        cpu as f64 / 1e3 / requests,
        cpu as f64 / bytes as f64,
        requests / wall
    ))
}
