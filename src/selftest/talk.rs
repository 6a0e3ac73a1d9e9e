//! The server's end of the self-test's WebSocket: a few messages at known times, a burst on request, and an echo of
//! everything else.
//!
//! Enters: a stream of frames whose handshake is done. Leaves: messages on it, for at most 15 minutes. Must not touch: who
//! the client is and which transport it uses; neither is known here.
//!
//! - Five messages `{"tick":k,"at":ms}`, a second apart, the first at once; `at` is the time since the WebSocket was opened.
//!   A client that knows when that was can compute the delay of each. Then silence, so that boxes which cut idle connections
//!   do so.
//! - The text `burst` brings eight texts of 16 KiB each that begin with `burst`.
//! - Any other message comes back as it is.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::session::{Kind, Message};
use crate::upstream::socket::{Socket, SocketEvent};

/// How many messages are sent without a request, one a second.
pub const TICKS: u32 = 5;
const EVERY: Duration = Duration::from_secs(1);
/// The longest that a conversation lasts.
const MAX_AGE: Duration = Duration::from_secs(15 * 60);
/// How long the other side may take to read the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest message taken, in bytes.
const MESSAGE: usize = 64 * 1024;
const BURST: usize = 8;
const BURST_MESSAGE: usize = 16 * 1024;

/// Runs a conversation in a task of its own.
pub fn talk(stream: UnixStream) {
    tokio::spawn(async move {
        let mut socket = Socket::server(stream, Bytes::new(), MESSAGE);
        // `Ok` also holds an error: the other side has gone, which ends the conversation as well.
        if timeout(MAX_AGE, run(&mut socket)).await.is_err() {
            socket.close(1000, "the self-test is over");
            let _ = timeout(CLOSE_TIMEOUT, flush(&mut socket)).await;
        }
    });
}

async fn run(socket: &mut Socket<UnixStream>) -> io::Result<()> {
    let begun = Instant::now();
    let mut ticks = 0;
    loop {
        tokio::select! {
            biased;
            () = sleep_until(begun + EVERY * ticks), if ticks < TICKS => {
                ticks += 1;
                send(socket, &tick(ticks, begun.elapsed()));
            }
            event = next(socket) => match event {
                SocketEvent::Message(message) => respond(socket, &message),
                SocketEvent::Pong => {}
                SocketEvent::TooLarge => {
                    socket.close(1009, "the self-test takes 64 KiB");
                    return flush(socket).await;
                }
                SocketEvent::Closed(_) | SocketEvent::Failed(_) => return flush(socket).await,
            },
        }
        // Nothing more is read until this is written, so no queue can grow here.
        flush(socket).await?;
    }
}

fn respond(socket: &mut Socket<UnixStream>, message: &Message) {
    if message.kind() == Kind::Text && message.payload() == b"burst".as_slice() {
        for _ in 0..BURST {
            send(socket, &Message::text("burst".repeat(BURST_MESSAGE / 5 + 1)));
        }
    } else {
        send(socket, message);
    }
}

/// Sending fails only after a close has begun; the message is not needed then.
fn send(socket: &mut Socket<UnixStream>, message: &Message) {
    let _ = socket.send(message);
}

fn tick(number: u32, at: Duration) -> Message {
    Message::text(format!("{{\"tick\":{number},\"at\":{}}}", at.as_millis()))
}

/// The next event. Meanwhile frames that the codec produces by itself, such as pongs, are written.
async fn next(socket: &mut Socket<UnixStream>) -> SocketEvent {
    poll_fn(|cx| {
        let next = socket.poll_next(cx);
        // An error shows when reading.
        let _ = socket.poll_flush(cx);
        next
    })
    .await
}

async fn flush(socket: &mut Socket<UnixStream>) -> io::Result<()> {
    poll_fn(|cx| socket.poll_flush(cx)).await
}
