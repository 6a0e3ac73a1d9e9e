//! The self-test from both sides: its page in headless Chromium, and `underpass probe`, each straight and behind boxes that
//! break something. Must not touch: fixed ports, the network beyond this machine.

mod page;
mod probe;
mod proxy;

use std::net::SocketAddr;

use crate::networks::boxes::{self, Box_, Spec};
use crate::support::site::Site;

/// How often something is tried that a machine under load may spoil: it holds messages back as boxes do.
const TRIES: usize = 3;

/// A sidecar with its self-test on, and nobody behind it. Pages of `origin` are its own as well.
fn site(origin: Option<SocketAddr>) -> Site {
    let allowed = origin.map_or(String::new(), |at| format!("allowed_origins = [\"http://{at}\"]\n"));
    Site::from_toml(&format!(
        "listen = \"127.0.0.1:0\"\nupstream = \"ws://127.0.0.1:1\"\nselftest = true\nworkers = 1\n{allowed}"
    ))
}

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
