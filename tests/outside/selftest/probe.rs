//! `underpass probe` through real proxies.

use super::behind;
use crate::programs::{Program, present};
use crate::support::selftest::Told;

#[tokio::test]
async fn real_proxies_are_seen_through() {
    if !present(&[Program::Boxes]) {
        return;
    }
    let (squid, sites) = behind("squid").await;
    let (url, by) = (format!("http://{}", sites[0].at), format!("http://{}", squid.at()));
    let verdict = "WebSockets do not get through. Fit for use: sse, stream, poll; the client takes sse.";
    let told = Told::saying(verdict, &[&url, "--proxy", &by, "--seconds", "8"]).await;
    assert!(told.out.contains("the proxy answers CONNECT") && told.out.contains("with 403"), "{}", told.out);
    assert!(told.out.contains("- request gained via: "), "{}", told.out);
    assert_eq!(told.exit, 1);

    let (nginx, _sites) = behind("nginx, `proxy_ignore_headers").await;
    let verdict = "WebSockets do not get through. Fit for use: poll; the client takes poll.";
    let told = Told::saying(verdict, &[&format!("http://{}", nginx.at()), "--seconds", "8"]).await;
    assert!(told.row("sse").contains("held"), "{}", told.out);
    assert_eq!(told.exit, 1);
}
