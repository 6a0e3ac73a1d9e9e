//! Small sentences of docs/PROTOCOL.md that no other test would miss.

use http::StatusCode;

use crate::support::site::{Backend, Site};

#[tokio::test]
async fn a_nonce_in_the_query_is_echoed_in_every_json_answer() {
    let mut backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let opened = site.open("/").await;
    let _socket = backend.accept().await;
    let nonce = r#"a"\{}"#;
    let n = "n=a%22%5C%7B%7D";
    let url = &opened.url;
    for (path, status) in [
        (format!("{url}/send?as=text&{n}"), 200),
        (format!("{url}/ack?after=0&{n}"), 200),
        (format!("{url}/ack?{n}"), 400),
        (format!("{url}/close?{n}"), 200),
        (format!("{url}/close?{n}"), 200),
        (format!("{url}/send?as=text&{n}"), 410),
    ] {
        let reply = site.post(&path, "").await;
        assert_eq!((reply.status.as_u16(), reply.json()["n"].as_str()), (status, Some(nonce)), "{path}");
    }
    let long = site.post(&format!("{url}/send?n={}", "x".repeat(129)), "").await;
    assert_eq!(long.error(), "bad_request");
}

#[tokio::test]
async fn a_nonce_of_open_has_its_form_wherever_it_stands() {
    let backend = Backend::start().await;
    let site = Site::start(backend.at, "");
    let short = site.post("/?underpass.nonce=x&underpass=open", "").await;
    assert_eq!(short.error(), "bad_request");
    let path = "/?underpass.nonce=0123456789abcdef&underpass=open";
    let (one, two) = (site.post(path, "").await, site.post(path, "").await);
    assert_eq!((one.status, one.json()["session"]["id"].is_string()), (StatusCode::OK, true));
    assert_eq!(one.json(), two.json());
}

#[tokio::test]
async fn a_path_that_leads_nowhere_keeps_its_token_to_itself() {
    let site = Site::start(Backend::start().await.at, "");
    let reply = site.get("/_underpass/s/n1-secret/pol").await;
    assert_eq!(reply.error(), "not_found");
    assert!(!reply.text().contains("secret"), "{}", reply.text());
}
