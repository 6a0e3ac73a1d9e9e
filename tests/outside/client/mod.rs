//! The browser client in real browsers: headless Chromium and Firefox, driven by `run.mjs`, before a sidecar with a
//! scripted backend and behind a box that breaks what the cases ask it to break. `UNDERPASS_BROWSER=name` runs the cases
//! of that name only. Must not touch: fixed ports, the network beyond this machine.

mod handover;
mod script;

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::programs::{self, Program};
use crate::support::plain;
use crate::support::site::{Backend, BackendSocket, Site};
use crate::{running, turn};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_in_chromium() {
    the_client_in(Program::Chromium, "chromium").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_in_firefox() {
    the_client_in(Program::Firefox, "firefox").await;
}

async fn the_client_in(program: Program, browser: &str) {
    if !programs::present(&[program, Program::Node]) {
        return;
    }
    // The cases measure how long things take.
    let _turn = turn::alone().await;
    let backend = backend().await;
    let page = "<!doctype html><title>legacy</title><script>const socket = new WebSocket('/echo'); window.got = [];\
                socket.onopen = () => socket.send('x'); socket.onmessage = event => got.push(event.data);</script>";
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n", page.len());
    let (legacy, _asked) = plain::canned(head + page).await;
    let more = format!(
        "[session]\nheartbeat = \"2s\"\nwait = \"5s\"\nwait_max = \"5s\"\nrecycle = \"9s\"\ngrace = \"20s\"\n\
         [[route]]\npath = \"/\"\nupstream = \"ws://{backend}\"\n[[route]]\npath = \"/dead\"\nupstream = \"ws://127.0.0.1:1\"\n\
         [[route]]\npath = \"/legacy\"\nupstream = \"ws://{legacy}\"\ninject = true\n"
    );
    let site = Site::from_toml(&format!("listen = \"127.0.0.1:0\"\n{more}"));
    let part = std::env::var("UNDERPASS_BROWSER").unwrap_or_default();
    running::cases("client/run.mjs", &[&site.at.to_string(), browser, &part]).await;
}

/// What the backend saw, one line for each opening and ending.
type Log = Arc<std::sync::Mutex<Vec<String>>>;

async fn backend() -> std::net::SocketAddr {
    let mut backend = Backend::start().await;
    let (at, log) = (backend.at, Log::default());
    tokio::spawn(async move {
        loop {
            // Not `accept`: that one gives up when nobody comes for a while.
            match backend.try_accept() {
                Some(socket) => drop(tokio::spawn(talk(socket, Arc::clone(&log)))),
                None => sleep(Duration::from_millis(2)).await,
            }
        }
    });
    at
}

async fn talk(mut socket: BackendSocket, log: Log) {
    let path = socket.path.clone();
    let write = |line: String| log.lock().expect("no panic").push(line);
    if !path.starts_with("/log") {
        write(format!("open {path}"));
    }
    if let Some(count) = path.strip_prefix("/count?") {
        return count_both_ways(socket, count.parse().expect("a number")).await;
    }
    loop {
        let Some(Ok(message)) = socket.ws.next().await else { return write(format!("lost {path}")) };
        match message {
            Message::Text(text) if path.starts_with("/log") => {
                let lines = log.lock().expect("no panic").clone();
                let lines: Vec<String> = lines.into_iter().filter(|line| line.contains(text.as_str())).collect();
                let lines = lines.join("\n");
                let _ = socket.ws.send(Message::text(lines)).await;
            }
            Message::Text(text) if text.starts_with("close ") => {
                let mut words = text.splitn(3, ' ').skip(1);
                let code: u16 = words.next().and_then(|code| code.parse().ok()).expect("a code");
                let reason = words.next().unwrap_or_default().to_owned();
                let frame = (code != 1005).then(|| CloseFrame { code: code.into(), reason: reason.into() });
                let _ = socket.ws.close(frame).await;
            }
            Message::Text(text) if text == "drop" => return,
            Message::Text(text) if text.starts_with("burst ") => {
                for number in 1..=text[6..].parse().expect("a number") {
                    let _ = socket.ws.send(Message::text(format!("b{number}"))).await;
                }
            }
            Message::Text(_) | Message::Binary(_) => {
                let _ = socket.ws.send(message).await;
            }
            Message::Close(frame) => {
                let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                write(format!("closed {path} {code} {reason}"));
                // Our own close frame goes out with the next read.
                while let Some(Ok(_)) = socket.ws.next().await {}
                return;
            }
            _ => {}
        }
    }
}

/// Sends numbers at a steady pace, at most 200 ahead of those that came, and expects numbers; tells by the close the
/// first that is wrong, or that all came.
async fn count_both_ways(mut socket: BackendSocket, count: u64) {
    let (mut sent, mut received) = (0, 0);
    let mut pace = tokio::time::interval(Duration::from_micros(3000));
    while sent < count || received < count {
        tokio::select! {
            _ = pace.tick(), if sent < count.min(received + 200) => {
                sent += 1;
                let _ = socket.ws.send(Message::text(sent.to_string())).await;
            }
            message = socket.ws.next() => {
                let Some(Ok(Message::Text(text))) = message else { return };
                received += 1;
                if text != received.to_string() {
                    let reason = format!("{text} came for {received}").into();
                    let _ = socket.ws.close(Some(CloseFrame { code: 4500.into(), reason })).await;
                    return;
                }
            }
        }
    }
    let _ = socket.ws.close(Some(CloseFrame { code: 4200.into(), reason: "all came".into() })).await;
    while let Some(Ok(_)) = socket.ws.next().await {}
}
