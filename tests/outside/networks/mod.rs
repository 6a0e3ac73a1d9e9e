//! The browser client in Chromium and Firefox, behind or before real proxies from Debian's packages, WebSockets blocked:
//! on which transport it ends, how soon the first message comes, whether all come once and in order, how closes are seen
//! at both ends, and whether the backend is let go when the page dies. `UNDERPASS_BOX=squid` runs those of that name only;
//! `UNDERPASS_WRITE_NETWORKS=1` writes what was measured into `docs/NETWORKS.md`. Must not touch: fixed ports, the
//! network beyond this machine, the services that Debian set up.

pub(crate) mod backend;
pub(crate) mod boxes;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backend::Ended;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::programs::{self, Program};
use crate::running::Running;
use crate::support::plain;
use crate::support::scratch::Scratch;
use crate::support::site::Site;
use crate::turn;
use boxes::{Box_, Spec};

/// Numbered messages each way.
const MESSAGES: u32 = 1000;
/// The sidecar's grace and longest poll.
const GRACE: Duration = Duration::from_secs(8);
const WAIT: Duration = Duration::from_secs(4);
/// Until the backend sees the end of a page that died: a box may keep its last poll for it, which counts when answered.
const RELEASE: Duration = GRACE.saturating_add(WAIT).saturating_add(Duration::from_secs(15));
/// A first message that takes longer is too late, in milliseconds: in a table that is published, and on any machine.
const FIRST: (u64, u64) = (4000, 20_000);
/// Browsers at once.
const ABREAST: usize = 3;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks() {
    if !programs::present(&[Program::Chromium, Program::Firefox, Program::Node]) {
        return;
    }
    let _turn = turn::alone().await;
    let part = std::env::var("UNDERPASS_BOX").unwrap_or_default();
    let turns = Arc::new(Semaphore::new(ABREAST));
    let chosen = boxes::ALL.iter().filter(|spec| spec.name.contains(&part) && present(spec));
    let chosen = chosen.flat_map(|spec| browsers(spec).iter().map(move |with| (spec, *with)));
    let runs: Vec<_> = chosen.map(|(spec, with)| (spec, tokio::spawn(visit(spec, with, Arc::clone(&turns))))).collect();
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (spec, run) in runs {
        match run.await {
            Ok(row) => {
                failures.extend(row.complaints(spec));
                rows.push((spec, row));
            }
            Err(error) => failures.push(format!("{}: {error}", spec.name)),
        }
    }
    let text = table::text(&rows);
    println!("{text}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    if publishes() {
        let all: usize = boxes::ALL.iter().map(|spec| browsers(spec).len()).sum();
        assert_eq!(rows.len(), all, "the table is written whole");
        table::write(&text);
    }
}

/// All go through forward proxies; before the reverse ones, what the first does is enough.
fn browsers(spec: &Spec) -> &'static [&'static str] {
    if spec.forward { &["Chromium", "Firefox"] } else { &["Chromium"] }
}

fn present(spec: &Spec) -> bool {
    if programs::command(spec.program).is_some() {
        return true;
    }
    let reason = format!("networks: {}: left out: needs {}; run tests/run", spec.name, spec.program);
    assert!(!programs::full(), "{reason}");
    programs::say(&reason);
    false
}

/// What was seen through a box.
struct Row {
    browser: &'static str,
    page: Value,
    /// The backend's record of `/numbers` and `/echo`.
    counted: Option<Ended>,
    echoed: Option<Ended>,
    /// From the death of the page until the backend saw its end.
    released: Option<(Duration, Ended)>,
}

async fn visit(spec: &'static Spec, browser: &'static str, turns: Arc<Semaphore>) -> Row {
    let _turn = turns.acquire().await.expect("never closed");
    let (backend, mut ends) = backend::start().await;
    let (pages, _asked) = plain::canned(page()).await;
    // The sidecar must know the box's address, and the box the sidecar's; of a forward proxy it need not know.
    let files = Scratch::new(&format!("networks-{}", backend.port()));
    let beyond = Site::from_toml(&(config(backend, pages, None) + &listener(spec, &files)));
    let mut before = Vec::new();
    let mut stand = |at: SocketAddr| match spec.forward {
        true => beyond.at,
        false => {
            before.push(Site::from_toml(&(config(backend, pages, Some(at)) + &listener(spec, &files))));
            before[before.len() - 1].at
        }
    };
    let mut box_ = Box_::start(spec, &mut stand).await;
    let (page, proxy) = match spec.forward {
        true => (beyond.at, format!("http://{}", box_.at())),
        false => (box_.at(), String::new()),
    };
    let row = converse(&mut box_, (spec, browser), (page, &proxy), &mut ends).await;
    if row.released.is_none() {
        programs::say(&format!("{}, {browser}: the box said:\n{}", spec.name, box_.said()));
    }
    row
}

async fn converse(
    box_: &mut Box_,
    (spec, browser): (&Spec, &'static str),
    (page, proxy): (SocketAddr, &str),
    ends: &mut mpsc::UnboundedReceiver<Ended>,
) -> Row {
    let scheme = if spec.tls { "https" } else { "http" };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/networks/talk.mjs");
    let mut node = Command::new("node");
    node.args([script, &format!("{scheme}://{page}/page"), proxy, spec.transport, &MESSAGES.to_string()]);
    node.arg(browser.to_lowercase());
    let mut node = Running::start(&mut node);
    let mut told = None;
    // One word for each step, each in good time; then all of it.
    while let Some(line) = node.line().await {
        if line == "half" {
            box_.restart().await;
        }
        if line.starts_with('{') {
            told = serde_json::from_str(&line).ok();
            break;
        }
    }
    let page = told.unwrap_or_else(|| serde_json::json!({ "failed": "nothing was told" }));
    let mut row = Row { browser, page, counted: None, echoed: None, released: None };
    if row.page.get("failed").is_some() || node.line().await.as_deref() != Some("gone") {
        return row;
    }
    let died = Instant::now();
    while let Ok(Some(end)) = timeout(RELEASE, ends.recv()).await {
        match end.path.as_str() {
            "/echo" => row.echoed = Some(end),
            "/ghost" => row.released = Some((died.elapsed(), end)),
            _ => row.counted = Some(end),
        }
        if row.released.is_some() {
            break;
        }
    }
    row
}

fn publishes() -> bool {
    std::env::var_os("UNDERPASS_WRITE_NETWORKS").is_some_and(|write| write == "1")
}

impl Row {
    /// What is not as it should be.
    fn complaints(&self, spec: &Spec) -> Vec<String> {
        let page = &self.page;
        let mut wrong = Vec::new();
        let mut check = |right: bool, what: &str| {
            if !right {
                wrong.push(format!("{}, {}: {what}: {page}", spec.name, self.browser));
            }
        };
        check(page.get("failed").is_none(), "did not end well");
        check(self.transport() == spec.transport, &format!("should end on {}", spec.transport));
        check(page["last"] == spec.transport, "a later socket is on another transport");
        let first = if publishes() { FIRST.0 } else { FIRST.1 };
        check(self.first() <= first, "the first message is late");
        check(page["echoed"]["late"].as_u64().is_some_and(|late| late <= first), "the message after a silence is late");
        let count = &page["counted"];
        check(count["wrong"] == -1 && count["got"] == MESSAGES, "not all messages once and in order");
        check(count["code"] == 4200 && count["reason"] == "all came", "the backend's close");
        let echo = &page["echoed"];
        check(echo["extra"] == 0 && echo["code"] == 4321 && echo["reason"] == "enough", "the page's close");
        let is = |end: &Option<Ended>, code, reason| {
            end.as_ref().is_some_and(|end| end.code == code && end.reason == reason)
        };
        check(is(&self.counted, 4200, "all came"), &format!("the backend saw {:?}", self.counted));
        check(is(&self.echoed, 4321, "enough"), &format!("the backend saw {:?}", self.echoed));
        let gone = self.released.as_ref().is_some_and(|(_, end)| end.code == 1001 && end.reason == "client gone");
        check(gone, &format!("a dead page's backend connection ended {:?}", self.released));
        wrong
    }

    fn transport(&self) -> &str {
        self.last_move("transport")
    }

    /// What the client says of the transport it ended on.
    fn last_move(&self, what: &str) -> &str {
        let moves = self.page["echoed"]["moves"].as_array();
        moves.and_then(|moves| moves.last()?[what].as_str()).unwrap_or("none")
    }

    /// Milliseconds until the first message was there and back.
    fn first(&self) -> u64 {
        self.page["first"].as_u64().unwrap_or(u64::MAX)
    }
}

fn config(backend: SocketAddr, pages: SocketAddr, page: Option<SocketAddr>) -> String {
    // Reverse proxies change `Host`; that the page's origin is ours then has to be said.
    let allowed = page.map_or(String::new(), |at| format!("allowed_origins = [\"http://{at}\"]\n"));
    let (grace, wait) = (GRACE.as_secs(), WAIT.as_secs());
    format!(
        "workers = 1\n{allowed}[session]\nheartbeat = \"2s\"\nwait = \"{wait}s\"\ngrace = \"{grace}s\"\n\
         [[route]]\npath = \"/\"\nupstream = \"ws://{backend}\"\n[[route]]\npath = \"/page\"\nupstream = \"http://{pages}\"\n"
    )
}

fn listener(spec: &Spec, files: &Scratch) -> String {
    let clear = "[[listener]]\naddress = \"127.0.0.1:0\"\n".to_owned();
    if !spec.tls {
        return clear;
    }
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = files.file("site.pem", &issued.cert.pem());
    let key = files.file("site.key", &issued.signing_key.serialize_pem());
    format!("{clear}certificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display())
}

fn page() -> String {
    let page = "<!doctype html><title>networks</title><script>window.Native = WebSocket</script>\
                <script src=\"/_underpass/client.js\" data-debug></script>";
    let length = page.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nCache-Control: no-store\r\n\
         Connection: close\r\n\r\n{page}"
    )
}
