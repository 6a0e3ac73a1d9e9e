//! What is counted: one small message, down or up, through each room that it passes.
//!
//! Enters: nothing. Leaves: closures that do the work once. Must not touch: anything outside memory.

use std::hint::black_box;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use underpass::codec::batch::Form;
use underpass::codec::encoding::Encoding as _;
use underpass::codec::frames;
use underpass::codec::poll::PollResponse;
use underpass::codec::sse::{Events, Ids};
use underpass::session::{Attach, Limits, Message, Moment, Session};
use underpass::upstream::socket::Socket;

/// A path's work, made ready.
pub(crate) type Work = Box<dyn FnMut()>;

/// A path: its name, and what makes its work ready.
pub(crate) type Path = (&'static str, fn() -> Work);

/// Every path by name.
pub(crate) const ALL: &[Path] = &[
    ("sse_text", || encode(|out, message| Events(Ids::Bare).message(out, 1_000_000, message), text())),
    ("sse_text_with_token", || {
        encode(|out, message| Events(Ids::Token(TOKEN)).message(out, 1_000_000, message), text())
    }),
    ("sse_binary", || {
        encode(|out, message| Events(Ids::Bare).message(out, 1_000_000, message), Message::binary(PAYLOAD))
    }),
    ("frame_text", || encode(frames::message, text())),
    ("poll_json_of_16", poll_json),
    ("send_json_of_16", send_json),
    ("send_frames_of_16", send_frames),
    ("session_down", session_down),
    ("session_up", session_up),
    ("socket_receive_16", socket_receive),
    ("socket_send", socket_send),
];

const TOKEN: &str = "n1-abcdefghijklmnopqrstuv";
const PAYLOAD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
const BATCH: usize = 16;

fn text() -> Message {
    Message::text(PAYLOAD)
}

fn encode(encode: impl Fn(&mut BytesMut, &Message) + 'static, message: Message) -> Work {
    let mut out = BytesMut::with_capacity(4096);
    Box::new(move || {
        out.clear();
        encode(black_box(&mut out), black_box(&message));
    })
}

fn poll_json() -> Work {
    let messages = vec![text(); BATCH];
    let mut out = BytesMut::with_capacity(4096);
    Box::new(move || {
        out.clear();
        let answer = PollResponse {
            from: 1_000_000,
            after: 1_000_016,
            messages: black_box(&messages),
            close: None,
            lost: None,
            next: 7,
            nonce: None,
            superseded: false,
            reconnect: None,
        };
        answer.encode_json(black_box(&mut out));
    })
}

fn send_json() -> Work {
    let body = format!("{{\"messages\":[{}]}}", vec![format!("\"{PAYLOAD}\""); BATCH].join(","));
    decode(Form::Json, body.into())
}

fn send_frames() -> Work {
    let mut body = BytesMut::new();
    (0..BATCH).for_each(|_| frames::message(&mut body, &text()));
    decode(Form::Frames, body.freeze())
}

fn decode(form: Form, body: Bytes) -> Work {
    Box::new(move || {
        black_box(form.decode(black_box(body.clone()), 1 << 20).expect("a body of our own making"));
    })
}

fn session() -> Session {
    let limits = Limits {
        buffer: 256 << 10,
        replay: 256 << 10,
        reorder_window: 64,
        queue: 256 << 10,
        grace: Duration::from_secs(60),
        pause: Duration::from_secs(30),
        replay_age: Duration::from_secs(90),
        close_wait: Duration::from_secs(5),
    };
    Session::new(Moment(0), limits, true)
}

/// A message comes, is read, is acknowledged.
fn session_down() -> Work {
    let (mut session, message, mut number) = (session(), text(), 0);
    let attach = Attach { after: None, acknowledging: true, is_poll: false };
    let (attachment, _) = session.attach(Moment(0), attach).expect("a new session can be read");
    Box::new(move || {
        number += 1;
        session.upstream_message(Moment(number), message.clone());
        while session.poll_action().is_some() {}
        black_box(session.pull(Moment(number), attachment, 64 << 10, |number, message| {
            black_box((number, message));
        }));
        session.ack(Moment(number), number).expect("it was just read");
        while session.poll_action().is_some() {}
    })
}

/// A message is sent, and given to the backend.
fn session_up() -> Work {
    let (mut session, message, mut number) = (session(), [text()], 0);
    Box::new(move || {
        number += 1;
        black_box(session.push(Moment(number), Some(number), &message));
        while session.poll_action().is_some() {}
        session.upstream_took();
        while session.poll_action().is_some() {}
    })
}

/// One read of the socket brings so many messages.
fn socket_receive() -> Work {
    let mut block = Vec::new();
    for _ in 0..BATCH {
        block.extend([0x81, PAYLOAD.len() as u8]);
        block.extend(PAYLOAD.as_bytes());
    }
    let mut socket = Socket::new(Script { block, told: false }, Bytes::new(), 1 << 20);
    Box::new(move || {
        let mut context = Context::from_waker(Waker::noop());
        let mut count = 0;
        while let Poll::Ready(event) = socket.poll_next(&mut context) {
            black_box(event);
            count += 1;
        }
        assert_eq!(count, BATCH, "each frame is one message");
    })
}

fn socket_send() -> Work {
    let mut socket = Socket::new(Script { block: Vec::new(), told: true }, Bytes::new(), 1 << 20);
    let message = text();
    Box::new(move || {
        socket.send(black_box(&message)).expect("the socket is open");
        assert!(socket.poll_flush(&mut Context::from_waker(Waker::noop())).is_ready(), "the script takes everything");
    })
}

/// A socket that gives the same block at every other read, has nothing in between, and takes everything.
#[derive(Debug)]
struct Script {
    block: Vec<u8>,
    told: bool,
}

impl AsyncRead for Script {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.told = !self.told;
        if !self.told || self.block.is_empty() {
            return Poll::Pending;
        }
        assert!(buffer.remaining() >= self.block.len(), "the wire reads in larger blocks");
        buffer.put_slice(&self.block);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
