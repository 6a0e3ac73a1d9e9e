//! What may happen when one process follows another, and what becomes of everybody then: each row is a test, with the real binary
//! over real sockets. Enters: a configuration, and the way by which the next process gets everything. Leaves: verdicts. Must not
//! touch: the machine's own service manager.
//!
//! | row | test |
//! |---|---|
//! | idle; under load on each transport, a bare EventSource, a tunnel | `sidecar::exactly_once::handed_over` |
//! | part of a frame, open fragments, unread frames, unsent bytes | `registry::thaw::tests` (in `src`), at every byte |
//! | backend paused, up queue full, messages held above a gap, a close under way | `registry::thaw::tests` |
//! | a tunnel inside a frame | `transport::tunnel::given` (in `src`), `sidecar::exactly_once::handed_over` |
//! | simulation: freeze and thaw as one more event | `simulation` |
//! | an idle connection; part of a head | `clients::an_idle_connection_is_answered_by_the_successor` |
//! | a stream, a poll that waits | `clients::streams_and_waiting_polls_go_on_and_their_clients_notice_nothing` |
//! | behind a body that came behind its head | `clients::a_connection_on_which_a_body_came_behind_its_head_is_answered_by_the_successor`, `listener::by_hyper` |
//! | send, attach, ack, close meet the freeze | `clients::short_requests_that_meet_the_freeze_are_answered_once` |
//! | a request that is being proxied | `clients::a_request_under_way_is_answered` |
//! | an open that is repeated | `clients::a_nonce_opens_the_same_session_in_the_next_process` |
//! | TLS client, HTTP/2 client | `tls::handed_over` |
//! | `wss://` backend; a tunnel with a leg under TLS | `tls::handed_over` |
//! | the successor's configuration is wrong; an address is in use, or not of this machine | `successors::one_that_cannot_run_changes_nothing` |
//! | the successor fails behind the freeze | `successors::one_that_fails_with_everything_gives_it_back` |
//! | the old process does not say what it gives | `successors::where_no_address_is_named_none_is_bound_before_everything_is_there` |
//! | an address is new | `changes::a_new_address_is_served_and_goes_over` |
//! | the successor dies before `ok` | `successors::one_that_dies_is_nothing_to_anybody`, `sidecar::exactly_once::handed_over` |
//! | the old one is killed | `successors::what_was_killed_leaves_nothing` |
//! | format newer | `successors::another_format_is_refused_before_anything_is_frozen`, `successors::another_format_in_the_store_is_passed_over` |
//! | no service manager, or `handover.restart = false` | `successors::without_anybody_who_keeps_anything_a_restart_is_a_stop` |
//! | a stop during a hand-over; two successors at once | `successors::a_stop_comes_while_a_successor_has_everything`, `successors::two_at_once_follow_one_another` |
//! | `session.max`, `limits.sessions` lowered | `changes::fewer_sessions_are_allowed_and_all_live_on` |
//! | no descriptor left | `changes::a_process_that_has_no_descriptor_left_is_followed_nevertheless` |
//! | the limit of descriptors lowered | `changes::what_gets_no_descriptor_ends_and_is_named` |
//! | node renamed | `changes::a_renamed_node_knows_its_old_tokens` |
//! | route removed | `changes::the_sessions_of_a_removed_route_live_on` |
//! | 50 in a row | `growth::fifty_in_a_row_cost_nothing` |

mod changes;
mod clients;
mod growth;
mod successors;

use std::path::PathBuf;
use std::process::Stdio;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::Command;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use underpass::handover::Load;
use underpass::handover::take_over::ask;

use crate::binary::Running;
use crate::support::manager::Manager;
use crate::support::scratch::Scratch;
use crate::support::site::{Site, soon};

/// What a process says that goes on with what the one before had.
pub(crate) const GOES_ON: &str = "went on where the process before has stopped";
/// What one says whose successor has failed.
const ROLLED_BACK: &str = "nobody has taken over: everything goes on here";
/// Two descriptors: one of sockets, one of the state.
const STORE: usize = 4;

/// By which the next process gets everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Road {
    TakeOver,
    Restart,
}

pub(crate) const ROADS: [Road; 2] = [Road::TakeOver, Road::Restart];

/// Processes that follow one another, of which one runs.
pub(crate) struct Line {
    folder: Scratch,
    config: PathBuf,
    manager: Option<Manager>,
    /// How many descriptors the next process may have.
    descriptors: Option<u32>,
    pub(crate) process: Running,
    /// It has an admin listener.
    pub(crate) site: Site,
}

impl Line {
    /// With a configuration that has everything but an address for operators and for successors. Tables come last in it.
    pub(crate) async fn start(road: Road, toml: &str) -> Self {
        let manager = (road == Road::Restart).then(|| Manager::new("rows-manager", STORE));
        Self::start_with(manager, toml).await
    }

    async fn start_with(manager: Option<Manager>, toml: &str) -> Self {
        let folder = Scratch::new("rows");
        let config = write(&folder, toml);
        let mut process = run(&config, manager.as_ref(), None, false);
        let site = process.site_with_admin().await;
        Self { folder, config, manager, descriptors: None, process, site }
    }

    /// The next process has this configuration; the same addresses for operators and successors, if it has none for operators.
    fn change(&self, toml: &str) {
        write(&self.folder, toml);
    }

    /// A process that is to take over from the one that runs, or that the manager starts.
    fn another(&self, take_over: bool) -> Running {
        run(&self.config, self.manager.as_ref(), self.descriptors, take_over)
    }

    /// The next process goes on. The one before, which may still be about something if it was asked.
    pub(crate) async fn go_over(&mut self) -> Running {
        if self.manager.is_some() {
            self.process.signal("-USR2");
        }
        self.follow().await
    }

    /// The same, where a restart was asked for already.
    async fn follow(&mut self) -> Running {
        let takes_over = self.manager.is_none();
        if !takes_over {
            assert_eq!(self.process.exits().await, 0, "{:#?}", self.process.lines);
        }
        let mut next = self.another(takes_over);
        next.says(GOES_ON).await;
        std::mem::replace(&mut self.process, next)
    }

    /// The next process goes on, and the one before has ended.
    pub(crate) async fn next(&mut self) {
        let mut before = self.go_over().await;
        if self.manager.is_none() {
            assert_eq!(before.exits().await, 0, "{:#?}", before.lines);
        }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path("handover.sock")
    }

    /// What a successor gets that dies with it.
    async fn give_in_vain(&self) -> Load {
        let mut predecessor = ask(&self.socket()).await.expect("it runs");
        predecessor.take().await.expect("it gives everything").unpack().expect("it is whole")
    }
}

fn write(folder: &Scratch, toml: &str) -> PathBuf {
    let socket = folder.path("handover.sock");
    let admin = if toml.contains("admin = ") { "" } else { "admin = \"127.0.0.1:0\"\n" };
    let first = format!("workers = 2\n{admin}log.format = \"json\"\nhandover.socket = \"{}\"\n", socket.display());
    folder.file("underpass.toml", &(first + toml))
}

fn run(config: &PathBuf, manager: Option<&Manager>, descriptors: Option<u32>, take_over: bool) -> Running {
    const BINARY: &str = env!("CARGO_BIN_EXE_underpass");
    let program = if descriptors.is_some() { "sh" } else { BINARY };
    let mut command = match manager {
        Some(manager) => manager.command(program),
        None => {
            let mut command = Command::new(program);
            command.env_remove("RUST_LOG").kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::null());
            command
        }
    };
    if let Some(descriptors) = descriptors {
        command.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\""), BINARY]);
    }
    command.arg("run").args(take_over.then_some("--take-over")).arg(config);
    match manager {
        Some(manager) => Running::with(&mut command, |command| manager.start(command)),
        None => Running::with(&mut command, |command| command.spawn().expect("it runs")),
    }
}

/// What a backend is told next, but pings.
pub(crate) async fn hear<S: AsyncRead + AsyncWrite + Unpin>(ws: &mut WebSocketStream<S>) -> Message {
    loop {
        let message = soon("a message", ws.next()).await.expect("not ended").expect("no error");
        if !message.is_ping() && !message.is_pong() {
            return message;
        }
    }
}

/// How the other side closes: the code. Our answer is written.
pub(crate) async fn hear_close<S: AsyncRead + AsyncWrite + Unpin>(ws: &mut WebSocketStream<S>) -> u16 {
    let Message::Close(Some(frame)) = hear(ws).await else { panic!("not a close with a code") };
    let _ = ws.flush().await;
    frame.code.into()
}

/// One message each way: each the one with this number.
pub(crate) async fn speak<S>(site: &Site, url: &str, backend: &mut WebSocketStream<S>, number: u64)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    backend.send(Message::text(format!("down {number}"))).await.expect("it is taken");
    let polled = site.get(&format!("{url}/poll?after={}", number - 1)).await;
    assert_eq!(polled.json()["messages"], json!([format!("down {number}")]), "{url}: {}", polled.text());
    let sent = site.post(&format!("{url}/send?seq={number}&as=text"), format!("up {number}")).await;
    assert_eq!(sent.status, 200, "{}", sent.text());
    assert_eq!(hear(backend).await, Message::text(format!("up {number}")));
}

/// How a session has ended, as a poll says it.
pub(crate) async fn ended(site: &Site, url: &str, after: u64) -> Value {
    let polled = site.get(&format!("{url}/poll?after={after}")).await;
    polled.json()["close"].clone()
}

/// One message there and back through a tunnel.
async fn echo<A, B>(client: &mut WebSocketStream<A>, backend: &mut WebSocketStream<B>, text: &str)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    client.send(Message::text(text)).await.expect("it is taken");
    assert_eq!(hear(backend).await, Message::text(text));
    backend.send(Message::text(text)).await.expect("it is taken");
    assert_eq!(hear(client).await, Message::text(text));
}
