//! The self-test's two resources: its page, and what arrived of a request.
//!
//! Enters: a request whose body was read, and who asks. Leaves: a response. Must not touch: secrets. Of a field that may
//! hold one only the name is shown.

use axum::Router;
use axum::extract::Extension;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use serde_json::{Value, json};

use super::page;

/// Fields whose values are shown: they say what proxies on the way do, and hold no secret.
const REVEALED_FIELDS: &[&str] = &[
    "accept",
    "accept-encoding",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "forwarded",
    "host",
    "pragma",
    "te",
    "transfer-encoding",
    "user-agent",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Who asks, as the sidecar sees it; an extension of the request.
#[derive(Clone, Debug)]
pub struct Asker {
    /// `http` or `https`.
    pub proto: &'static str,
    /// The client's address, where it is known.
    pub client: Option<String>,
    /// The path of the self-test's WebSocket.
    pub talk: String,
}

/// The resources, by their paths under the prefix. Each request needs an [`Asker`].
pub fn router() -> Router {
    Router::new().route("/selftest", get(show)).route("/selftest/seen", get(seen).post(seen))
}

async fn show() -> impl IntoResponse {
    let page = page();
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    ([(CONTENT_TYPE, html), (CONTENT_SECURITY_POLICY, page.policy)], page.html)
}

async fn seen(
    Extension(asker): Extension<Asker>,
    method: Method,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    let seen = json!({
        "server": concat!("underpass/", env!("CARGO_PKG_VERSION")),
        "talk": asker.talk,
        "method": method.as_str(),
        "version": format!("{version:?}"),
        "proto": asker.proto,
        "client": asker.client,
        "body": body.len(),
        "headers": revealed(&headers),
    });
    ([(CONTENT_TYPE, "application/json")], seen.to_string())
}

/// Names of all fields with the values of those that are shown; the others have `null`.
fn revealed(headers: &HeaderMap) -> Vec<Value> {
    let value = |name: &HeaderName, value: &HeaderValue| {
        let shown = REVEALED_FIELDS.contains(&name.as_str());
        shown.then(|| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(|(name, field)| json!([name.as_str(), value(name, field)])).collect()
}
