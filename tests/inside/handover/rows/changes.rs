//! Rows of a successor whose configuration or limits are others: whoever was there before lives on. Enters: a changed
//! configuration. Leaves: the same sessions. Must not touch: what a reload changes.

use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};

use super::{Line, ROADS, ended, speak};
use crate::support::plain::Line as Bytes;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, BackendSocket, Opened, Site, soon};

async fn sessions(site: &Site, backend: &mut Backend, path: &str, count: usize) -> Vec<(Opened, BackendSocket)> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push((site.open(path).await, backend.accept().await));
    }
    all
}

#[tokio::test]
async fn fewer_sessions_are_allowed_and_all_live_on() {
    for road in ROADS {
        for (lowered, code) in
            [("session.max = 1\n", "overloaded"), ("limits.sessions = 1\nlimits.exempt = []\n", "rate_limited")]
        {
            let mut backend = Backend::start().await;
            let plain = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n", backend.at);
            let mut line = Line::start(road, &plain).await;
            let mut all = sessions(&line.site, &mut backend, "/", 3).await;
            line.change(&format!("{plain}{lowered}"));
            for over in 1..=2 {
                line.next().await;
                for (opened, socket) in &mut all {
                    speak(&line.site, &opened.url, &mut socket.ws, over).await;
                }
                let refused = line.site.post("/?underpass=open", "").await;
                assert_eq!(refused.error(), code, "{road:?}, {lowered}");
            }
            // They are limits again once there are fewer.
            for (opened, socket) in &mut all {
                assert_eq!(line.site.post(&format!("{}/close", opened.url), "{}").await.status, 200);
                assert_eq!(socket.closed().await.0, 1000);
                // Until its client knows of it, an ended session has its place.
                assert_eq!(ended(&line.site, &opened.url, 2).await["code"], 1000);
                assert_eq!(line.site.post(&format!("{}/ack?after=3", opened.url), "").await.status, 200);
            }
            let opens = async { while line.site.post("/?underpass=open", "").await.status != 200 {} };
            soon("room for one", opens).await;
            assert_eq!(line.site.post("/?underpass=open", "").await.error(), code, "{road:?}, {lowered}");
        }
    }
}

#[tokio::test]
async fn what_gets_no_descriptor_ends_and_is_named() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let mut line =
            Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n", backend.at)).await;
        let mut all = sessions(&line.site, &mut backend, "/", 60).await;
        line.descriptors = Some(64);
        line.next().await;
        let named: Vec<_> = line.process.lines.iter().filter(|line| line.contains("LimitNOFILE")).collect();
        assert_eq!(named.len(), 1, "{:#?}", line.process.lines);
        let (mut live, mut lost) = (0, 0);
        for (opened, socket) in &mut all {
            socket.send("down 1").await;
            let polled = line.site.get(&format!("{}/poll?after=0", opened.url)).await.json();
            if polled["close"].is_null() {
                assert_eq!(polled["messages"], json!(["down 1"]));
                live += 1;
            } else {
                assert_eq!(polled["close"]["code"], 1006, "{polled}");
                lost += 1;
            }
        }
        println!("{road:?}: {live} live, {lost} lost");
        assert!(live > 10 && lost > 5, "{road:?}: {live} live, {lost} lost");
        let goes_on: Value = serde_json::from_str(line.process.lines.last().expect("it goes on")).expect("JSON");
        assert_eq!((&goes_on["sessions"], &goes_on["lost"]), (&json!(live), &json!(named_parcels(named[0]))));
        assert!(named_parcels(named[0]) >= lost, "{}", named[0]);
    }
}

#[tokio::test]
async fn a_process_that_has_no_descriptor_left_is_followed_nevertheless() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let mut line =
            Line::start(road, &format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n", backend.at)).await;
        line.descriptors = Some(100);
        line.next().await;
        let mut all = sessions(&line.site, &mut backend, "/", 3).await;
        let mut idle = Vec::new();
        for _ in 0..100 {
            idle.push(TcpStream::connect(line.site.at).await.expect("the kernel takes it"));
        }
        line.process.says("connections cannot be accepted; if too many files are open, raise LimitNOFILE").await;
        line.descriptors = None;
        line.next().await;
        for (opened, socket) in &mut all {
            speak(&line.site, &opened.url, &mut socket.ws, 1).await;
        }
    }
}

/// How many parcels this line of the log has.
fn named_parcels(line: &str) -> usize {
    let line: Value = serde_json::from_str(line).expect("JSON");
    line["parcels"].as_u64().and_then(|count| usize::try_from(count).ok()).expect("a count")
}

#[tokio::test]
async fn a_renamed_node_knows_its_old_tokens() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let plain = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n", backend.at);
        let mut line = Line::start(road, &format!("{plain}node = \"first\"\n")).await;
        let mut all = sessions(&line.site, &mut backend, "/", 2).await;
        let (over, mut socket) = all.remove(0);
        socket.close(4003, "over").await;
        assert_eq!(ended(&line.site, &over.url, 0).await["code"], 4003);
        for (number, node) in [(1, "second"), (2, "third")] {
            line.change(&format!("{plain}node = \"{node}\"\n"));
            line.next().await;
            let (opened, socket) = &mut all[0];
            speak(&line.site, &opened.url, &mut socket.ws, number).await;
            assert_eq!(ended(&line.site, &over.url, 0).await["code"], 4003, "{road:?}, {node}");
            let new = line.site.open("/").await;
            assert!(new.url.contains(node), "{}", new.url);
            backend.accept().await;
        }
    }
}

#[tokio::test]
async fn the_sessions_of_a_removed_route_live_on() {
    for road in ROADS {
        let (mut here, mut there) = (Backend::start().await, Backend::start().await);
        let plain = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n", here.at);
        let route = format!("[[route]]\npath = \"/rooms\"\nupstream = \"ws://{}\"\n", there.at);
        let mut line = Line::start(road, &format!("{plain}{route}")).await;
        let mut all = sessions(&line.site, &mut there, "/rooms/7", 1).await;
        line.change(&plain);
        for number in 1..=2 {
            line.next().await;
            let (opened, socket) = &mut all[0];
            speak(&line.site, &opened.url, &mut socket.ws, number).await;
        }
        line.site.open("/rooms/7").await;
        assert_eq!(here.accept().await.path, "/rooms/7");
    }
}

#[tokio::test]
async fn a_new_address_is_served_and_goes_over() {
    for road in ROADS {
        let mut backend = Backend::start().await;
        let folder = Scratch::new("rows-new");
        let plain = format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n", backend.at);
        let mut line = Line::start(road, &plain).await;
        let mut all = sessions(&line.site, &mut backend, "/", 1).await;
        let (opened, socket) = &mut all[0];
        let [new, newer] = ["new.sock", "newer.sock"].map(|name| folder.path(name));
        let listener = format!("{plain}[[listener]]\naddress = \"unix:{}\"\n", new.display());
        let admin = format!("admin = \"unix:{}\"\n{listener}", newer.display());
        for (number, (toml, addresses)) in
            (1..).zip([(&listener, vec![&new]), (&listener, vec![&new]), (&admin, vec![&new, &newer])])
        {
            line.change(toml);
            line.next().await;
            for path in addresses {
                let target = if *path == new { "/_underpass/info" } else { "/livez" };
                let mut client = Bytes(UnixStream::connect(path).await.expect("it is served"));
                client.say(format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
                let head = client.answer().await.0;
                assert!(head.starts_with("http/1.1 200 "), "{road:?}, {}: {head}", path.display());
            }
            speak(&line.site, &opened.url, &mut socket.ws, number).await;
        }
    }
}
