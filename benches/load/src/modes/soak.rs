//! Honest load for a long time: numbered echoes on every transport through cuts, sessions that come and go, plain requests.
//!
//! Enters: options. Leaves: how many messages came, and how many did not, or not in order. Must not touch: what the peer
//! takes; that is `benches/soak`'s.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock;
use crate::options::Options;
use crate::session::{Kind, Session, Site, get};
use crate::stamp;

/// Ways of an honest client, over and over among `count` of them.
const KINDS: [Kind; 5] = [Kind::Sse, Kind::Stream, Kind::Poll, Kind::Carried, Kind::Ws];

/// How long a client waits for an echo.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages after which a line is cut; about, for each client has its own number.
const CUT_AFTER: u64 = 40;

/// Sizes of messages, in turns; the last ones do not fit into one read.
const SIZES: [usize; 5] = [32, 64, 500, 4_000, 100_000];

#[derive(Default)]
struct Tally {
    stop: AtomicBool,
    echoed: AtomicU64,
    wrong: AtomicU64,
    cuts: AtomicU64,
    churned: AtomicU64,
    plain: AtomicU64,
    failed: AtomicU64,
}

/// Runs for the options' seconds.
pub async fn soak(options: &Options) -> Result<String> {
    let (tally, mut clients) = (Arc::new(Tally::default()), JoinSet::new());
    for which in 0..options.count {
        let kind = KINDS[which % KINDS.len()];
        let site = Site::new(&options.address, None, kind, None)?;
        let (tally, site) = (Arc::clone(&tally), site);
        clients.spawn(async move {
            while !tally.stop.load(Relaxed) {
                let done = match which % 4 {
                    // Three of four talk for long, the others come and go.
                    3 => churn(&site, &tally).await,
                    _ => talk(&site, kind, which as u64, &tally).await,
                };
                if let Err(error) = done {
                    eprintln!("{kind:?}: {error:#}");
                    tally.failed.fetch_add(1, Relaxed);
                    sleep(Duration::from_millis(500)).await;
                }
            }
        });
    }
    let (site, counted) = (options.site()?, Arc::clone(&tally));
    clients.spawn(async move {
        while !counted.stop.load(Relaxed) {
            if let Err(error) = plain(&site, &counted).await {
                eprintln!("a plain request: {error:#}");
                counted.failed.fetch_add(1, Relaxed);
            }
        }
    });
    let end = Instant::now() + Duration::from_secs_f64(options.seconds);
    while Instant::now() < end {
        sleep(Duration::from_millis(100)).await;
    }
    tally.stop.store(true, Relaxed);
    while let Some(client) = clients.join_next().await {
        client?;
    }
    let [echoed, wrong, cuts, churned, plain, failed] =
        [&tally.echoed, &tally.wrong, &tally.cuts, &tally.churned, &tally.plain, &tally.failed]
            .map(|one| one.load(Relaxed));
    Ok(format!(
        r#"{{"echoed":{echoed},"wrong":{wrong},"cuts":{cuts},"churned":{churned},"plain":{plain},"failed":{failed}}}"#
    ))
}

/// One session for as long as it may be: bursts up, their echoes down in order, and now and then a cut in the middle.
async fn talk(site: &Arc<Site>, kind: Kind, which: u64, tally: &Tally) -> Result<()> {
    let mut session = site.open("/echo").await?;
    session.prepare().await?;
    let (mut sent, mut came, mut next_cut) = (0, 0, CUT_AFTER + which);
    while !tally.stop.load(Relaxed) {
        for _ in 0..=which % 3 {
            let mut message = Vec::new();
            stamp::write_at(&mut message, clock::now(), sent, SIZES[sent as usize % SIZES.len()]);
            session.send(&message).await?;
            sent += 1;
        }
        if came > next_cut {
            next_cut = came + CUT_AFTER + which;
            tally.cuts.fetch_add(1, Relaxed);
            match kind {
                // Nothing resumes a WebSocket that passes through: what is under way is lost, and so is known.
                Kind::Ws => return Ok(()),
                // On its own WebSocket what was sent is on its way only once it is back.
                Kind::Carried => hear(&mut session, &mut came, sent, tally).await?,
                _ => {}
            }
            session.reattach().await?;
        }
        hear(&mut session, &mut came, sent, tally).await?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Until all echoes are there. A stream that ends, as it does at its age, is asked for again.
async fn hear(session: &mut Session, came: &mut u64, sent: u64, tally: &Tally) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while *came < sent {
        let mut each = |message: &[u8]| {
            if stamp::number(message) != Some(*came) || message.len() != SIZES[*came as usize % SIZES.len()] {
                tally.wrong.fetch_add(1, Relaxed);
            }
            *came += 1;
            tally.echoed.fetch_add(1, Relaxed);
        };
        let left = until.saturating_duration_since(Instant::now());
        let more = timeout(left, session.receive(&mut each)).await.context("no echo in 30 s")??;
        if !more {
            session.reattach().await?;
        }
    }
    if *came > sent { bail!("{came} echoes of {sent} messages") } else { Ok(()) }
}

/// Opens, says one thing, and leaves in the middle of the answer or behind it.
async fn churn(site: &Arc<Site>, tally: &Tally) -> Result<()> {
    let number = tally.churned.fetch_add(1, Relaxed) % SIZES.len() as u64;
    let mut session = site.open("/echo").await?;
    session.prepare().await?;
    let mut message = Vec::new();
    stamp::write_at(&mut message, clock::now(), number, SIZES[number as usize]);
    session.send(&message).await?;
    if number % 2 == 0 {
        let mut came = number;
        hear(&mut session, &mut came, number + 1, tally).await?;
    }
    drop(session);
    sleep(Duration::from_millis(50)).await;
    Ok(())
}

/// Small requests on a connection that stays for a while.
async fn plain(site: &Site, tally: &Tally) -> Result<()> {
    let mut conn = site.connect().await?;
    for _ in 0..100 {
        conn.fetch(&get("/small"), 200).await?;
        tally.plain.fetch_add(1, Relaxed);
        sleep(Duration::from_millis(10)).await;
        if tally.stop.load(Relaxed) {
            break;
        }
    }
    Ok(())
}
