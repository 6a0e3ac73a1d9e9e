//! What is measured, one mode at a time. Each leaves one line of JSON.
//!
//! | mode | does | CPU and memory are of |
//! |---|---|---|
//! | `idle` | opens a quarter of the sessions, then the rest, and holds them | the slope between the two |
//! | `storm` | opens all at once, and holds them | the memory afterwards |
//! | `tick` | receives one message a second on each session | a window, by message |
//! | `flood` | receives as fast as it goes; counts, checks the order | the whole flood, by message |
//! | `echo` | sends, waits for the echo, sends again | a window, by round trip |
//! | `connect` | opens, takes the first message, goes away | until the backend saw the last one go |
//! | `small`, `big` | plain GETs | all requests |
//! | `behind` | opens, reads a whole flood, and stays | the memory afterwards |
//! | `hostile` | echoes and opens, without and with an attack beside | most of the time that it lasts |
//! | `handover` | echoes and waits, while the process is replaced | (`benches/lab/handover.py` looks at them) |
//! | `soak` | echoes on all transports, through cuts; comes and goes | (`benches/soak` looks at them) |
//! | `slow` | opens, and does not read | the memory afterwards, and what the backend could send |
//!
//! Enters: options. Leaves: numbers. Must not touch: which numbers are good.

mod attacks;
mod flows;
mod handover;
mod holds;
mod hostile;
mod samples;
mod soak;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::conn::Conn;
use crate::options::Options;
use crate::session::{Session, Site, get};

/// Runs the mode that the options name.
pub async fn run(options: Options) -> Result<String> {
    match options.mode.as_str() {
        "idle" => holds::idle(&options).await,
        "storm" => holds::storm(&options).await,
        "behind" => holds::behind(&options).await,
        "soak" => soak::soak(&options).await,
        "slow" => holds::slow(&options).await,
        "tick" => flows::tick(&options).await,
        "flood" => flows::flood(&options).await,
        "echo" => flows::echo(&options).await,
        "hostile" => hostile::hostile(&options).await,
        "handover" => handover::handover(&options).await,
        "connect" => flows::connect(&options).await,
        "small" => flows::plain(&options, "/small").await,
        "big" => flows::plain(&options, "/big").await,
        other => bail!("there is no mode `{other}`"),
    }
}

impl Options {
    fn site(&self) -> Result<Arc<Site>> {
        Site::new(&self.address, self.ca.as_deref(), self.kind, None)
    }
}

/// Opens sessions, so many at a time.
async fn open(site: &Arc<Site>, path: &str, count: usize, at_once: usize) -> Result<Vec<Session>> {
    let (room, mut opening) = (Arc::new(Semaphore::new(at_once)), JoinSet::new());
    for _ in 0..count {
        let (site, path, room) = (Arc::clone(site), path.to_owned(), Arc::clone(&room));
        opening.spawn(async move {
            let _room = room.acquire().await.context("the semaphore is never closed")?;
            site.open(&path).await
        });
    }
    let mut sessions = Vec::with_capacity(count);
    while let Some(session) = opening.join_next().await {
        sessions.push(session??);
    }
    Ok(sessions)
}

/// The backend's counters.
async fn backend(options: &Options) -> Result<(u64, u64)> {
    let mut conn = Conn::new(TcpStream::connect(&options.backend).await?);
    let body = conn.fetch(&get("/stats"), 200).await?;
    let text = String::from_utf8_lossy(&body);
    let numbers: Vec<u64> = text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [opened, flooded] => Ok((opened, flooded)),
        _ => bail!("the backend's counters are {text}"),
    }
}

async fn settle(seconds: f64) {
    sleep(Duration::from_secs_f64(seconds)).await;
}
