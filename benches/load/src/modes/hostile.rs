//! Honest clients, alone and then beside an attack: how long an echo and an opening take, and what memory is taken.
//!
//! Enters: options with an attack's name. Leaves: delays without and with it, memory before it and at most. Must not touch:
//! how the attack goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::{sleep, timeout};

use super::samples::Samples;
use super::{attacks, flows, open, settle};
use crate::clock;
use crate::options::Options;
use crate::session::Site;

/// Between two openings of the honest client that comes and goes.
const OPENING: Duration = Duration::from_millis(50);

/// How long an honest client waits before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of honest clients in a window.
#[derive(Default)]
struct Honest {
    echoes: Samples,
    opens: Samples,
    failed: AtomicU64,
}

/// One attack beside `count` honest clients.
pub async fn hostile(options: &Options) -> Result<String> {
    let (calm, beside) = (Arc::new(Honest::default()), Arc::new(Honest::default()));
    let site = options.site()?;
    for honest in [&calm, &beside] {
        for session in open(&site, "/echo", options.count / 2, 16).await? {
            let honest = Arc::clone(honest);
            // Both halves go on all the time, so that both windows have the same load.
            tokio::spawn(async move {
                if let Err(error) = flows::round_trips(session, &honest.echoes).await {
                    eprintln!("an honest client: {error:#}");
                    honest.failed.fetch_add(1, Relaxed);
                }
            });
        }
    }
    settle(0.5).await;
    let before = options.peer.rss()?;
    window(options, &site, &calm).await?;
    let begun = attacks::begin(&options.attack, options)?;
    settle(1.0).await;
    let most = window(options, &site, &beside).await?;
    let (_, calm_p50, calm_p99) = calm.echoes.summary();
    let (_, p50, p99) = beside.echoes.summary();
    let (_, _, calm_open) = calm.opens.summary();
    let (_, _, open) = beside.opens.summary();
    Ok(format!(
        r#"{{"calm_p50_ms":{calm_p50:.3},"calm_p99_ms":{calm_p99:.3},"p50_ms":{},"p99_ms":{},"calm_open_ms":{},"open_ms":{},"failed":{},"before_mib":{:.1},"most_mib":{:.1},"begun":{}}}"#,
        number(p50),
        number(p99),
        number(calm_open),
        number(open),
        calm.failed.load(Relaxed) + beside.failed.load(Relaxed),
        before as f64 / 1048576.0,
        most as f64 / 1048576.0,
        begun.load(Relaxed),
    ))
}

/// JSON has no word for a number that is none.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { "null".into() }
}

/// Gathers for the options' seconds; the most memory that was taken meanwhile.
async fn window(options: &Options, site: &Arc<Site>, honest: &Arc<Honest>) -> Result<u64> {
    let (end, mut most) = (Instant::now() + Duration::from_secs_f64(options.seconds), 0);
    honest.echoes.set_open(true);
    honest.opens.set_open(true);
    let opening = tokio::spawn(openings(Arc::clone(site), Arc::clone(honest)));
    while Instant::now() < end {
        most = most.max(options.peer.rss()?);
        sleep(Duration::from_millis(20)).await;
    }
    honest.echoes.set_open(false);
    honest.opens.set_open(false);
    opening.abort();
    Ok(most)
}

/// Opens a session, waits for what it is called, goes.
async fn openings(site: Arc<Site>, honest: Arc<Honest>) {
    loop {
        let start = clock::now();
        let opened = timeout(PATIENCE, async { site.open("/idle").await?.prepare().await }).await;
        match opened {
            Ok(Ok(())) => honest.opens.add(clock::now() - start),
            _ => drop(honest.failed.fetch_add(1, Relaxed)),
        }
        sleep(OPENING).await;
    }
}
