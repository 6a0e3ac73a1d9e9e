//! Plain TCP on both sides of a sidecar: backends that give one canned answer, and a client's connection byte by byte.
//!
//! Enters: bytes. Leaves: bytes. Must not touch: fixed ports, the meaning of what is sent.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::support::site::soon;

/// A backend that gives every request the same bytes and closes; what it was asked comes out of the channel.
pub async fn canned(answer: impl Into<Vec<u8>>) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let answer = answer.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    let (sender, asked) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (answer, sender) = (answer.clone(), sender.clone());
            tokio::spawn(async move {
                let head = read_head(&mut socket).await;
                let _ = sender.send(head);
                let _ = socket.write_all(&answer).await;
                let _ = socket.shutdown().await;
                // The other side's end, so that nothing of the answer is reset.
                let _ = socket.read(&mut [0; 64]).await;
            });
        }
    });
    (at, asked)
}

/// A backend whose connections the test plays byte by byte.
pub async fn played() -> (SocketAddr, mpsc::UnboundedReceiver<Line>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    let (sender, lines) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = sender.send(Line(socket));
        }
    });
    (at, lines)
}

/// The next connection to a backend that is [`played`].
pub async fn next(lines: &mut mpsc::UnboundedReceiver<Line>) -> Line {
    soon("a connection to the backend", lines.recv()).await.expect("it lives")
}

/// A backend that accepts connections and never says anything.
pub async fn silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let at = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((socket, _)) = listener.accept().await {
            held.push(socket);
        }
    });
    at
}

/// An address where nobody listens.
pub async fn nowhere() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("an address")
}

/// One connection, byte by byte.
pub struct Line<S = TcpStream>(pub S);

impl Line {
    pub async fn to(at: SocketAddr) -> Self {
        Self(TcpStream::connect(at).await.expect("it listens"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub async fn say(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("it is taken");
    }

    /// The head of a message, in lower case, with its empty line.
    pub async fn head(&mut self) -> String {
        self.written_head().await.to_ascii_lowercase()
    }

    /// The head of a message as it was written, with its empty line.
    pub async fn written_head(&mut self) -> String {
        read_head(&mut self.0).await
    }

    /// Exactly so many bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        soon("so many bytes", self.0.read_exact(&mut bytes)).await.expect("so many bytes");
        bytes
    }

    /// A head, and the body that its `Content-Length` announces.
    pub async fn answer(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.unwrap_or("0").trim().parse().expect("a length");
        (head, String::from_utf8(self.bytes(length).await).expect("UTF-8"))
    }

    /// Reads until these bytes have come; all that was read.
    pub async fn until(&mut self, end: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(end.as_bytes()) {
            read.extend(self.bytes(1).await);
        }
        String::from_utf8(read).expect("UTF-8")
    }

    /// Everything until the other side closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        soon("the end of a connection", self.0.read_to_end(&mut bytes)).await.expect("a clean end");
        bytes
    }
}

/// Reads up to an empty line, or as far as it comes.
async fn read_head(socket: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match soon("a head", socket.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&head).into_owned()
}
