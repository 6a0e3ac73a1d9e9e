//! How messages come down.
//!
//! Enters: connections that are open. Leaves: messages, a turn at a time. Must not touch: opening sessions.

use anyhow::{Context, Result};
use bytes::BytesMut;

use super::{Next, Site, dialect, get, post, text_frame};
use crate::conn::{Body, Conn};
use crate::websocket::{self, BINARY, CLOSE, PING, PONG, TEXT};

type Each<'a> = &'a mut (dyn FnMut(&[u8]) + Send);

/// The way down of one session.
pub enum Down {
    /// A WebSocket; `carried` is underpass's own transport, where a kind stands before each message.
    Frames { conn: Conn, carried: bool },
    /// Server-sent events of underpass; `url` is the session's, once told.
    Events { body: Body, pending: BytesMut, url: Option<String> },
    /// Server-sent events of sockjs, which ends a response after 128 KiB and is asked again.
    SockjsEvents { body: Body, pending: BytesMut, url: String },
    /// Frames of underpass in an octet stream.
    Octets { body: Body, pending: BytesMut },
    /// Long polls.
    Turns(Turn),
    /// None at present.
    Cut,
}

impl Down {
    pub fn events(body: Body) -> Self {
        Self::Events { body, pending: BytesMut::new(), url: None }
    }

    pub fn sockjs_events(body: Body, url: String) -> Self {
        Self::SockjsEvents { body, pending: BytesMut::new(), url }
    }

    /// The session's URL, where only the stream says it.
    pub fn url(&self) -> Option<String> {
        match self {
            Self::Events { url, .. } => url.clone(),
            _ => None,
        }
    }

    /// The stream has yet to say the session's URL.
    pub fn is_untold(&self) -> bool {
        matches!(self, Self::Events { url: None, .. })
    }

    /// Waits for something and hands out its messages.
    pub async fn receive(&mut self, site: &Site, each: Each<'_>) -> Result<Next> {
        match self {
            Self::Frames { conn, carried } => frames(conn, *carried, each).await,
            Self::Events { body, pending, url } => {
                let Some(piece) = body.piece().await? else { return Ok(Next::Ended) };
                pending.extend_from_slice(&piece);
                dialect::events(pending, url, each);
                Ok(Next::More)
            }
            Self::SockjsEvents { body, pending, url } => {
                let Some(piece) = body.piece().await? else {
                    let mut conn = site.connect().await?;
                    let length = conn.ask(&get(url), 200).await?.length;
                    *body = Body::One(Box::new(conn), length);
                    return Ok(Next::More);
                };
                pending.extend_from_slice(&piece);
                dialect::sockjs_events(pending, each);
                Ok(Next::More)
            }
            Self::Octets { body, pending } => {
                let Some(piece) = body.piece().await? else { return Ok(Next::Ended) };
                pending.extend_from_slice(&piece);
                dialect::octets(pending, each);
                Ok(Next::More)
            }
            Self::Turns(turn) => turn.receive(each).await,
            Self::Cut => Ok(Next::Ended),
        }
    }

    /// Sends a text on the same connection.
    pub async fn send(&mut self, text: &[u8]) -> Result<()> {
        match self {
            Self::Frames { conn, carried: false } => conn.write(&text_frame(text)).await,
            Self::Frames { conn, carried: true } => conn.write(&text_frame(&[b"1", text].concat())).await,
            _ => Ok(()),
        }
    }

    /// Acknowledges on the same connection: frame 10 of underpass.
    pub async fn acknowledge(&mut self, cursor: u64) -> Result<()> {
        let Self::Frames { conn, .. } = self else { return Ok(()) };
        let payload = [&[10][..], &cursor.to_be_bytes()].concat();
        conn.write(&websocket::frame(BINARY, &payload, true)).await
    }
}

async fn frames(conn: &mut Conn, carried: bool, each: Each<'_>) -> Result<Next> {
    let mut came = false;
    // What came with the answer to the handshake is there before the first read.
    while !came {
        while let Some((opcode, payload)) = websocket::take(&mut conn.buffer) {
            came = true;
            match opcode {
                TEXT if carried => each(&payload[1..]),
                TEXT => each(&payload),
                PING => conn.write(&websocket::frame(PONG, &payload, true)).await?,
                CLOSE => return Ok(Next::Ended),
                _ => {}
            }
        }
        if !came && !conn.fill().await? {
            return Ok(Next::Ended);
        }
    }
    Ok(Next::More)
}

/// A connection on which one long poll is always under way.
pub struct Turn {
    conn: Conn,
    dialect: Dialect,
    url: String,
    after: u64,
}

enum Dialect {
    Underpass,
    Sockjs,
    Engine,
}

impl Turn {
    pub fn underpass(conn: Conn, url: String, after: u64) -> Self {
        Self { conn, dialect: Dialect::Underpass, url, after }
    }

    pub fn sockjs(conn: Conn, url: String) -> Self {
        Self { conn, dialect: Dialect::Sockjs, url, after: 0 }
    }

    pub fn engine(conn: Conn, url: String) -> Self {
        Self { conn, dialect: Dialect::Engine, url, after: 0 }
    }

    /// Sends the next poll.
    pub async fn ask(&mut self) -> Result<()> {
        let request = match self.dialect {
            Dialect::Underpass => get(&format!("{}/poll?after={}", self.url, self.after)),
            Dialect::Sockjs => post(&format!("{}/xhr", self.url), "text/plain", b""),
            Dialect::Engine => get(&self.url),
        };
        self.conn.write(&request).await
    }

    async fn receive(&mut self, each: Each<'_>) -> Result<Next> {
        let body = self.conn.fetch(b"", 200).await?;
        let mut next = Next::More;
        match self.dialect {
            Dialect::Underpass => {
                self.after = dialect::poll(&body, each).context("an answer without `after`")?;
            }
            Dialect::Sockjs => {
                if let Some(array) = body.strip_prefix(b"a[") {
                    dialect::strings(array, each);
                }
            }
            Dialect::Engine if dialect::engine(&body, each) => next = Next::Pong,
            Dialect::Engine => {}
        }
        self.ask().await?;
        Ok(next)
    }
}
