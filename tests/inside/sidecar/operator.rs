//! What an operator sees of the running process and does to it, over the admin listener.
//!
//! Enters: requests to the admin listener, sessions of clients. Leaves: verdicts. Must not touch: the log's level of this
//! process, which other tests share.

use http::{Method, StatusCode};
use serde_json::Value;

use crate::binary::{Running, output};
use crate::support::site::{Backend, Site, soon};

const ADMIN: &str = "admin = \"127.0.0.1:0\"\n";

impl Site {
    async fn listed(&self, query: &str) -> Vec<Value> {
        let reply = self.ask_admin(&format!("/sessions{query}")).await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
        reply.json()["sessions"].as_array().expect("a list").clone()
    }
}

#[tokio::test]
async fn sessions_are_listed_with_what_an_operator_asks_of_them() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, ADMIN);
    let opened = site.open("/chat/room?secret=1").await;
    let mut conversation = backend.accept().await;
    conversation.send("12345").await;
    site.post(&format!("{}/send?as=text", opened.url), "abc").await;
    assert_eq!(conversation.next_text().await, "abc");
    let polled = site.get(&format!("{}/poll?wait=1&cause=ws%20refused", opened.url)).await;
    assert_eq!(polled.status, StatusCode::OK);

    let all = site.listed("").await;
    let facts = &all[0];
    assert_eq!((all.len(), &facts["path"], &facts["route"]), (1, &"/chat/room".into(), &"/".into()));
    assert_eq!((&facts["client"], &facts["cause"]), (&"127.0.0.1".into(), &"ws refused".into()));
    assert_eq!((&facts["transport"], &facts["before"]), (&Value::Null, &"poll".into()));
    assert_eq!((&facts["messages"]["down"], &facts["messages"]["up"]), (&1.into(), &1.into()));
    assert_eq!((&facts["bytes"]["down"], &facts["bytes"]["up"]), (&5.into(), &3.into()));
    assert_eq!((&facts["kept"], &facts["paused"], &facts["ended"]), (&69.into(), &false.into(), &Value::Null));

    let status = site.ask_admin("/status").await.json();
    assert_eq!(status["routes"][0]["sessions"], 1);
    assert_eq!((&status["phase"], &status["counted"]["opened"]), (&"serving".into(), &1.into()));
    assert_eq!(status["limits"][0]["used"], 1);
    assert_eq!((&status["changes"][0]["cause"], &status["changes"][0]["to"]), (&"ws refused".into(), &"poll".into()));

    // The token is a secret, here as in the log.
    let secret = opened.url.split_once("n1-").expect("a token").1.trim_end_matches('/').to_owned();
    let public = facts["id"].as_str().expect("an id");
    assert!(secret.starts_with(public) && secret.len() > public.len());
    for path in ["/sessions", "/status", "/config", "/"] {
        assert!(!site.ask_admin(path).await.text().contains(&secret), "{path}");
    }
}

#[tokio::test]
async fn lists_are_filtered_sorted_and_cut() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, ADMIN);
    let mut conversations = Vec::new();
    for path in ["/a", "/b", "/c"] {
        site.open(path).await;
        conversations.push(backend.accept().await);
    }
    for (path, bytes) in [("/d", 100), ("/e", 1000)] {
        site.open(path).await;
        let mut conversation = backend.accept().await;
        conversation.send(&"x".repeat(bytes)).await;
        conversations.push(conversation);
    }
    // What a backend sends is seen as soon as it has come.
    let first = async {
        loop {
            let list = site.listed("?sort=kept&limit=2").await;
            let paths: Vec<_> = list.iter().map(|one| one["path"].clone()).collect();
            if paths == ["/e", "/d"] && list[1]["kept"] == 164 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("two sessions with what is kept for them", first).await;
    assert_eq!(site.ask_admin("/sessions?limit=1").await.json()["total"], 5);
    assert_eq!(site.listed("?client=127.0.0.1&route=%2F&transport=none").await.len(), 5);
    for none in ["?client=10.0.0.1", "?route=%2Fa", "?transport=sse", "?id=x", "?limit=0"] {
        assert_eq!(site.listed(none).await.len(), 0, "{none}");
    }
    let ids = |list: Vec<Value>| list.iter().map(|one| one["id"].clone()).collect::<Vec<_>>();
    let whole = ids(site.listed("?sort=age").await);
    let parts = [ids(site.listed("?limit=2").await), ids(site.listed("?limit=2&offset=2").await)].concat();
    assert_eq!(parts, whole[..4]);
    assert_eq!(ids(site.listed("?offset=4&limit=10000").await), whole[4..]);
    assert_eq!(site.listed("?offset=5").await.len(), 0);
    for wrong in ["?clint=1", "?sort=beauty", "?limit=x", "?limit=10001", "?offset=-1", "?transport=tcp", "?id=a&id=b"]
    {
        assert_eq!(site.ask_admin(&format!("/sessions{wrong}")).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn a_session_is_ended_with_a_code_and_a_reason_on_both_sides() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, ADMIN);
    let (one, _other) = (site.open("/a").await, site.open("/b").await);
    let mut conversation = backend.accept().await;
    let id = site.listed("?sort=age").await.iter().find(|one| one["path"] == "/a").expect("it is there")["id"].clone();
    let path = format!("/sessions/kill?id={}&code=4001&reason=abuse", id.as_str().expect("an id"));
    let reply = site.tell_admin(Method::POST, &path, &[]).await;
    assert_eq!((reply.status, reply.json()["ended"].clone()), (StatusCode::OK, 1.into()), "{}", reply.text());
    assert_eq!(conversation.closed().await, (4001, "abuse".to_owned()));
    let told = site.get(&format!("{}/poll?wait=0", one.url)).await.text();
    assert!(told.contains("4001") && told.contains("abuse"), "{told}");
    site.counts("underpass_sessions_ended_total{reason=\"killed\"}", 1.0).await;
    let again = site.tell_admin(Method::POST, &path, &[]).await;
    assert_eq!((again.status, again.json()["ended"].clone()), (StatusCode::NOT_FOUND, 0.into()));
}

#[tokio::test]
async fn all_of_a_client_or_of_a_route_are_ended_and_never_all_by_mistake() {
    let mut backend = Backend::start().await;
    let more = format!("{ADMIN}[[route]]\npath = \"/b\"\nupstream = \"ws://{}\"\n", backend.at);
    let site = Site::start(backend.at, &more);
    let mut conversations = Vec::new();
    for path in ["/a", "/b/1", "/b/2"] {
        site.open(path).await;
        conversations.push(backend.accept().await);
    }
    let kill = async |query: &str| site.tell_admin(Method::POST, &format!("/sessions/kill{query}"), &[]).await;
    for vague in ["", "?reason=x", "?all=no", "?all=yes&id=x", "?clint=x", "?id=x&code=1006"] {
        assert_eq!(kill(vague).await.status, StatusCode::BAD_REQUEST, "{vague}");
    }
    assert_eq!(site.listed("").await.iter().filter(|one| one["ended"].is_null()).count(), 3);
    assert_eq!(kill("?route=%2Fb").await.json()["ended"], 2);
    assert_eq!(kill("?client=10.9.9.9").await.json()["ended"], 0);
    assert_eq!(kill("?client=127.0.0.1").await.json()["ended"], 1);
    assert_eq!(kill("?all=yes").await.json()["ended"], 0);
}

#[tokio::test]
async fn what_changes_something_is_a_post_and_not_one_of_another_site() {
    let backend = Backend::start().await;
    let site = Site::start(backend.at, ADMIN);
    let kill = "/sessions/kill?all=yes";
    assert_eq!(site.ask_admin(kill).await.status, StatusCode::METHOD_NOT_ALLOWED);
    for strange in [("origin", "http://evil.example"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
        for path in [kill, "/log-level?level=off"] {
            let reply = site.tell_admin(Method::POST, path, &[strange]).await;
            assert_eq!(reply.status, StatusCode::FORBIDDEN, "{strange:?} {path}");
        }
    }
    let ours = format!("http://{}", site.admin.expect("an admin listener"));
    let reply = site.tell_admin(Method::POST, kill, &[("origin", &ours), ("sec-fetch-site", "same-origin")]).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    assert_eq!(site.tell_admin(Method::POST, "/log-level?level=loud", &[]).await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_listener_that_others_reach_tells_of_no_client_and_changes_nothing() {
    let backend = Backend::start().await;
    let mut site = Site::start(backend.at, "admin = \"0.0.0.0:0\"\n");
    let port = site.admin.expect("an admin listener").port();
    site.admin = Some(([127, 0, 0, 1], port).into());
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(site.ask_admin(path).await.status, StatusCode::OK, "{path}");
    }
    for path in ["/", "/status", "/sessions", "/config", "/log-level", "/events"] {
        let reply = site.ask_admin(path).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN, "{path}");
        assert!(reply.text().contains("loopback address or a unix socket"), "{}", reply.text());
    }
    assert_eq!(site.tell_admin(Method::POST, "/sessions/kill?all=yes", &[]).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn the_command_line_shows_and_ends_sessions_and_sets_the_level() {
    let mut backend = Backend::start().await;
    let file = std::env::temp_dir().join(format!("underpass-operator-{}.toml", std::process::id()));
    let toml =
        format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{}\"\n{ADMIN}[log]\nformat = \"json\"\n", backend.at);
    std::fs::write(&file, toml).expect("a writable folder");
    let mut running = Running::start(&file);
    let site = running.site_with_admin().await;
    let at = site.admin.expect("an admin listener").to_string();
    let ask = async |args: &[&str]| output(&[args, &["--admin", &at]].concat()).await;

    site.open("/here").await;
    let mut conversation = backend.accept().await;
    let (code, listed, _) = ask(&["sessions", "--format", "json"]).await;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((code, &listed["sessions"][0]["path"]), (0, &"/here".into()));
    let id = listed["sessions"][0]["id"].as_str().expect("an id").to_owned();
    let (code, table, _) = ask(&["sessions"]).await;
    assert!(
        code == 0 && table.starts_with("ID ") && table.contains(&id) && table.ends_with("1 session(s)\n"),
        "{table}"
    );
    let (code, status, _) = ask(&["status"]).await;
    assert!(code == 0 && status.contains("serving") && status.contains("client.connections"), "{status}");

    assert_eq!(ask(&["log-level"]).await, (0, "info\n".into(), String::new()));
    assert_eq!(ask(&["log-level", "debug"]).await, (0, "debug\n".into(), String::new()));
    running.says("the operator changed the log's level").await;
    let (code, _, error) = ask(&["log-level", "loud"]).await;
    assert!(code == 1 && error.contains("`loud` is no level"), "{error}");

    let (code, ended, _) = ask(&["kick", &id, "--code", "4009", "--reason", "enough"]).await;
    assert_eq!((code, ended.as_str()), (0, "1 session(s) ended\n"));
    assert_eq!(conversation.closed().await, (4009, "enough".to_owned()));
    assert_eq!(running.says("the operator ended a session").await["session"], id.as_str());
    assert_eq!(ask(&["kick"]).await.0, 2, "whom?");

    let (code, _, error) = output(&["status", "--admin", "127.0.0.1:1"]).await;
    assert!(code == 1 && error.starts_with("nobody answers at 127.0.0.1:1: "), "{error}");
    std::fs::remove_file(&file).expect("it is there");
}
