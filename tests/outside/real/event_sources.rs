//! Clients of event streams that nobody here wrote: each is connected, cut in the middle of an event and cut again, comes
//! back in its own way, and must have heard everything once, with its type; and must stop at the end.

use tokio::process::Command;

use super::cutter::Cutter;
use super::talk::{Heard, of_event};
use crate::programs::{Program, present};
use crate::running::Running;
use crate::support::site::{Backend, BackendSocket, Event, Site, soon};

/// Messages between two cuts.
const LEG: u32 = 40;

#[tokio::test]
async fn npm_eventsource_comes_back_by_itself() {
    if present(&[Program::Node]) {
        hear_all_through_cuts("eventsource.js").await;
    }
}

#[tokio::test]
async fn npm_eventsource_parser_and_fetch_come_back() {
    if present(&[Program::Node]) {
        hear_all_through_cuts("eventsource-parser.js").await;
    }
}

#[tokio::test]
async fn python_httpx_sse_comes_back() {
    if present(&[Program::Python]) {
        hear_all_through_cuts("httpx-sse.py").await;
    }
}

#[tokio::test]
async fn curl_comes_back_with_its_last_event_id() {
    if !present(&[Program::Curl]) {
        return;
    }
    for form in [Form::OneRequest, Form::Session] {
        let mut backend = Backend::start().await;
        let site = Site::start(backend.at, "");
        let url = form.url(&site, &format!("http://{}", site.at)).await;
        let mut first = curl(&url, None);
        let mut socket = backend.accept().await;
        say(&mut socket, 0).await;
        let (mut heard, mut id) = (Vec::new(), String::new());
        while heard.len() < LEG as usize / 2 {
            take_event(&mut first, &mut heard, &mut id).await.expect("curl goes on");
        }
        first.kill().await;
        // What curl had printed is heard, and nothing but that.
        while take_event(&mut first, &mut heard, &mut id).await.is_some() {}
        say(&mut socket, 1).await;
        socket.close(4001, "kicked").await;
        let mut second = curl(&url, Some(&id));
        while take_event(&mut second, &mut heard, &mut id).await.is_some() {}
        second.ended().await;
        assert_eq!(heard, wanted(2), "{form:?}");
        let mut third = curl(&url, Some(&id));
        assert_eq!(third.line().await.as_deref(), Some("status 204"), "{form:?}");
    }
}

/// How an event stream is asked for.
#[derive(Clone, Copy, Debug)]
enum Form {
    OneRequest,
    Session,
}

impl Form {
    async fn url(self, site: &Site, base: &str) -> String {
        match self {
            Self::OneRequest => format!("{base}/chat?room=1&underpass=sse"),
            Self::Session => format!("{base}{}/sse", site.open("/chat?room=1").await.url),
        }
    }
}

async fn hear_all_through_cuts(script: &str) {
    for form in [Form::OneRequest, Form::Session] {
        println!("{script} by {form:?}");
        let mut backend = Backend::start().await;
        let site = Site::start(backend.at, "");
        let cutter = Cutter::start(site.at).await;
        let url = form.url(&site, &format!("http://{}", cutter.at)).await;
        let mut client = Running::script(script, &[&url]);
        let mut socket = backend.accept().await;
        assert_eq!(socket.path, "/chat?room=1");
        let mut heard = Vec::new();
        hear_through_cuts(&cutter, &mut socket, &mut client, &mut heard).await;
        socket.close(4001, "kicked").await;
        hear_until(&mut client, &mut heard, 2 * LEG as usize + LEG as usize + 1).await;
        assert_eq!(heard, wanted(3), "{script} by {form:?}");
        let stopped = next_event(&mut client).await;
        assert_eq!((stopped.event.as_str(), stopped.data.as_str()), ("stopped", "204"), "{script} by {form:?}");
        assert!(backend.try_accept().is_none(), "{script} by {form:?} opened a second conversation");
    }
}

/// Three legs with a cut in each but the first.
async fn hear_through_cuts(cutter: &Cutter, socket: &mut BackendSocket, client: &mut Running, heard: &mut Vec<Heard>) {
    say(socket, 0).await;
    hear_until(client, heard, LEG as usize).await;
    for (leg, bytes) in [(1, 0), (2, 333)] {
        // The next events go down this far, and no further until the client comes back.
        cutter.cut_after(bytes);
        say(socket, leg).await;
        hear_until(client, heard, (leg as usize + 1) * LEG as usize).await;
        assert_eq!(cutter.cuts(), leg as usize);
    }
}

/// The messages of a leg, of every kind that an event stream distinguishes.
fn leg(leg: u32) -> impl Iterator<Item = Heard> {
    (leg * LEG..(leg + 1) * LEG).map(|n| match n % 5 {
        0 => Heard::Binary(vec![n as u8, 0, 10, 255].into()),
        1 => Heard::text(format!("{n}: a return\r and \r\n another")),
        2 => Heard::text(""),
        3 => Heard::text(format!("{n}: two\n\nlines, data: grüße")),
        _ => Heard::text(format!("{n}")),
    })
}

async fn say(socket: &mut BackendSocket, number: u32) {
    for message in leg(number) {
        match message {
            Heard::Text(text) => socket.send(&text).await,
            Heard::Binary(bytes) => socket.send_binary(&bytes).await,
            Heard::Close(..) => unreachable!("a leg holds messages"),
        }
    }
}

fn wanted(legs: u32) -> Vec<Heard> {
    (0..legs).flat_map(leg).chain([Heard::Close(4001, "kicked".into())]).collect()
}

async fn hear_until(client: &mut Running, heard: &mut Vec<Heard>, count: usize) {
    while heard.len() < count {
        let event = next_event(client).await;
        if event.event != "session" {
            heard.push(of_event(&event));
        }
    }
}

/// What our scripts print of an event.
async fn next_event(client: &mut Running) -> Event {
    let line = client.expect().await;
    let json: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
    let field = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    Event { event: field("type"), id: field("id"), data: field("data") }
}

fn curl(url: &str, last: Option<&str>) -> Running {
    let mut command = Command::new("curl");
    command.args([
        "--silent",
        "--show-error",
        "--no-buffer",
        "--noproxy",
        "*",
        "--write-out",
        "status %{http_code}\\n",
    ]);
    if let Some(last) = last {
        command.args(["--header", &format!("Last-Event-ID: {last}")]);
    }
    Running::start(command.arg(url))
}

/// Reads one event as curl printed it; `None` at the end, with half an event or without.
async fn take_event(curl: &mut Running, heard: &mut Vec<Heard>, last: &mut String) -> Option<()> {
    let mut event = Event::default();
    let mut data = Vec::new();
    loop {
        let line = soon("a line of curl", curl.line()).await.filter(|line| !line.starts_with("status "))?;
        match line.split_once(": ") {
            Some(("event", value)) => event.event = value.into(),
            Some(("id", value)) => event.id = value.into(),
            Some(("data", value)) => data.push(value.to_owned()),
            _ if line == "data:" => data.push(String::new()),
            _ => assert!(line.is_empty() || line.starts_with("retry: "), "{line}"),
        }
        if line.is_empty() {
            break;
        }
    }
    event.data = data.join("\n");
    if !event.id.is_empty() {
        last.clone_from(&event.id);
        if event.event != "session" {
            heard.push(of_event(&event));
        }
    }
    Some(())
}
