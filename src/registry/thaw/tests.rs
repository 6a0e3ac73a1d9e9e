//! Sessions over real sockets, handed from one registry to the next at every moment that can be told apart.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::super::moved::Moved;
use super::super::{Found, Registry, Stay};
use super::*;
use crate::budget::Budget;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::session::{Attach, Message, Pulled, Pushed, Session};
use crate::terms::Transport;
use crate::upstream::frame::FrameHeader;

/// Far longer than anything here takes.
const SOON: Duration = Duration::from_secs(20);

/// A process with one session, whose backend is the test.
struct House {
    registry: Arc<Registry>,
    lifecycle: Lifecycle,
    token: String,
}

fn policy() -> config::Session {
    config::Session { buffer: 4096, queue: 64 * 1024, message: 1 << 20, ..config::Session::default() }
}

fn registry(lifecycle: &Lifecycle, before: Option<&Registry>) -> Arc<Registry> {
    let shared = (Arc::new(Metrics::default()), Arc::new(Budget::of(Some(1 << 30))));
    let registry = Registry::new("n1", &policy(), shared, lifecycle.clone());
    Arc::new(match before {
        Some(before) => registry.succeeding(before.now(), &before.nodes()),
        None => registry,
    })
}

impl House {
    /// The session, and its backend's end of the socket.
    fn new() -> (Self, UnixStream) {
        let (near, far) = UnixStream::pair().expect("two sockets");
        let lifecycle = Lifecycle::new();
        let registry = registry(&lifecycle, None);
        let token = Token::random("n1").expect("randomness");
        let text = token.as_str().to_owned();
        let policy = Arc::new(policy());
        let session = Session::new(registry.now(), super::super::policies::limits(&policy), true);
        let shared = (Arc::clone(&registry.metrics), Arc::clone(&registry.budget));
        let live = LiveSession::new(token, "chat".into(), policy, session, registry.epoch, shared, Owner::default());
        let live = Arc::new(live);
        assert!(registry.directory.insert(&live));
        registry.metrics.session_opened();
        let socket = Socket::new(Io::Unix(near), Bytes::new(), 1 << 20);
        let backend = Arc::new(config::Backend::default());
        tokio::spawn(Driver::new(Arc::clone(&registry), live, Some(socket), backend, (None, None)));
        (Self { registry, lifecycle, token: text }, far)
    }

    fn session(&self) -> Arc<LiveSession> {
        match self.registry.find(&self.token) {
            Found::Here(session) => session,
            _ => panic!("the session is not here"),
        }
    }

    /// Hands everything to a new process, which is what the test has then.
    async fn hand_over(self) -> Self {
        let mut parcels = self.lifecycle.begin_move();
        let frozen = self.registry.freeze(None).await;
        assert_eq!(frozen.left, 0);
        self.lifecycle.close_parcels();
        assert!(matches!(self.registry.find(&self.token), Found::Moved | Found::Ended(_)));
        let lifecycle = Lifecycle::new();
        let registry = registry(&lifecycle, Some(&self.registry));
        while let Some(parcel) = parcels.recv().await {
            match parcel.kind {
                Kind::Session => registry
                    .thaw_session(parcel, Arc::new(config::Backend::default()), |_| None)
                    .expect("a session that lives on"),
                _ => registry.thaw_remembered(&parcel).expect("what is remembered"),
            }
        }
        Self { registry, lifecycle, token: self.token }
    }

    /// Reads what there is behind `cursor`, up to `count` messages, and acknowledges nothing.
    async fn read(&self, cursor: u64, count: usize) -> Vec<Message> {
        let session = self.session();
        let attach = Attach { after: Some(cursor), acknowledging: true, is_poll: false };
        let mut reader = session.attach(Transport::Stream, attach, Stay::Carries(None)).expect("a reader");
        let mut messages = Vec::new();
        let reading = poll_fn(|cx| {
            while messages.len() < count {
                let each = |_, message: &Message| messages.push(message.clone());
                match reader.poll_pull(cx, 1, each) {
                    Poll::Ready(Ok(Pulled::Batch { .. })) => {}
                    Poll::Ready(other) => panic!("{other:?}"),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(())
        });
        timeout(SOON, reading).await.expect("messages come");
        messages
    }
}

/// A frame as a server sends it.
fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![if fin { 0x80 } else { 0 } | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(u8::try_from(short).expect("it is short")),
        long => {
            frame.push(126);
            frame.extend(u16::try_from(long).expect("it fits").to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

/// Waits until the other end has read everything.
async fn taken(stream: &UnixStream) {
    let all = async {
        // SIOCOUTQ would say so; that a task has read all that it can is what its turn says here.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        stream.writable().await
    };
    timeout(SOON, all).await.expect("it is read").expect("an open socket");
}

/// What a server reads: the payloads of the frames that are not control frames.
async fn receive(stream: &mut UnixStream, count: usize) -> Vec<Vec<u8>> {
    let (mut bytes, mut payloads) = (Vec::new(), Vec::new());
    while payloads.len() < count {
        if let Some(header) = FrameHeader::parse(&bytes).filter(|header| bytes.len() >= header.end(0)) {
            let rest = bytes.split_off(header.end(0));
            let (head, payload) = bytes.split_at(header.header_len);
            let key = head.last_chunk::<4>().expect("a client's frame is masked");
            if !header.is_control() {
                payloads.push(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect());
            }
            bytes = rest;
            continue;
        }
        let mut block = [0; 8192];
        let count = timeout(SOON, stream.read(&mut block)).await.expect("bytes come").expect("an open socket");
        assert!(count > 0, "the backend sees no end");
        bytes.extend(&block[..count]);
    }
    payloads
}

/// Two messages, one of them in three frames with a ping between, and the beginning of a third.
fn traffic() -> (Vec<u8>, Vec<Message>) {
    let long = "long ".repeat(40);
    let frames = [
        frame(true, 1, b"first"),
        frame(false, 2, b"in "),
        frame(true, 9, b"ping"),
        frame(false, 0, b"three "),
        frame(true, 0, b"frames"),
        frame(true, 1, long.as_bytes()),
    ];
    let messages = vec![Message::text("first"), Message::binary(&b"in three frames"[..]), Message::text(long)];
    (frames.concat(), messages)
}

#[tokio::test]
async fn cut_at_every_byte_of_the_backends_frames_each_message_comes_once() {
    let (bytes, messages) = traffic();
    for cut in 0..=bytes.len() {
        let (house, mut backend) = House::new();
        backend.write_all(&bytes[..cut]).await.expect("room");
        taken(&backend).await;
        let house = house.hand_over().await;
        backend.write_all(&bytes[cut..]).await.expect("room");
        assert_eq!(house.read(0, messages.len()).await, messages, "cut at {cut}");
        let pong = timeout(SOON, async {
            let mut head = [0; 2];
            backend.read_exact(&mut head).await.map(|_| head)
        });
        assert_eq!(pong.await.expect("a pong").expect("an open socket"), [0x8a, 0x84], "cut at {cut}");
    }
}

#[tokio::test]
async fn what_was_written_to_a_client_is_there_until_it_acknowledges_and_then_gone() {
    let (house, mut backend) = House::new();
    backend.write_all(&traffic().0).await.expect("room");
    assert_eq!(house.read(0, 3).await.len(), 3, "read, and not acknowledged");
    let house = house.hand_over().await;
    assert_eq!(house.session().progress().counts.sent, 3);
    assert_eq!(house.read(1, 2).await, traffic().1[1..], "a client comes back with what it has");
    house.session().ack(3).expect("so much was sent");
    let house = house.hand_over().await;
    assert_eq!(house.session().progress().counts.acked, 3);
    backend.write_all(&frame(true, 1, b"next")).await.expect("room");
    assert_eq!(house.read(3, 1).await, [Message::text("next")]);
}

#[tokio::test]
async fn messages_up_come_once_and_in_order_whatever_the_backend_takes_and_however_they_came() {
    let (house, mut backend) = House::new();
    let (large, message) = ("x".repeat(40_000), |number: u64| Message::text(format!("{number}")));
    // The backend reads nothing: these fill the socket, our buffer for it, and the queue.
    let mut number = 1;
    loop {
        let (session, batch) = (house.session(), [Message::text(format!("{number} {large}"))]);
        let push = session.push(Some(number), &batch, 1 << 20);
        match timeout(Duration::from_millis(300), push).await {
            Ok(Ok(Pushed::Accepted { .. })) => number += 1,
            Ok(other) => panic!("{other:?}"),
            Err(_) => break,
        }
    }
    assert!(number > 4, "the kernel takes some");
    // One above a gap waits for the one before it.
    let early = house.session().push(Some(number + 1), &[message(number + 1)], 1 << 20).await;
    assert!(matches!(early, Ok(Pushed::Accepted { .. } | Pushed::Busy { .. })), "{early:?}");
    let house = house.hand_over().await;
    let reading = tokio::spawn(async move {
        let payloads = receive(&mut backend, usize::try_from(number).expect("few") + 1).await;
        (payloads, backend)
    });
    for again in [number - 1, number, number + 1] {
        let batch = [if again < number { Message::text(format!("{again} {large}")) } else { message(again) }];
        let pushed = timeout(SOON, house.session().push(Some(again), &batch, 1 << 20)).await.expect("room comes");
        assert!(matches!(pushed, Ok(Pushed::Accepted { .. })), "{pushed:?}");
    }
    let (payloads, _backend) = timeout(SOON, reading).await.expect("all come").expect("no panic");
    for (expected, payload) in (1..).zip(payloads) {
        let text = String::from_utf8(payload).expect("text");
        assert_eq!(text.split(' ').next(), Some(&*format!("{expected}")));
    }
}

#[tokio::test]
async fn a_paused_backend_stays_paused_and_is_read_again_when_its_client_comes() {
    let (house, mut backend) = House::new();
    let text = "y".repeat(120);
    let sending = async {
        for number in 0..10_000 {
            backend.write_all(&frame(true, 1, format!("{number:05}{text}").as_bytes())).await.expect("an open socket");
        }
    };
    assert!(timeout(Duration::from_millis(300), sending).await.is_err(), "it is paused before so much");
    let kept = house.session().progress().counts.kept;
    let house = house.hand_over().await;
    let counts = house.session().progress().counts;
    assert!(counts.kept >= kept.min(4096), "what was kept is kept: {counts:?}");
    let before = counts.down;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(house.session().progress().counts.down, before, "nothing is read into a pause");
    let first = house.read(0, 20).await;
    house.session().ack(20).expect("so much was sent");
    let more = house.read(20, 30).await;
    for (number, message) in first.iter().chain(&more).enumerate() {
        assert!(message.payload().starts_with(format!("{number:05}").as_bytes()), "{number}");
    }
}

#[tokio::test]
async fn a_close_under_way_ends_with_its_code_and_its_last_words_come() {
    let (house, mut backend) = House::new();
    backend.write_all(&frame(true, 1, b"kept")).await.expect("room");
    taken(&backend).await;
    house.session().close(Close::clean(4000, "bye")).expect("it is here");
    // The close frame is with the backend, which has not answered.
    let mut head = [0; 2];
    timeout(SOON, backend.read_exact(&mut head)).await.expect("a close frame").expect("an open socket");
    assert_eq!(head[0], 0x88);
    let house = house.hand_over().await;
    let session = house.session();
    let attach = Attach { after: Some(0), acknowledging: true, is_poll: false };
    let mut reader = session.attach(Transport::Poll, attach, Stay::Carries(None)).expect("a reader");
    let mut pulled = Vec::new();
    for _ in 0..2 {
        pulled.push(poll_fn(|cx| reader.poll_pull(cx, 99, |_, _| {})).await.expect("it is here"));
    }
    assert!(matches!(pulled[0], Pulled::Batch { first: 1, count: 1, .. }), "{pulled:?}");
    assert_eq!(pulled[1], Pulled::Ended { number: 2, close: Close::clean(4000, "bye") });
    // What stayed behind hears the backend's answer.
    backend.write_all(&frame(true, 8, &4000u16.to_be_bytes())).await.expect("an open socket");
    let mut rest = Vec::new();
    timeout(SOON, backend.read_to_end(&mut rest)).await.expect("the end").expect("an open socket");
    drop(reader);
    house.session().ack(2).expect("so much was sent");
    let forgotten = async {
        while !matches!(house.registry.find(&house.token), Found::Ended(_)) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, forgotten).await.expect("it is remembered as ended");
    let house = house.hand_over().await;
    assert!(matches!(house.registry.find(&house.token), Found::Ended(close) if close.code == 4000));
}

#[tokio::test]
async fn a_frozen_session_does_nothing_any_more() {
    let (house, mut backend) = House::new();
    backend.write_all(&frame(true, 1, b"kept")).await.expect("room");
    let session = house.session();
    let attach = Attach { after: Some(0), acknowledging: true, is_poll: false };
    let mut reader = session.attach(Transport::Stream, attach, Stay::Carries(None)).expect("a reader");
    poll_fn(|cx| reader.poll_pull(cx, 9, |_, _| {})).await.expect("it is here");
    let waiting = poll_fn(|cx| reader.poll_pull(cx, 9, |_, _| {}));
    let (moved, house) = tokio::join!(timeout(SOON, waiting), house.hand_over());
    assert_eq!(moved.expect("a reader that waits is told"), Err(Moved));
    assert_eq!(session.push(Some(1), &[Message::text("lost?")], 99).await, Err(Moved));
    assert_eq!(session.ack(1).err(), Some(super::super::Refused::Moved));
    assert_eq!(session.close(Close::clean(1000, "")), Err(Moved));
    let refused = session.attach(Transport::Stream, attach, Stay::Carries(None)).err();
    assert_eq!(refused, Some(super::super::Refused::Moved));
    session.end(Close::lost(), Ending::Drained);
    assert_eq!(session.progress().counts.sent, 1, "what an answer says that is still written");
    assert_eq!(house.session().progress().counts.next, 1, "nothing has come of all that");
    assert!(house.session().is_open());
}

#[tokio::test]
async fn a_process_that_finds_no_successor_goes_on_with_what_it_wrote_down() {
    let (house, mut backend) = House::new();
    backend.write_all(&frame(true, 1, b"one")).await.expect("room");
    taken(&backend).await;
    let mut parcels = house.lifecycle.begin_move();
    house.registry.freeze(None).await;
    house.lifecycle.close_parcels();
    house.registry.all_arrived();
    while let Some(parcel) = parcels.recv().await {
        house.registry.thaw_session(parcel, Arc::default(), |_| None).expect("a session that lives on");
    }
    house.lifecycle.end_move();
    backend.write_all(&frame(true, 1, b"two")).await.expect("room");
    assert_eq!(house.read(0, 2).await, [Message::text("one"), Message::text("two")]);
}

#[tokio::test]
async fn who_asks_for_a_session_on_its_way_waits_for_it_and_no_longer() {
    let (house, _backend) = House::new();
    let mut parcels = house.lifecycle.begin_move();
    house.registry.freeze(None).await;
    house.lifecycle.close_parcels();
    let mut asked = pin!(house.registry.find_awaited(&house.token));
    let early = timeout(Duration::ZERO, asked.as_mut()).await;
    assert!(early.is_err(), "who is told now would ask here again");
    house.lifecycle.let_go();
    assert!(matches!(asked.await, Found::Moved));
    house.registry.await_sessions();
    let here = async |token: &str| matches!(house.registry.find_awaited(token).await, Found::Here(_));
    let ask = async { (here(&house.token).await, here("n1-AAAAAAAAAAAA-BBBBBBBBBBBBBBBBBBBBBBBBBBBB").await) };
    let arrive = async {
        let parcel = parcels.recv().await.expect("the session");
        house.registry.thaw_session(parcel, Arc::default(), |_| None).expect("a session that lives on");
        house.registry.some_arrived();
        assert!(matches!(house.registry.find(&house.token), Found::Here(_)));
        tokio::task::yield_now().await;
        house.registry.all_arrived();
    };
    assert_eq!(tokio::join!(ask, arrive).0, (true, false));
}

#[tokio::test]
async fn an_order_that_comes_too_late_is_none() {
    let (house, mut backend) = House::new();
    let _parcels = house.lifecycle.begin_move();
    house.lifecycle.close_parcels();
    let frozen = house.registry.freeze(None).await;
    assert_eq!((frozen.sessions, frozen.left), (0, 1));
    house.registry.all_arrived();
    house.lifecycle.end_move();
    backend.write_all(&frame(true, 1, b"here")).await.expect("room");
    assert_eq!(house.read(0, 1).await, [Message::text("here")]);
}

#[tokio::test]
async fn the_clock_goes_on_where_it_was() {
    let (house, _backend) = House::new();
    let (before, heard) = (house.registry.now(), house.session().lock().session.heard());
    let house = house.hand_over().await;
    assert!(house.registry.now() >= before && house.registry.now().since(before) < SOON);
    assert_eq!(house.session().lock().session.heard(), heard, "no sign of life was made up");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Both ways at once, with hand-overs wherever they fall.
    #[test]
    fn nothing_is_lost_or_doubled(seed in any::<u64>(), overs in 1usize..6) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(both_ways(seed, overs));
    }
}

/// Some hundred messages each way while the process is handed over so many times.
async fn both_ways(seed: u64, overs: usize) {
    const COUNT: usize = 200;
    let mut chance = seed | 1;
    let mut below = move |most: usize| {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        usize::try_from(chance % most as u64).expect("below `most`")
    };
    let text = |number: usize, size: usize| format!("{number} {}", "z".repeat(size));
    let down: Vec<_> = (0..COUNT).map(|number| text(number, below(700))).collect();
    let up: Vec<_> = (0..COUNT).map(|number| text(number, below(700))).collect();
    let mut bytes = Vec::new();
    for message in &down {
        match below(3) {
            0 => {
                let (head, tail) = message.as_bytes().split_at(below(message.len()));
                bytes.extend([frame(false, 1, head), frame(true, 9, b"?"), frame(true, 0, tail)].concat());
            }
            _ => bytes.extend(frame(true, 1, message.as_bytes())),
        }
    }
    let (mut house, backend) = House::new();
    let (mut from, mut to) = backend.into_split();
    let pieces: Vec<usize> = (0..bytes.len()).map(|_| 1 + below(900)).collect();
    let talking = tokio::spawn(async move {
        let mut rest = &bytes[..];
        for piece in pieces {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            to.write_all(now).await.expect("an open socket");
            rest = later;
            if rest.is_empty() {
                return to;
            }
            tokio::task::yield_now().await;
        }
        to
    });
    let listening = tokio::spawn(async move {
        let (mut socket, mut heard) = (Vec::new(), Vec::new());
        while heard.len() < COUNT {
            let mut block = [0; 4096];
            let count = from.read(&mut block).await.expect("an open socket");
            assert!(count > 0, "the backend sees no end");
            socket.extend(&block[..count]);
            while let Some(header) = FrameHeader::parse(&socket).filter(|header| socket.len() >= header.end(0)) {
                let rest = socket.split_off(header.end(0));
                let (head, payload) = socket.split_at(header.header_len);
                let key = head.last_chunk::<4>().expect("masked");
                if !header.is_control() {
                    let plain: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
                    heard.push(String::from_utf8(plain).expect("text"));
                }
                socket = rest;
            }
        }
        (heard, from)
    });
    let (mut got, mut sent) = (Vec::new(), 0);
    let mut left = overs;
    while got.len() < COUNT || sent < COUNT {
        if left > 0 && below(12) == 0 {
            house = house.hand_over().await;
            left -= 1;
        }
        if sent < COUNT {
            let most = (COUNT - sent).min(1 + below(5));
            let batch: Vec<_> = up[sent..sent + most].iter().map(Message::text).collect();
            let pushed = timeout(SOON, house.session().push(Some(sent as u64 + 1), &batch, 1 << 20)).await;
            let Pushed::Accepted { .. } = pushed.expect("room comes").expect("it is here") else { continue };
            sent += most;
        }
        let session = house.session();
        if got.len() < COUNT && session.progress().counts.down > got.len() as u64 {
            let fresh = house.read(got.len() as u64, 1).await;
            got.extend(fresh.into_iter().map(|message| String::from_utf8(message.payload().to_vec()).expect("text")));
            session.ack(got.len() as u64).expect("so much was sent");
        }
        tokio::task::yield_now().await;
    }
    let (heard, _from) = timeout(SOON, listening).await.expect("all come").expect("no panic");
    let _to = timeout(SOON, talking).await.expect("all are written").expect("no panic");
    assert_eq!(got, down);
    assert_eq!(heard, up);
}
