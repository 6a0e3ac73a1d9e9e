//! Judges the reader of WebSocket frames, of a backend's and of a client's, and what follows the frames of a tunnel.
//!
//! Enters: any bytes; the first says whose they are and how they are cut. Leaves: where two readings of the same bytes
//! differ. Must not touch: how the bytes came about.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use underpass::session::Message;
use underpass::upstream::frame::FrameTracker;
use underpass::upstream::socket::{Socket, SocketEvent};

/// The most bytes of one message: few, so that short streams go beyond it.
const MOST: usize = 600;

/// What a socket may hold of bytes that have not become messages, beside twice those: a block and its pongs.
const HELD: usize = 64 * 1024;

/// How many messages our reader finds in these bytes.
///
/// # Errors
/// What depends on the cuts, or what another reader sees otherwise.
pub(crate) fn judge(bytes: &[u8]) -> Result<usize, String> {
    let Some((how, stream)) = bytes.split_first() else { return Ok(0) };
    let role = if how & 1 == 0 { Role::Client } else { Role::Server };
    let whole = Reading { role, piece: usize::MAX, hand_over: false }.events(stream)?;
    let (messages, end) = tungstenites(role, stream);
    let ours: Vec<_> = whole
        .iter()
        .filter_map(|event| if let SocketEvent::Message(one) = event { Some(one.clone()) } else { None })
        .collect();
    if ours != messages || End::of(&whole) != end {
        return Err(format!("ours {whole:?}\ntungstenite {messages:?}, then {end:?}"));
    }
    for (piece, hand_over) in [(1, false), (usize::from(how >> 1).max(1), false), (usize::from(how >> 1).max(1), true)]
    {
        let cut = Reading { role, piece, hand_over: hand_over && role == Role::Client }.events(stream)?;
        if cut != whole {
            return Err(format!("pieces of {piece}, handed over: {hand_over}\nwhole {whole:?}\ncut   {cut:?}"));
        }
    }
    follow(stream)?;
    Ok(ours.len())
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Closed(u16, String),
    TooLarge,
    Failed,
}

impl End {
    fn of(events: &[SocketEvent]) -> Self {
        let end = events.iter().find(|event| !matches!(event, SocketEvent::Message(_) | SocketEvent::Pong));
        match end {
            Some(SocketEvent::Closed(close)) => Self::Closed(close.code, close.reason.clone()),
            Some(SocketEvent::TooLarge) => Self::TooLarge,
            _ => Self::Failed,
        }
    }
}

/// One way to give a socket its bytes: in pieces, each read before the next is there; taken apart between them or not.
struct Reading {
    role: Role,
    piece: usize,
    hand_over: bool,
}

impl Reading {
    fn events(&self, stream: &[u8]) -> Result<Vec<SocketEvent>, String> {
        let incoming = Rc::new(RefCell::new(Incoming::default()));
        let script = Script(Rc::clone(&incoming));
        let mut socket = match self.role {
            Role::Client => Socket::new(script, Bytes::new(), MOST),
            Role::Server => Socket::server(script, Bytes::new(), MOST),
        };
        let (mut events, mut given) = (Vec::new(), 0);
        let mut pieces = stream.chunks(self.piece.min(stream.len().max(1)));
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            while let Poll::Ready(event) = socket.poll_next(&mut cx) {
                let is_end = matches!(event, SocketEvent::Closed(_) | SocketEvent::Failed(_));
                events.push(event);
                if is_end {
                    return Ok(events);
                }
            }
            if socket.held() > HELD + 2 * given {
                return Err(format!("{} bytes are held of {given}", socket.held()));
            }
            let is_open = !events.contains(&SocketEvent::TooLarge);
            if is_open && self.hand_over {
                let (script, state) = socket.into_parts().ok_or("an open socket cannot be taken apart")?;
                socket = Socket::from_parts(script, state, MOST);
            }
            let mut incoming = incoming.borrow_mut();
            match pieces.next() {
                Some(piece) => {
                    given += piece.len();
                    incoming.bytes.extend(piece);
                }
                None if incoming.ended => return Err(format!("no end behind {events:?}")),
                None => incoming.ended = true,
            }
        }
    }
}

/// What the test gives to be read.
#[derive(Debug, Default)]
struct Incoming {
    bytes: VecDeque<u8>,
    ended: bool,
}

/// A stream of which the test decides what comes in; it takes all that goes out.
#[derive(Debug)]
struct Script(Rc<RefCell<Incoming>>);

impl AsyncRead for Script {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut incoming = self.0.borrow_mut();
        if incoming.bytes.is_empty() && !incoming.ended {
            return Poll::Pending;
        }
        let count = buffer.remaining().min(incoming.bytes.len());
        buffer.put_slice(&incoming.bytes.drain(..count).collect::<Vec<_>>());
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

/// What tungstenite alone makes of the same bytes.
fn tungstenites(role: Role, stream: &[u8]) -> (Vec<Message>, End) {
    struct Bare<'a>(&'a [u8]);
    impl io::Read for Bare<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            io::Read::read(&mut self.0, buffer)
        }
    }
    impl io::Write for Bare<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let config = WebSocketConfig::default().max_message_size(Some(MOST)).max_frame_size(Some(MOST));
    let mut socket = WebSocket::from_raw_socket(Bare(stream), role, Some(config));
    let mut messages = Vec::new();
    let end = loop {
        match socket.read() {
            Ok(tungstenite::Message::Text(text)) => messages.push(Message::text(text.as_str())),
            Ok(tungstenite::Message::Binary(payload)) => messages.push(Message::binary(payload)),
            Ok(tungstenite::Message::Close(Some(frame))) => {
                break End::Closed(frame.code.into(), frame.reason.to_string());
            }
            Ok(tungstenite::Message::Close(None)) => break End::Closed(1005, String::new()),
            Ok(_) => {}
            Err(tungstenite::Error::Capacity(_)) => break End::TooLarge,
            Err(_) => break End::Failed,
        }
    };
    (messages, end)
}

/// Where the frames of a tunnel end, however their bytes come.
fn follow(stream: &[u8]) -> Result<(), String> {
    let (mut stepped, mut ends, mut at) = (FrameTracker::default(), Vec::new(), 0);
    for (place, byte) in stream.iter().enumerate() {
        stepped.follow(&[*byte]);
        if stepped.at_boundary() {
            ends.push(place + 1);
        }
    }
    let mut expected = Vec::new();
    while let Some(end) =
        frame_end(&stream[at..]).and_then(|length| at.checked_add(length)).filter(|end| *end <= stream.len())
    {
        expected.push(end);
        at = end;
    }
    let mut leapt = FrameTracker::default();
    leapt.follow(stream);
    let alike = (leapt.at_boundary(), leapt.saw_close()) == (stepped.at_boundary(), stepped.saw_close());
    if ends == expected && alike { Ok(()) } else { Err(format!("frames end at {ends:?} and not at {expected:?}")) }
}

/// Bytes of the frame at the beginning (RFC 6455 section 5.2), as they are announced.
fn frame_end(bytes: &[u8]) -> Option<usize> {
    let (second, rest) = (*bytes.get(1)?, bytes.get(2..)?);
    let (extended, payload) = match second & 127 {
        126 => (2, rest.get(..2)?.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))),
        127 => (8, rest.get(..8)?.iter().fold(0, |length, byte| length << 8 | u64::from(*byte))),
        short => (0, u64::from(short)),
    };
    let key = if second & 128 == 0 { 0 } else { 4 };
    usize::try_from(payload).ok()?.checked_add(2 + extended + key)
}
