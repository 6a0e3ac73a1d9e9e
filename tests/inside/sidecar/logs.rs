//! The binary from end to end: its command line, its signals, and what its log says, and never says, of a session.

use std::process::Stdio;
use std::time::Duration;

use http::Method;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::time::sleep;

use crate::binary::{Running, address, output, underpass};
use crate::support::plain::{canned, nowhere};
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site, soon};

const V1: [(&str, &str); 1] = [("sec-websocket-protocol", "underpass.v1")];

/// Everything that a session does, on every transport.
async fn live_through(site: &Site, backend: &mut Backend) -> (String, String) {
    let opened = site.open("/chat?secret=of-the-query").await;
    let mut socket = backend.accept().await;
    let token = opened.session["token"].as_str().expect("a token").to_owned();
    let mut sse = site.stream(&format!("{}/sse", opened.url), &[]).await;
    sse.told().await;
    socket.send("one").await;
    sse.told().await;
    let mut stream = site.stream(&format!("{}/stream?after=1&cause=held%20back%0Ax", opened.url), &[]).await;
    stream.frame().await.expect("facts");
    drop(stream);
    site.get(&format!("{}/poll?after=1&wait=0.01", opened.url)).await.json();
    drop(site.websocket(&format!("{}/ws", opened.url), &V1).await);
    site.post(&format!("{}/send?as=text", opened.url), "up").await.json();
    socket.next_text().await;
    for wrong in ["poll?after=99", "send?seq=x", "nothing", "sse?after=-1"] {
        site.get(&format!("{}/{wrong}", opened.url)).await;
        site.post(&format!("{}/{wrong}", opened.url), "{").await;
    }
    site.request(Method::GET, &format!("{}/poll", opened.url), &[("origin", "https://evil.example")], "").await;
    let id = [("last-event-id", format!("{token}.99"))];
    let id = id.each_ref().map(|(name, value)| (*name, value.as_str()));
    site.request(Method::GET, "/?underpass=sse", &id, "").await;
    site.get(&format!("/?underpass.after={token}.98&underpass=sse")).await;
    socket.close(4001, "kicked").await;
    site.get(&format!("{}/poll", opened.url)).await;
    site.get(&format!("{}/poll?after=2", opened.url)).await;
    (token, opened.session["id"].as_str().expect("an id").to_owned())
}

#[tokio::test]
async fn the_log_tells_the_life_of_a_session_and_never_its_secret() {
    let mut backend = Backend::start().await;
    let scratch = Scratch::new("log");
    let config = scratch.file(
        "site.toml",
        &format!(
            "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n\
             [log]\nformat = \"json\"\nlevel = \"trace\"\n[drain]\npre = \"0s\"\nspread = \"0s\"\ntimeout = \"2s\"\n",
            backend.at
        ),
    );
    let mut running = Running::start(&config);
    let site = running.site_with_admin().await;
    let (token, id) = live_through(&site, &mut backend).await;
    let metrics = site.ask_admin("/metrics").await.text();
    running.signal("-TERM");
    assert_eq!(running.exits().await, 0);

    let secret = &token["n1-".len() + id.len()..];
    assert!(secret.len() >= 22, "128 bits at least: {secret}");
    for line in running.lines.iter().chain([&metrics]) {
        assert!(!line.contains(secret), "the token is told: {line}");
        assert!(!line.contains("of-the-query"), "a client's query is told: {line}");
    }
    assert!(!metrics.contains(&id), "an id in the metrics");
    let lines: Vec<Value> = running.lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_session = |message: &str| -> Vec<&Value> {
        lines.iter().filter(|line| line["message"] == message && line["session"] == id.as_str()).collect()
    };
    let opened = of_session("session opened");
    assert_eq!((opened.len(), &opened[0]["level"]), (1, &"INFO".into()));
    assert_eq!((&opened[0]["path"], &opened[0]["client"]), (&"/chat".into(), &"127.0.0.1".into()));
    let changes: Vec<_> = of_session("session changed transport")
        .iter()
        .map(|line| [&line["from"], &line["to"], &line["cause"]].map(|word| word.as_str().expect("a word").to_owned()))
        .collect();
    assert_eq!(changes[0], ["sse", "stream", "held backx"]);
    assert_eq!(changes[1][..2], ["stream", "poll"]);
    assert_eq!(changes[2][..2], ["poll", "ws"]);
    let ended = of_session("session ended");
    assert_eq!(ended.len(), 1, "{ended:?}");
    let expected = serde_json::json!(["backend_closed", 4001, "kicked", 1, 1]);
    let told = ["cause", "code", "reason", "down", "up"].map(|field| ended[0][field].clone());
    assert_eq!(serde_json::json!(told), expected);
}

#[tokio::test]
async fn a_reload_takes_a_good_file_and_keeps_the_old_one_from_a_bad_one() {
    let (old, new) = (Backend::echo().await, Backend::start().await);
    let scratch = Scratch::new("reload");
    let toml = |upstream| {
        format!(
            "listen = \"127.0.0.1:0\"\nupstream = \"ws://{upstream}\"\n[log]\nformat = \"json\"\n[drain]\npre = \"0s\"\n"
        )
    };
    let config = scratch.file("site.toml", &toml(old));
    let mut running = Running::start(&config);
    let site = Site::elsewhere(address(&running.says("listening").await), None);
    let opened = site.open("/").await;
    let mut stream = site.stream(&format!("{}/sse", opened.url), &[]).await;
    stream.told().await;

    scratch.file("site.toml", "upstream = 5\nlisen = 1\n");
    running.signal("-HUP");
    running.says("the old configuration stays in force").await;
    site.open("/").await;

    scratch.file("site.toml", &toml(new.at));
    running.signal("-HUP");
    running.says("configuration reloaded").await;
    let mut new = new;
    site.open("/new").await;
    assert_eq!(new.accept().await.path, "/new");
    // A session that was open stays with its backend.
    site.post(&format!("{}/send?as=text", opened.url), "echo").await.json();
    assert_eq!(stream.told().await.data, "echo");
    running.signal("-INT");
    drop(stream);
    sleep(Duration::from_millis(50)).await;
    running.signal("-INT");
    assert_eq!(running.exits().await, 0);
}

#[tokio::test]
async fn a_page_without_our_script_is_a_warning_once_for_each_route() {
    let page =
        |fields: &str| format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{fields}\r\n<html><script></script>");
    let (packed, _asked) = canned(page("Content-Encoding: zstd\r\n")).await;
    let (forbidding, _asked) = canned(page("Content-Security-Policy: script-src 'none'\r\n")).await;
    let scratch = Scratch::new("warnings");
    let route =
        |path, upstream| format!("[[route]]\npath = \"{path}\"\nupstream = \"ws://{upstream}\"\ninject = true\n");
    let config = scratch.file(
        "site.toml",
        &format!(
            "listen = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[drain]\npre = \"0s\"\n{}{}",
            route("/packed", packed),
            route("/forbidding", forbidding)
        ),
    );
    let mut running = Running::start(&config);
    let site = Site::elsewhere(address(&running.says("listening").await), None);
    for path in ["/packed/1", "/packed/2", "/forbidding/1", "/forbidding/2"] {
        let reply = site.request(Method::GET, path, &[("sec-fetch-dest", "document")], "").await;
        assert!(reply.text().ends_with("<html><script></script>"), "{}", reply.text());
    }
    running.signal("-TERM");
    assert_eq!(running.exits().await, 0);
    let lines: Vec<Value> = running.lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let about = |route: &str| -> Vec<&Value> { lines.iter().filter(|line| line["route"] == route).collect() };
    let told = [about("/packed"), about("/forbidding")];
    assert!(told.iter().all(|lines| lines.len() == 1 && lines[0]["level"] == "WARN"), "{told:#?}");
    assert_eq!(told[0][0]["coding"], "zstd");
    assert!(told[1][0]["change"].as_str().expect("advice").contains("script-src"), "{told:#?}");
}

#[tokio::test]
async fn a_stranger_makes_neither_many_warnings_nor_long_lines() {
    let scratch = Scratch::new("floods");
    let config = scratch.file(
        "site.toml",
        &format!(
            "listen = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[drain]\npre = \"0s\"\nspread = \"0s\"\n\
             timeout = \"2s\"\n[[route]]\nupstream = \"ws://{}\"\n[[route]]\npath = \"/gone\"\nupstream = \"ws://{}\"\n",
            Backend::echo().await,
            nowhere().await
        ),
    );
    let mut running = Running::start(&config);
    let site = Site::elsewhere(address(&running.says("listening").await), None);
    for _ in 0..60 {
        assert_eq!(site.post("/gone?underpass=open", "").await.status, 502);
    }
    site.open(&format!("/{}", "long".repeat(3000))).await;
    running.signal("-TERM");
    assert_eq!(running.exits().await, 0);
    let said = |what: &str| running.lines.iter().filter(|line| line.contains(what)).count();
    // More only where a machine is so slow that it takes ten seconds.
    let (shown, held) = (said("\"request refused\""), said("request refused (backend_unreachable): … and "));
    assert!((20..60).contains(&shown) && held >= 1, "{:#?}", running.lines);
    let longest = running.lines.iter().map(String::len).max().expect("lines");
    assert!(said("longlong") == 1 && longest < 1000, "{longest} bytes");
}

#[tokio::test]
async fn run_takes_flags_instead_of_a_file() {
    let upstream = format!("ws://{}", Backend::echo().await);
    let mut child = underpass()
        .args(["run", "--upstream", &upstream, "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut log = BufReader::new(child.stderr.take().expect("piped")).lines();
    let at = loop {
        let line = soon("listening", log.next_line()).await.expect("UTF-8").expect("it goes on");
        if let Some((_, rest)) = line.split_once("address=") {
            break rest.split(' ').next().expect("a word").to_owned();
        }
    };
    let site = Site::elsewhere(at.parse().expect("an address"), None);
    site.open("/").await;
}

#[tokio::test]
async fn check_tells_good_from_bad() {
    let scratch = Scratch::new("check");
    let good = scratch.file("good.toml", "listen = \"127.0.0.1:0\"\nupstream = \"ws://127.0.0.1:9\"\n");
    let (code, out, err) = output(&["check", good.to_str().expect("UTF-8")]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("is fine") && out.contains("warning: a listener is on loopback and any host"), "{out}");
    let named = "hosts = [\"localhost\"]\nlisten = \"127.0.0.1:0\"\nupstream = \"ws://127.0.0.1:9\"\n[client]\nconnections = 10\n";
    let (code, out, _) = output(&["check", scratch.file("named.toml", named).to_str().expect("UTF-8")]).await;
    assert!(code == 0 && !out.contains("warning"), "{out}");
    let bad = scratch.file("bad.toml", "listen = 7\nupstrem = \"ws://127.0.0.1:9\"\n");
    let (code, out, err) = output(&["check", bad.to_str().expect("UTF-8")]).await;
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("upstrem") && err.contains("listen"), "all errors at once: {err}");
    let (code, _, err) = output(&["check", "/nowhere/at-all.toml"]).await;
    assert_eq!(code, 1);
    assert!(err.contains("/nowhere/at-all.toml"), "{err}");
    let (code, _, err) = output(&["run", bad.to_str().expect("UTF-8")]).await;
    assert_eq!(code, 1);
    assert!(err.contains("configuration not applied"), "{err}");
}

#[tokio::test]
async fn a_taken_port_is_told_and_nothing_runs() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = taken.local_addr().expect("an address").to_string();
    let upstream = format!("ws://{}", nowhere().await);
    let (code, _, err) = output(&["run", "--upstream", &upstream, "--listen", &at]).await;
    assert_eq!(code, 1);
    assert!(err.contains(&at), "{err}");
}

#[tokio::test]
async fn the_command_line_explains_itself() {
    let (code, out, _) = output(&["--version"]).await;
    assert_eq!((code, out.trim()), (0, concat!("underpass ", env!("CARGO_PKG_VERSION"))));
    let (code, out, _) = output(&["--help"]).await;
    assert_eq!(code, 0);
    for word in ["demo", "run", "check", "SIGTERM", "SIGHUP"] {
        assert!(out.contains(word), "{word} in {out}");
    }
    let (code, _, err) = output(&["rum"]).await;
    assert_eq!(code, 2);
    assert!(err.contains("run"), "{err}");
    let (code, _, _) = output(&["run"]).await;
    assert_eq!(code, 2);
}

#[tokio::test]
async fn signals_are_heard_from_the_first_connection_on() {
    let scratch = Scratch::new("signals");
    for round in 0..12 {
        let socket = scratch.path(&format!("{round}.sock"));
        let toml = format!(
            "listen = \"unix:{}\"\nupstream = \"ws://{}\"\n[log]\nformat = \"json\"\n",
            socket.display(),
            nowhere().await
        );
        let mut running = Running::start(&scratch.file("signals.toml", &toml));
        soon("the listener", async {
            while tokio::net::UnixStream::connect(&socket).await.is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        running.signal("-HUP");
        running.signal("-TERM");
        assert_eq!(running.exits().await, 0, "round {round}");
    }
}
