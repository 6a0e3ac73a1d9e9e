//! The self-test's page in headless Chromium, straight and behind boxes that break something, and `underpass probe` through
//! real proxies; the rest of the probe is in tests/inside/selftest. Must not touch: fixed ports, the network beyond this
//! machine.

mod page;
mod probe;

use crate::networks::boxes::{self, Box_, Spec};
use crate::support::selftest::site;
use crate::support::site::Site;

/// One of Debian's proxies before or behind which the sidecar stands; it is told of the box's address.
async fn behind(name: &str) -> (Box_, Vec<Site>) {
    let spec: &Spec = boxes::ALL.iter().find(|spec| spec.name.starts_with(name)).expect("it is in the table");
    let mut sites = Vec::new();
    let box_ = Box_::start(spec, |at| {
        sites.push(site(Some(at)));
        sites[sites.len() - 1].at
    })
    .await;
    (box_, sites)
}
