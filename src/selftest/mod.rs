//! The self-test: a page that shows a user what the network between them and us does to each transport, and the
//! conversation with which it measures this.
//!
//! Enters: nothing. Leaves: the page with its policy, and `talk`, the other end of a WebSocket. Must not touch: routes,
//! requests, any backend: what it finds must be caused by the network alone.

mod talk;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

pub use self::talk::{TICKS, talk};

/// Markup and style. `NONCE` is replaced in each response.
const PAGE: &str = include_str!("page.html");
/// What the page runs: the transports first, then the code that uses them.
const SCRIPT: &str = concat!(include_str!("transports.js"), "\n", include_str!("page.js"));

/// The page and the header field that belongs to it.
pub struct Page {
    /// The document. It loads nothing; its requests are those that it measures.
    pub html: String,
    /// Its Content-Security-Policy.
    pub policy: HeaderValue,
}

/// The page, with a new nonce.
#[must_use]
pub fn page() -> Page {
    let mut random = [0; 16];
    // On failure the nonce is a known one and the policy weaker. That is acceptable: nothing on this page is secret or comes
    // from others.
    let _ = getrandom::fill(&mut random);
    let nonce = URL_SAFE_NO_PAD.encode(random);
    // `ws:` and `wss:` are for browsers in which 'self' does not include them.
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; \
         connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let html = PAGE.replace("NONCE", &nonce).replace("SCRIPT", SCRIPT);
    Page { html, policy: HeaderValue::try_from(policy).expect("base64 and plain words are visible ASCII") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_its_own_nonce_and_fetches_nothing() {
        let (one, two) = (page(), page());
        assert_ne!(one.policy, two.policy);
        let policy = one.policy.to_str().expect("ASCII");
        let nonce = policy.split("'nonce-").nth(1).and_then(|rest| rest.split('\'').next()).expect("a nonce");
        assert_eq!(one.html.matches(&format!("nonce=\"{nonce}\"")).count(), 2, "style and script");
        assert!(!one.html.contains("NONCE") && !one.html.contains("SCRIPT"));
        for outside in ["src=", "href=\"http", "@import", "url(", " style=", " onclick="] {
            assert!(!one.html.contains(outside), "{outside}");
        }
        assert!(one.html.len() < 40_000, "{} bytes", one.html.len());
    }
}
