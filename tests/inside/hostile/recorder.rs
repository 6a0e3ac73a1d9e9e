//! A backend of bare sockets. Enters: connections. Leaves: what was asked on each, by a parser that forgives nothing, and
//! answers byte for byte as the test wrote them. Must not touch: fixed ports.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::raw::find;

/// One request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Method, target and version.
    pub(crate) line: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// What a recorder has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// Accepted connections.
    pub(crate) connections: usize,
    pub(crate) requests: Vec<Seen>,
    /// What is no request, and why.
    pub(crate) faults: Vec<String>,
    /// Bytes behind a 101.
    pub(crate) tail: Vec<u8>,
}

/// How a request is answered: the bytes, and how long they are held back.
#[derive(Clone, Debug)]
pub(crate) struct Reply(pub(crate) Vec<u8>, pub(crate) Duration);

impl Reply {
    pub(crate) fn now(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into(), Duration::ZERO)
    }
}

#[derive(Clone)]
pub(crate) struct Recorder {
    pub(crate) at: SocketAddr,
    record: Arc<Mutex<Record>>,
}

impl Seen {
    /// The only value of a field; an empty text when there is none, all of them joined by `|` when there are several.
    pub(crate) fn field(&self, name: &str) -> String {
        let values =
            self.fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        values.collect::<Vec<_>>().join("|")
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(key, _)| key.eq_ignore_ascii_case(name))
    }

    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

impl Recorder {
    /// Switches protocols where it is asked to, and says `ok` elsewhere.
    pub(crate) async fn polite() -> Self {
        Self::start(|seen| Reply::now(if seen.has("upgrade") { switch(seen) } else { ok("") })).await
    }

    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let at = listener.local_addr().expect("an address");
        let record = Arc::new(Mutex::new(Record::default()));
        let (shared, answer) = (Arc::clone(&record), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                shared.lock().expect("no panic").connections += 1;
                let (record, answer) = (Arc::clone(&shared), Arc::clone(&answer));
                tokio::spawn(async move { serve(socket, &record, &*answer).await });
            }
        });
        Self { at, record }
    }

    pub(crate) fn record(&self) -> Record {
        self.record.lock().expect("no panic").clone()
    }

    /// Forgets the requests so far and returns them.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.record.lock().expect("no panic").requests)
    }

    pub(crate) fn connections(&self) -> usize {
        self.record().connections
    }
}

/// The answer that makes a WebSocket of the request.
pub(crate) fn switch(seen: &Seen) -> Vec<u8> {
    let accept = derive_accept_key(seen.field("sec-websocket-key").as_bytes());
    let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    format!("{head}Sec-WebSocket-Accept: {accept}\r\n\r\n").into_bytes()
}

/// An ordinary answer with more header lines, each ending in CRLF.
pub(crate) fn ok(more: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{more}\r\nok").into_bytes()
}

async fn serve(mut socket: TcpStream, record: &Mutex<Record>, answer: &(dyn Fn(&Seen) -> Reply + Send + Sync)) {
    let mut bytes = Vec::new();
    let mut switched = false;
    while matches!(socket.read_buf(&mut bytes).await, Ok(count) if count > 0) {
        while !switched && !bytes.is_empty() {
            match parse(&bytes) {
                Ok(None) => break,
                Ok(Some((seen, used))) => {
                    bytes.drain(..used);
                    let Reply(reply, delay) = answer(&seen);
                    switched = reply.starts_with(b"HTTP/1.1 101");
                    record.lock().expect("no panic").requests.push(seen);
                    tokio::time::sleep(delay).await;
                    if early(&mut socket, &mut bytes, delay) && switched {
                        let fault = format!("before the 101: {}", String::from_utf8_lossy(&bytes));
                        record.lock().expect("no panic").faults.push(fault);
                    }
                    let _ = socket.write_all(&reply).await;
                }
                Err(fault) => {
                    let text = String::from_utf8_lossy(&bytes);
                    record.lock().expect("no panic").faults.push(format!("{fault}: {text:?}"));
                    return;
                }
            }
        }
        if switched {
            record.lock().expect("no panic").tail.append(&mut bytes);
        }
    }
}

/// Whether bytes came while a delayed answer was held back.
fn early(socket: &mut TcpStream, bytes: &mut Vec<u8>, delay: Duration) -> bool {
    !delay.is_zero() && (matches!(socket.try_read_buf(bytes), Ok(count) if count > 0) || !bytes.is_empty())
}

/// One whole request at the beginning of `bytes` and its length; `None` while it is incomplete.
fn parse(bytes: &[u8]) -> Result<Option<(Seen, usize)>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| "head is not UTF-8")?;
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    if line.split(' ').count() != 3 || !line.ends_with(" HTTP/1.1") {
        return Err(format!("no request line: {line:?}"));
    }
    let mut seen = Seen { line, ..Seen::default() };
    for line in lines {
        let (name, value) = line.split_once(": ").or_else(|| line.split_once(':')).ok_or("a line without a colon")?;
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(format!("no field name: {name:?}"));
        }
        seen.fields.push((name.to_owned(), value.to_owned()));
    }
    if head.replace("\r\n", "").contains(['\r', '\n', '\0']) {
        return Err("a bare control character in the head".into());
    }
    let body = &bytes[end + 4..];
    let used = match (seen.field("content-length").as_str(), seen.field("transfer-encoding").as_str()) {
        ("", "") => Some(0),
        (length, "") => {
            let length = length.parse::<usize>().map_err(|_| format!("no length: {length:?}"))?;
            (body.len() >= length).then(|| seen.body.extend_from_slice(&body[..length])).map(|()| length)
        }
        ("", "chunked") => dechunk(body, &mut seen.body)?,
        (length, coding) => return Err(format!("length {length:?} with coding {coding:?}")),
    };
    Ok(used.map(|used| (seen, end + 4 + used)))
}

/// The length of a chunked body, whose content goes to `out`. Chunk extensions are not forgiven: nobody here sends any.
fn dechunk(bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..at + line]).map_err(|_| "a chunk size that is no text")?;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(format!("a chunk size {size:?}"));
        }
        let size = usize::from_str_radix(size, 16).map_err(|error| error.to_string())?;
        let start = at + line + 2;
        if bytes.len() < start + size + 2 {
            return Ok(None);
        }
        if &bytes[start + size..start + size + 2] != b"\r\n" {
            return Err("a chunk that does not end where it should".into());
        }
        out.extend_from_slice(&bytes[start..start + size]);
        at = start + size + 2;
        if size == 0 {
            return Ok(Some(at));
        }
    }
}
