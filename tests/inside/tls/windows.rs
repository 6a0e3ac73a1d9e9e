//! What HTTP/2 can leave open: a connection that does not begin, windows that stay shut, a goodbye that is not answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::{Request, Response};
use tokio::time::timeout;
use underpass::config::Client;
use underpass::http::body::Body;
use underpass::http::incoming::IncomingBody;

use super::frames::{
    DATA, Frames, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, get, setting,
};
use super::listener::Own;
use crate::listener::edge::{Edge, FOREVER, client, ok};

const SHORT: Duration = Duration::from_millis(300);
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
const WINDOW: u16 = 4;

/// Bytes that are counted for as long as they are there.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A listener whose responses have 300 kB, and how many of those there are.
fn large(own: &Own, client: Client) -> (Edge, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let respond = move |_: Request<IncomingBody>| {
        counting.fetch_add(1, Ordering::Relaxed);
        let bytes = Bytes::from_owner(Counted(vec![7; 300_000], Arc::clone(&counting)));
        async move { Response::new(Body::full(bytes)) }
    };
    (Edge::tcp(client, Some(own.source()), respond), count)
}

async fn none_left(count: &AtomicUsize) {
    let none = async {
        while count.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(FOREVER, none).await.expect("what gave the bodies is kept");
}

#[tokio::test]
async fn an_http2_connection_must_begin_in_time() {
    let own = Own::new();
    let edge = Edge::tcp(Client { handshake: SHORT, ..client() }, Some(own.source()), ok);
    let settings = frame(SETTINGS, 0, 0, &setting(WINDOW, 0));
    let whole = [PREFACE, &settings].concat();
    for begun in [&b""[..], b"PRI", PREFACE, &whole[..PREFACE.len() + 5], &whole[..whole.len() - 1]] {
        let start = Instant::now();
        let mut frames = Frames::new(own.connect(&edge, &["h2"]).await.expect("a TLS handshake"));
        frames.say(begun).await;
        while frames.next().await.is_some() {}
        assert!(start.elapsed() >= SHORT, "{begun:?}");
    }
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("all are gone");
    let mut frames = Frames::new(own.connect(&edge, &["h2"]).await.expect("a TLS handshake"));
    frames.say(&whole).await;
    tokio::time::sleep(SHORT * 2).await;
    frames.say(&get(1)).await;
    assert!(frames.next_of(&[HEADERS]).await.is_some(), "one that has begun may take its time");
}

#[tokio::test]
async fn a_stream_whose_window_stays_shut_is_reset_and_others_are_not() {
    let own = Own::new();
    let (edge, count) = large(&own, Client { write: SHORT, ..client() });
    // All shut from the beginning; and shut in the middle of a piece.
    for window in [0, 20_000] {
        let stream = own.connect(&edge, &["h2"]).await.expect("a TLS handshake");
        let mut frames = Frames::begin(stream, &setting(WINDOW, window)).await;
        for number in [1, 3, 5] {
            frames.say(&get(number)).await;
        }
        // The third one is read, slowly.
        let (mut reset, mut read) = (Vec::new(), 0);
        let start = Instant::now();
        frames.say(&frame(WINDOW_UPDATE, 0, 5, &10_000u32.to_be_bytes())).await;
        while reset.len() < 2 || read < 300_000 {
            match frames.within(SHORT / 8).await {
                None => {
                    frames.say(&frame(PING, 0, 0, b"12345678")).await;
                    frames.say(&frame(WINDOW_UPDATE, 0, 5, &10_000u32.to_be_bytes())).await;
                }
                Some(None) => panic!("the connection ended; {reset:?} were reset, {read} bytes read"),
                Some(Some(came)) => {
                    if came.kind == DATA {
                        let size = (came.payload.len() as u32).to_be_bytes();
                        frames.say(&frame(WINDOW_UPDATE, 0, 0, &size)).await;
                        read += if came.stream == 5 { came.payload.len() } else { 0 };
                    }
                    if came.kind == RST_STREAM {
                        assert!(start.elapsed() >= SHORT);
                        reset.push(came.stream);
                    }
                }
            }
            assert!(start.elapsed() < FOREVER, "{reset:?} were reset, {read} bytes read");
        }
        reset.sort_unstable();
        assert_eq!(reset, [1, 3], "with a window of {window}");
        none_left(&count).await;
    }
}

#[tokio::test]
async fn a_connection_whose_window_stays_shut_loses_its_streams_and_then_ends() {
    let own = Own::new();
    let (edge, count) = large(&own, Client { write: SHORT, idle: SHORT, ..client() });
    let stream = own.connect(&edge, &["h2"]).await.expect("a TLS handshake");
    // The streams' windows are wide; the connection's has its 65,535 bytes and gets no more.
    let mut frames = Frames::begin(stream, &setting(WINDOW, 1 << 24)).await;
    for number in [1, 3, 5] {
        frames.say(&get(number)).await;
    }
    let mut goodbye = false;
    while let Some(came) = frames.next().await {
        // Pings are not answered, not even those of the goodbye.
        goodbye |= came.kind == GOAWAY;
    }
    assert!(goodbye);
    none_left(&count).await;
    timeout(FOREVER, edge.lifecycle.emptied()).await.expect("the connection is gone");
}
