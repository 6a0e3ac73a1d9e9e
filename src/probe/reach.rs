//! The way to a server: straight, or through an HTTP proxy as browsers go through one.
//!
//! Enters: an address, a proxy's, an authority's file; requests. Leaves: answers and WebSockets, or a [`ReachError`] that
//! tells what happened, to what, and what to do. Must not touch: what is measured.
//!
//! With a proxy, `http://` is asked in absolute form, and `https://` and every WebSocket goes through `CONNECT`.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, HOST, HeaderMap, PROXY_AUTHORIZATION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE, USER_AGENT,
};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::{Endpoint, UpstreamTls};
use crate::upstream::dial::{Io, fresh_key};
use crate::upstream::socket::Socket;
use crate::upstream::tls::{self, UpstreamTlsError};

/// How long a connection may take to be made, with what a proxy and TLS need.
const CONNECT: Duration = Duration::from_secs(10);
/// The longest answer of a proxy to `CONNECT`, in bytes.
const PROXY_HEAD: usize = 16 * 1024;
/// The largest message taken from a WebSocket, in bytes.
const MESSAGE: usize = 2 * 1024 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("underpass-probe/", env!("CARGO_PKG_VERSION")));

/// Why something could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    /// An address is not one.
    #[error("{what} `{url}` cannot be used: write it as {form}")]
    Url {
        /// Which address.
        what: &'static str,
        /// As it was given.
        url: String,
        /// How it should look.
        form: &'static str,
    },
    /// The authorities to trust.
    #[error("TLS cannot be used: {0}")]
    Authorities(#[from] UpstreamTlsError),
    /// No connection.
    #[error(
        "no connection to {whom} at {address}: {source}; check the name, the port, and whether a firewall lets you out{hint}"
    )]
    Connect {
        /// The server or the proxy.
        whom: &'static str,
        /// Where.
        address: String,
        /// The system's words.
        source: io::Error,
        /// What else may help.
        hint: &'static str,
    },
    /// Neither a connection nor a refusal.
    #[error("no connection to {address} within {} s: something swallows it; many networks want a proxy (--proxy)", CONNECT.as_secs())]
    Slow {
        /// Where.
        address: String,
    },
    /// The proxy does not tunnel.
    #[error("the proxy answers CONNECT {target} with {status}{}", proxy_hint(*.status))]
    Proxy {
        /// What it was asked for.
        target: String,
        /// Its answer.
        status: u16,
    },
    /// TLS failed.
    #[error("TLS with {address} failed: {source}; where a proxy opens TLS, name its authority with --ca")]
    Tls {
        /// Where.
        address: String,
        /// What rustls said.
        source: io::Error,
    },
    /// The connection ended, or what came was no HTTP.
    #[error("the connection to {address} broke: {source}")]
    Http {
        /// Where.
        address: String,
        /// What hyper saw.
        source: hyper::Error,
    },
    /// A connection, and nothing on it.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// A WebSocket was answered with something else.
    #[error("answered {0}")]
    Refused(StatusCode),
    /// A 101 that does not belong to our handshake.
    #[error("answered 101, but by nobody who speaks WebSocket")]
    NoWebSocket,
}

fn proxy_hint(status: u16) -> &'static str {
    match status {
        407 => ": it wants a name and a password (--proxy http://user:password@host:port)",
        _ => ": it does not let you there",
    }
}

/// How a server is reached.
pub(super) struct Way {
    host: String,
    port: u16,
    /// As `Host` has it.
    authority: String,
    pub(super) prefix: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    proxy: Option<Proxy>,
}

struct Proxy {
    host: String,
    port: u16,
    authorization: Option<HeaderValue>,
}

/// A connection on which requests follow each other.
pub(super) type Line = http1::SendRequest<Full<Bytes>>;

impl Way {
    pub(super) fn new(url: &str, proxy: Option<&str>, ca: Option<&Path>) -> Result<Self, ReachError> {
        let form = "https://host, http://host:port, or with the path of its prefix behind it";
        let bad = || ReachError::Url { what: "the address", url: url.to_owned(), form };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?;
        let host = bare(authority.host());
        let (secure, default) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(bad()),
        };
        let port = authority.port_u16().unwrap_or(default);
        Ok(Self {
            tls: if secure { Some(trust(&host, port, ca)?) } else { None },
            prefix: prefix(uri.path()),
            authority: authority.as_str().to_owned(),
            proxy: proxy.map(Proxy::new).transpose()?,
            host,
            port,
        })
    }

    /// What is tested, for people.
    pub(super) fn shown(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let by = self.proxy.as_ref().map_or(String::new(), |proxy| format!(", through {}:{}", proxy.host, proxy.port));
        format!("{scheme}://{}{}{by}", self.authority, self.prefix)
    }

    /// Asks on `line`, or on a new connection if it is closed.
    pub(super) async fn ask(
        &self,
        line: &mut Option<Line>,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, ReachError> {
        let body = body.into();
        let open = match line.take() {
            Some(mut old) => old.ready().await.is_ok().then_some(old),
            None => None,
        };
        let mut sender = match open {
            Some(open) => open,
            None => self.line().await?,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.target(path);
        *request.headers_mut() = self.headers(headers);
        if let Some(authorization) = self.absolute().and_then(|proxy| proxy.authorization.clone()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        let answer = sender.send_request(request).await.map_err(|source| self.broke(source))?;
        *line = Some(sender);
        Ok(answer)
    }

    /// Opens a WebSocket.
    pub(super) async fn websocket(&self, path: &str, protocol: Option<&'static str>) -> Result<Socket<Io>, ReachError> {
        let io = self.connect(true).await?;
        let connecting = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(io)).await;
        let (mut sender, connection) = connecting.map_err(|source| self.broke(source))?;
        tokio::spawn(connection.with_upgrades());
        let key = fresh_key();
        let mut headers = self.headers(&[]);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        headers.insert(SEC_WEBSOCKET_KEY, key.clone());
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        }
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = plain(path);
        *request.headers_mut() = headers;
        let mut answer = sender.send_request(request).await.map_err(|source| self.broke(source))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ReachError::Refused(answer.status()));
        }
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        if answer.headers().get(SEC_WEBSOCKET_ACCEPT).is_none_or(|theirs| theirs != accept.as_str()) {
            return Err(ReachError::NoWebSocket);
        }
        let upgraded = hyper::upgrade::on(&mut answer).await.map_err(|source| self.broke(source))?;
        let parts = upgraded.downcast::<TokioIo<Io>>().map_err(|_| ReachError::NoWebSocket)?;
        Ok(Socket::new(parts.io.into_inner(), parts.read_buf, MESSAGE))
    }

    async fn line(&self) -> Result<Line, ReachError> {
        let io = self.connect(false).await?;
        let connecting = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(io)).await;
        let (sender, connection) = connecting.map_err(|source| self.broke(source))?;
        // Ends with the connection; what goes wrong is told to whoever waits for an answer.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect(&self, upgrade: bool) -> Result<Io, ReachError> {
        timeout(CONNECT, self.connect_and_secure(upgrade))
            .await
            .unwrap_or_else(|_| Err(ReachError::Slow { address: self.first_hop().2 }))
    }

    async fn connect_and_secure(&self, upgrade: bool) -> Result<Io, ReachError> {
        let (host, port, address) = self.first_hop();
        let (whom, hint) = match self.proxy {
            Some(_) => ("the proxy", ""),
            None => ("the server", "; many networks want a proxy (--proxy)"),
        };
        let connecting = TcpStream::connect((host, port)).await;
        let stream = connecting.map_err(|source| ReachError::Connect { whom, address, source, hint })?;
        // Small messages should leave at once; without it they are only later.
        let _ = stream.set_nodelay(true);
        let mut io = Io::Tcp(stream);
        if let Some(proxy) = self.proxy.as_ref().filter(|_| upgrade || self.tls.is_some()) {
            self.tunnel(&mut io, proxy).await?;
        }
        let Some((connector, name)) = &self.tls else { return Ok(io) };
        let secured = connector.connect(name.clone(), io).await;
        Ok(Io::Tls(Box::new(secured.map_err(|source| ReachError::Tls { address: self.authority.clone(), source })?)))
    }

    /// Has the proxy pass everything from here on. A server does not speak first, so nothing can come behind the answer.
    async fn tunnel(&self, io: &mut Io, proxy: &Proxy) -> Result<(), ReachError> {
        let bracketed = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let target = format!("{bracketed}:{}", self.port);
        let mut asked = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = proxy.authorization.as_ref().and_then(|value| value.to_str().ok()) {
            asked += &format!("Proxy-Authorization: {authorization}\r\n");
        }
        let (_, _, address) = self.first_hop();
        let broke = |source| ReachError::Connect { whom: "the proxy", address: address.clone(), source, hint: "" };
        io.write_all((asked + "\r\n").as_bytes()).await.map_err(broke)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < PROXY_HEAD {
            head.push(io.read_u8().await.map_err(broke)?);
        }
        let head = String::from_utf8_lossy(&head);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        if (200..300).contains(&status) { Ok(()) } else { Err(ReachError::Proxy { target, status }) }
    }

    /// The host, the port, and both for people, of what is connected to.
    fn first_hop(&self) -> (&str, u16, String) {
        let (host, port) = self.proxy.as_ref().map_or((&self.host, self.port), |proxy| (&proxy.host, proxy.port));
        (host, port, format!("{host}:{port}"))
    }

    /// The proxy, if it is asked in absolute form.
    fn absolute(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    fn target(&self, path: &str) -> Uri {
        match self.absolute() {
            Some(_) => format!("http://{}{path}", self.authority).parse().unwrap_or_else(|_| plain(path)),
            None => plain(path),
        }
    }

    fn headers(&self, more: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_str(&self.authority).unwrap_or(HeaderValue::from_static("localhost"));
        headers.insert(HOST, host);
        headers.insert(USER_AGENT, AGENT);
        for (name, value) in more {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(*name, value);
            }
        }
        headers
    }

    fn broke(&self, source: hyper::Error) -> ReachError {
        ReachError::Http { address: self.first_hop().2, source }
    }
}

impl Proxy {
    fn new(url: &str) -> Result<Self, ReachError> {
        let shown = url.rsplit_once('@').map_or(url, |(_, rest)| rest).to_owned();
        let form = "http://host:port or http://user:password@host:port";
        let bad = || ReachError::Url { what: "the proxy", url: shown.clone(), form };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(bad)?;
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
        let authorization = user.and_then(|user| {
            let user: Vec<u8> = percent_decode_str(user).collect();
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(user))).ok()
        });
        Ok(Self { host: bare(authority.host()), port: authority.port_u16().unwrap_or(80), authorization })
    }
}

fn trust(host: &str, port: u16, ca: Option<&Path>) -> Result<(TlsConnector, ServerName<'static>), ReachError> {
    let tls = UpstreamTls { ca: ca.map(PathBuf::from), client: None };
    let endpoint = Endpoint::Tcp { host: host.to_owned(), port };
    Ok((tls::connector(&tls)?, tls::server_name(&endpoint)?))
}

/// A host as sockets take it.
fn bare(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// What is tested when an address has this path. People paste the address of the page.
fn prefix(path: &str) -> String {
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/selftest").unwrap_or(path);
    if path.is_empty() { "/_underpass".to_owned() } else { path.to_owned() }
}

/// Paths are made of what a server said and of our own words; what is no path asks for nothing there is.
fn plain(path: &str) -> Uri {
    path.parse().unwrap_or_else(|_| Uri::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_people_paste_them() {
        let way = |url: &str| Way::new(url, None, None).map(|way| (way.host, way.port, way.prefix));
        let at = |host: &str, port, prefix: &str| (host.to_owned(), port, prefix.to_owned());
        assert_eq!(way("http://a.example").expect("an address"), at("a.example", 80, "/_underpass"));
        assert_eq!(way("http://a:81/x/_up/selftest").expect("an address"), at("a", 81, "/x/_up"));
        assert_eq!(way("http://[::1]:82/_up/").expect("an address"), at("::1", 82, "/_up"));
        for wrong in ["a.example", "ws://a", "http://u:p@a", "http://", ""] {
            assert!(matches!(way(wrong), Err(ReachError::Url { .. })), "{wrong}");
        }
    }

    #[test]
    fn a_proxys_password_is_sent_and_never_shown() {
        let proxy = Proxy::new("http://user:p%40ss@box:3128").expect("a proxy");
        assert_eq!(proxy.authorization.expect("one"), "Basic dXNlcjpwQHNz");
        let wrong = Proxy::new("https://user:secret@box").err().expect("only http").to_string();
        assert!(wrong.contains("`box`") && !wrong.contains("secret"), "{wrong}");
    }
}
