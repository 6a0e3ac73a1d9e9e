//! Clients while their process is replaced by another: what each of them notices of it.
//!
//! Enters: options; a line on standard input once the successor goes on. Leaves: a line on standard output when it may be
//! asked, and in the end each client's longest wait, without and with it. Must not touch: who replaces whom; that is
//! `benches/lab/handover.py`'s.
//!
//! Half of the sessions are read as SSE, half by long polls, as browsers do: on the connection that is there, again at once
//! behind `reconnect`, behind 503 and when a connection has ended. Half of each are busy: the backend says something
//! every second, or, to a quarter of them, sends back what they say twice a second. (Not to all: a connection to say
//! something on is one more file, and a process may have 20,000 here.) A client waits from a stream's end to the next
//! one's beginning, for a message from when it was sent, and from `send` to its answer. The longest of these is its
//! gap; who has waited for nothing (idle polls, whose next answer comes with the next message) has none.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::BytesMut;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at, sleep, timeout, timeout_at};

use super::settle;
use crate::clock;
use crate::conn::{Conn, Length};
use crate::options::Options;
use crate::session::{Kind, Site, dialect, get, marked, post, url_of};
use crate::stamp;

/// Sessions that open at a time.
const AT_ONCE: usize = 16;
/// Between two messages of a client.
const EVERY: Duration = Duration::from_millis(500);
/// Between two connections of the one that only connects.
const KNOCK: Duration = Duration::from_millis(5);
/// Before something is asked again that has failed.
const AGAIN: Duration = Duration::from_millis(5);
/// Until everything that was said must be back.
const PATIENCE: Duration = Duration::from_secs(30);

/// What all clients share.
#[derive(Default)]
struct Tally {
    /// Nothing more is said.
    stop: AtomicBool,
    /// Messages that were not the next.
    wrong: AtomicU64,
    /// Answers that say that there is no such session.
    ended: AtomicU64,
    /// Requests and streams that had to be asked for again: behind a 503, and on a new connection.
    refused: AtomicU64,
    broken: AtomicU64,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Idle,
    Ticks,
    Echoes,
}

/// One session, and what its client has seen.
struct Client {
    site: Arc<Site>,
    url: String,
    is_stream: bool,
    role: Role,
    /// Messages that came, and messages that were said.
    came: AtomicU64,
    said: AtomicU64,
    /// The longest wait of the present window, in nanoseconds.
    longest: AtomicU64,
    all_came: Notify,
    tally: Arc<Tally>,
}

/// Opens, talks, lets itself be handed over, and looks whether all came.
pub async fn handover(options: &Options) -> Result<String> {
    let tally = Arc::new(Tally::default());
    let clients = open(options, &tally).await?;
    let mut talking = JoinSet::new();
    for (which, client) in clients.iter().enumerate() {
        tokio::spawn(Arc::clone(client).hear());
        if client.role == Role::Echoes {
            let phase = EVERY.mul_f64((which as f64 * 0.618_033_988_75).fract());
            talking.spawn(Arc::clone(client).talk(phase));
        }
    }
    let knocks = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn(knock(options.site()?, Arc::clone(&knocks)));
    settle(2.0).await;
    take(&clients);
    take_all(&knocks);
    settle(options.seconds).await;
    let (calm, calm_knocks) = (take(&clients), take_all(&knocks));

    println!("now");
    std::io::stdout().flush()?;
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    settle(1.0).await;
    let (gaps, over_knocks) = (take(&clients), take_all(&knocks));

    tally.stop.store(true, Relaxed);
    while let Some(done) = talking.join_next().await {
        done?;
    }
    // The others, too, must still be there: idle ones say something, and to those that only listen more must come.
    for client in clients.iter().filter(|client| client.role == Role::Idle) {
        client.say().await;
    }
    for client in clients.iter().filter(|client| client.role == Role::Ticks) {
        client.said.store(client.came.load(Relaxed) + 1, Relaxed);
    }
    let end = Instant::now() + PATIENCE;
    for client in &clients {
        let _ = timeout_at(end, client.complete()).await;
    }
    let missing: u64 = clients.iter().map(|one| one.said.load(Relaxed).saturating_sub(one.came.load(Relaxed))).sum();
    let came: u64 = clients.iter().map(|one| one.came.load(Relaxed)).sum();
    let figure = |one: &AtomicU64| one.load(Relaxed);
    Ok(format!(
        r#"{{"calm_p99_ms":{:.2},"p50_ms":{:.2},"p99_ms":{:.2},"most_ms":{:.2},"waited":{},"accept_ms":{:.2},"calm_accept_ms":{:.2},"came":{came},"lost":{missing},"wrong":{},"ended":{},"refused":{},"broken":{}}}"#,
        at(&calm, 0.99),
        at(&gaps, 0.5),
        at(&gaps, 0.99),
        at(&gaps, 1.0),
        gaps.len(),
        at(&over_knocks, 1.0),
        at(&calm_knocks, 1.0),
        figure(&tally.wrong),
        figure(&tally.ended),
        figure(&tally.refused),
        figure(&tally.broken),
    ))
}

async fn open(options: &Options, tally: &Arc<Tally>) -> Result<Vec<Arc<Client>>> {
    let (room, mut opening) = (Arc::new(Semaphore::new(AT_ONCE)), JoinSet::new());
    let site = Site::new(&options.address, None, Kind::SseAck, None)?;
    for which in 0..options.count {
        let role = match which / 2 % 8 {
            0..4 => Role::Idle,
            4 => Role::Echoes,
            _ => Role::Ticks,
        };
        let (site, tally, room) = (Arc::clone(&site), Arc::clone(tally), Arc::clone(&room));
        opening.spawn(async move {
            let _room = room.acquire().await.context("the semaphore is never closed")?;
            let path = if role == Role::Ticks { "/tick" } else { "/echo" };
            let request = post(&marked(path, "open"), "application/json", b"");
            let facts = site.connect().await?.fetch(&request, 200).await?;
            let url = url_of(&facts).context("no url in the answer to open")?;
            let (came, said) = (AtomicU64::new(0), AtomicU64::new(0));
            let is_stream = which % 2 == 0;
            anyhow::Ok(Arc::new(Client {
                site,
                url,
                is_stream,
                role,
                came,
                said,
                longest: AtomicU64::new(0),
                all_came: Notify::new(),
                tally,
            }))
        });
    }
    let mut clients = Vec::with_capacity(options.count);
    while let Some(client) = opening.join_next().await {
        clients.push(client??);
    }
    Ok(clients)
}

impl Client {
    fn waited(&self, since: u64) {
        self.longest.fetch_max(clock::now().saturating_sub(since), Relaxed);
    }

    fn heard(&self, message: &[u8]) {
        if stamp::number(message) != Some(self.came.load(Relaxed)) {
            self.tally.wrong.fetch_add(1, Relaxed);
        }
        self.came.fetch_add(1, Relaxed);
        self.waited(stamp::time(message).unwrap_or_default());
        self.all_came.notify_one();
    }

    /// Until everything that was said is back.
    async fn complete(&self) {
        while self.came.load(Relaxed) < self.said.load(Relaxed) {
            self.all_came.notified().await;
        }
    }

    /// Reads for ever.
    async fn hear(self: Arc<Self>) {
        let (mut conn, mut since) = (None, None);
        loop {
            let done =
                if self.is_stream { self.stream(&mut conn, &mut since).await } else { self.poll(&mut conn).await };
            if done.is_err() {
                conn = None;
            }
        }
    }

    /// One stream from its beginning to its end, on the connection of the last one if it stands.
    async fn stream(&self, conn: &mut Option<Conn>, since: &mut Option<u64>) -> Result<()> {
        let request = get(&format!("{}/sse?after={}", self.url, self.came.load(Relaxed)));
        let (mut own, mut length) = self.ask(conn, &request).await?;
        if let Some(since) = since.take() {
            self.waited(since);
        }
        let (mut pending, mut url) = (BytesMut::new(), Some(String::new()));
        let ended = loop {
            match own.piece(&mut length).await {
                Ok(Some(piece)) => {
                    pending.extend_from_slice(&piece);
                    dialect::events(&mut pending, &mut url, &mut |message| self.heard(message));
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        *since = Some(clock::now());
        match ended {
            Ok(()) => *conn = Some(own),
            Err(_) => drop(self.tally.broken.fetch_add(1, Relaxed)),
        }
        Ok(())
    }

    async fn poll(&self, conn: &mut Option<Conn>) -> Result<()> {
        let request = get(&format!("{}/poll?after={}", self.url, self.came.load(Relaxed)));
        let (mut own, mut length) = self.ask(conn, &request).await?;
        let body = rest(&mut own, &mut length).await?;
        *conn = Some(own);
        dialect::poll(&body, &mut |message| self.heard(message)).context("an answer without `after`")?;
        Ok(())
    }

    /// Asks until there is an answer with 200: again on a new connection when one has ended, and when it is refused.
    async fn ask(&self, conn: &mut Option<Conn>, request: &[u8]) -> Result<(Conn, Length)> {
        loop {
            let kept = conn.take();
            let is_new = kept.is_none();
            let mut own = match kept {
                Some(own) => own,
                None => self.site.connect().await?,
            };
            let head = async {
                own.write(request).await?;
                own.head().await?.context("the peer closed instead of answering")
            };
            let Ok(mut head) = head.await else {
                self.tally.broken.fetch_add(1, Relaxed);
                if is_new {
                    sleep(AGAIN).await;
                }
                continue;
            };
            match head.status()? {
                200 => return Ok((own, head.length)),
                503 => {
                    self.tally.refused.fetch_add(1, Relaxed);
                    if rest(&mut own, &mut head.length).await.is_ok() {
                        *conn = Some(own);
                    }
                    sleep(AGAIN).await;
                }
                other => {
                    self.tally.ended.fetch_add(1, Relaxed);
                    eprintln!("{other} for {}", String::from_utf8_lossy(request).lines().next().unwrap_or_default());
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Says something over and over, as soon as the last one is back.
    async fn talk(self: Arc<Self>, phase: Duration) {
        let mut turns = interval_at(Instant::now() + phase, EVERY);
        let mut conn = None;
        while !self.tally.stop.load(Relaxed) {
            turns.tick().await;
            self.say_by(&mut conn).await;
            if timeout(PATIENCE, self.complete()).await.is_err() {
                return;
            }
        }
    }

    async fn say(&self) {
        self.say_by(&mut None).await;
    }

    async fn say_by(&self, conn: &mut Option<Conn>) {
        let number = self.said.fetch_add(1, Relaxed);
        let (mut message, since) = (Vec::new(), clock::now());
        stamp::write_at(&mut message, since, number, 64);
        let target = format!("{}/send?seq={}&after={}", self.url, number + 1, self.came.load(Relaxed));
        let request = post(&target, "text/plain", &message);
        // What was not answered is sent again; the sidecar knows it by its number.
        while self.sent(conn, &request).await.is_err() {
            *conn = None;
        }
        self.waited(since);
    }

    async fn sent(&self, conn: &mut Option<Conn>, request: &[u8]) -> Result<()> {
        let (mut own, mut length) = self.ask(conn, request).await?;
        rest(&mut own, &mut length).await?;
        *conn = Some(own);
        Ok(())
    }
}

/// A whole body.
async fn rest(conn: &mut Conn, length: &mut Length) -> Result<BytesMut> {
    let mut whole = BytesMut::new();
    while let Some(piece) = conn.piece(length).await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

/// Connects anew, over and over, and asks for what is not there: how long accepting and answering take.
async fn knock(site: Arc<Site>, waits: Arc<Mutex<Vec<u64>>>) {
    loop {
        let since = clock::now();
        while !answered(&site).await.is_ok_and(|answered| answered) {
            sleep(AGAIN).await;
        }
        waits.lock().expect("no holder panics").push(clock::now() - since);
        sleep(KNOCK).await;
    }
}

/// One request on a connection of its own.
async fn answered(site: &Site) -> Result<bool> {
    let mut conn = site.connect().await?;
    conn.write(&get("/_underpass/s/n1-none/poll")).await?;
    Ok(conn.head().await?.is_some())
}

/// Each client's longest wait, which begins anew.
fn take(clients: &[Arc<Client>]) -> Vec<u64> {
    let mut waits: Vec<_> = clients.iter().map(|one| one.longest.swap(0, Relaxed)).filter(|wait| *wait > 0).collect();
    waits.sort_unstable();
    waits
}

fn take_all(waits: &Mutex<Vec<u64>>) -> Vec<u64> {
    let mut waits = std::mem::take(&mut *waits.lock().expect("no holder panics"));
    waits.sort_unstable();
    waits
}

/// In milliseconds.
fn at(waits: &[u64], part: f64) -> f64 {
    let place = ((waits.len() as f64 * part) as usize).min(waits.len().saturating_sub(1));
    waits.get(place).map_or(0.0, |wait| *wait as f64 / 1e6)
}
