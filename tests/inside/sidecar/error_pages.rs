//! What people are shown when a request is refused, and what nobody is told: where the backend is.

use http::{Method, StatusCode};

use crate::binary::{Running, output};
use crate::support::plain::nowhere;
use crate::support::site::{Reply, Site};

const BROWSER: &[(&str, &str)] =
    &[("accept", "text/html,application/xhtml+xml,*/*;q=0.8"), ("sec-fetch-mode", "navigate")];

fn scratch(name: &str, text: &str) -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("underpass-{name}-{}", std::process::id()));
    std::fs::write(&file, text).expect("a writable folder");
    file
}

async fn browsed(site: &Site, path: &str) -> Reply {
    site.request(Method::GET, path, BROWSER, "").await
}

#[tokio::test]
async fn a_browser_that_navigates_gets_a_page_with_the_same_status() {
    let site = Site::start(nowhere().await, "");
    let page = browsed(&site, "/").await;
    assert_eq!((page.status, page.header("content-type")), (StatusCode::BAD_GATEWAY, Some("text/html; charset=utf-8")));
    assert!(page.text().starts_with("<!doctype html>") && page.text().contains("502 · backend_unreachable"));
    assert_eq!(page.header("cache-control"), Some("no-store, no-transform"));
    assert_eq!(page.header("content-length"), Some(page.body.len().to_string().as_str()));
    for (name, value) in [("accept", "*/*"), ("sec-fetch-mode", "cors")] {
        let program = site.request(Method::GET, "/", &[(name, value)], "").await;
        assert_eq!((program.status, program.error()), (StatusCode::BAD_GATEWAY, "backend_unreachable".to_owned()));
    }
    let wrong = browsed(&site, "/_underpass/nothing").await;
    assert_eq!((wrong.status, wrong.header("content-type")), (StatusCode::NOT_FOUND, Some("text/html; charset=utf-8")));
}

#[tokio::test]
async fn a_route_may_have_a_page_of_its_own() {
    let file = scratch("sorry.html", "<p>Sorry & soon back");
    let backend = nowhere().await;
    let route =
        format!("[[route]]\npath = \"/a\"\nupstream = \"ws://{backend}\"\nerror_page = \"{}\"\n", file.display());
    let site = Site::start(backend, &route);
    let own = browsed(&site, "/a/b").await;
    assert_eq!((own.status, own.text().as_str()), (StatusCode::BAD_GATEWAY, "<p>Sorry & soon back"));
    assert_eq!(own.header("content-security-policy"), None, "it may use what it wants");
    assert!(browsed(&site, "/").await.text().contains("backend_unreachable"));
    std::fs::remove_file(&file).expect("it is there");

    let config = scratch("sorry.toml", &format!("listen = \"127.0.0.1:0\"\nupstream = \"ws://{backend}\"\n{route}"));
    let (code, _, error) = output(&["check", config.to_str().expect("UTF-8")]).await;
    assert!(code == 1 && error.contains("`error_page`") && error.contains("cannot be read"), "{error}");
    std::fs::remove_file(&config).expect("it is there");
}

#[tokio::test]
async fn a_backend_that_is_down_is_named_in_the_log_and_not_in_the_answer() {
    let backend = nowhere().await;
    let toml = format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"ws://{backend}\"\nadmin = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n"
    );
    let config = scratch("down.toml", &toml);
    let mut running = Running::start(&config);
    let site = running.site_with_admin().await;
    let port = backend.port().to_string();
    let answers = [
        site.get("/").await,
        browsed(&site, "/").await,
        site.post("/?underpass=open", "").await,
        site.get("/?underpass=sse").await,
    ];
    for answer in answers {
        let text = answer.text();
        assert!(text.contains("backend_unreachable"), "{text}");
        assert!(!text.contains(&port) && !text.contains("os error"), "{text}");
    }
    let line = running.says("request refused").await;
    assert!(line["what"].as_str().is_some_and(|what| what.contains(&backend.to_string())), "{line}");
    let line = running.says("one-request SSE is unavailable").await;
    assert!(line["what"].as_str().is_some_and(|what| what.contains(&backend.to_string())), "{line}");
    std::fs::remove_file(&config).expect("it is there");
}
