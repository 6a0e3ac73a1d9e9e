//! The formats of single texts: addresses, backends, hosts, paths, origins, networks.
//!
//! Enters: the text between the quotes, or after a flag. Leaves: its run-time type, or what is wrong with it and
//! what to write instead. Must not touch: other keys (`rules`), the network; nothing is looked up, no file is opened.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use http::HeaderName;
use tracing_subscriber::EnvFilter;

use super::paths;
use super::reader::nearest;
use super::values::ValueError;
use super::{ADMIN_SOCKET, Address, Endpoint, LogFormat, Upstream, UpstreamTls};

const LISTEN_HINT: &str =
    "write for example \"127.0.0.1:8080\", \"[::]:8080\", \"unix:/run/underpass.sock\" or \"systemd:web\"";
const UPSTREAM_HINT: &str =
    "write for example \"ws://127.0.0.1:9000\", \"wss://chat.internal\" or \"unix:/run/chat.sock\"";
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Where to listen.
pub(super) fn address(text: &str) -> Result<Address, ValueError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return paths::unix(path).map(Address::Unix);
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        return socket_name(name).map(Address::Activated);
    }
    let local = text.strip_prefix("localhost:").and_then(port);
    let local = local.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    local.or_else(|| text.parse().ok()).map(Address::Tcp).ok_or_else(|| not_an_address(text))
}

/// Where the operator connects; `unix` is the usual socket.
pub(super) fn admin(text: &str) -> Result<Address, ValueError> {
    if text == "unix" { Ok(Address::Unix(ADMIN_SOCKET.into())) } else { address(text) }
}

/// Where a backend listens, and the path of that URL, which is put before the clients' own; empty when it has none.
pub(super) fn upstream(text: &str) -> Result<(Upstream, String), ValueError> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok((Upstream { endpoint: Endpoint::Unix(paths::unix(path)?), tls: None }, String::new()));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(ValueError::new("needs a scheme", UPSTREAM_HINT));
    };
    let secure = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => false,
        "https" | "wss" => true,
        other => {
            return Err(ValueError::new(format!("has an unknown scheme `{}`", other.escape_debug()), UPSTREAM_HINT));
        }
    };
    let (authority, path) = authority_and_path(rest)?;
    let (host, port) = host_and_port(authority)?;
    let port = port.unwrap_or(if secure { 443 } else { 80 });
    Ok((Upstream { endpoint: Endpoint::Tcp { host, port }, tls: secure.then(UpstreamTls::default) }, path))
}

/// A route's host, as in the field `Host`, without the port.
pub(super) fn route_host(text: &str) -> Result<String, ValueError> {
    named_host(text, "leave the key out: a route without `host` serves any host")
}

/// A host that is served.
pub(super) fn served_host(text: &str) -> Result<String, ValueError> {
    named_host(text, "leave the key out: any host is served then")
}

/// A host without a port, perhaps with a wildcard for its first label. `any` says how any host is written.
fn named_host(text: &str, any: &str) -> Result<String, ValueError> {
    if text == "*" {
        return Err(ValueError::new("takes no `*`", any));
    }
    if text.contains("://") {
        return Err(ValueError::new("is a name, not a URL", "write for example \"chat.example.com\""));
    }
    match split_port(text) {
        (host, None) if host.starts_with('[') => host_name(host).map(|host| format!("[{host}]")),
        (host, None) => wild(host).map(without_dot),
        (_, Some(_)) => Err(ValueError::new("is a name without a port", "any port of the host is served")),
    }
}

/// A route's path. A slash at its end is removed: whole segments are matched with and without it.
pub(super) fn route_path(text: &str) -> Result<String, ValueError> {
    if !text.starts_with('/') {
        return Err(ValueError::new("must begin with `/`", ""));
    }
    if text.contains(['?', '#']) {
        return Err(ValueError::new("is a path only", "leave out `?`, `#` and what follows"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\') {
        return Err(ValueError::new("has a character that no request path has", "write it percent-encoded"));
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    if path.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(ValueError::new("has an empty, `.` or `..` segment", ""));
    }
    Ok(if path.is_empty() { "/".to_owned() } else { path.to_owned() })
}

/// An origin as a browser writes it: lower case, no path, no default port.
pub(super) fn origin(text: &str) -> Result<String, ValueError> {
    let hint = "write for example \"https://app.example\"";
    if text == "*" || text == "null" {
        let what = format!("takes no `{text}`");
        return Err(ValueError::new(what, "name each origin: whoever may use the prefix may use the backend"));
    }
    let text = text.to_ascii_lowercase();
    let Some((scheme, rest)) = text.split_once("://") else { return Err(ValueError::new("needs a scheme", hint)) };
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic());
    if !named || !scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)) {
        return Err(ValueError::new("has an invalid scheme", hint));
    }
    if rest.contains(['/', '?', '#', '@']) {
        return Err(ValueError::new("is scheme, host and port only", "leave out the path, also a single `/`"));
    }
    let (host, digits) = split_port(rest);
    let host = wild(host)?;
    let port = digits.map(valid_port).transpose()?;
    // An origin keeps its dot: for a browser `https://a.example.` is another one (HTML, "origin").
    let host = if host.contains(':') { format!("[{host}]") } else { host };
    match (scheme, port) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => Ok(format!("{scheme}://{host}")),
        (_, Some(port)) => Ok(format!("{scheme}://{host}:{port}")),
    }
}

/// This node's name.
pub(super) fn node(text: &str) -> Result<String, ValueError> {
    if (1..=16).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(text.to_owned());
    }
    Err(ValueError::new("must be 1 to 16 letters and digits", "each token begins with it: \"n1\" gives n1-…"))
}

/// The prefix of the protocol's own paths.
pub(super) fn prefix(text: &str) -> Result<String, ValueError> {
    let hint = "write for example \"/_underpass\"";
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let error = match text {
        "/" | "" => "cannot be the root: the backend's own paths are there",
        _ if text.len() > 64 => "must be at most 64 bytes long",
        _ if !text.starts_with('/') => "must begin with `/`",
        _ if text.ends_with('/') => "must not end with `/`",
        _ if !text.bytes().all(plain) => "may have only letters, digits, `-`, `.`, `_`, `~` and `/`",
        _ if text.split('/').skip(1).any(|segment| matches!(segment, "" | "." | "..")) => {
            "must not have an empty, `.` or `..` segment"
        }
        _ => return Ok(text.to_owned()),
    };
    Err(ValueError::new(error, hint))
}

/// Text or JSON.
/// What carries a conversation: `session`, or `raw`.
pub(super) fn raw(text: &str) -> Result<bool, ValueError> {
    match text {
        "session" => Ok(false),
        "raw" => Ok(true),
        _ => {
            let hint = "\"raw\" is a plain WebSocket, and a session only when that fails";
            Err(ValueError::new("must be \"session\" or \"raw\"", hint))
        }
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, ValueError> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => {
            let near = nearest(text, ["text", "json"].into_iter());
            let hint = near.map_or_else(String::new, |near| format!("did you mean \"{near}\"?"));
            Err(ValueError::new("must be \"text\" or \"json\"", hint))
        }
    }
}

/// A level or directives. A single word must be a level. For the subscriber it could also be the name of a module, but then a
/// mistyped level would switch off all lines.
pub(super) fn log_level(text: &str) -> Result<String, ValueError> {
    let hint =
        "write a level (error, warn, info, debug, trace, off), or directives: \"info,underpass::upstream=debug\"";
    let single = text.bytes().all(|byte| byte.is_ascii_alphabetic());
    let level = text.to_ascii_lowercase();
    if single && !LEVELS.contains(&level.as_str()) {
        let near = nearest(text, LEVELS.into_iter()).map(|near| format!("did you mean \"{near}\"?"));
        return Err(ValueError::new("is not a level", near.unwrap_or_else(|| hint.to_owned())));
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(ValueError::new("is not a list of log directives", hint)),
    }
}

/// Whether a client needs a certificate.
pub(super) fn client_auth(text: &str) -> Result<bool, ValueError> {
    match text {
        "required" => Ok(true),
        "optional" => Ok(false),
        _ => Err(ValueError::new("must be \"required\" or \"optional\"", "without `client_ca` nobody is asked")),
    }
}

/// The name of a field of ours towards a backend, in lower case.
pub(super) fn field(text: &str) -> Result<String, ValueError> {
    let hint = "write for example \"X-Client-Cert-Subject\"";
    let name = HeaderName::from_bytes(text.as_bytes()).map_err(|_| ValueError::new("is no name of a field", hint))?;
    // Names with a meaning of their own in HTTP, or that we write for other reasons, have no such beginning.
    let is_own = ["x-", "client-", "ssl-"].iter().any(|start| name.as_str().starts_with(start));
    if !is_own || name.as_str().starts_with("x-forwarded-") || name.as_str().contains('_') {
        return Err(ValueError::new("must begin with `X-`, `Client-` or `SSL-`, and not with `X-Forwarded-`", hint));
    }
    Ok(name.as_str().to_owned())
}

/// A protocol to which a connection may be switched, in lower case.
pub(super) fn upgrade(text: &str) -> Result<String, ValueError> {
    let lower = text.to_ascii_lowercase();
    let is_token = |part: &str| HeaderName::from_bytes(part.as_bytes()).is_ok();
    match lower.as_str() {
        "websocket" => Err(ValueError::new("needs no `websocket`", "it is passed always: leave it out")),
        "h2c" | "http/2.0" | "tls" => {
            let what = format!("takes no `{lower}`: behind it requests would pass that nobody here has looked at");
            Err(ValueError::new(what, ""))
        }
        lower if !lower.splitn(2, '/').all(is_token) => {
            Err(ValueError::new("is no protocol", "write for example \"spdy/3.1\", as `Upgrade` has it"))
        }
        _ => Ok(lower),
    }
}

/// The path of a file. Whether the file exists is checked when it is opened.
pub(super) fn file(text: &str) -> Result<Option<PathBuf>, ValueError> {
    if text.is_empty() || text.contains('\0') {
        return Err(ValueError::new("must be the path of a PEM file", ""));
    }
    Ok(Some(PathBuf::from(text)))
}

fn socket_name(name: &str) -> Result<String, ValueError> {
    if (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        return Ok(name.to_owned());
    }
    Err(ValueError::new(
        "needs a socket name after `systemd:`",
        "the one that FileDescriptorName= gives in the .socket unit",
    ))
}

fn not_an_address(text: &str) -> ValueError {
    if text.contains("://") {
        return ValueError::new("is an address, not a URL", LISTEN_HINT);
    }
    if let Some(port) = text.strip_prefix(':').or_else(|| text.strip_prefix("*:")) {
        let hint = format!("for all interfaces write \"0.0.0.0:{}\" or \"[::]:{0}\"", port.escape_debug());
        return ValueError::new("needs an address before the port", hint);
    }
    if text.parse::<IpAddr>().is_ok() || text == "localhost" {
        return ValueError::new("needs a port", LISTEN_HINT);
    }
    if port(text).is_some() {
        return ValueError::new("needs an address before the port", format!("write for example \"127.0.0.1:{text}\""));
    }
    match split_port(text) {
        (host, Some(port)) if host_name(host).is_ok() && self::port(port).is_some() => ValueError::new(
            "needs an IP address, not a name",
            "names are not looked up here; only `localhost` is known",
        ),
        _ => ValueError::new("is not an address to listen on", LISTEN_HINT),
    }
}

/// What is put before the path towards a backend, without a slash at its end.
pub(super) fn added_path(text: &str) -> Result<String, ValueError> {
    route_path(text).map(|path| path.trim_end_matches('/').to_owned())
}

/// A value of `Host`.
pub(super) fn sent_host(text: &str) -> Result<Option<String>, ValueError> {
    if text.contains("://") || text.contains(['/', '?', '#', '@']) {
        return Err(ValueError::new("is a name, with a port perhaps", "write for example \"chat.internal\""));
    }
    host_and_port(text).map(|_| Some(text.to_ascii_lowercase()))
}

/// Host and port from the text after `://`, and the path; anything more is an error.
fn authority_and_path(rest: &str) -> Result<(&str, String), ValueError> {
    if rest.contains('#') {
        return Err(ValueError::new("cannot have a fragment", "leave out `#` and what follows"));
    }
    if rest.contains('?') {
        return Err(ValueError::new(
            "cannot have a query",
            "each client's own query is sent; leave out `?` and what follows",
        ));
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(ValueError::new("cannot have a user or password", "the client's own `Authorization` is sent"));
    }
    Ok((authority, if path.is_empty() { String::new() } else { added_path(path)? }))
}

/// Host in lower case and without brackets, and the port.
fn host_and_port(authority: &str) -> Result<(String, Option<u16>), ValueError> {
    let (host, digits) = split_port(authority);
    Ok((host_name(host)?, digits.map(valid_port).transpose()?))
}

fn valid_port(digits: &str) -> Result<u16, ValueError> {
    let valid = port(digits).filter(|port| *port > 0);
    valid.ok_or_else(|| ValueError::new("has an invalid port", "a port is a number from 1 to 65535"))
}

/// A name, or `*.` and a name.
fn wild(host: &str) -> Result<String, ValueError> {
    let Some(rest) = host.strip_prefix("*.") else {
        let hint = "write for example \"*.example.com\": one whole label, the first";
        return if host.contains('*') {
            Err(ValueError::new("has a `*` that is not its first label", hint))
        } else {
            host_name(host)
        };
    };
    let rest = host_name(rest)?;
    if rest.contains(':') || rest.parse::<Ipv4Addr>().is_ok() {
        return Err(ValueError::new("has a `*` before an address", "only names have labels"));
    }
    Ok(format!("*.{rest}"))
}

/// Splits at the last colon outside of brackets. An IPv6 address without brackets stays whole.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && (host.starts_with('[') || !host.contains(':')) => {
            (host, Some(port))
        }
        _ => (authority, None),
    }
}

fn port(digits: &str) -> Option<u16> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// A name without the final dot that makes it absolute: requests for it are matched without theirs.
fn without_dot(host: String) -> String {
    host.strip_suffix('.').map_or(host.clone(), str::to_owned)
}

/// A DNS name (with its final dot, if it has one), an IPv4 address, or an IPv6 address in brackets (which are taken off);
/// lower case.
fn host_name(host: &str) -> Result<String, ValueError> {
    if host.is_empty() {
        return Err(ValueError::new("needs a host", ""));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address = inner.parse::<Ipv6Addr>().map(|address| address.to_string());
        return address.map_err(|_| ValueError::new("has no IPv6 address in its brackets", ""));
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Err(ValueError::new("needs brackets around the IPv6 address", format!("write [{host}]")));
    }
    let label = |label: &str| {
        let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        plain && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    // An address has no final dot: `parse` refuses it.
    if name.len() > 253 || !name.split('.').all(label) || (numeric && host.parse::<Ipv4Addr>().is_err()) {
        return Err(ValueError::new("has a host that is neither a name nor an address", ""));
    }
    Ok(host.to_ascii_lowercase())
}
