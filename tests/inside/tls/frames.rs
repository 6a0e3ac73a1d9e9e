//! A client of HTTP/2 that writes and reads frames as they are (RFC 9113 section 4), right or wrong.
//!
//! Header blocks are literals without indexing and without Huffman coding; of what comes back only the frames are read.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::support::site::soon;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// One frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    pub(super) fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }

    /// The error code of a RST_STREAM or GOAWAY.
    pub(super) fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// A frame's bytes.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A setting.
pub(super) fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A header block of these fields.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            // An integer of 7 bits as HPACK has it (RFC 7541 section 5.1).
            if text.len() < 127 {
                out.push(text.len() as u8);
            } else {
                let mut left = text.len() - 127;
                out.push(127);
                while left >= 128 {
                    out.push((left % 128) as u8 | 128);
                    left /= 128;
                }
                out.push(left as u8);
            }
            out.extend(text.as_bytes());
        }
    }
    out
}

/// The block of an ordinary request.
pub(super) fn request(method: &str, path: &str) -> Vec<u8> {
    block(&[(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)])
}

/// A request without a body.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &request("GET", "/"))
}

/// The connection.
pub(super) struct Frames {
    stream: TlsStream<TcpStream>,
    unread: VecDeque<u8>,
}

impl Frames {
    pub(super) fn new(stream: TlsStream<TcpStream>) -> Self {
        Self { stream, unread: VecDeque::new() }
    }

    /// Says the preface and these settings.
    pub(super) async fn begin(stream: TlsStream<TcpStream>, settings: &[u8]) -> Self {
        let mut frames = Self::new(stream);
        frames.say(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).await;
        frames
    }

    /// Writes; whoever was refused may have closed.
    pub(super) async fn say(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next frame; `None` at the end, however it comes.
    pub(super) async fn next(&mut self) -> Option<Frame> {
        soon("a frame, or the end", self.read()).await
    }

    /// The next frame within this time, if one comes or the end.
    pub(super) async fn within(&mut self, time: Duration) -> Option<Option<Frame>> {
        timeout(time, self.read()).await.ok()
    }

    /// Cancel-safe.
    async fn read(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            let mut block = [0; 16 * 1024];
            match self.stream.read(&mut block).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.unread.extend(&block[..count]),
            }
        }
    }

    fn take(&mut self) -> Option<Frame> {
        let unread = self.unread.make_contiguous();
        let header = unread.get(..9)?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes(header[5..9].try_into().expect("four bytes")) & 0x7FFF_FFFF;
        let (kind, flags) = (header[3], header[4]);
        let payload = unread.get(9..9 + length)?.to_vec();
        self.unread.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }

    /// The next frame of one of these kinds; others are passed over, and settings and pings answered.
    pub(super) async fn next_of(&mut self, kinds: &[u8]) -> Option<Frame> {
        loop {
            let next = self.next().await?;
            if next.kind == SETTINGS && next.flags & ACK == 0 {
                self.say(&frame(SETTINGS, ACK, 0, &[])).await;
            }
            if next.kind == PING && next.flags & ACK == 0 && !kinds.contains(&PING) {
                self.say(&frame(PING, ACK, 0, &next.payload)).await;
            }
            if kinds.contains(&next.kind) {
                return Some(next);
            }
        }
    }
}
