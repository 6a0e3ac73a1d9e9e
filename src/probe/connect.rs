//! Connections to the server: direct, or through an HTTP proxy as browsers use it.
//!
//! Enters: an address, a proxy's address, a file of authorities; requests. Leaves: responses and WebSockets, or a
//! [`ConnectError`] that says what happened, to what, and what to do. Must not touch: what is measured.
//!
//! With a proxy, requests to `http://` are sent in absolute-form, and `https://` and every WebSocket goes through `CONNECT`.

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

/// How long connecting may take, including proxy and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest response head of a proxy to `CONNECT`, in bytes.
const PROXY_HEAD: usize = 16 * 1024;
/// The largest message accepted from a WebSocket, in bytes.
const MESSAGE: usize = 2 * 1024 * 1024;
const AGENT: HeaderValue = HeaderValue::from_static(concat!("underpass-probe/", env!("CARGO_PKG_VERSION")));

/// Why a connection or request failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// An address is not valid.
    #[error("{what} `{url}` cannot be used: write it as {form}")]
    Url {
        what: &'static str,
        url: String,
        /// The format that is expected.
        form: &'static str,
    },
    /// The authorities to trust cannot be used.
    #[error("TLS cannot be used: {0}")]
    Authorities(#[from] UpstreamTlsError),
    #[error(
        "no connection to {whom} at {address}: {source}; check the name, the port, and whether a firewall lets you out{hint}"
    )]
    Connect { whom: &'static str, address: String, source: io::Error, hint: &'static str },
    /// Neither a connection nor a refusal in time.
    #[error("no connection to {address} within {} s: something swallows it; many networks want a proxy (--proxy)", CONNECT_TIMEOUT.as_secs())]
    Slow { address: String },
    /// The proxy refuses `CONNECT`.
    #[error("the proxy answers CONNECT {target} with {status}{}", proxy_hint(*.status))]
    Proxy { target: String, status: u16 },
    #[error("TLS with {address} failed: {source}; where a proxy opens TLS, name its authority with --ca")]
    Tls { address: String, source: io::Error },
    /// The connection ended, or the response was not HTTP.
    #[error("the connection to {address} broke: {source}")]
    Http { address: String, source: hyper::Error },
    /// Connected, but no response in time.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The response to a handshake or stream request had another status.
    #[error("answered {0}")]
    Refused(StatusCode),
    /// A 101 that does not match our handshake.
    #[error("answered 101, but by nobody who speaks WebSocket")]
    NoWebSocket,
}

fn proxy_hint(status: u16) -> &'static str {
    match status {
        407 => ": it wants a name and a password (--proxy http://user:password@host:port)",
        _ => ": it does not let you there",
    }
}

/// The server, and how it is reached.
pub(super) struct Server {
    host: String,
    port: u16,
    /// The value of `Host`.
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

/// A connection for one request after the other.
pub(super) type Connection = http1::SendRequest<Full<Bytes>>;

impl Server {
    pub(super) fn new(url: &str, proxy: Option<&str>, ca: Option<&Path>) -> Result<Self, ConnectError> {
        let form = "https://host, http://host:port, or with the path of its prefix behind it";
        let bad = || ConnectError::Url { what: "the address", url: url.to_owned(), form };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(bad)?;
        let host = without_brackets(authority.host());
        let (secure, default) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            _ => return Err(bad()),
        };
        let port = authority.port_u16().unwrap_or(default);
        Ok(Self {
            tls: if secure { Some(tls_connector(&host, port, ca)?) } else { None },
            prefix: prefix(uri.path()),
            authority: authority.as_str().to_owned(),
            proxy: proxy.map(Proxy::new).transpose()?,
            host,
            port,
        })
    }

    /// What is tested, for the report.
    pub(super) fn description(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let by = self.proxy.as_ref().map_or(String::new(), |proxy| format!(", through {}:{}", proxy.host, proxy.port));
        format!("{scheme}://{}{}{by}", self.authority, self.prefix)
    }

    /// Sends a request on `connection`, or on a new one if that is closed.
    pub(super) async fn send(
        &self,
        connection: &mut Option<Connection>,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, ConnectError> {
        let body = body.into();
        let open = match connection.take() {
            Some(mut old) => old.ready().await.is_ok().then_some(old),
            None => None,
        };
        let mut sender = match open {
            Some(open) => open,
            None => self.open_connection().await?,
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.request_target(path);
        *request.headers_mut() = self.headers(headers);
        if let Some(authorization) = self.forward_proxy().and_then(|proxy| proxy.authorization.clone()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        let response = sender.send_request(request).await.map_err(|source| self.http_error(source))?;
        *connection = Some(sender);
        Ok(response)
    }

    /// Opens a WebSocket.
    pub(super) async fn websocket(
        &self,
        path: &str,
        protocol: Option<&'static str>,
    ) -> Result<Socket<Io>, ConnectError> {
        let io = self.connect(true).await?;
        let connecting = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(io)).await;
        let (mut sender, connection) = connecting.map_err(|source| self.http_error(source))?;
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
        *request.uri_mut() = origin_form(path);
        *request.headers_mut() = headers;
        let mut response = sender.send_request(request).await.map_err(|source| self.http_error(source))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ConnectError::Refused(response.status()));
        }
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        if response.headers().get(SEC_WEBSOCKET_ACCEPT).is_none_or(|theirs| theirs != accept.as_str()) {
            return Err(ConnectError::NoWebSocket);
        }
        let upgraded = hyper::upgrade::on(&mut response).await.map_err(|source| self.http_error(source))?;
        let parts = upgraded.downcast::<TokioIo<Io>>().map_err(|_| ConnectError::NoWebSocket)?;
        Ok(Socket::new(parts.io.into_inner(), parts.read_buf, MESSAGE))
    }

    async fn open_connection(&self) -> Result<Connection, ConnectError> {
        let io = self.connect(false).await?;
        let connecting = http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(io)).await;
        let (sender, connection) = connecting.map_err(|source| self.http_error(source))?;
        // This task ends with the connection. Its errors also reach whoever waits for a response.
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect(&self, upgrade: bool) -> Result<Io, ConnectError> {
        timeout(CONNECT_TIMEOUT, self.connect_and_secure(upgrade))
            .await
            .unwrap_or_else(|_| Err(ConnectError::Slow { address: self.first_hop().2 }))
    }

    async fn connect_and_secure(&self, upgrade: bool) -> Result<Io, ConnectError> {
        let (host, port, address) = self.first_hop();
        let (whom, hint) = match self.proxy {
            Some(_) => ("the proxy", ""),
            None => ("the server", "; many networks want a proxy (--proxy)"),
        };
        let connecting = TcpStream::connect((host, port)).await;
        let stream = connecting.map_err(|source| ConnectError::Connect { whom, address, source, hint })?;
        // Small messages should be sent at once. Without it they are only later, so an error does not matter.
        let _ = stream.set_nodelay(true);
        let mut io = Io::Tcp(stream);
        if let Some(proxy) = self.proxy.as_ref().filter(|_| upgrade || self.tls.is_some()) {
            self.tunnel(&mut io, proxy).await?;
        }
        let Some((connector, name)) = &self.tls else { return Ok(io) };
        let secured = connector.connect(name.clone(), io).await;
        Ok(Io::Tls(Box::new(secured.map_err(|source| ConnectError::Tls { address: self.authority.clone(), source })?)))
    }

    /// Asks the proxy for a tunnel. The server never sends first, so no bytes can follow the head of this response.
    async fn tunnel(&self, io: &mut Io, proxy: &Proxy) -> Result<(), ConnectError> {
        let bracketed = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let target = format!("{bracketed}:{}", self.port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = proxy.authorization.as_ref().and_then(|value| value.to_str().ok()) {
            request += &format!("Proxy-Authorization: {authorization}\r\n");
        }
        let (_, _, address) = self.first_hop();
        let broke = |source| ConnectError::Connect { whom: "the proxy", address: address.clone(), source, hint: "" };
        io.write_all((request + "\r\n").as_bytes()).await.map_err(broke)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < PROXY_HEAD {
            head.push(io.read_u8().await.map_err(broke)?);
        }
        let head = String::from_utf8_lossy(&head);
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        if (200..300).contains(&status) { Ok(()) } else { Err(ConnectError::Proxy { target, status }) }
    }

    /// Host and port to connect to, and both as text.
    fn first_hop(&self) -> (&str, u16, String) {
        let (host, port) = self.proxy.as_ref().map_or((&self.host, self.port), |proxy| (&proxy.host, proxy.port));
        (host, port, format!("{host}:{port}"))
    }

    /// The proxy, if requests to it are sent in absolute-form.
    fn forward_proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref().filter(|_| self.tls.is_none())
    }

    fn request_target(&self, path: &str) -> Uri {
        match self.forward_proxy() {
            Some(_) => format!("http://{}{path}", self.authority).parse().unwrap_or_else(|_| origin_form(path)),
            None => origin_form(path),
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

    fn http_error(&self, source: hyper::Error) -> ConnectError {
        ConnectError::Http { address: self.first_hop().2, source }
    }
}

impl Proxy {
    fn new(url: &str) -> Result<Self, ConnectError> {
        let shown = url.rsplit_once('@').map_or(url, |(_, rest)| rest).to_owned();
        let form = "http://host:port or http://user:password@host:port";
        let bad = || ConnectError::Url { what: "the proxy", url: shown.clone(), form };
        let uri: Uri = url.parse().map_err(|_| bad())?;
        let authority = uri.authority().filter(|_| uri.scheme_str() == Some("http")).ok_or_else(bad)?;
        let user = authority.as_str().rsplit_once('@').map(|(user, _)| user);
        let authorization = user.and_then(|user| {
            let user: Vec<u8> = percent_decode_str(user).collect();
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(user))).ok()
        });
        Ok(Self { host: without_brackets(authority.host()), port: authority.port_u16().unwrap_or(80), authorization })
    }
}

fn tls_connector(
    host: &str,
    port: u16,
    ca: Option<&Path>,
) -> Result<(TlsConnector, ServerName<'static>), ConnectError> {
    let tls = UpstreamTls { ca: ca.map(PathBuf::from), client: None };
    let endpoint = Endpoint::Tcp { host: host.to_owned(), port };
    Ok((tls::connector(&tls)?, tls::server_name(&endpoint)?))
}

/// The host without the brackets of an IPv6 address.
fn without_brackets(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
}

/// The prefix for an address with this path. People often paste the address of the self-test page.
fn prefix(path: &str) -> String {
    let path = path.trim_end_matches('/');
    let path = path.strip_suffix("/selftest").unwrap_or(path);
    if path.is_empty() { "/_underpass".to_owned() } else { path.to_owned() }
}

/// The target in origin-form. A path comes partly from the server; if it is not valid, `/` is requested.
fn origin_form(path: &str) -> Uri {
    path.parse().unwrap_or_else(|_| Uri::from_static("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_accepted_as_people_paste_them() {
        let parsed = |url: &str| Server::new(url, None, None).map(|server| (server.host, server.port, server.prefix));
        let at = |host: &str, port, prefix: &str| (host.to_owned(), port, prefix.to_owned());
        assert_eq!(parsed("http://a.example").expect("an address"), at("a.example", 80, "/_underpass"));
        assert_eq!(parsed("http://a:81/x/_up/selftest").expect("an address"), at("a", 81, "/x/_up"));
        assert_eq!(parsed("http://[::1]:82/_up/").expect("an address"), at("::1", 82, "/_up"));
        for wrong in ["a.example", "ws://a", "http://u:p@a", "http://", ""] {
            assert!(matches!(parsed(wrong), Err(ConnectError::Url { .. })), "{wrong}");
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
