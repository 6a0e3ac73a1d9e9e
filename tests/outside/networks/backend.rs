//! The backend behind every box: echoes, counts, and remembers how each conversation ended. Enters: WebSockets. Leaves:
//! one `Ended` for each. `/numbers?N` counts to N; all other paths echo. Must not touch: what stands before the sidecar.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::site::{Backend, BackendSocket};

/// How a conversation ended, as the backend saw it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) path: String,
    /// 1006 when the connection was lost.
    pub(crate) code: u16,
    pub(crate) reason: String,
}

/// Where it listens, and what it will have to tell.
pub(crate) async fn start() -> (SocketAddr, mpsc::UnboundedReceiver<Ended>) {
    let mut backend = Backend::start().await;
    let at = backend.at;
    let (sender, ends) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while !sender.is_closed() {
            // Not `accept`: that one gives up when nobody comes for a while.
            match backend.try_accept() {
                Some(socket) => drop(tokio::spawn(talk(socket, sender.clone()))),
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    });
    (at, ends)
}

async fn talk(mut socket: BackendSocket, ends: mpsc::UnboundedSender<Ended>) {
    let path = std::mem::take(&mut socket.path);
    let close = match path.strip_prefix("/numbers?") {
        Some(query) => {
            let count = query.split('&').next().and_then(|count| count.parse().ok());
            count_both_ways(&mut socket, count.expect("a number")).await
        }
        None => echo(&mut socket).await,
    };
    let (code, reason) = close.map_or((1006, String::new()), |close| (close.code.into(), close.reason.to_string()));
    let _ = ends.send(Ended { path, code, reason });
}

/// Answers with the same until a close comes, or the connection is lost.
async fn echo(socket: &mut BackendSocket) -> Option<CloseFrame> {
    loop {
        match socket.ws.next().await? {
            Ok(Message::Close(frame)) => {
                // The answer goes out with the next read.
                while let Some(Ok(_)) = socket.ws.next().await {}
                return Some(frame.unwrap_or(CloseFrame { code: 1005.into(), reason: "".into() }));
            }
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.ws.send(message).await.ok()?,
            Ok(_) => {}
            Err(_) => return None,
        }
    }
}

/// Sends numbers, at most 200 ahead of those that came, and expects numbers; closes with the first that is wrong, or
/// with the news that all came. What it gives back is the client's answer to that.
async fn count_both_ways(socket: &mut BackendSocket, count: u64) -> Option<CloseFrame> {
    let (mut sent, mut received) = (0, 0);
    let mut pace = interval(Duration::from_millis(3));
    while sent < count || received < count {
        tokio::select! {
            _ = pace.tick(), if sent < count.min(received + 200) => {
                sent += 1;
                socket.ws.send(Message::text(sent.to_string())).await.ok()?;
            }
            message = socket.ws.next() => {
                let Some(Ok(Message::Text(text))) = message else { return None };
                received += 1;
                if text != received.to_string() {
                    let reason = format!("{text} came for {received}").into();
                    let _ = socket.ws.close(Some(CloseFrame { code: 4500.into(), reason })).await;
                    return None;
                }
            }
        }
    }
    let close = CloseFrame { code: 4200.into(), reason: "all came".into() };
    socket.ws.close(Some(close)).await.ok()?;
    while let Some(Ok(message)) = socket.ws.next().await {
        if let Message::Close(frame) = message {
            return frame;
        }
    }
    None
}
