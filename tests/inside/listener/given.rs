//! What a listener gives when its process hands over, and that another one goes on with it. Both are in this process. Must not
//! touch: how parcels travel.

use std::sync::Arc;

use hyper::{Request, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use underpass::config::{Address, Client};
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;
use underpass::lifecycle::Phase;
use underpass::lifecycle::moving::{Kind, Parcel};
use underpass::lifecycle::sockets::{BoundListener, SpareListener};
use underpass::listener::adopt::NotAdopted;
use underpass::listener::given::ListenerRecord;
use underpass::listener::handler::Latency;
use underpass::listener::peer::ConnInfo;
use underpass::listener::traffic::Companion;

use super::edge::{Edge, FOREVER, client, ok, one_ok, rest};

pub(super) const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A house whose answers say that it is the successor.
pub(super) fn successor(limits: Client) -> Edge {
    Edge::tcp(limits, None, |_: Request<IncomingBody>| async {
        let mut response = Response::new(Body::full("ok"));
        response.headers_mut().insert("x-from", "successor".parse().expect("a value"));
        response
    })
}

/// A house that answers when it is told to, and says of each request that it has come.
fn slow(latency: Latency, limits: Client) -> (Edge, Arc<Notify>, mpsc::UnboundedReceiver<()>) {
    let (go, (came, comes)) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let waits = Arc::clone(&go);
    let edge = Edge::carrying(limits, latency, move |request| {
        let waits = Arc::clone(&waits);
        came.send(()).expect("the test looks");
        async move {
            waits.notified().await;
            ok(request).await
        }
    });
    (edge, go, comes)
}

pub(super) async fn next(parcels: &mut mpsc::UnboundedReceiver<Parcel>, kind: Kind) -> Parcel {
    let found = async {
        loop {
            let parcel = parcels.recv().await.expect("the move goes on");
            if parcel.kind == kind {
                return parcel;
            }
        }
    };
    timeout(FOREVER, found).await.expect("nothing of this kind is given")
}

/// The listening socket of a parcel.
fn listening(mut parcel: Parcel) -> BoundListener {
    let socket = parcel.descriptors.pop().expect("a socket");
    SpareListener::of(socket).and_then(SpareListener::adopt).expect("it listens")
}

pub(super) async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(GET).await.expect("the other end reads");
    one_ok(stream).await
}

#[tokio::test]
async fn an_idle_connection_is_answered_by_the_successor() {
    let (old, new) = (Edge::tcp(client(), None, ok), successor(client()));
    let mut stream = old.connect().await;
    assert!(!ask(&mut stream).await.contains("successor"));
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    let parcel = next(&mut parcels, Kind::Connection).await;
    assert_eq!(parcel.descriptors.len(), 1);
    timeout(FOREVER, old.lifecycle.emptied()).await.expect("nothing is left of it");
    assert_eq!(old.permits.available_permits(), client().connections);
    (new.adopt)(parcel).expect("there is a place");
    assert_eq!(new.lifecycle.alive().connections, 1);
    for _ in 0..3 {
        assert!(ask(&mut stream).await.contains("successor"));
    }
    drop(stream);
    timeout(FOREVER, new.lifecycle.emptied()).await.expect("its client has left");
}

#[tokio::test]
async fn while_sessions_are_written_down_only_who_asks_for_one_that_has_gone_is_sent_on() {
    const MOVED: &[u8] = b"GET /moved HTTP/1.1\r\nHost: a\r\n\r\n";
    let (old, new) = (Edge::tcp(client(), None, ok), successor(client()));
    let (mut stays, mut goes) = (old.connect().await, old.connect().await);
    goes.write_all(MOVED).await.expect("the other end reads");
    assert!(!one_ok(&mut goes).await.contains("successor"), "nobody hands over");
    let mut parcels = old.lifecycle.begin_move();
    assert!(!ask(&mut stays).await.contains("successor"));
    goes.write_all(MOVED).await.expect("the other end reads");
    let parcel = next(&mut parcels, Kind::Connection).await;
    assert!(parcel.record.windows(MOVED.len()).any(|part| part == MOVED), "it was taken out of what was read");
    (new.adopt)(parcel).expect("there is a place");
    assert!(one_ok(&mut goes).await.contains("successor"));
    assert!(!ask(&mut stays).await.contains("successor"));
    old.lifecycle.let_go();
    (new.adopt)(next(&mut parcels, Kind::Connection).await).expect("there is a place");
    assert!(ask(&mut stays).await.contains("successor"));
}

#[tokio::test]
async fn a_connection_of_which_nothing_was_read_yet_is_given_too() {
    let (old, new) = (Edge::tcp(client(), None, ok), successor(client()));
    let mut stream = old.connect().await;
    while old.lifecycle.alive().connections == 0 {
        tokio::task::yield_now().await;
    }
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    (new.adopt)(next(&mut parcels, Kind::Connection).await).expect("there is a place");
    assert!(ask(&mut stream).await.contains("successor"));
}

#[tokio::test]
async fn the_beginning_of_a_head_goes_along() {
    let (old, new) = (Edge::tcp(client(), None, ok), successor(client()));
    let mut stream = old.connect().await;
    // Both are read at once, so the beginning is with the old house.
    let (begun, rest) = GET.split_at(10);
    stream.write_all(&[GET, begun].concat()).await.expect("the other end reads");
    one_ok(&mut stream).await;
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    let parcel = next(&mut parcels, Kind::Connection).await;
    assert!(parcel.record.windows(begun.len()).any(|part| part == begun), "it was not read ahead");
    (new.adopt)(parcel).expect("there is a place");
    stream.write_all(rest).await.expect("the other end reads");
    assert!(one_ok(&mut stream).await.contains("successor"));
}

#[tokio::test]
async fn what_is_pipelined_behind_an_exchange_is_the_successors() {
    let ((old, go, mut comes), new) = (slow(Latency::UntilMessage, client()), successor(client()));
    let mut stream = old.connect().await;
    stream.write_all(&[GET, GET, GET].concat()).await.expect("the other end reads");
    comes.recv().await.expect("the first has come");
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    go.notify_one();
    let first = one_ok(&mut stream).await;
    assert!(!first.contains("successor") && !first.contains("close"), "{first}");
    (new.adopt)(next(&mut parcels, Kind::Connection).await).expect("there is a place");
    for _ in 0..2 {
        assert!(one_ok(&mut stream).await.contains("successor"));
    }
    assert!(ask(&mut stream).await.contains("successor"));
    assert!(comes.try_recv().is_err(), "the old house has read another request");
}

#[tokio::test]
async fn a_request_that_waits_for_its_turn_to_dial_goes_back_to_bytes() {
    let limits = Client { connections: 512, ..client() };
    let ((old, _go, mut comes), new) = (slow(Latency::UntilDialled, limits), successor(client()));
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\n\r\n";
    let mut streams = Vec::new();
    // As many as may dial at once; each keeps its turn, since nobody answers it.
    for _ in 0..128 {
        let mut stream = old.connect().await;
        stream.write_all(upgrade).await.expect("the other end reads");
        comes.recv().await.expect("it has its turn");
        streams.push(stream);
    }
    let mut stream = old.connect().await;
    stream.write_all(upgrade).await.expect("the other end reads");
    while old.lifecycle.alive().connections < 129 {
        tokio::task::yield_now().await;
    }
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    (new.adopt)(next(&mut parcels, Kind::Connection).await).expect("there is a place");
    assert!(one_ok(&mut stream).await.contains("successor"));
    assert!(comes.try_recv().is_err(), "the old house has dialled");
    while let Ok(parcel) = parcels.try_recv() {
        assert_eq!(parcel.kind, Kind::Listener, "a request that is under way was given");
    }
}

#[tokio::test]
async fn a_listening_socket_goes_with_those_who_wait_in_its_queue() {
    let (old, new) = (Edge::tcp(client(), None, ok), successor(client()));
    let at = old.port();
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    let parcel = next(&mut parcels, Kind::Listener).await;
    timeout(FOREVER, old.serving).await.expect("nobody accepts").expect("the task does not panic");
    let record: ListenerRecord = parcel.read().expect("its own record");
    assert_eq!(record, ListenerRecord { address: "127.0.0.1:0".into(), spread: false });
    let mut stream = TcpStream::connect(at).await.expect("the queue is open");
    stream.write_all(GET).await.expect("there is room");
    let bound = listening(parcel);
    assert_eq!(bound.local_addr().expect("a bound socket"), Address::Tcp(at));
    (new.serve)(bound);
    assert!(one_ok(&mut stream).await.contains("successor"));
}

#[tokio::test]
async fn what_was_given_lives_again_where_it_was_when_the_move_is_taken_back() {
    let edge = Edge::tcp(client(), None, ok);
    let mut stream = edge.connect().await;
    ask(&mut stream).await;
    for _ in 0..3 {
        let mut parcels = edge.lifecycle.begin_move();
        edge.lifecycle.let_go();
        let listener = next(&mut parcels, Kind::Listener).await;
        let connection = next(&mut parcels, Kind::Connection).await;
        edge.lifecycle.end_move();
        (edge.serve)(listening(listener));
        (edge.adopt)(connection).expect("there is a place");
        ask(&mut stream).await;
    }
}

#[tokio::test]
async fn what_is_too_late_ends_and_the_listener_is_kept() {
    let (edge, go, mut comes) = slow(Latency::UntilMessage, client());
    let mut stream = edge.connect().await;
    stream.write_all(GET).await.expect("the other end reads");
    comes.recv().await.expect("it has come");
    let mut parcels = edge.lifecycle.begin_move();
    edge.lifecycle.let_go();
    edge.lifecycle.close_parcels();
    go.notify_one();
    one_ok(&mut stream).await;
    assert_eq!(rest(&mut stream).await, "");
    assert!(parcels.recv().await.is_none());
    let mut waiting = edge.connect().await;
    edge.lifecycle.end_move();
    go.notify_one();
    ask(&mut waiting).await;
    edge.lifecycle.advance(Phase::Draining);
    timeout(FOREVER, edge.serving).await.expect("it is closed").expect("the task does not panic");
}

/// Something that a client's connection cannot do without.
#[derive(Default)]
struct Login;

impl Companion for Login {
    fn binds(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_connection_that_something_here_belongs_to_is_closed() {
    let edge = Edge::tcp(client(), None, |request: Request<IncomingBody>| {
        let info = request.extensions().get::<ConnInfo>().expect("the listener tells");
        info.bytes.companion::<Login>().expect("nothing else is kept");
        ok(request)
    });
    let mut stream = edge.connect().await;
    ask(&mut stream).await;
    let mut parcels = edge.lifecycle.begin_move();
    edge.lifecycle.let_go();
    assert_eq!(rest(&mut stream).await, "");
    next(&mut parcels, Kind::Listener).await;
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("nothing is left of it");
    assert!(parcels.try_recv().is_err());
}

#[tokio::test]
async fn a_connection_that_finds_no_place_is_closed() {
    let (old, new) = (Edge::tcp(client(), None, ok), successor(Client { connections: 1, ..client() }));
    let mut streams = [old.connect().await, old.connect().await];
    for stream in &mut streams {
        ask(stream).await;
    }
    let mut parcels = old.lifecycle.begin_move();
    old.lifecycle.let_go();
    (new.adopt)(next(&mut parcels, Kind::Connection).await).expect("there is a place");
    let refused = (new.adopt)(next(&mut parcels, Kind::Connection).await);
    assert!(matches!(refused, Err(NotAdopted::Full)), "{refused:?}");
    let strange = (new.adopt)(Parcel::new(Kind::Connection, &"strange", Vec::new()));
    assert!(matches!(strange, Err(NotAdopted::Record(_))), "{strange:?}");
    let [first, second] = &mut streams;
    let (first, second) = tokio::join!(last_answer(first), last_answer(second));
    assert!(first.contains("successor") != second.contains("successor"), "{first:?} {second:?}");
}

/// What comes until the end of the connection.
async fn last_answer(stream: &mut TcpStream) -> String {
    // It may be closed already.
    let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    rest(stream).await
}

#[tokio::test]
async fn who_waits_for_an_answer_is_still_ended_with_the_process_behind_a_move_that_was_taken_back() {
    let (edge, _go, mut comes) = slow(Latency::UntilMessage, client());
    let mut stream = edge.connect().await;
    stream.write_all(GET).await.expect("the other end reads");
    comes.recv().await.expect("it has come");
    let mut parcels = edge.lifecycle.begin_move();
    edge.lifecycle.let_go();
    next(&mut parcels, Kind::Listener).await;
    edge.lifecycle.end_move();
    // Each change wakes the connection once; it looks at each.
    for phase in [Phase::Withdrawn, Phase::Draining, Phase::Closing] {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        edge.lifecycle.advance(phase);
    }
    assert_eq!(rest(&mut stream).await, "");
}
