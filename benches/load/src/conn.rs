//! A connection and the little HTTP that both ends of the benchmark speak.
//!
//! Enters: bytes of a socket, clear or TLS. Leaves: heads, bodies piece by piece without a copy. Must not touch: what
//! bodies mean. It trusts its peer: the benchmark talks to known programs, so nothing here is bounded or forgiving.

use anyhow::{Context, Result, bail};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What a connection may be over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The most that one read takes.
const READ: usize = 128 * 1024;

/// The socket, and what was read from it but not used.
pub struct Conn {
    io: Box<dyn Io>,
    /// Read and not used.
    pub buffer: BytesMut,
    /// The next read's room: small until the peer fills it, since thousands of connections only wait.
    room: usize,
}

impl Conn {
    /// A connection over this socket.
    pub fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), buffer: BytesMut::new(), room: 1024 }
    }

    /// The socket alone; nothing may have been read ahead.
    pub fn into_io(self) -> Box<dyn Io> {
        self.io
    }

    /// Reads once. False at the end.
    pub async fn fill(&mut self) -> Result<bool> {
        self.buffer.reserve(self.room);
        let count = self.io.read_buf(&mut self.buffer).await?;
        if count >= self.room && self.room < READ {
            self.room *= 4;
        }
        Ok(count > 0)
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.io.write_all(bytes).await?;
        Ok(self.io.flush().await?)
    }

    /// The next head, if the peer sends one.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                return Head::parse(self.buffer.split_to(end + 4).freeze()).map(Some);
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Sends a request and reads the head of its answer, which must have this status.
    pub async fn ask(&mut self, request: &[u8], status: u16) -> Result<Head> {
        self.write(request).await?;
        let head = self.head().await?.context("the peer closed instead of answering")?;
        if head.status()? != status {
            bail!("the peer answered {} {}", head.text, String::from_utf8_lossy(&self.buffer));
        }
        Ok(head)
    }

    /// Sends a request and reads the whole answer's body.
    pub async fn fetch(&mut self, request: &[u8], status: u16) -> Result<BytesMut> {
        let head = self.ask(request, status).await?;
        let (mut left, mut whole) = (head.length, BytesMut::new());
        while let Some(piece) = self.piece(&mut left).await? {
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }

    /// The next piece of a body; `None` at its end.
    pub async fn piece(&mut self, left: &mut Length) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = left.take(&mut self.buffer)? {
                return Ok((!piece.is_empty()).then_some(piece));
            }
            if !self.fill().await? {
                match left {
                    Length::Close => return Ok(None),
                    _ => bail!("the peer closed within a body"),
                }
            }
        }
    }
}

/// A request's or answer's head.
pub struct Head {
    /// As it came, in lower case.
    pub text: String,
    /// What follows.
    pub length: Length,
}

impl Head {
    fn parse(bytes: Bytes) -> Result<Self> {
        let text = std::str::from_utf8(&bytes)?;
        // Only what we compare is made lower case: the key of a handshake and paths matter as they are.
        let mut head = Self { text: text.to_owned(), length: Length::Close };
        let chunked = head.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        head.length = match head.field("content-length") {
            _ if chunked => Length::Chunked { left: 0, ended: false },
            Some(length) => Length::Known(length.parse()?),
            None if head.text.starts_with("HTTP/1.1 2") && !head.text.starts_with("HTTP/1.1 204") => Length::Close,
            None => Length::Known(0),
        };
        Ok(head)
    }

    /// The value of a header field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (field, value) = line.split_once(':')?;
            field.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    /// The path of a request.
    pub fn path(&self) -> &str {
        self.text.split(' ').nth(1).unwrap_or_default()
    }

    /// The status of an answer.
    pub fn status(&self) -> Result<u16> {
        Ok(self.text.split(' ').nth(1).context("no status")?.parse()?)
    }
}

/// How much of a body is left.
#[derive(Clone, Copy, Debug)]
pub enum Length {
    /// So many bytes.
    Known(u64),
    /// Chunks; `left` of the present one, with its line end when it is not 0.
    Chunked {
        /// Bytes of the present chunk and the line end behind it.
        left: usize,
        /// The last chunk was seen.
        ended: bool,
    },
    /// Until the peer closes.
    Close,
}

impl Length {
    /// Takes what is there of the body: `None` needs more, an empty piece is the end.
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>> {
        match self {
            Self::Known(0) => Ok(Some(Bytes::new())),
            _ if buffer.is_empty() => Ok(None),
            Self::Known(left) => {
                let piece = buffer.split_to(buffer.len().min(usize::try_from(*left)?)).freeze();
                *left -= piece.len() as u64;
                Ok(Some(piece))
            }
            Self::Close => Ok(Some(buffer.split().freeze())),
            Self::Chunked { left, ended } => take_chunk(buffer, left, ended),
        }
    }
}

fn take_chunk(buffer: &mut BytesMut, left: &mut usize, ended: &mut bool) -> Result<Option<Bytes>> {
    while *left <= 2 {
        if buffer.len() < *left {
            return Ok(None);
        }
        let line_end = std::mem::take(left);
        let _ = buffer.split_to(line_end);
        if *ended {
            return Ok(Some(Bytes::new()));
        }
        let Some(line) = memchr::memmem::find(buffer, b"\r\n") else { return Ok(None) };
        let size = buffer.split_to(line + 2);
        let size = usize::from_str_radix(std::str::from_utf8(&size[..line])?.trim(), 16)?;
        (*left, *ended) = (size + 2, size == 0);
    }
    let piece = buffer.split_to(buffer.len().min(*left - 2)).freeze();
    *left -= piece.len();
    Ok((!piece.is_empty()).then_some(piece))
}

/// The body of a stream that stays open.
pub enum Body {
    /// On a connection of its own.
    One(Box<Conn>, Length),
    /// One of many on an HTTP/2 connection.
    Shared(RecvStream),
}

impl Body {
    /// The next piece; `None` at the end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::One(conn, length) => conn.piece(length).await,
            Self::Shared(stream) => {
                let Some(piece) = stream.data().await else { return Ok(None) };
                let piece = piece?;
                stream.flow_control().release_capacity(piece.len())?;
                Ok(Some(piece))
            }
        }
    }
}
