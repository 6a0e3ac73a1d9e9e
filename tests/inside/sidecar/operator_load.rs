//! What an operator's verbs cost while thousands of sessions are there, and what the clients feel of it. `UNDERPASS_SESSIONS` says
//! how many, 10000 for the default of `session.max`. Enters: the binary, full of sessions of which some talk. Leaves: figures on standard output, and a verdict: every
//! verb is right, nobody's message is lost, and no client waits for seconds. Must not touch: how fast this machine is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::task::JoinSet;
use underpass::lifecycle::descriptors;

use crate::binary::Running;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Opened, Reply, Site};

/// What is opened within a minute under `tests/run`, and within seconds by a test among others. Some talk beside them, and half of
/// them is of the route that is ended.
const MANY: usize = 3000;
const FEW: usize = 1000;
const TALKING: usize = 8;
/// How many are opened at once.
const OPENING: usize = 8;
/// The data path is watched for so long without any verb.
const QUIET: Duration = Duration::from_secs(2);
/// No machine is so slow; a verb that holds the data path up makes it.
const STALL: Duration = Duration::from_secs(15);
const SLOWEST_VERB: Duration = Duration::from_secs(25);

/// What the operator does meanwhile.
const PHASES: [&str; 3] = ["nothing", "looks", "ends half of them"];

/// How long an echo took, in each of these.
type Delays = [Vec<Duration>; PHASES.len()];

/// As many as this machine has descriptors for: one here and one in the other process for each.
fn how_many() -> usize {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
    let usual = if variable("UNDERPASS_FULL") == Some(1) { MANY } else { FEW };
    let wanted = variable("UNDERPASS_SESSIONS").unwrap_or(usual);
    let room = descriptors::limit().map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX) / 3 * 2);
    if room < wanted {
        eprintln!("operator_load: {room} sessions instead of {wanted}: so many descriptors there are");
    }
    wanted.min(room)
}

/// A backend on a thread of its own, so that this process is no slower than the sidecar at the ends of thousands.
fn elsewhere() -> SocketAddr {
    let (sender, at) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            sender.send(Backend::echo().await).expect("somebody waits");
            std::future::pending::<()>().await;
        });
    });
    at.recv().expect("a backend")
}

/// Opens so many sessions at these paths.
async fn open_many(site: &Arc<Site>, path: &'static str, count: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..OPENING {
        let (site, next) = (Arc::clone(site), Arc::clone(&next));
        tasks.spawn(async move {
            while next.fetch_add(1, Ordering::Relaxed) < count {
                site.open(path).await;
            }
        });
    }
    tasks.join_all().await;
}

/// Sends a message, waits for its echo, and so on, until it is told to stop; by the event stream and by POST.
async fn talk(site: Arc<Site>, opened: Opened, phase: Arc<AtomicUsize>) -> Delays {
    let mut delays = Delays::default();
    let mut stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    for number in 1.. {
        let during = phase.load(Ordering::Relaxed);
        if during >= PHASES.len() {
            break;
        }
        let text = format!("message {number} of {}", opened.session["id"]);
        let since = Instant::now();
        let reply = site.post(&format!("{}/send?seq={number}&as=text", opened.url), text.clone()).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        // The next message is this one: none is lost, none comes twice.
        let said = loop {
            let event = stream.event().await.expect("the stream goes on");
            if event.data.contains("message ") {
                break event.data;
            }
        };
        assert!(said.contains(&text.replace('"', "\\\"")) || said.contains(&text), "{said}, not {text}");
        delays[during].push(since.elapsed());
    }
    delays
}

fn told(mut delays: Vec<Duration>) -> (Duration, String) {
    delays.sort_unstable();
    let part = |part: f64| delays[((delays.len() - 1) as f64 * part) as usize];
    let text = format!(
        "{} echoes, half within {:?}, 99 % within {:?}, all within {:?}",
        delays.len(),
        part(0.5),
        part(0.99),
        part(1.0)
    );
    (part(1.0), text)
}

/// Does a verb three times; the slowest answer.
async fn verb(site: &Site, method: Method, path: &str) -> Reply {
    let mut slowest = Duration::ZERO;
    let mut replies = Vec::new();
    for _ in 0..3 {
        let since = Instant::now();
        let reply = site.tell_admin(method.clone(), path, &[]).await;
        slowest = slowest.max(since.elapsed());
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text());
        replies.push(reply);
    }
    println!("  {method} {path}: {slowest:?}, {} bytes", replies[0].body.len());
    assert!(slowest < SLOWEST_VERB, "{path}: {slowest:?}");
    replies.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verbs_over_thousands_of_sessions_are_right_and_hold_nobody_up() {
    let sessions = how_many();
    // Those that talk have a backend that is not busy with the ends of the others.
    let (talking, crowd) = (Backend::echo().await, elsewhere());
    let scratch = Scratch::new("load");
    let toml = format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nupstream = \"ws://{crowd}\"\n[[route]]\npath = \"/noisy\"\nupstream = \
         \"ws://{crowd}\"\n[[route]]\npath = \"/talk\"\nupstream = \"ws://{talking}\"\n[log]\nformat = \"json\"\nlevel = \"info,underpass::registry=warn\"\n[session]\nmax = {}\ngrace = \"1h\"\n",
        sessions + TALKING
    );
    let mut running = Running::start(&scratch.file("load.toml", &toml));
    let site = Arc::new(running.site_with_admin().await);
    let phase = Arc::new(AtomicUsize::new(0));
    let noisy = sessions / 2;
    let since = Instant::now();
    open_many(&site, "/noisy", noisy).await;
    open_many(&site, "/quiet", sessions - noisy).await;
    println!("{sessions} sessions opened in {:?}", since.elapsed());

    let mut talks = JoinSet::new();
    for _ in 0..TALKING {
        let opened = site.open("/talk").await;
        talks.spawn(talk(Arc::clone(&site), opened, Arc::clone(&phase)));
    }
    tokio::time::sleep(QUIET).await;
    phase.store(1, Ordering::Relaxed);
    let all = sessions + TALKING;
    let total = |reply: &Reply| usize::try_from(reply.json()["total"].as_u64().expect("a number")).expect("small");
    assert_eq!(total(&verb(&site, Method::GET, "/sessions?limit=100").await), all);
    assert_eq!(total(&verb(&site, Method::GET, "/sessions?sort=idle&limit=10000").await), all);
    assert_eq!(total(&verb(&site, Method::GET, "/sessions?sort=bytes&offset=5000&limit=100").await), all);
    assert_eq!(
        total(&verb(&site, Method::GET, "/sessions?client=127.0.0.1&route=%2Fnoisy&transport=none").await),
        noisy
    );
    let talking = verb(&site, Method::GET, "/sessions?sort=messages&limit=8").await.json();
    let paths = talking["sessions"].as_array().expect("a list").iter().filter(|one| one["path"] == "/talk").count();
    assert_eq!(paths, TALKING.min(sessions));
    let status = verb(&site, Method::GET, "/status").await.json();
    assert_eq!(status["limits"][0]["used"], all);
    verb(&site, Method::GET, "/metrics").await;
    phase.store(2, Ordering::Relaxed);
    let since = Instant::now();
    let killed = site.tell_admin(Method::POST, "/sessions/kill?route=%2Fnoisy", &[]).await.json();
    println!("  POST /sessions/kill of {noisy}: {:?}", since.elapsed());
    assert_eq!(killed["ended"], noisy);
    verb(&site, Method::GET, "/sessions?route=%2F&limit=100").await;

    phase.store(PHASES.len(), Ordering::Relaxed);
    let mut delays = Delays::default();
    for one in talks.join_all().await {
        delays.iter_mut().zip(one).for_each(|(all, one)| all.extend(one));
    }
    for (what, (slowest, told)) in PHASES.iter().zip(delays.map(told)) {
        println!("the operator does this: {what}; {told}");
        assert!(slowest < STALL, "an echo took {slowest:?}");
    }
}
