//! Our own listeners, as a dialler knows them: a connection to one of them would bring its request back to us, again and
//! again, until nothing is left.
//!
//! Enters: where we listen; a connection that was just made. Leaves: whether it leads to ourselves. Must not touch: bytes.
//!
//! Told by the addresses of the connection, so no field is added for it that the backend would see, and before anything is
//! written. What comes back by way of another server, or through translated addresses, is not seen here.

use std::net::SocketAddr;

use crate::config::Address;
use crate::upstream::io::Io;

/// Where this process listens.
#[derive(Clone, Debug, Default)]
pub struct OwnListeners(Vec<Address>);

impl OwnListeners {
    /// Bound addresses, with the ports that they have.
    #[must_use]
    pub fn new(bound: Vec<Address>) -> Self {
        Self(bound)
    }

    /// Whether the other end of this connection is one of them.
    pub(super) fn are_behind(&self, io: &Io) -> bool {
        match io {
            Io::Tcp(stream) => {
                let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
                ends.is_some_and(|(near, far)| self.0.iter().any(|own| is_tcp(own, near, far)))
            }
            Io::Unix(stream) => {
                let far = stream.peer_addr().ok();
                let far = far.as_ref().and_then(|far| far.as_pathname());
                far.is_some_and(|far| self.0.iter().any(|own| matches!(own, Address::Unix(own) if own == far)))
            }
            Io::Tls(_) => false,
        }
    }
}

/// Who listens on all addresses is behind each address of this machine: the loopback ones, and those for which the kernel
/// chose the same address for both ends.
fn is_tcp(own: &Address, near: SocketAddr, far: SocketAddr) -> bool {
    let Address::Tcp(own) = own else { return false };
    let is_here = || far.ip().is_loopback() || near.ip() == far.ip();
    own.port() == far.port() && (own.ip() == far.ip() || (own.ip().is_unspecified() && is_here()))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_connection_to_ourselves_is_known_by_its_addresses() {
        let own = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
        let other = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = own.local_addr().expect("an address").port();
        let listeners = OwnListeners::new(vec![Address::Tcp(own.local_addr().expect("an address"))]);
        for host in ["127.0.0.1", "127.0.0.2", "localhost"] {
            let stream = TcpStream::connect((host, port)).await.expect("it listens");
            assert!(listeners.are_behind(&Io::Tcp(stream)), "{host}");
        }
        let stream = TcpStream::connect(other.local_addr().expect("an address")).await.expect("it listens");
        assert!(!listeners.are_behind(&Io::Tcp(stream)));
    }

    #[test]
    fn another_machine_may_listen_on_the_same_port() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let (all, one) = (Address::Tcp(at("0.0.0.0:80")), Address::Tcp(at("10.0.0.1:80")));
        assert!(!is_tcp(&all, at("10.0.0.1:50000"), at("10.0.0.2:80")));
        assert!(is_tcp(&all, at("10.0.0.1:50000"), at("10.0.0.1:80")));
        assert!(is_tcp(&one, at("10.0.0.9:50000"), at("10.0.0.1:80")));
        assert!(!is_tcp(&one, at("127.0.0.1:50000"), at("127.0.0.1:80")), "another program listens there");
        assert!(!is_tcp(&all, at("127.0.0.1:50000"), at("127.0.0.1:81")));
    }
}
