//! The formats of addresses and networks that clients come from.
//!
//! Enters: the text of a value. Leaves: a network, or what is wrong with it and what to write instead. Must not touch: other keys,
//! the network; nothing is looked up.

use std::net::IpAddr;

use ipnet::IpNet;

use super::values::ValueError;

/// A trusted peer: a network, or peers on a unix socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Network(IpNet),
    Unix,
}

/// A peer whose forwarding fields are trusted.
pub(super) fn peer(text: &str) -> Result<Peer, ValueError> {
    if text == "unix" {
        return Ok(Peer::Unix);
    }
    let hint = "write for example \"10.0.0.0/8\", \"192.0.2.7\", \"::1\" or \"unix\"; names are not looked up";
    network_or(text, hint).map(Peer::Network)
}

/// An address, or a network.
pub(super) fn network(text: &str) -> Result<IpNet, ValueError> {
    network_or(text, "write for example \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"; names are not looked up")
}

fn network_or(text: &str, hint: &str) -> Result<IpNet, ValueError> {
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    network.map(|network| network.trunc()).ok_or_else(|| ValueError::new("is no address or network", hint))
}
