//! Rows of successors that fail, come at the wrong moment or never. Enters: them. Leaves: a process that serves on, or ends as it should.
//! Must not touch: what becomes of those that succeed.

use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use underpass::handover::Load;
use underpass::handover::reserve::Reserve;
use underpass::handover::take_over::accept;
use underpass::lifecycle::moving::Kind;
use underpass::lifecycle::systemd::STORED;

use super::{GOES_ON, Line, ROADS, ROLLED_BACK, Road, STORE, echo, hear_close, run, speak};
use crate::support::manager::Manager;
use crate::support::plain::{Line as Bytes, nowhere};
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, FOREVER, soon};

fn plain(at: std::net::SocketAddr) -> String {
    format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{at}\"\n")
}

/// A further listener, as the last thing in a configuration.
fn listener(address: &str) -> String {
    format!("[[listener]]\naddress = \"{address}\"\n")
}

#[tokio::test]
async fn one_that_cannot_run_changes_nothing() {
    let mut backend = Backend::start().await;
    let plain = plain(backend.at);
    let folder = Scratch::new("rows-addresses");
    let [own, stranger] = ["own.sock", "stranger.sock"].map(|name| folder.path(name));
    let of = |path: &Path| format!("unix:{}", path.display());
    let good = format!("{plain}{}", listener(&of(&own)));
    let mut line = Line::start(Road::TakeOver, &good).await;
    let opened = line.site.open("/").await;
    let mut socket = backend.accept().await;
    let mut stream = line.site.stream(&format!("{}/sse", opened.url), &[]).await;
    assert_eq!(stream.told().await.event, "session");
    let _strange = UnixListener::bind(&stranger).expect("a free address");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = taken.local_addr().map(|at| (at.to_string(), taken)).expect("an address");
    let tls = "certificate = \"/nonexistent.pem\"\nkey = \"/nonexistent.key\"\n";
    let addresses = [
        (good.clone(), taken.0.clone()),
        (good.clone(), of(&stranger)),
        (good.clone(), "192.0.2.1:0".to_owned()),
        (good.clone(), of(Path::new("/nonexistent/new.sock"))),
    ];
    let for_clients = addresses.map(|(good, address)| (format!("{good}{}", listener(&address)), address));
    // Its own socket for clients would become one for operators, and is none that it gives for that.
    let for_operators = [taken.0.clone(), of(&own)].map(|address| (format!("admin = \"{address}\"\n{plain}"), address));
    let files = [
        (format!("{good}no_such_key = 1\n"), "no_such_key".to_owned()),
        (format!("{good}{}{tls}", listener("127.0.0.1:0")), "/nonexistent.pem".to_owned()),
    ];
    let all: Vec<_> = files.into_iter().chain(for_clients).chain(for_operators).collect();
    for (number, (bad, says)) in (1..).zip(&all) {
        line.change(bad);
        let mut successor = line.another(true);
        assert_eq!(successor.exits().await, 1, "{:#?}", successor.lines);
        let said = successor.lines.concat();
        assert!(said.contains(says.as_str()), "{says}: {said}");
        let asked = number > 2;
        if asked {
            let why = line.process.says("a successor cannot start, and has asked for nothing").await["why"].to_string();
            assert!(why.contains(&format!("cannot listen on {says}")), "{why}");
        }
        let counted =
            ["rolled_back", "refused"].map(|result| format!("underpass_handover_total{{result=\"{result}\"}}"));
        assert_eq!(line.site.metric(&counted[0]).await, 0.0, "{says}");
        assert_eq!(line.site.metric(&counted[1]).await, if asked { f64::from(number - 2) } else { 0.0 }, "{says}");
        socket.send(says).await;
        assert_eq!(stream.told().await.data, *says, "no word of coming back");
        line.site.post(&format!("{}/send?seq={number}&as=text", opened.url), says.clone()).await.json();
        assert_eq!(socket.next_text().await, *says);
        let mut client = Bytes(UnixStream::connect(&own).await.expect("nobody else is there"));
        client.say("GET /_underpass/info HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.answer().await.0.starts_with("http/1.1 200 "), "{says}");
    }
    line.change(&good);
    line.next().await;
    speak(&line.site, &opened.url, &mut socket.ws, all.len() as u64 + 1).await;
}

#[tokio::test]
async fn one_that_fails_with_everything_gives_it_back() {
    let mut backend = Backend::start().await;
    let folder = Scratch::new("rows-file");
    let path = folder.path("own.sock");
    let own = listener(&format!("unix:{}", path.display()));
    let mut line = Line::start(Road::TakeOver, &format!("{}{own}", plain(backend.at))).await;
    let opened = line.site.open("/").await;
    let mut socket = backend.accept().await;
    // The old one has this address, so that only its socket shows that it is nobody's any more.
    std::fs::remove_file(&path).expect("it is there");
    folder.file("own.sock", "precious");
    for time in 1..=2 {
        let mut successor = line.another(true);
        assert_eq!(successor.exits().await, 1, "{:#?}", successor.lines);
        let said = successor.lines.concat();
        assert!(said.contains("a file that is not a socket is there"), "{said}");
        line.process.says("the successor failed").await;
        line.process.says(ROLLED_BACK).await;
        speak(&line.site, &opened.url, &mut socket.ws, time).await;
    }
    assert_eq!(line.site.metric("underpass_handover_total{result=\"rolled_back\"}").await, 2.0);
    std::fs::remove_file(&path).expect("it is there");
    line.next().await;
    speak(&line.site, &opened.url, &mut socket.ws, 3).await;
}

#[tokio::test]
async fn where_no_address_is_named_none_is_bound_before_everything_is_there() {
    let folder = Scratch::new("rows-before");
    let path = folder.path("handover.sock");
    let old = UnixListener::bind(&path).expect("a free address");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = taken.local_addr().expect("an address").to_string();
    let socket = format!("unix:{}", path.display());
    let toml = format!("listen = \"{at}\"\nupstream = \"ws://{}\"\n", nowhere().await);
    let config = folder.file("underpass.toml", &format!("{toml}handover.socket = \"{}\"\n", path.display()));
    let reserve = Reserve::default();
    // The last one calls the socket at which it was asked by another name.
    for (named, cannot_have) in [(vec![], &at), (vec![socket.clone()], &at), (vec![at.clone()], &socket)] {
        let mut successor = run(&config, None, None, true);
        let asked = soon("it to ask", accept(&old, Duration::ZERO, &named, &reserve)).await;
        if named.is_empty() {
            let mut successor = asked.expect("it asks");
            successor.send(&Load::default().pack().expect("it is packed")).await.expect("it waits");
            assert!(!successor.committed(FOREVER).await);
        } else {
            let error = asked.expect_err("the address is known to be taken").to_string();
            assert!(error.contains(cannot_have.as_str()), "{error}");
        }
        assert_eq!(successor.exits().await, 1, "{:#?}", successor.lines);
        let said = successor.lines.concat();
        assert!(said.contains(&format!("cannot listen on {cannot_have}: it is in use")), "{said}");
    }
}

#[tokio::test]
async fn one_that_dies_is_nothing_to_anybody() {
    let mut backend = Backend::start().await;
    let mut line = Line::start(Road::TakeOver, &plain(backend.at)).await;
    let opened = line.site.open("/").await;
    let mut socket = backend.accept().await;
    let mut page = line.site.websocket("/", &[]).await;
    let mut tunnel = backend.accept().await;
    let mut idle = Bytes::to(line.site.at).await;
    for time in 1..=10_u64 {
        let load = line.give_in_vain().await;
        // It has a copy of everything, and touches nothing.
        let count = |kind| load.parcels.iter().filter(|parcel| parcel.kind == kind).count();
        assert_eq!([Kind::Session, Kind::Tunnel].map(count), [1, 1], "{time}");
        drop(load);
        line.process.says(ROLLED_BACK).await;
        idle.say("GET /_underpass/info HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(idle.answer().await.0.starts_with("http/1.1 200 "), "{time}");
        speak(&line.site, &opened.url, &mut socket.ws, time).await;
        echo(&mut page, &mut tunnel.ws, &format!("echo {time}")).await;
    }
    assert_eq!(line.site.metric("underpass_handover_total{result=\"rolled_back\"}").await, 10.0);
    line.next().await;
    speak(&line.site, &opened.url, &mut socket.ws, 11).await;
    echo(&mut page, &mut tunnel.ws, "at last").await;
    assert!(backend.try_accept().is_none());
}

#[tokio::test]
async fn what_was_killed_leaves_nothing() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let mut line = Line::start(road, &plain(backend.at)).await;
        let opened = line.site.open("/").await;
        let mut socket = backend.accept().await;
        line.next().await;
        speak(&line.site, &opened.url, &mut socket.ws, 1).await;
        if let Some(manager) = &line.manager {
            manager.stores(&[]);
        }
        line.process.killed().await;
        let mut next = line.another(false);
        let site = next.site_with_admin().await;
        let reply = site.get(&format!("{}/poll?after=1", opened.url)).await;
        assert_eq!(reply.error(), "unknown_session", "{road:?}");
        assert!(!next.lines.iter().any(|line| line.contains(GOES_ON)), "{:#?}", next.lines);
    }
}

#[tokio::test]
async fn another_format_is_refused_before_anything_is_frozen() {
    let mut backend = Backend::start().await;
    let mut line = Line::start(Road::TakeOver, &plain(backend.at)).await;
    let opened = line.site.open("/").await;
    let mut socket = backend.accept().await;
    let mut stream = line.site.stream(&format!("{}/sse", opened.url), &[]).await;
    assert_eq!(stream.told().await.event, "session");
    let mut newer = UnixStream::connect(line.socket()).await.expect("it listens");
    newer.write_all(b"UPHO\0\x02\0\0and words of another kind").await.expect("it reads");
    let mut answer = Vec::new();
    soon("an answer", newer.read_to_end(&mut answer)).await.expect("it answers");
    assert_eq!(answer[..8], *b"UPHO\0\x01\0\0");
    line.process.says("a successor was refused").await;
    socket.send("still here").await;
    assert_eq!(stream.told().await.data, "still here", "no word of coming back");
}

/// A package whose state is of the next major version.
fn newer_package() -> OwnedFd {
    let (sending, receiving) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
    let mut state = std::fs::File::from(memfd_create("newer", MemfdFlags::CLOEXEC).expect("memory"));
    state.write_all(b"UPHO\0\x02\0\0and things of another kind").expect("memory");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut control, states) = (SendAncillaryBuffer::new(&mut space), [state.as_fd()]);
    control.push(SendAncillaryMessage::ScmRights(&states));
    let bytes = [IoSlice::new(b"UPHO\0\x02\0\0")];
    sendmsg(&sending, &bytes, &mut control, SendFlags::empty()).expect("it has room");
    receiving
}

#[tokio::test]
async fn another_format_in_the_store_is_passed_over() {
    let mut backend = Backend::start().await;
    let manager = Manager::new("rows-newer", STORE).with_socket(STORED, newer_package());
    let line = Line::start_with(Some(manager), &plain(backend.at)).await;
    let said = line.process.lines.concat();
    assert!(said.contains("cannot be read") && said.contains("2.0"), "{said}");
    let opened = line.site.open("/").await;
    speak(&line.site, &opened.url, &mut backend.accept().await.ws, 1).await;
}

#[tokio::test]
async fn without_anybody_who_keeps_anything_a_restart_is_a_stop() {
    let mut backend = Backend::start().await;
    let good = plain(backend.at);
    let keeps_nothing = Some(Manager::new("rows-nothing", 0));
    let manager = Some(Manager::new("rows-not-asked", STORE));
    for (manager, more) in [(None, ""), (manager, "handover.restart = false\n"), (keeps_nothing, "")] {
        let mut line = Line::start_with(manager, &format!("{good}{more}")).await;
        let _opened = line.site.open("/").await;
        let mut socket = backend.accept().await;
        let mut page = line.site.websocket("/", &[]).await;
        let mut tunnel = backend.accept().await;
        line.process.signal("-USR2");
        // To either side as at a stop.
        assert_eq!(socket.closed().await.0, 1001);
        assert_eq!(tunnel.closed().await.0, 1001);
        assert_eq!(hear_close(&mut page).await, 1012);
        drop((page, tunnel, socket));
        assert_eq!(line.process.exits().await, 0, "{:#?}", line.process.lines);
        if let Some(manager) = &line.manager {
            assert!(manager.stored().is_empty());
        }
        let said = line.process.lines.concat();
        assert!(said.contains("drained"), "{said}");
    }
}

#[tokio::test]
async fn a_stop_comes_while_a_successor_has_everything() {
    for dies in [true, false] {
        let mut backend = Backend::start().await;
        let mut line = Line::start(Road::TakeOver, &plain(backend.at)).await;
        let _opened = line.site.open("/").await;
        let mut socket = backend.accept().await;
        let mut predecessor = underpass::handover::take_over::ask(&line.socket()).await.expect("it runs");
        let package = predecessor.take().await.expect("it gives everything");
        line.process.signal("-TERM");
        let hears = async {
            while timeout(Duration::from_millis(50), line.process.says("ignored: stopping")).await.is_err() {
                line.process.signal("-HUP");
            }
        };
        soon("it to know that it is to stop", hears).await;
        if dies {
            // What has come back is ended as it would have been.
            drop((predecessor, package));
            assert_eq!(socket.closed().await.0, 1001);
        } else {
            predecessor.commit().await.expect("it listens");
        }
        assert_eq!(line.process.exits().await, 0, "{:#?}", line.process.lines);
    }
}

#[tokio::test]
async fn two_at_once_follow_one_another() {
    let mut backend = Backend::start().await;
    let mut line = Line::start(Road::TakeOver, &plain(backend.at)).await;
    let opened = line.site.open("/").await;
    let mut socket = backend.accept().await;
    let (mut one, mut two) = (line.another(true), line.another(true));
    let (first, second) = tokio::join!(one.says(GOES_ON), two.says(GOES_ON));
    assert_eq!([&first, &second].map(|line| &line["sessions"]), [&json!(1), &json!(1)]);
    assert_eq!(line.process.exits().await, 0);
    speak(&line.site, &opened.url, &mut socket.ws, 1).await;
    // One of the two has gone as well.
    let mut left = tokio::select! {
        code = one.exits() => { assert_eq!(code, 0); two }
        code = two.exits() => { assert_eq!(code, 0); one }
    };
    left.signal("-TERM");
    assert_eq!(socket.closed().await.0, 1001);
    assert_eq!(left.exits().await, 0);
}

#[tokio::test]
async fn nobody_to_ask_is_an_error_that_says_so() {
    let at = nowhere().await;
    let mut line = Line::start(Road::TakeOver, &plain(at)).await;
    line.process.killed().await;
    let mut successor = line.another(true);
    assert_eq!(successor.exits().await, 1);
    let said = successor.lines.concat();
    assert!(said.contains(&line.socket().display().to_string()), "{said}");
}
