//! The same promise while the process is replaced by another, again and again: clients on every transport, a bare EventSource and
//! a WebSocket that is passed through, all at once. Nobody's session ends, and each has one socket at the backend.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use underpass::handover::take_over::ask;
use underpass::session::Message;

use super::talk::Talk;
use super::{BOUNDS, MESSAGES, as_ws, event_source, messages, play_slowly, seeds};
use crate::binary::{Running, address, underpass};
use crate::simulation::chance::Chance;
use crate::support::manager::Manager;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site};

/// How long a backend rests behind each hundred messages.
const PAUSE: Duration = Duration::from_millis(60);
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

/// Who follows whom.
enum Line {
    /// Each successor asks the running process.
    TakeOver(PathBuf),
    /// The service manager restarts it.
    Restart(PathBuf, Manager),
    /// Successors ask the running process, and die with what they get.
    InVain(PathBuf),
}

/// What the successor says once it goes on.
const GOES_ON: &str = "went on where the process before has stopped";

impl Line {
    fn start(&self) -> Running {
        match self {
            Self::TakeOver(config) | Self::InVain(config) => Running::start(config),
            Self::Restart(config, manager) => manager_runs(manager, config),
        }
    }

    /// The next process, once it has everything and the old one has ended.
    async fn next(&self, mut old: Running) -> Running {
        match self {
            Self::TakeOver(config) => {
                let mut new = Running::of(underpass().args(["run", "--take-over"]).arg(config));
                new.says(GOES_ON).await;
                assert_eq!(old.exits().await, 0, "{:#?}", old.lines);
                new
            }
            Self::Restart(config, manager) => {
                old.signal("-USR2");
                assert_eq!(old.exits().await, 0, "{:#?}", old.lines);
                let mut new = manager_runs(manager, config);
                new.says(GOES_ON).await;
                new
            }
            Self::InVain(config) => {
                let mut predecessor = ask(&config.with_file_name("handover.sock")).await.expect("it runs");
                drop(predecessor.take().await.expect("everything").unpack().expect("a whole package"));
                // The next one is heard only when everything lives here again.
                old
            }
        }
    }
}

fn manager_runs(manager: &Manager, config: &Path) -> Running {
    let mut command = manager.command(env!("CARGO_BIN_EXE_underpass"));
    Running::with(command.arg("run").arg(config), |command| manager.start(command))
}

fn config(folder: &Scratch, backend: SocketAddr) -> PathBuf {
    let socket = folder.path("handover.sock");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"ws://{backend}\"\nworkers = 2\n[log]\nformat = \"json\"\n\
         [handover]\nsocket = \"{}\"\nquiesce = \"1s\"\n{}replay = \"16MiB\"\n",
        socket.display(),
        BOUNDS.replace("recycle = \"400ms\"\n", ""),
    );
    folder.file("underpass.toml", &text)
}

/// A WebSocket that is passed through, as a page has it: says and hears everything. How the backend has closed it.
async fn passed_through(at: SocketAddr, downs: Arc<Vec<Message>>, ups: Arc<Vec<Message>>) -> u16 {
    let socket = TcpStream::connect(at).await.expect("it listens");
    let (socket, _) = client_async(format!("ws://{at}/tunnel"), socket).await.expect("a handshake");
    let (mut sink, mut source) = socket.split();
    let say = async {
        for (index, message) in ups.iter().enumerate() {
            sink.send(as_ws(message)).await.expect("the tunnel is open");
            if index % 100 == 0 {
                sleep(PAUSE).await;
            }
        }
    };
    let hear = async {
        for (number, expected) in (1..).zip(downs.iter()) {
            let got = source.next().await.expect("no end").expect("no error");
            assert_eq!(got, as_ws(expected), "down message {number} through the tunnel");
        }
        let code = match source.next().await {
            Some(Ok(WsMessage::Close(Some(frame)))) => u16::from(frame.code),
            other => panic!("not a close: {other:?}"),
        };
        // Its answer is written while it is read on.
        while source.next().await.is_some_and(|next| next.is_ok()) {}
        code
    };
    tokio::join!(say, hear).1
}

/// A session on these transports from its opening to the backend's close.
async fn session(site: &Site, backend: &mut Backend, seed: u64, transports: &'static [&'static str]) -> JoinHandle<()> {
    let mut chance = Chance::new(seed);
    let (downs, ups) = (messages(&mut chance), messages(&mut chance));
    let opened = site.open(&format!("/{}", transports.join("-"))).await;
    let socket = backend.accept().await;
    let theirs = tokio::spawn(play_slowly(socket, Arc::clone(&downs), Arc::clone(&ups), true, PAUSE));
    let talk = Talk::new(site.at, &opened.url, transports);
    tokio::spawn(async move {
        let receive = tokio::spawn(Arc::clone(&talk).receive(Arc::clone(&ups), Chance::new(seed + 1)));
        let acknowledge = tokio::spawn(Arc::clone(&talk).acknowledge());
        if transports != ["ws"] {
            Arc::clone(&talk).send(ups, Chance::new(seed + 2)).await;
        }
        let whole = async {
            receive.await.expect("receiving");
            acknowledge.await.expect("acknowledging");
            theirs.await.expect("the backend")
        };
        let theirs = timeout(LONG, whole).await.unwrap_or_else(|_| {
            panic!("stuck at {} of {MESSAGES}, seed {seed}, {talk:?}", talk.outcome().0.len());
        });
        let (received, closed) = talk.outcome();
        assert!(received == *downs, "{transports:?}: what came is not what was sent, seed {seed}");
        assert_eq!(closed, Some(json!({"code": 4001, "reason": "kicked", "clean": true})), "{transports:?}");
        assert_eq!(theirs, (4001, "kicked".to_owned()));
    })
}

async fn everybody(seed: u64, line: impl FnOnce(PathBuf) -> Line) {
    println!("UNDERPASS_SEED={seed}");
    let folder = Scratch::new(&format!("handed-over-{seed}"));
    let mut backend = Backend::start().await;
    let line = line(config(&folder, backend.at));
    let mut process = line.start();
    let at = address(&process.says("listening").await);
    let site = Site::elsewhere(at, None);

    let mut all = Vec::new();
    for (number, transports) in
        (1..).zip([&["sse"][..], &["stream"], &["poll"], &["ws"], &["sse", "stream", "poll", "ws"]])
    {
        all.push(session(&site, &mut backend, seed + 10 * number, transports).await);
    }
    let mut chance = Chance::new(seed);
    let (downs, ups) = (messages(&mut chance), messages(&mut chance));
    let tunnel = tokio::spawn(passed_through(at, Arc::clone(&downs), Arc::clone(&ups)));
    let socket = backend.accept().await;
    let theirs = tokio::spawn(play_slowly(socket, downs, ups, true, PAUSE));
    all.push(tokio::spawn(async move {
        assert_eq!(tunnel.await.expect("the page"), 4001);
        assert_eq!(theirs.await.expect("the backend"), (4001, "kicked".to_owned()));
    }));
    let feed = messages(&mut chance);
    let bare = tokio::spawn(event_source(at, seed));
    let socket = backend.accept().await;
    let theirs = tokio::spawn(play_slowly(socket, Arc::clone(&feed), Arc::default(), true, PAUSE));
    all.push(tokio::spawn(async move {
        let (received, close, _) = bare.await.expect("the EventSource");
        assert!(received == *feed, "the feed");
        assert_eq!(close, json!({"code": 4001, "reason": "kicked", "clean": true}));
        assert_eq!(theirs.await.expect("the backend"), (4001, "kicked".to_owned()));
    }));

    let mut overs = 0;
    while !all.iter().all(JoinHandle::is_finished) {
        sleep(Duration::from_millis(chance.between(0, 300))).await;
        process = timeout(LONG, line.next(process)).await.expect("a successor");
        overs += 1;
    }
    println!("{overs} hand-overs");
    for one in all {
        one.await.expect("one of them");
    }
    assert!(overs >= 3, "it was over too soon: {overs} hand-overs");
    assert!(backend.try_accept().is_none(), "one socket for each at the backend");
    process.signal("-TERM");
    assert_eq!(process.exits().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_successors_that_ask() {
    for seed in seeds(700, 1) {
        everybody(seed, Line::TakeOver).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_successors_that_die() {
    for seed in seeds(900, 1) {
        everybody(seed, Line::InVain).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_service_manager_that_restarts() {
    for seed in seeds(800, 1) {
        everybody(seed, |config| Line::Restart(config, Manager::new(&format!("restarts-{seed}"), 4))).await;
    }
}
