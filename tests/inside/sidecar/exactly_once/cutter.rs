//! A box on the way between client and sidecar that does what boxes do: cuts, delays, holds, repeats, loses answers.
//!
//! Enters: a seed, connections. Leaves: the same bytes, as far as its mood lets them through. Must not touch: what the
//! bytes mean, beyond where a request ends.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use crate::simulation::chance::Chance;

/// The longest hold, in milliseconds.
const HOLD: u64 = 40;
/// The connection is cut after at most 2 to the power of this many bytes: more than the largest message as base64.
const CUT_BITS: u64 = 19;
/// However well a connection fares, it carries no more than about this many bytes in a direction.
const LIFE: u64 = 150_000;

/// What becomes of one connection.
#[derive(Clone, Copy, Debug)]
enum Mood {
    /// Cut after so many bytes of the answer.
    CutDown(u64),
    /// Cut after so many bytes of the request.
    CutUp(u64),
    /// The request waits, so that later ones overtake it; then its answer does.
    Hold { request: Duration, answer: Duration },
    /// The request is delivered, a part of its answer is thrown away; then it is delivered again, and that answer passes.
    Twice(u64),
    /// The request is delivered again later, when its answer has long arrived.
    Late(Duration),
    /// The request is delivered, the answer is not.
    Mute,
}

/// The box. It and its connections end with the test's runtime.
pub(crate) struct Cutter {
    pub(crate) at: SocketAddr,
}

struct Way {
    site: SocketAddr,
    chance: Mutex<Chance>,
}

impl Cutter {
    /// Stands before `site`.
    pub(crate) async fn start(site: SocketAddr, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let way = Arc::new(Way { site, chance: Mutex::new(Chance::new(seed)) });
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let way = Arc::clone(&way);
                tokio::spawn(async move { way.carry(client).await });
            }
        });
        Self { at }
    }
}

impl Way {
    fn mood(&self) -> (Mood, bool) {
        let mut chance = self.chance.lock().expect("no panic under it");
        let bits = chance.below(CUT_BITS + 1);
        let bytes = chance.between(1 << bits >> 1, 1 << bits);
        let mut span = || Duration::from_millis(chance.below(HOLD));
        let spans = (span(), span());
        let mood = match chance.below(16) {
            0..=5 => Mood::CutDown(bytes),
            6..=8 => Mood::CutUp(bytes),
            9..=11 => Mood::Hold { request: spans.0, answer: spans.1 },
            12..=13 => Mood::Twice(bytes),
            14 => Mood::Late(spans.0 * 3),
            _ => Mood::Mute,
        };
        (mood, chance.one_in(2))
    }

    async fn carry(&self, mut client: TcpStream) {
        let (mood, reset) = self.mood();
        let Some(request) = read_request(&mut client).await else { return };
        let upgrade = request.windows(8).any(|window| window.eq_ignore_ascii_case(b"upgrade:"));
        let life = LIFE + bytes_of(mood).min(LIFE);
        let mut cuts = Cuts { up: life, down: life, request: Duration::ZERO, answer: Duration::ZERO };
        match mood {
            Mood::CutDown(bytes) => cuts.down = bytes,
            Mood::CutUp(bytes) => cuts.up = bytes,
            Mood::Hold { request, answer } => (cuts.request, cuts.answer) = (request, answer),
            // A WebSocket cannot be repeated as a whole: cut it somewhere instead.
            Mood::Twice(bytes) if upgrade => (cuts.up, cuts.down) = (bytes, bytes * 2),
            Mood::Twice(bytes) => self.deliver(&request, bytes).await,
            Mood::Mute if !upgrade => return self.deliver(&request, u64::MAX).await,
            Mood::Late(_) | Mood::Mute => {}
        }
        self.pass(client, &request, cuts, reset).await;
        if let Mood::Late(after) = mood
            && !upgrade
        {
            sleep(after).await;
            self.deliver(&request, 64).await;
        }
    }

    /// Delivers a request and throws away the answer, after so many bytes of it or a moment.
    async fn deliver(&self, request: &[u8], bytes: u64) {
        let Ok(mut site) = TcpStream::connect(self.site).await else { return };
        if site.write_all(request).await.is_ok() {
            let mut answer = site.take(bytes);
            let _ = timeout(Duration::from_millis(HOLD), tokio::io::copy(&mut answer, &mut tokio::io::sink())).await;
        }
    }

    /// Carries both ways until either side ends or a cut comes.
    async fn pass(&self, client: TcpStream, request: &[u8], cuts: Cuts, reset: bool) {
        sleep(cuts.request).await;
        let Ok(site) = TcpStream::connect(self.site).await else { return };
        for socket in [&client, &site] {
            if reset {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
        }
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_site, mut to_site) = site.into_split();
        let up = async {
            let mut left = cuts.up;
            if !write(&mut to_site, request, &mut left).await {
                return;
            }
            pump(&mut from_client, &mut to_site, left).await;
        };
        let down = async {
            sleep(cuts.answer).await;
            pump(&mut from_site, &mut to_client, cuts.down).await;
        };
        // Whichever ends first takes the other with it: both sockets are dropped.
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    }
}

#[derive(Clone, Copy)]
struct Cuts {
    up: u64,
    down: u64,
    request: Duration,
    answer: Duration,
}

async fn pump(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), mut left: u64) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if !write(to, &buffer[..count], &mut left).await {
            return;
        }
    }
}

/// Writes what the cut lets through; false at the cut.
async fn write(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8], left: &mut u64) -> bool {
    let allowed = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= allowed as u64;
    to.write_all(&bytes[..allowed]).await.is_ok() && *left > 0
}

fn bytes_of(mood: Mood) -> u64 {
    match mood {
        Mood::CutDown(bytes) | Mood::CutUp(bytes) | Mood::Twice(bytes) => bytes,
        _ => 0,
    }
}

/// A whole request: the head, and as much body as its `Content-Length` says.
async fn read_request(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut request = Vec::new();
    loop {
        if let Some(end) = request.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
            if request.len() >= end + 4 + length {
                return Some(request);
            }
        }
        match client.read_buf(&mut request).await {
            Ok(1..) => {}
            _ => return None,
        }
    }
}
