//! What an operator watches: the metrics in both formats, what the dashboard and the alert rules name, what is counted and
//! logged of transports, and the lines of requests. Must not touch: programs from outside.

use std::collections::BTreeSet;

use http::Method;

use crate::binary::Running;
use crate::support::plain::canned;
use crate::support::scratch::Scratch;
use crate::support::site::{Backend, Site};

const ADMIN: &str = "admin = \"127.0.0.1:0\"\n";
const DASHBOARD: &str = include_str!("../../../dashboards/underpass.json");
const ALERTS: &str = include_str!("../../../dashboards/alerts.yml");
const OPERATIONS: &str = include_str!("../../../docs/OPERATIONS.md");

/// All names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|char: char| !char.is_ascii_alphanumeric() && char != '_');
    words.filter(|word| word.starts_with("underpass_") || word.starts_with("process_")).collect()
}

#[tokio::test]
async fn what_dashboard_and_alerts_name_is_there_and_all_that_is_there_is_in_the_documents() {
    let site = Site::start(Backend::echo().await, ADMIN);
    let text = site.ask_admin("/metrics").await.text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    // It is there where a listener has a certificate.
    let there: BTreeSet<_> = samples
        .filter_map(|line| line.split(['{', ' ']).next())
        .chain(["underpass_certificate_expiry_timestamp_seconds"])
        .collect();
    for (file, text) in [("underpass.json", DASHBOARD), ("alerts.yml", ALERTS)] {
        let unknown: Vec<_> = names(text).difference(&there).copied().collect();
        assert_eq!(unknown, [""; 0], "{file} names what is not there");
    }
    let documented = names(OPERATIONS);
    let histogram =
        |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).map(str::to_owned);
    let untold: Vec<_> = there
        .iter()
        .filter(|name| !documented.contains(**name))
        .filter(|name| histogram(name).is_none_or(|family| !documented.contains(&*family)))
        .collect();
    assert_eq!(untold, [&""; 0], "OPERATIONS.md does not tell of it");
}

#[tokio::test]
async fn a_poll_that_does_not_wait_is_no_change_and_the_first_transport_counts_with_its_cause() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, ADMIN);
    let first = |transport: &str, cause: &str| {
        format!("underpass_session_transports_total{{transport=\"{transport}\",cause=\"{cause}\"}}")
    };
    let change = |from: &str, to: &str| format!("underpass_transport_changes_total{{from=\"{from}\",to=\"{to}\"}}");
    let opened = site.open("/").await;
    let mut socket = backend.accept().await;
    site.get(&format!("{}/poll?wait=0&cause=mop", opened.url)).await.json();
    let mut sse = site.stream(&format!("{}/sse?cause=ws%20refused", opened.url), &[]).await;
    sse.told().await;
    assert_eq!(site.metric(&first("sse", "refused")).await, 1.0);
    socket.send("one").await;
    sse.told().await;
    drop(sse);
    // What a page does at each cut: it collects, and goes on.
    let polled = format!("{{\"sessions\":{{\"{}\":0}}}}", opened.session["token"].as_str().expect("a token"));
    site.get(&format!("{}/poll?wait=0&cause=mop&after=0", opened.url)).await.json();
    site.post("/_underpass/poll?wait=0.0", polled).await.json();
    let mut again = site.stream(&format!("{}/sse?after=1&cause=sse%20cut", opened.url), &[]).await;
    again.told().await;
    for (from, to) in [("sse", "poll"), ("poll", "sse")] {
        assert_eq!(site.metric(&change(from, to)).await, 0.0, "{from} to {to}");
    }
    site.get(&format!("{}/poll?wait=0.01&after=1&cause=sse%20held", opened.url)).await.json();
    assert_eq!(site.metric(&change("sse", "poll")).await, 1.0);
    site.stream("/?underpass=sse", &[]).await.told().await;
    assert_eq!(site.metric(&first("sse", "unsaid")).await, 1.0);
    let other = site.open("/").await;
    site.get(&format!("{}/poll?wait=0.01&cause=whatever", other.url)).await.json();
    assert_eq!(site.metric(&first("poll", "other")).await, 1.0);
}

#[tokio::test]
async fn each_request_has_a_line_where_they_are_wanted_and_its_trace_goes_on() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let (plain, mut asked) = canned("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").await;
    let mut backend = Backend::start().await;
    let scratch = Scratch::new("requests");
    let toml = format!(
        "listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n[[route]]\npath = \"/plain\"\nupstream = \
         \"http://{plain}\"\n[log]\nformat = \"json\"\nrequests = true\n",
        backend.at
    );
    let mut running = Running::start(&scratch.file("requests.toml", &toml));
    let site = running.site_with_admin().await;
    let traced = [("traceparent", TRACE)];
    site.request(Method::GET, "/plain/a?secret=x", &traced, "").await;
    assert!(asked.recv().await.expect("a request").contains(TRACE));
    let line = running.says("request").await;
    assert_eq!(
        (&line["client"], &line["method"], &line["path"]),
        (&"127.0.0.1".into(), &"GET".into(), &"/plain/a".into())
    );
    assert_eq!((&line["status"], &line["traceparent"]), (&204.into(), &TRACE.into()));
    assert_eq!(line["host"], site.at.to_string());
    assert!(line["ms"].is_u64() && line["session"].is_null(), "{line}");

    let reply = site.request(Method::POST, "/chat?underpass=open", &traced, "").await.json();
    assert_eq!(backend.accept().await.headers["traceparent"], TRACE);
    let _tunnel = site.websocket("/raw", &traced).await;
    assert_eq!(backend.accept().await.headers["traceparent"], TRACE);
    let line = running.says("request").await;
    assert_eq!((&line["path"], &line["session"]), (&"/chat".into(), &reply["session"]["id"]));
    assert_eq!(running.says("request").await["status"], 101);
    let token = reply["session"]["token"].as_str().expect("a token");
    site.get(&format!("/_underpass/s/{token}/poll?wait=0")).await;
    let line = running.says("request").await;
    assert_eq!((&line["path"], &line["session"]), (&"/_underpass/s/***/poll".into(), &reply["session"]["id"]));
    let mut bare = site.stream("/bare?underpass=sse", &[]).await;
    bare.told().await;
    let opened = running.says("session opened").await;
    let line = running.says("request").await;
    assert_eq!((&line["path"], &line["session"]), (&"/bare".into(), &opened["session"]));
    drop(bare);
    running.signal("-TERM");
    assert_eq!(running.exits().await, 0);
    let secret = &token["n1-".len() + reply["session"]["id"].as_str().expect("an id").len()..];
    assert!(
        running.lines.iter().all(|line| !line.contains(secret) && !line.contains("secret=x")),
        "{:#?}",
        running.lines
    );
}
