//! The memory budget of the process: what would add waits, the session that holds most ends, and small ones do not notice.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::Method;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::binary::Running;
use crate::support::plain::Line;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, BackendSocket, Opened, Site, soon};
use crate::support::streaming::Streaming;

const MIB: usize = 1024 * 1024;
const ENDED: &str = "underpass_sessions_ended_total{reason=\"out_of_memory\"}";
const HELD: &str = "underpass_memory_held_bytes";

/// A budget of 8 MiB, and sessions that may keep more.
fn site(backend: &Backend, pause: &str) -> Site {
    let more = format!(
        "memory = \"8MiB\"\nadmin = \"127.0.0.1:0\"\n[session]\nbuffer = \"64MiB\"\nack_bytes = \"64KiB\"\nbusy = \"300ms\"\npause = \"{pause}\"\n"
    );
    Site::start(backend.at, &more)
}

/// Sends messages of 1 MiB for as long as they are taken, and hears how that ends.
async fn flood(socket: BackendSocket, count: usize) -> Option<(u16, String)> {
    let (mut sink, mut source) = socket.ws.split();
    let flooding = tokio::spawn(async move {
        let payload = Bytes::from(vec![7; MIB]);
        for _ in 0..count {
            if sink.send(Message::binary(payload.clone())).await.is_err() {
                break;
            }
        }
        sink
    });
    let mut close = None;
    while let Some(Ok(message)) = source.next().await {
        if let Message::Close(Some(frame)) = message {
            close = Some((frame.code.into(), frame.reason.to_string()));
        }
    }
    flooding.abort();
    close
}

/// Waits until so much is held that memory is short.
async fn is_short(site: &Site) {
    let short = async {
        while site.metric(HELD).await < 0.8 * site.metric("underpass_memory_budget_bytes").await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("memory that is short", short).await;
}

/// One message down and one up.
async fn talks(site: &Site, opened: &Opened, socket: &mut BackendSocket, number: u64) {
    socket.send(&format!("down {number}")).await;
    let poll = site.get(&format!("{}/poll?after={}", opened.url, number - 1)).await.json();
    assert_eq!(poll["messages"], json!([format!("down {number}")]));
    site.post(&format!("{}/send?as=text", opened.url), format!("up {number}")).await.json();
    assert_eq!(socket.next_text().await, format!("up {number}"));
}

#[tokio::test]
async fn while_memory_is_short_the_greedy_wait_and_the_small_do_not() {
    const COUNT: usize = 24;
    let mut backend = Backend::start().await;
    let site = site(&backend, "20s");
    let small = site.open("/").await;
    let mut small_socket = backend.accept().await;
    let greedy = site.open("/").await;
    let flooding = tokio::spawn(flood(backend.accept().await, COUNT));
    is_short(&site).await;
    for number in 1..=5 {
        talks(&site, &small, &mut small_socket, number).await;
    }
    let refused = site.post("/?underpass=open", "").await;
    assert_eq!((refused.status.as_u16(), refused.error().as_str()), (503, "overloaded"));
    assert_eq!(refused.header("retry-after"), Some("5"));
    for body in [vec![1; 9], vec![1; 2 * MIB]] {
        let path = format!("{}/send?seq=1&as=binary", greedy.url);
        let busy = site.request(Method::POST, &path, &[], body).await;
        assert_eq!((busy.status.as_u16(), busy.error().as_str(), &busy.json()["next"]), (503, "busy", &json!(1)));
        assert_eq!(busy.header("retry-after"), Some("5"));
    }
    assert!(site.metric("underpass_memory_waits_total").await >= 2.0);
    assert_eq!(site.metric(ENDED).await, 0.0);

    // What the greedy one's client acknowledges makes room again: it goes on, and others may come.
    let (mut after, mut came) = (0, 0);
    while came < COUNT {
        let poll = site.get(&format!("{}/poll?after={after}", greedy.url)).await.json();
        after = poll["after"].as_u64().expect("a cursor");
        came += poll["messages"].as_array().expect("messages").len();
    }
    site.post(&format!("{}/ack?after={after}", greedy.url), "").await.json();
    site.counts(HELD, 0.0).await;
    site.open("/").await;
    site.post(&format!("{}/close", greedy.url), "").await.json();
    soon("the end of the flood", flooding).await.expect("no panic");
}

#[tokio::test]
async fn a_wait_for_memory_that_takes_too_long_ends_the_one_that_holds_most_and_tells_both_sides() {
    let mut backend = Backend::start().await;
    let site = site(&backend, "500ms");
    let small = site.open("/").await;
    let mut small_socket = backend.accept().await;
    let greedy = site.open("/").await;
    let close = soon("the end of the greedy one", flood(backend.accept().await, 64)).await;
    assert_eq!(close, Some((1013, "server is out of memory".to_owned())));
    let poll = site.get(&format!("{}/poll?after=0", greedy.url)).await.json();
    assert_eq!(poll["close"], json!({"code": 1013, "reason": "server is out of memory", "clean": true}));
    assert_eq!(poll["lost"]["from"], 1, "what was kept for it is gone, and it is told so");
    site.counts(ENDED, 1.0).await;
    site.counts(HELD, 0.0).await;
    talks(&site, &small, &mut small_socket, 1).await;
}

#[tokio::test]
async fn a_budget_that_is_spent_ends_the_one_that_holds_most_at_once() {
    let mut backend = Backend::start().await;
    let site = site(&backend, "20s");
    let mut others = Vec::new();
    for _ in 0..7 {
        others.push((site.open("/").await, backend.accept().await));
    }
    let _greedy = site.open("/").await;
    let flooding = tokio::spawn(flood(backend.accept().await, 64));
    is_short(&site).await;
    // Each takes less than its share, and all together what is left.
    for (_, socket) in &mut others {
        let sent = soon("a small one's message", socket.ws.send(Message::binary(vec![3; 500 * 1024])));
        sent.await.expect("the sidecar takes it");
    }
    let close = soon("the end of the greedy one", flooding).await.expect("no panic");
    assert_eq!(close, Some((1013, "server is out of memory".to_owned())));
    for (opened, _) in &others {
        let poll = site.get(&format!("{}/poll?after=0&as=frames", opened.url)).await;
        assert!(poll.body.len() > 500 * 1024, "nothing of the others is lost");
    }
    site.counts(ENDED, 1.0).await;
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_a_large_response_loses_it_with_its_session() {
    let mut backend = Backend::start().await;
    let site = site(&backend, "500ms");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    let message = Message::binary(vec![1; 3 * MIB]);
    socket.ws.send(message.clone()).await.expect("it is taken");
    // As base64 it is 4 MiB, of which the kernel takes a part; with what is kept that is most of the budget.
    let mut slow = Line::to(site.at).await;
    slow.say(format!(
        "GET {}/sse?after=0 HTTP/1.1
host: x

",
        opened.url
    ))
    .await;
    let flooding = tokio::spawn(flood(socket, 64));
    assert_eq!(soon("the end", flooding).await.expect("no panic"), Some((1013, "server is out of memory".to_owned())));
    site.counts(HELD, 0.0).await;
}

/// A client that never acknowledges, and has read so many bytes in one message.
async fn bare(site: &Site, backend: &mut Backend, bytes: usize) -> (Streaming, BackendSocket) {
    let mut stream = site.stream("/?underpass=sse", &[]).await;
    let mut socket = backend.accept().await;
    socket.send_binary(&vec![5; bytes]).await;
    while stream.told().await.event != "binary" {}
    (stream, socket)
}

#[tokio::test]
async fn what_a_client_may_come_back_for_goes_first_when_memory_is_short() {
    const WINDOW: usize = MIB * 3 / 4;
    let mut backend = Backend::start().await;
    let site = Site::start(
        backend.at,
        "memory = \"8MiB\"\nadmin = \"127.0.0.1:0\"\n[session]\nbuffer = \"2MiB\"\nreplay = \"1MiB\"\n",
    );
    let mut bare_ones = Vec::new();
    for _ in 0..8 {
        bare_ones.push(bare(&site, &mut backend, WINDOW).await);
    }
    let all = site.metric(HELD).await;
    assert!(all >= (8 * WINDOW) as f64, "{all} bytes are held");
    // One that holds less than its share makes it too much; nobody else does anything.
    let small = site.open("/").await;
    let mut socket = backend.accept().await;
    socket.send_binary(&vec![6; 600 * 1024]).await;
    let less = async {
        while site.metric(HELD).await >= all {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("a window that is given back", less).await;
    let poll = site.get(&format!("{}/poll?after=0&as=frames", small.url)).await;
    assert!(poll.body.len() > 600 * 1024, "what was not read is kept");
    assert_eq!(site.metric(ENDED).await, 0.0);
    assert!(site.metric(HELD).await > (6 * WINDOW) as f64, "the others keep theirs");
}

#[tokio::test]
async fn what_was_written_long_ago_is_not_kept_for_a_client_that_does_not_acknowledge() {
    let mut backend = Backend::start().await;
    let more = "admin = \"127.0.0.1:0\"\n[session]\ngrace = \"2s\"\nheartbeat = \"300ms\"\n";
    let site = Site::start(backend.at, more);
    let (mut stream, mut socket) = bare(&site, &mut backend, 200 * 1024).await;
    assert!(site.metric(HELD).await >= (200 * 1024) as f64);
    site.counts(HELD, 0.0).await;
    // The session is alive and well: its client is there.
    socket.send("still here").await;
    assert_eq!(stream.told().await.data, "still here");
}

/// A body of 3 bytes for each message becomes 64 bytes for each.
#[tokio::test]
async fn messages_of_bodies_that_wait_are_counted_and_a_crowd_of_them_is_refused_at_once() {
    const COUNT: usize = 65_536;
    let mut backend = Backend::start().await;
    let more = "memory = \"256MiB\"\nadmin = \"127.0.0.1:0\"\n[session]\nbusy = \"3s\"\nmessage = \"7MiB\"\nbody = \"10MiB\"\n";
    let site = Site::start(backend.at, more);
    let opened = site.open("/").await;
    let _never_read = backend.accept().await;
    // What the kernel takes, one message on its way, and one in the queue.
    let mut next = 1;
    let large = vec![1; 7 * MIB];
    loop {
        let path = format!("{}/send?seq={next}&as=binary", opened.url);
        let sent = site.request(Method::POST, &path, &[], large.clone()).await;
        next = sent.json()["next"].as_u64().expect("a number");
        if sent.status == 503 {
            break;
        }
    }
    let base = site.metric(HELD).await;
    let body = format!("{{\"messages\":[{}\"\"]}}", "\"\",".repeat(COUNT - 1));
    let path = format!("{}/send?seq={next}", opened.url);
    let two = futures_util::future::join(site.post(&path, body.clone()), site.post(&path, body.clone()));
    let third = async {
        let both = base + (2 * COUNT * 64) as f64;
        while site.metric(HELD).await < both {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let begin = Instant::now();
        let crowded = site.post(&path, body.clone()).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "it waited for {:?}", begin.elapsed());
        crowded
    };
    let ((one, two), three) = soon("three answers", futures_util::future::join(two, third)).await;
    for answer in [one, two, three] {
        assert_eq!((answer.status.as_u16(), answer.error().as_str()), (503, "busy"));
        assert_eq!(answer.json()["next"], next);
    }
    // No more than before: then, a connection may not have ended yet that counted.
    let back = async {
        while site.metric(HELD).await > base {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon("what they held is given back", back).await;
}

/// What the allocator keeps for itself, in bytes, beside pages of code that were not read before; generous.
const KEPT: f64 = 16.0 * MIB as f64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_flood_took_goes_back_to_the_system_when_all_is_read() {
    const COUNT: usize = 48;
    const RESIDENT: &str = "process_resident_memory_bytes";
    let mut backend = Backend::start().await;
    let scratch = Scratch::new("back");
    let config = format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\nlog.format = \"json\"\n",
        backend.at
    );
    let mut running = Running::start(&scratch.file("underpass.toml", &config));
    let site = running.site_with_admin().await;
    let mut sessions = Vec::new();
    for _ in 0..COUNT {
        sessions.push((site.open("/").await, backend.accept().await));
    }
    let base = site.metric(RESIDENT).await;
    for (_, socket) in &mut sessions {
        socket.send_binary(&vec![7; 2 * MIB]).await;
    }
    for (opened, _) in &sessions {
        let poll = site.get(&format!("{}/poll?after=0&as=frames", opened.url)).await;
        assert!(poll.body.len() > 2 * MIB);
    }
    let most = site.metric(RESIDENT).await;
    assert!(most > base + (COUNT * MIB) as f64, "{most} bytes are taken, {base} at the beginning: this proves nothing");
    for (opened, _) in &sessions {
        site.post(&format!("{}/ack?after=1", opened.url), "").await.json();
    }
    site.counts(HELD, 0.0).await;
    let returned = async {
        while site.metric(RESIDENT).await > base + KEPT {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    soon("memory that goes back", returned).await;
}

/// Two hundred sessions, of which ten talk: the others' backends flood them, and their clients take nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_flood_of_many_sessions_the_process_keeps_to_its_memory() {
    const BUDGET: usize = 32 * MIB;
    let mut backend = Backend::start().await;
    let scratch = Scratch::new("memory");
    let config = scratch.file(
        "underpass.toml",
        &format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\nmemory = \"32MiB\"\nlog.format = \"json\"\n[session]\npause = \"1s\"\n",
            backend.at
        ),
    );
    let mut running = Running::start(&config);
    let budget = running.says("memory budget").await;
    assert_eq!((budget["bytes"].as_u64(), budget["source"].as_str()), (Some(BUDGET as u64), Some("`memory`")));
    let site = running.site_with_admin().await;
    let mut small = Vec::new();
    for _ in 0..10 {
        small.push((site.open("/").await, backend.accept().await));
    }
    let mut floods = Vec::new();
    let mut streams = Vec::new();
    for number in 0..190 {
        let opened = site.open("/").await;
        let socket = backend.accept().await;
        if number % 2 == 0 {
            streams.push(site.stream(&format!("{}/sse?after=0", opened.url), &[]).await);
        }
        floods.push((socket, if number < 4 { 8 * MIB } else { MIB / 2 }));
    }
    let base = site.metric("process_resident_memory_bytes").await;
    let floods: Vec<_> = floods
        .into_iter()
        .map(|(socket, size)| {
            tokio::spawn(async move {
                let (mut sink, mut source) = socket.ws.split();
                let payload = Bytes::from(vec![7; size]);
                let flooding =
                    tokio::spawn(async move { while sink.send(Message::binary(payload.clone())).await.is_ok() {} });
                let mut code = 0;
                while let Some(Ok(message)) = source.next().await {
                    if let Message::Close(Some(frame)) = message {
                        code = frame.code.into();
                    }
                }
                flooding.abort();
                code
            })
        })
        .collect();
    let (mut most_resident, mut most_held, mut rounds) = (0f64, 0f64, 0);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(8) {
        rounds += 1;
        for (opened, socket) in &mut small {
            talks(&site, opened, socket, rounds).await;
        }
        most_resident = most_resident.max(site.metric("process_resident_memory_bytes").await);
        most_held = most_held.max(site.metric(HELD).await);
    }
    let (ended, slow) =
        (site.metric(ENDED).await, site.metric("underpass_sessions_ended_total{reason=\"too_slow\"}").await);
    println!("base {base}, most {most_resident}, held {most_held}, {ended} ended, {slow} slow, {rounds} rounds");
    assert!(most_held <= 1.05 * BUDGET as f64, "{most_held} bytes were held");
    assert!(most_resident - base < 3.0 * BUDGET as f64, "{most_resident} bytes, {base} at the beginning");
    assert!(ended >= 4.0, "{ended} sessions were ended");
    for greedy in floods.into_iter().take(4) {
        assert_eq!(soon("the end of a greedy one", greedy).await.expect("no panic"), 1013);
    }
    let line = running.says("memory ran short: the session that held most of it is ended").await;
    assert!(line["held"].as_u64() > Some(MIB as u64) && line["session"].is_string(), "{line}");
}

#[tokio::test]
async fn what_drips_while_memory_is_short_is_told_so() {
    let mut backend = Backend::start().await;
    let site = site(&backend, "20s");
    let _greedy = site.open("/").await;
    let flooding = tokio::spawn(flood(backend.accept().await, 24));
    is_short(&site).await;
    let mut dripping = Line::to(site.at).await;
    dripping.say(&format!("GET /_underpass/info HTTP/1.1\r\nHost: a\r\nX-Large: {}", "a".repeat(6 * 1024))).await;
    let (head, body) = dripping.answer().await;
    assert!(
        head.starts_with("http/1.1 503 ") && head.contains("retry-after: 5") && head.contains("connection: close"),
        "{head}"
    );
    let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(body["error"]["code"], "overloaded");
    flooding.abort();
}
