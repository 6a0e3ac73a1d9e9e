//! Judges the reader of the PROXY protocol's header.
//!
//! Enters: any bytes. Leaves: an address that they do not name, or an end that is not the header's. Must not touch: how the
//! bytes came about.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use tokio::io::{AsyncRead, ReadBuf};
use underpass::listener::proxy_protocol::read_header;

/// The longest header.
const LONGEST: usize = 4096;

/// Whether these bytes begin with a header.
///
/// # Errors
/// What depends on the cuts, or is not what they say.
pub(crate) fn judge(bytes: &[u8]) -> Result<bool, String> {
    let (whole, end) = read(bytes, bytes.len().max(1));
    for piece in [1, 7] {
        let (cut, cut_end) = read(bytes, piece);
        if (&cut, cut_end) != (&whole, end) {
            return Err(format!("whole {whole:?} to {end}, in pieces of {piece} {cut:?} to {cut_end}"));
        }
    }
    if end > LONGEST {
        return Err(format!("{end} bytes were read"));
    }
    let Ok(named) = whole else { return Ok(false) };
    let said = if bytes.starts_with(b"PROXY") { line(bytes) } else { binary(bytes) };
    if said == Some((named, end)) { Ok(true) } else { Err(format!("ours {named:?} to {end}, they say {said:?}")) }
}

/// What our reader says, and how much it has read.
fn read(bytes: &[u8], piece: usize) -> (Result<Option<SocketAddr>, String>, usize) {
    let mut pieces = Pieces { left: bytes, piece };
    let named = read_header(&mut pieces).now_or_never().expect("there is always something to read, or the end");
    (named.map_err(|error| error.to_string()), bytes.len() - pieces.left.len())
}

struct Pieces<'a> {
    left: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (now, left) = self.left.split_at(self.left.len().min(self.piece).min(buffer.remaining()));
        buffer.put_slice(now);
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

/// Version 1, read word by word.
fn line(bytes: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    let end = bytes.windows(2).position(|two| two == b"\r\n")? + 2;
    let words: Vec<_> = std::str::from_utf8(&bytes[..end - 2]).ok()?.split(' ').collect();
    let address = match words[..] {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", "TCP4", from, to, port, to_port] => {
            let _: (Ipv4Addr, u16) = (to.parse().ok()?, to_port.parse().ok()?);
            Some(SocketAddr::new(IpAddr::V4(from.parse().ok()?), port.parse().ok()?))
        }
        ["PROXY", "TCP6", from, to, port, to_port] => {
            let _: (Ipv6Addr, u16) = (to.parse().ok()?, to_port.parse().ok()?);
            Some(SocketAddr::new(IpAddr::V6(from.parse().ok()?), port.parse().ok()?))
        }
        _ => return None,
    };
    Some((address, end))
}

/// Version 2, by the offsets of its description.
fn binary(bytes: &[u8]) -> Option<(Option<SocketAddr>, usize)> {
    let rest = bytes.strip_prefix(b"\r\n\r\n\0\r\nQUIT\n")?;
    let (head, rest) = rest.split_at_checked(4)?;
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let rest = rest.get(..length)?;
    let port = |at: usize| Some(u16::from_be_bytes([*rest.get(at)?, *rest.get(at + 1)?]));
    let address = match (head[0], head[1] >> 4) {
        (0x20, _) | (0x21, 0 | 3) => None,
        (0x21, 1) => Some(SocketAddr::from((<[u8; 4]>::try_from(rest.get(..4)?).ok()?, port(8)?))),
        (0x21, 2) => Some(SocketAddr::from((<[u8; 16]>::try_from(rest.get(..16)?).ok()?, port(32)?))),
        _ => return None,
    };
    Some((address, 16 + length))
}
