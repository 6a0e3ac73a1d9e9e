//! A day of an operator with the binary, from the first check to the last exit, with the words that are read on the way. What
//! installs and removes it is tested with the package. Enters: commands, signals, files. Leaves: verdicts. Must not touch:
//! other processes.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::binary::{Running, output, underpass};
use crate::support::plain::nowhere;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site};

const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");

/// An operator at a terminal.
struct Operator {
    scratch: Scratch,
    admin: String,
}

impl Operator {
    /// A command about the running process, which must be done; what it prints.
    async fn tell(&self, command: &[&str]) -> String {
        let (code, told, error) = output(&[command, &["--admin", &self.admin]].concat()).await;
        assert_eq!((code, error.as_str()), (0, ""), "{command:?}");
        told
    }

    /// `check` of this text: its exit code and all that it prints.
    async fn check(&self, toml: &str) -> (i32, String) {
        let file = self.scratch.file("site.toml", toml);
        let (code, told, error) = output(&["check", file.to_str().expect("UTF-8")]).await;
        (code, told + &error)
    }
}

/// All of these stand in the text, in this order.
fn reads(text: &str, words: &[&str]) {
    let mut rest = text;
    for word in words {
        let at = rest.find(word).unwrap_or_else(|| panic!("`{word}` is not told, or not there, in\n{text}"));
        rest = &rest[at + word.len()..];
    }
}

fn field(line: &Value, name: &str) -> String {
    line[name].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_day_of_an_operator() {
    let (mut backend, other, gone) = (Backend::start().await, Backend::echo().await, nowhere().await);
    let mut operator = Operator { scratch: Scratch::new("day"), admin: String::new() };
    let socket = operator.scratch.path("handover.sock");
    let toml = |upstream: std::net::SocketAddr, more: &str| {
        format!(
            "listen = \"127.0.0.1:0\"\nhosts = [\"127.0.0.1\"]\nadmin = \"127.0.0.1:0\"\nupstream = \"ws://{upstream}\"\n{more}\
             [client]\nconnections = 100\n[log]\nformat = \"json\"\nrequests = true\n\
             [handover]\nsocket = \"{}\"\n",
            socket.display()
        )
    };
    let gone_route = format!("[[route]]\npath = \"/gone\"\nupstream = \"ws://{gone}\"\n");

    // In the morning: a file with two errors, and then one without.
    let wrong = toml(backend.at, "").replace("connections = 100", "conections = 100\nidle = \"soon\"");
    let (code, told) = operator.check(&wrong).await;
    assert_eq!(code, 1, "{told}");
    reads(&told, &["site.toml:6:1: unknown key `conections` in [client]", "did you mean `connections`?"]);
    reads(&told, &["site.toml:7:8: `client.idle` is not a duration", "2 errors in"]);
    let (code, told) = operator.check(&toml(backend.at, &gone_route)).await;
    assert_eq!(code, 0, "{told}");
    let lead = format!("any host / to ws://{}\n  any host /gone to ws://{gone}\n", backend.at);
    reads(&told, &["site.toml is fine: 1 listener(s), 2 route(s)\n  ", &lead, "memory budget: "]);

    // Start; a second one on the same port says what is wrong.
    let file = operator.scratch.path("site.toml");
    let mut running = Running::start(&file);
    let site = running.site_with_admin().await;
    operator.admin = site.admin.expect("an admin listener").to_string();
    let taken = site.at.to_string();
    let (code, _, error) = output(&["run", "--listen", &taken, "--upstream", "ws://127.0.0.1:9000"]).await;
    assert_eq!(code, 1);
    reads(
        &error,
        &[&format!("cannot listen on {taken}: it is in use; stop the other process or choose another address")],
    );
    let told = operator.tell(&["status"]).await;
    reads(
        &told,
        &["underpass ", ", serving, for ", "log level info", "sessions", "none 0", "reloads", "applied 0, refused 0\n"],
    );
    reads(&told, &["LIMIT", "session.max", "client.connections", "BACKEND OF", "/gone", "0 of 64"]);
    assert_eq!(site.ask_admin("/readyz?verbose").await.text(), "[+] serving: ok\nok\n");

    // A customer calls: everything is slow since an hour. The log and the list say why.
    let opened = site.open("/chat/room").await;
    let mut conversation = backend.accept().await;
    let mut sse = site.stream(&format!("{}/sse?cause=ws%20refused", opened.url), &[]).await;
    sse.told().await;
    let line = running.says("session attached").await;
    let id = field(&opened.session, "id");
    assert_eq!([field(&line, "session"), field(&line, "transport"), field(&line, "cause")], [&id, "sse", "ws refused"]);
    drop(sse);
    let poll = format!("{}/poll?wait=0.01&cause=sse%20held", opened.url);
    let trace = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    site.request(Method::GET, &poll, &trace, "").await.json();
    let line = running.says("session changed transport").await;
    assert_eq!([field(&line, "from"), field(&line, "to"), field(&line, "cause")], ["sse", "poll", "sse held"]);
    let told = operator.tell(&["sessions", "--client", "127.0.0.1"]).await;
    reads(&told, &["ID ", "CLIENT", "CAUSE", &id, "127.0.0.1", "/chat/room", "poll", "sse held", "1 session(s)\n"]);

    // Another one is refused: louder, until it is seen why.
    assert_eq!(operator.tell(&["log-level", "debug"]).await, "debug\n");
    let evil = [("origin", "https://evil.example")];
    let refused = site.request(Method::POST, "/chat?underpass=open", &evil, "").await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    let line = running.says("request refused").await;
    assert_eq!(
        [field(&line, "code"), field(&line, "client"), field(&line, "path")],
        ["origin_refused", "127.0.0.1", "/chat"]
    );
    assert_eq!(operator.tell(&["log-level", "info"]).await, "info\n");

    // Somebody has to go.
    assert_eq!(
        operator.tell(&["kick", &id, "--code", "4003", "--reason", "please call us"]).await,
        "1 session(s) ended\n"
    );
    assert_eq!(conversation.closed().await, (4003, "please call us".to_owned()));
    let line = running.says("the operator ended a session").await;
    assert_eq!([field(&line, "session"), field(&line, "reason")], [&id, "please call us"]);
    reads(&operator.tell(&["status"]).await, &["ended", "killed 1"]);

    // A backend is down: who is hit, by which address.
    assert_eq!(site.get("/gone/x?secret=1").await.status, StatusCode::BAD_GATEWAY);
    let line = running.says("request refused").await;
    assert_eq!([field(&line, "level"), field(&line, "client"), field(&line, "path")], ["WARN", "127.0.0.1", "/gone/x"]);
    reads(&field(&line, "what"), &["cannot connect to the backend at ", &gone.to_string(), "check that it runs"]);

    // A reload of a wrong file changes nothing and says so everywhere; the right one is in force.
    operator.scratch.file("site.toml", &toml(other, "").replace("ws://", "ftp://"));
    running.signal("-HUP");
    let line = running.says("the old configuration stays in force").await;
    assert_eq!(field(&line, "level"), "ERROR");
    reads(&field(&line, "error"), &["site.toml:4:12: `upstream` "]);
    reads(&operator.tell(&["status"]).await, &["applied 0, refused 1", "REFUSED, the log says why"]);
    assert_eq!(site.metric("underpass_config_last_reload_successful").await, 0.0);
    site.open("/still").await;
    backend.accept().await;
    operator.scratch.file("site.toml", &toml(other, "workers = 3\n"));
    running.signal("-HUP");
    assert_eq!(field(&running.says("this change takes effect at the next restart").await, "what"), "workers");
    running.says("configuration reloaded").await;
    reads(&operator.tell(&["status"]).await, &["applied 1, refused 1", " ago: applied\n"]);
    let settings = site.ask_admin("/config").await.json();
    let upstream = settings.as_array().expect("a list").iter().find(|one| one["key"] == "upstream").expect("a key");
    reads(&field(upstream, "origin"), &["site.toml:4"]);
    let opened = site.open("/chat").await;
    let mut stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    stream.told().await;

    // The next version is installed, and the one before it again: who is there goes on, and the operator's address stays.
    for after in ["upgraded", "rolled back"] {
        running = replaced(running, &file).await;
        assert_eq!(stream.told().await.event, "reconnect", "{after}");
        stream = site.stream(&format!("{}/sse?after=0", opened.url), &[]).await;
        assert_eq!(stream.told().await.json()["resumed"], true, "{after}");
        reads(&operator.tell(&["sessions"]).await, &["/chat", "sse"]);
        assert_eq!(site.metric("underpass_handover_total{result=\"taken_over\"}").await, 1.0, "{after}");
    }

    // In the evening: it is drained and goes, and what asks it then is told so.
    drained(running, site, &operator).await;
}

/// Another process with the same configuration in the place of this one; it has its lines as well.
async fn replaced(mut old: Running, file: &std::path::Path) -> Running {
    let mut new = Running::of(underpass().args(["run", "--take-over"]).arg(file));
    let line = new.says("went on where the process before has stopped").await;
    assert_eq!([&line["result"], &line["lost"]], [&json!("taken_over"), &json!(0)]);
    assert_eq!(old.exits().await, 0);
    new.lines.splice(0..0, old.lines.drain(..));
    new
}

async fn drained(mut running: Running, site: Site, operator: &Operator) {
    running.signal("-TERM");
    running.says("lifecycle").await;
    assert_eq!(site.ask_admin("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(running.exits().await, 0);
    let last: Vec<_> =
        running.lines.iter().filter(|line| line.contains("lifecycle") || line.contains("drained")).collect();
    assert!(last.len() >= 3 && last[last.len() - 1].contains("\"drained\""), "{last:#?}");
    let (code, _, error) = output(&["status", "--admin", &operator.admin]).await;
    assert_eq!(code, 1);
    reads(&error, &["nobody answers at ", &operator.admin]);
    documented(&running.lines);
}

/// A line of the log: its level, target and message, and the names of its fields.
type Shape = (String, String, String, BTreeSet<String>);

/// The examples of the documents are lines that were written on this day.
fn documented(lines: &[String]) {
    let section = OPERATIONS.split_once("\n## Log\n").expect("a section").1.split_once("\n## ").expect("another one").0;
    let examples: Vec<_> = section.lines().filter(|line| line.starts_with("2026-")).map(shape_of_text).collect();
    assert!(examples.len() >= 8, "{examples:#?}");
    let written: Vec<_> = lines.iter().map(|line| shape_of_json(line)).collect();
    for example in examples {
        let alike: Vec<_> = written.iter().filter(|shape| shape.2 == example.2).collect();
        assert!(alike.contains(&&example), "no line is like that of OPERATIONS.md: {example:?}, but {alike:#?}");
    }
}

fn shape_of_text(line: &str) -> Shape {
    let (_time, rest) = line.split_once(' ').expect("a time");
    let (level, rest) = rest.trim_start().split_once(' ').expect("a level");
    let (target, rest) = rest.split_once(": ").expect("a target");
    // What is quoted may hold anything.
    let bare: String = rest.split('"').step_by(2).collect::<Vec<_>>().join("_");
    let fields = bare.split(' ').filter_map(|word| Some(word.split_once('=')?.0.to_owned()));
    let message = bare.split(' ').take_while(|word| !word.contains('=')).collect::<Vec<_>>().join(" ");
    (level.to_owned(), target.to_owned(), message, fields.collect())
}

fn shape_of_json(line: &str) -> Shape {
    let line: Value = serde_json::from_str(line).expect("JSON");
    let own = ["timestamp", "level", "target", "message"];
    let fields = line.as_object().expect("an object").keys().filter(|name| !own.contains(&name.as_str())).cloned();
    (field(&line, "level"), field(&line, "target"), field(&line, "message"), fields.collect())
}
