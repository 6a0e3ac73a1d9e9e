//! The self-test: a page that tells a user what the network between them and us does to each transport, and the
//! conversation that it is told by.
//!
//! Enters: nothing but the wish. Leaves: the page with its policy, and `talk`, which answers a WebSocket. Must not touch:
//! routes, requests, any backend: what it says is about the way to us alone.

mod talk;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

pub use self::talk::{TICKS, talk};

/// Markup and style; `NONCE` stands where each answer has its own.
const PAGE: &str = include_str!("page.html");
/// What it runs: the ways, and the page around them.
const SCRIPT: &str = concat!(include_str!("ways.js"), "\n", include_str!("page.js"));

/// The page, ready to be sent.
pub struct Page {
    /// The document; it fetches nothing but what it measures.
    pub html: String,
    /// Its Content-Security-Policy.
    pub policy: HeaderValue,
}

/// The page, with a nonce that was never used before.
#[must_use]
pub fn page() -> Page {
    let mut random = [0; 16];
    // Without randomness the nonce is a known one: the policy then keeps out less, and there is nothing to keep in.
    let _ = getrandom::fill(&mut random);
    let nonce = URL_SAFE_NO_PAD.encode(random);
    // `ws:` and `wss:` for browsers that do not count them into 'self'.
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
