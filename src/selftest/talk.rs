//! What the self-test's WebSocket says: a few messages at known times, a burst when asked for one, and everything else
//! back.
//!
//! Enters: a stream of frames whose handshake is done. Leaves: messages on it, for a quarter of an hour at most. Must not
//! touch: who asks, and by which transport: it cannot know.
//!
//! - Five messages `{"tick":k,"at":ms}`, a second apart, the first at once; `at` is the time since the WebSocket was opened.
//!   Whoever knows when that was sees how long each was held on its way. Then silence, so that boxes which cut quiet
//!   connections do.
//! - The text `burst` is answered with eight texts that begin with `burst` and have 16 KiB each.
//! - Any other message comes back as it is.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::session::{Kind, Message};
use crate::upstream::socket::{Socket, SocketEvent};

/// How many messages come by themselves, one a second.
pub const TICKS: u32 = 5;
const EVERY: Duration = Duration::from_secs(1);
/// The longest a conversation goes on.
const LIFE: Duration = Duration::from_secs(15 * 60);
/// How long the other side may take to hear the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// The largest message taken, in bytes.
const MESSAGE: usize = 64 * 1024;
const BURST: usize = 8;
const BURST_MESSAGE: usize = 16 * 1024;

/// Holds a conversation in a task of its own.
pub fn talk(stream: UnixStream) {
    tokio::spawn(async move {
        let mut socket = Socket::server(stream, Bytes::new(), MESSAGE);
        // An error means that the other side has gone, which ends it as well.
        if timeout(LIFE, hold(&mut socket)).await.is_err() {
            socket.close(1000, "the self-test is over");
            let _ = timeout(FAREWELL, flush(&mut socket)).await;
        }
    });
}

async fn hold(socket: &mut Socket<UnixStream>) -> io::Result<()> {
    let begun = Instant::now();
    let mut ticks = 0;
    loop {
        tokio::select! {
            biased;
            () = sleep_until(begun + EVERY * ticks), if ticks < TICKS => {
                ticks += 1;
                say(socket, &tick(ticks, begun.elapsed()));
            }
            event = next(socket) => match event {
                SocketEvent::Message(message) => answer(socket, &message),
                SocketEvent::Pong => {}
                SocketEvent::TooLarge => {
                    socket.close(1009, "the self-test takes 64 KiB");
                    return flush(socket).await;
                }
                SocketEvent::Closed(_) | SocketEvent::Failed(_) => return flush(socket).await,
            },
        }
        // Nothing more is read until this is taken, so nothing piles up here.
        flush(socket).await?;
    }
}

fn answer(socket: &mut Socket<UnixStream>, message: &Message) {
    if message.kind() == Kind::Text && message.payload() == b"burst".as_slice() {
        for _ in 0..BURST {
            say(socket, &Message::text("burst".repeat(BURST_MESSAGE / 5 + 1)));
        }
    } else {
        say(socket, message);
    }
}

/// Refused only when a close has begun, and then nobody waits for it.
fn say(socket: &mut Socket<UnixStream>, message: &Message) {
    let _ = socket.send(message);
}

fn tick(number: u32, at: Duration) -> Message {
    Message::text(format!("{{\"tick\":{number},\"at\":{}}}", at.as_millis()))
}

/// The next event; what the codec has to say of itself, such as pongs, goes out meanwhile.
async fn next(socket: &mut Socket<UnixStream>) -> SocketEvent {
    poll_fn(|cx| {
        let next = socket.poll_next(cx);
        // An error is found by reading.
        let _ = socket.poll_flush(cx);
        next
    })
    .await
}

async fn flush(socket: &mut Socket<UnixStream>) -> io::Result<()> {
    poll_fn(|cx| socket.poll_flush(cx)).await
}
