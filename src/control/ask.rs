//! One request to the admin listener of a running process.
//!
//! Enters: where it is, a method and a path. Leaves: the body of the answer, or why there is none, for people. Must not
//! touch: what is asked.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::ADMIN_SOCKET;

/// How long the process may take for all of it.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest answer: a hundred thousand sessions are less.
const LONGEST: usize = 128 << 20;

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Door {
    /// An address of this machine, as a rule.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It is not known whom to ask.
    #[error("{0}")]
    NoDoor(String),
    /// Nobody is there.
    #[error("nobody answers at {door}: {why}\n    {hint}")]
    Nobody {
        /// Where.
        door: String,
        /// What the system says.
        why: io::Error,
        /// What to do.
        hint: &'static str,
    },
    /// It broke, or took too long.
    #[error("{door} gave no whole answer: {why}")]
    Broken {
        /// Where.
        door: String,
        /// What happened.
        why: String,
    },
    /// It refused.
    #[error("{said} ({status})")]
    Refused {
        /// The status.
        status: StatusCode,
        /// What it said.
        said: String,
    },
    /// It is something else.
    #[error("what answers there is no admin listener of underpass, or one of another version")]
    NotOurs,
}

impl Door {
    /// The door that is written so.
    ///
    /// # Errors
    /// [`AskError::NoDoor`].
    pub fn named(text: &str) -> Result<Self, AskError> {
        let local = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
        let address = local.as_deref().unwrap_or(text);
        match (text, text.strip_prefix("unix:"), address.parse()) {
            ("unix", ..) => Ok(Self::usual()),
            (_, Some(path), _) => Ok(Self::Unix(path.into())),
            (_, None, _) if text.starts_with('/') => Ok(Self::Unix(text.into())),
            (_, None, Ok(address)) => Ok(Self::Tcp(address)),
            (_, None, Err(_)) => {
                let shown = text.escape_debug();
                Err(AskError::NoDoor(format!("`{shown}` is no address: write 127.0.0.1:9090 or unix:{ADMIN_SOCKET}")))
            }
        }
    }

    /// The socket of `admin = "unix"`.
    #[must_use]
    pub fn usual() -> Self {
        Self::Unix(ADMIN_SOCKET.into())
    }

    /// The body of the answer.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, method: Method, path: &str) -> Result<Bytes, AskError> {
        let all = async {
            match self {
                Self::Tcp(address) => {
                    let stream = TcpStream::connect(address).await.map_err(|why| self.nobody(why))?;
                    self.exchange(stream, method, path).await
                }
                Self::Unix(socket) => {
                    let stream = UnixStream::connect(socket).await.map_err(|why| self.nobody(why))?;
                    self.exchange(stream, method, path).await
                }
            }
        };
        let late = |_| self.broken(format!("it took more than {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, all).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    async fn exchange<S>(&self, stream: S, method: Method, path: &str) -> Result<Bytes, AskError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |why: hyper::Error| self.broken(why.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driving = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(HOST, "localhost");
        let request = request.body(Empty::<Bytes>::new()).map_err(|why| self.broken(why.to_string()))?;
        let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
        let body = Limited::new(body, LONGEST).collect().await.map_err(|why| self.broken(why.to_string()))?.to_bytes();
        driving.abort();
        if head.status.is_success() || (head.status == StatusCode::NOT_FOUND && body.starts_with(b"{")) {
            return Ok(body);
        }
        let said: String = String::from_utf8_lossy(&body).trim().chars().filter(|char| !char.is_control()).collect();
        Err(AskError::Refused { status: head.status, said })
    }

    fn nobody(&self, why: io::Error) -> AskError {
        let hint = match why.kind() {
            io::ErrorKind::PermissionDenied => "the socket's group may use it (its mode is 0660), or root",
            _ => "does the process run, and has its configuration `admin`? --admin or --config say where",
        };
        AskError::Nobody { door: self.shown(), why, hint }
    }

    fn broken(&self, why: String) -> AskError {
        AskError::Broken { door: self.shown(), why }
    }

    fn shown(&self) -> String {
        match self {
            Self::Tcp(address) => address.to_string(),
            Self::Unix(path) => format!("unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_is_named_as_in_the_configuration() {
        let named = |text| Door::named(text).ok();
        assert_eq!(named("unix"), Some(Door::usual()));
        assert_eq!(named("unix:/a"), Some(Door::Unix("/a".into())));
        assert_eq!(named("/a"), Some(Door::Unix("/a".into())));
        assert_eq!(named("localhost:9090"), Some(Door::Tcp(([127, 0, 0, 1], 9090).into())));
        for wrong in ["", "9090", "http://localhost:9090", "a:b"] {
            assert_eq!(named(wrong), None, "{wrong}");
        }
    }
}
