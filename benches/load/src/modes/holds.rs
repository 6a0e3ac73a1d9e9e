//! Modes in which sessions are only held: memory.
//!
//! Enters: options. Leaves: bytes by session. Must not touch: messages; what comes is read and forgotten.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{backend, open, settle};
use crate::options::Options;
use crate::session::{Session, Site};

/// Sessions that open at a time where nothing is stormed.
const GENTLY: usize = 16;

/// How long memory is given to come to rest, in seconds: above all the probe of 400 ms must have passed.
const REST: f64 = 1.5;

/// A sign of life comes at least so often.
const SIGN: Duration = Duration::from_secs(10);

/// Memory by session, as the slope between a quarter and all of them.
pub async fn idle(options: &Options) -> Result<String> {
    let site = options.site()?;
    let (base, cpu) = (options.peer.rss()?, options.peer.cpu()?);
    let quarter = options.count / 4;
    hold(open(&site, "/idle", quarter, GENTLY).await?);
    settle(REST).await;
    let few = options.peer.rss()?;
    hold(open(&site, "/idle", options.count - quarter, GENTLY).await?);
    let opening = options.peer.cpu()? - cpu;
    settle(REST).await;
    let many = options.peer.rss()?;
    let slope = (many as f64 - few as f64) / (options.count - quarter) as f64;
    let alive = backend(options).await?.0;
    Ok(format!(
        r#"{{"kib":{:.3},"base_mib":{:.2},"all_mib":{:.2},"cpu_ms":{:.4},"alive":{alive}}}"#,
        slope / 1024.0,
        base as f64 / 1048576.0,
        many as f64 / 1048576.0,
        opening as f64 / 1e6 / options.count as f64,
    ))
}

/// Memory by session after all opened at once, in a fresh process.
pub async fn storm(options: &Options) -> Result<String> {
    let site = options.site()?;
    // A few before, so that what a process allocates once is not counted.
    hold(open(&site, "/idle", options.count / 40, GENTLY).await?);
    settle(REST).await;
    let before = options.peer.rss()?;
    hold(open(&site, "/idle", options.count, options.count).await?);
    settle(REST).await;
    let after = options.peer.rss()?;
    let each = (after as f64 - before as f64) / options.count as f64;
    Ok(format!(r#"{{"kib":{:.3},"alive":{}}}"#, each / 1024.0, backend(options).await?.0))
}

/// Memory that clients cost which do not read, and how much of the flood the peer took from the backend for them.
pub async fn slow(options: &Options) -> Result<String> {
    let site = Site::new(&options.address, options.ca.as_deref(), options.kind, Some(4096))?;
    let flooded = backend(options).await?.1;
    let before = options.peer.rss()?;
    let path = format!("/flood-{}-{}", options.messages, options.size);
    let sessions = open(&site, &path, options.count, GENTLY).await?;
    settle(options.seconds).await;
    let after = options.peer.rss()?;
    let taken = backend(options).await?.1 - flooded;
    drop(sessions);
    let each = |bytes: f64| bytes / options.count as f64 / 1024.0;
    Ok(format!(r#"{{"kib":{:.1},"taken_kib":{:.1}}}"#, each(after as f64 - before as f64), each(taken as f64)))
}

/// Memory of sessions that had a flood, read all of it, and stay: at its end, and `seconds` later.
pub async fn behind(options: &Options) -> Result<String> {
    let site = options.site()?;
    let before = options.peer.rss()?;
    let path = format!("/flood-{}-{}", options.messages, options.size);
    let mut readers = JoinSet::new();
    for mut session in open(&site, &path, options.count, GENTLY).await? {
        let messages = options.messages;
        readers.spawn(async move {
            let mut came = 0;
            while came < messages {
                if !session.receive(&mut |_| came += 1).await? {
                    bail!("the session ended after {came} messages");
                }
            }
            session.acknowledge().await?;
            anyhow::Ok(session)
        });
    }
    let mut sessions = Vec::with_capacity(options.count);
    while let Some(session) = readers.join_next().await {
        sessions.push(session??);
    }
    let full = options.peer.rss()?;
    for session in sessions {
        tokio::spawn(stay(session));
    }
    settle(options.seconds).await;
    let after = options.peer.rss()?;
    let each = |bytes: u64| (bytes as f64 - before as f64) / options.count as f64 / 1024.0;
    let alive = backend(options).await?.0;
    Ok(format!(r#"{{"full_kib":{:.1},"kib":{:.1},"alive":{alive}}}"#, each(full), each(after)))
}

/// Reads, and gives a sign of life more often than each heartbeat.
async fn stay(mut session: Session) {
    loop {
        let read = async { while session.receive(&mut |_| {}).await.is_ok_and(|more| more) {} };
        if timeout(SIGN, read).await.is_ok() || session.acknowledge().await.is_err() {
            return;
        }
    }
}

/// Reads and forgets, until the process ends.
fn hold(sessions: Vec<Session>) {
    for mut session in sessions {
        tokio::spawn(async move { while session.receive(&mut |_| {}).await.is_ok_and(|more| more) {} });
    }
}
