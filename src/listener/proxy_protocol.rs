//! The PROXY protocol: a balancer that passes bytes says before them for whom (haproxy's proxy-protocol.txt, versions 1
//! and 2).
//!
//! Enters: a connection of which nothing was read. Leaves: the same behind the header, and the address that it names. Must
//! not touch: what follows the header; exactly its bytes are read, so that nothing has to be put back.
//!
//! Whoever may write this header may claim any address, so only peers that are trusted may connect at all.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::timeout;

use super::complaints::Complaints;
use super::context::ConnContext;
use super::peer::PeerAddr;
use crate::config::Trusted;
use crate::lifecycle::Phase;
use crate::metrics::{Metrics, Unintroduced};

/// The longest header of version 1, with its line end.
const LONGEST_LINE: usize = 107;
/// The longest header of version 2, in bytes; nginx has the same. The protocol could have 64 KiB, but addresses take at
/// most 216 of them, and what balancers add are some hundred.
const LONGEST: usize = 4096;
/// The part of version 2 that says how long the rest is.
const FIXED: usize = 16;

/// The way in for connections that a balancer introduces.
#[derive(Debug)]
pub(super) struct Introductions {
    trusted: Arc<ArcSwap<Trusted>>,
    metrics: Arc<Metrics>,
    complaints: Complaints,
}

/// Why a connection has no introduction.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// It ended before a byte came: a balancer that looks whether we are there.
    #[error("it ended before it began")]
    Gone,
    /// It ended within the header, or failed.
    #[error("the header does not end: {0}")]
    Cut(io::Error),
    /// What came is no header.
    #[error("what it begins with is no PROXY header")]
    Other,
    #[error("{0}")]
    Line(ppp::v1::BinaryParseError),
    #[error("{0}")]
    Binary(ppp::v2::ParseError),
    #[error("a header of {0} bytes, {LONGEST} are allowed")]
    TooLong(usize),
}

impl Introductions {
    /// `trusted` are those who may introduce others.
    pub(super) fn new(trusted: Arc<ArcSwap<Trusted>>, metrics: Arc<Metrics>) -> Self {
        Self { trusted, metrics, complaints: Complaints::default() }
    }

    /// Whose connection this is: the address that its header names, or the socket's own peer when the balancer speaks for
    /// itself or does not know. `None` ends the connection; it was counted, and perhaps logged.
    pub(super) async fn admit<H>(
        &self,
        stream: &mut (impl AsyncRead + Unpin),
        context: &ConnContext<H>,
    ) -> Option<PeerAddr> {
        let peer = context.info.peer;
        if !peer.is_trusted(&self.trusted.load()) {
            return self.refuse(peer, Unintroduced::Untrusted, &"it is not one of `trusted_proxies`");
        }
        let read = tokio::select! {
            read = timeout(context.shared.client.handshake, read_header(stream)) => read,
            () = context.shared.lifecycle.reached(Phase::Draining) => return None,
        };
        match read {
            Ok(Ok(named)) => Some(named.map_or(peer, PeerAddr::Tcp)),
            Ok(Err(HeaderError::Gone)) => None,
            Ok(Err(error)) => self.refuse(peer, Unintroduced::Malformed, &error),
            Err(_) => self.refuse(peer, Unintroduced::Late, &"no whole header within `client.handshake`"),
        }
    }

    fn refuse(&self, peer: PeerAddr, why: Unintroduced, what: &dyn std::fmt::Display) -> Option<PeerAddr> {
        self.metrics.unintroduced(why);
        if let Some(swallowed) = self.complaints.due() {
            tracing::warn!(%peer, %what, swallowed, "connection without a PROXY header that counts: closed");
        }
        None
    }
}

/// Reads the header and nothing behind it; the address that it names, if any.
pub async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = Vec::with_capacity(LONGEST_LINE);
    loop {
        // A line is read byte by byte, since nobody knows where it ends; version 2 says so in its first 16 bytes.
        let is_line = ppp::v1::PROTOCOL_PREFIX.as_bytes().starts_with(&header[..header.len().min(5)]);
        let is_binary = ppp::v2::PROTOCOL_PREFIX.starts_with(&header[..header.len().min(12)]);
        match header.len() {
            _ if is_line && header.ends_with(b"\r\n") => return line(&header),
            LONGEST_LINE if is_line => return Err(HeaderError::Other),
            FIXED if is_binary => break,
            _ if !is_line && !is_binary => return Err(HeaderError::Other),
            // One byte tells the two apart.
            length if is_line || length == 0 => read_more(stream, &mut header, 1).await?,
            length => read_more(stream, &mut header, FIXED - length).await?,
        }
    }
    let whole = FIXED + usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
    if whole > LONGEST {
        return Err(HeaderError::TooLong(whole));
    }
    read_more(stream, &mut header, whole - FIXED).await?;
    binary(&header)
}

async fn read_more(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
    count: usize,
) -> Result<(), HeaderError> {
    let start = header.len();
    header.resize(start + count, 0);
    match stream.read_exact(&mut header[start..]).await {
        Ok(_) => Ok(()),
        Err(_) if start == 0 => Err(HeaderError::Gone),
        Err(error) => Err(HeaderError::Cut(error)),
    }
}

fn line(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let read = ppp::v1::Header::try_from(header).map_err(HeaderError::Line)?;
    Ok(match read.addresses {
        ppp::v1::Addresses::Unknown => None,
        ppp::v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        ppp::v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
    })
}

/// What it says beside the addresses is skipped.
fn binary(header: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let read = ppp::v2::Header::try_from(header).map_err(HeaderError::Binary)?;
    Ok(match read.addresses {
        _ if read.command == ppp::v2::Command::Local => None,
        ppp::v2::Addresses::IPv4(of) => Some((of.source_address, of.source_port).into()),
        ppp::v2::Addresses::IPv6(of) => Some((of.source_address, of.source_port).into()),
        ppp::v2::Addresses::Unspecified | ppp::v2::Addresses::Unix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    /// A header of version 2: command, family, and what its length counts.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[0x20 | command, family], &length, rest].concat()
    }

    fn v4_rest(more: &[u8]) -> Vec<u8> {
        [&[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187], more].concat()
    }

    /// What is read when `bytes` come at once, and piece by piece; and what is left behind the header.
    async fn read(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let mut results = Vec::new();
        for piece in [bytes.len().max(1), 1, 7] {
            let (mut near, mut far) = duplex(piece);
            let sent = bytes.to_vec();
            let writing = tokio::spawn(async move {
                let _ = far.write_all(&sent).await;
            });
            let named = read_header(&mut near).await.map_err(|error| error.to_string());
            let mut rest = Vec::new();
            if named.is_ok() {
                near.read_to_end(&mut rest).await.expect("the other end writes");
            }
            drop(near);
            writing.await.expect("no panic");
            results.push((named, rest));
        }
        assert!(results.windows(2).all(|two| two[0] == two[1]), "{results:?}");
        results.remove(0)
    }

    #[tokio::test]
    async fn headers_name_an_address_and_end_where_they_end() {
        let six: Vec<u8> = [&[0x20, 1, 13, 184][..], &[0; 11], &[9], &[0; 16], &[0, 80, 1, 187]].concat();
        let tlvs = [&[3, 0, 4, 1, 2, 3, 4][..], &[4, 7, 208], &[0; 2000]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(), Some("192.0.2.7:4660")),
            (b"PROXY TCP6 2001:db8::9 ::1 80 443\r\n".to_vec(), Some("[2001:db8::9]:80")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(1, 0x11, &v4_rest(b"")), Some("192.0.2.7:4660")),
            (v2(1, 0x11, &v4_rest(&tlvs)), Some("192.0.2.7:4660")),
            (v2(1, 0x21, &six), Some("[2001:db8::9]:80")),
            (v2(0, 0x11, &v4_rest(b"")), None),
            (v2(0, 0, b""), None),
            (v2(1, 0, b"some more"), None),
            (v2(1, 0x31, &[b'/'; 216]), None),
        ] {
            let (named, rest) = read(&[&header[..], b"GET / HTTP/1.1\r\n"].concat()).await;
            assert_eq!(named, Ok(expected.map(|at| at.parse().expect("an address"))), "{header:?}");
            assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{header:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 100], b"\r\n"].concat();
        let mut promised = v2(1, 0x11, &v4_rest(b""));
        promised[14..16].copy_from_slice(&4081_u16.to_be_bytes());
        for (bytes, what) in [
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(), "no PROXY header"),
            (b"\x16\x03\x01\x02\x00".to_vec(), "no PROXY header"),
            (b"\r\n\r\n\0\r\nQUIX\n\x21\x11\0\x0c............".to_vec(), "no PROXY header"),
            (b"PROXY TCP4 192.0.2.300 10.0.0.1 4660 443\r\n".to_vec(), ""),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 70000\r\n".to_vec(), ""),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n".to_vec(), ""),
            (b"PROXY UDP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(), ""),
            (b"proxy TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(), "no PROXY header"),
            (long, "no PROXY header"),
            (v2(2, 0x11, &v4_rest(b"")), ""),
            (v2(1, 0x41, &v4_rest(b"")), ""),
            (v2(1, 0x11, b"short"), ""),
            (promised, "a header of 4097 bytes"),
            (v2(1, 0x11, &v4_rest(b""))[..20].to_vec(), "does not end"),
            (b"PROXY TCP4 192.0.2.7".to_vec(), "does not end"),
            (b"".to_vec(), "ended before it began"),
        ] {
            let (named, _) = read(&bytes).await;
            let error = named.expect_err(&String::from_utf8_lossy(&bytes));
            assert!(error.contains(what), "{error}");
        }
    }
}
