//! `underpass probe`, as it is typed.

use std::time::Duration;

use super::proxy::{self, Verdict, asked};
use crate::support::plain::{canned, nowhere};
use crate::support::scratch::Scratch;
use crate::support::selftest::{Told, site};
use crate::support::site::{Backend, Site};

const REFUSAL: &str = "HTTP/1.1 403 Forbidden\r\nServer: box\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_clean_way_is_exit_0() {
    let site = site(None);
    let url = format!("http://{}", site.at);
    let told = Told::saying("WebSockets get through. So does everything else.\n", &[&url, "--seconds", "8"]).await;
    for row in ["WebSocket", "ws", "sse", "stream", "poll"] {
        assert!(told.row(row).contains("yes, at once"), "{}", told.out);
    }
    assert!(told.out.contains("client seen as 127.0.0.1") && told.out.contains("- nothing to be seen"), "{}", told.out);
    assert!(!told.out.contains("n1-"), "a token: {}", told.out);
    assert_eq!(told.exit, 0, "{}", told.out);
}

#[tokio::test]
async fn what_is_blocked_and_held_is_named_and_is_exit_1() {
    let site = site(None);
    let at = proxy::start(site.at, |head| match head {
        _ if head.contains("upgrade: websocket") => Verdict::Answer(REFUSAL),
        _ if head.contains("accept: text/event-stream") => Verdict::Hold,
        _ => Verdict::Through,
    })
    .await;
    let verdict = "WebSockets do not get through. Fit for use: stream, poll; the client takes stream.";
    let told = Told::saying(verdict, &[&format!("http://{at}"), "--seconds", "8"]).await;
    assert!(told.row("WebSocket").contains("no: answered 403"), "{}", told.out);
    assert!(told.row("ws").contains("no: answered 403"), "{}", told.out);
    assert!(
        told.row("sse").contains("no answer in ") && told.row("sse").contains("held, nothing for "),
        "{}",
        told.out
    );
    assert!(told.row("poll").contains("yes, at once"), "{}", told.out);
    assert_eq!(told.exit, 1, "{}", told.out);
}

#[tokio::test]
async fn what_is_cut_is_told_with_its_age() {
    let site = site(None);
    let at = proxy::start(site.at, |head| match head {
        _ if head.contains("accept: text/event-stream") => Verdict::Cut(Duration::from_secs(3)),
        _ => Verdict::Through,
    })
    .await;
    let told = Told::saying(" Cut early: sse.", &[&format!("http://{at}"), "--seconds", "8"]).await;
    assert!(told.row("sse").contains("after ") && told.row("stream").contains("no, in "), "{}", told.out);
    assert_eq!(told.exit, 1, "{}", told.out);
}

#[tokio::test]
async fn where_nothing_is_reached_it_says_what_and_is_exit_2() {
    let dead = nowhere().await;
    let told = Told::of(&[&format!("http://{dead}"), "--seconds", "5"]).await;
    assert_eq!((told.exit, told.out.as_str()), (2, ""), "{told:?}");
    assert!(told.err.contains(&format!("no connection to the server at {dead}")), "{}", told.err);
    assert!(told.err.contains("--proxy"), "{}", told.err);

    let site = site(None);
    let (url, proxy) = (format!("http://{}", site.at), format!("http://{dead}"));
    let told = Told::of(&[&url, "--proxy", &proxy, "--seconds", "5"]).await;
    assert_eq!(told.exit, 2, "{told:?}");
    assert!(told.err.contains(&format!("no connection to the proxy at {dead}")), "{}", told.err);

    let (at, _asked) = canned("HTTP/1.1 200 OK\r\nServer: somebody\r\nContent-Length: 2\r\n\r\nhi").await;
    let told = Told::of(&[&format!("http://{at}"), "--seconds", "5"]).await;
    assert_eq!(told.exit, 2, "{told:?}");
    assert!(told.err.contains("that is not underpass") && told.err.contains("somebody"), "{}", told.err);

    let (at, _asked) = canned("HTTP/1.1 302 Found\r\nLocation: http://portal/\r\nContent-Length: 0\r\n\r\n").await;
    let told = Told::of(&[&format!("http://{at}"), "--seconds", "5"]).await;
    assert!(told.exit == 2 && told.err.contains("leads elsewhere: http://portal/"), "{told:?}");

    let told = Told::of(&["not-a-url"]).await;
    assert_eq!(told.exit, 2, "{told:?}");
    assert!(told.err.contains("`not-a-url` cannot be used"), "{}", told.err);
}

#[tokio::test]
async fn a_proxy_is_asked_as_browsers_ask() {
    let site = site(None);
    let at = proxy::start(site.at, |head| match head {
        // "user:secret"; the head is in small letters.
        _ if !head.contains("proxy-authorization: basic dxnlcjpzzwnyzxq=") => Verdict::Answer(
            "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ),
        _ if head.starts_with("connect ") || head.contains(" http://127.") => Verdict::Pass(asked(head)),
        _ => Verdict::Answer(REFUSAL),
    })
    .await;
    let url = format!("http://{}", site.at);
    let by = |user: &str| format!("http://{user}{at}");
    let told =
        Told::saying("So does everything else.\n", &[&url, "--proxy", &by("user:secret@"), "--seconds", "8"]).await;
    assert!(told.out.contains(&format!("through {at}")) && !told.out.contains("secret"), "{}", told.out);
    assert_eq!(told.exit, 0, "{}", told.out);
    let told = Told::of(&[&url, "--proxy", &by(""), "--seconds", "5"]).await;
    assert_eq!(told.exit, 2, "{told:?}");
    assert!(told.err.contains("407"), "{}", told.err);
}

#[tokio::test]
async fn tls_is_checked_against_the_authority_that_is_named() {
    let files = Scratch::new("probe-tls");
    let issued = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let certificate = files.file("site.pem", &issued.cert.pem());
    let key = files.file("site.key", &issued.signing_key.serialize_pem());
    let site = Site::from_toml(&format!(
        "upstream = \"ws://127.0.0.1:1\"\nselftest = true\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
         certificate = \"{}\"\nkey = \"{}\"\n",
        certificate.display(),
        key.display()
    ));
    let url = format!("https://{}", site.at);
    let ca = certificate.display().to_string();
    let told = Told::saying("So does everything else.\n", &[&url, "--ca", &ca, "--seconds", "8"]).await;
    assert_eq!(told.exit, 0, "{}", told.out);
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let other = files.file("other.pem", &other.cert.pem()).display().to_string();
    let told = Told::of(&[&url, "--ca", &other, "--seconds", "5"]).await;
    assert_eq!(told.exit, 2, "{told:?}");
    assert!(told.err.contains("TLS with ") && told.err.contains("--ca"), "{}", told.err);
}

#[tokio::test]
async fn without_the_servers_self_test_a_path_of_the_backend_serves() {
    let site = Site::start(Backend::echo().await, "");
    let url = format!("http://{}", site.at);
    let told = Told::saying("So does everything else.\n", &[&url, "--target", "/chat", "--seconds", "6"]).await;
    assert!(told.out.contains("Tested with the backend's own `/chat`"), "{}", told.out);
    assert!(told.row("sse").contains("yes, at once"), "{}", told.out);
    assert_eq!(told.exit, 0, "{}", told.out);
    let told = Told::of(&[&url, "--seconds", "4"]).await;
    assert!(told.out.contains("the self-test is off there (`selftest = true` turns it on)"), "{}", told.out);
}
