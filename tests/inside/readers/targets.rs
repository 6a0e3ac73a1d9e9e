//! Judges what is taken out of the target of a request that opens a session: ours, and not a byte beside.
//!
//! Enters: any bytes, as a target. Leaves: a target for the backend that is not what was written. Must not touch: how the
//! bytes came about.

use bytes::Bytes;
use http::request;
use underpass::config::Client;
use underpass::gateway::target::{Mark, split};
use underpass::http::as_written::AsWritten;
use underpass::http::read_request::{ReadRequest, read_request};

/// Whether our reader takes a request for this target.
///
/// # Errors
/// What the backend would see otherwise.
pub(crate) fn judge(target: &[u8]) -> Result<bool, String> {
    let bytes = Bytes::from([b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
    let ReadRequest::Whole(request, _) = read_request(&bytes, &Client::default()) else { return Ok(false) };
    let (head, _) = request.into_parts();
    let (Some(asked), _) = split(&head) else { return Ok(false) };
    let uri = asked.uri.as_str();
    same(&without_ours(head.uri.path(), head.uri.query()), uri)?;
    if let Some(written) = &asked.written {
        let before = head.extensions.get::<AsWritten>().and_then(AsWritten::target).ok_or("written from nothing")?;
        let before = std::str::from_utf8(before).map_err(|error| error.to_string())?;
        let (path, query) = before.split_once('?').map_or((before, None), |(path, query)| (path, Some(query)));
        same(&without_ours(path, query), &String::from_utf8_lossy(written))?;
    }
    if Mark::of(asked.uri.query()).is_some() {
        return Err(format!("{uri} has a mark of ours"));
    }
    same(uri, &again(uri)?)?;
    Ok(true)
}

fn same(expected: &str, found: &str) -> Result<(), String> {
    if expected == found { Ok(()) } else { Err(format!("it is {found:?} and should be {expected:?}")) }
}

/// The same split once more: nothing of ours is left.
fn again(uri: &str) -> Result<String, String> {
    let request = request::Builder::new().uri(uri).body(()).map_err(|error| format!("{uri}: {error}"))?;
    let (asked, _) = split(&request.into_parts().0);
    Ok(asked.ok_or("it is no target any more")?.uri.to_string())
}

/// The target without parameters named `underpass` or `underpass.…`, and without a `lastEventId` in the form of our ids.
fn without_ours(path: &str, query: Option<&str>) -> String {
    let parameters = query.into_iter().flat_map(|query| query.split('&'));
    let theirs: Vec<_> = parameters
        .filter(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (decoded(name), decoded(value));
            let is_ours = name == b"underpass" || name.starts_with(b"underpass.");
            !(is_ours || name == b"lastEventId" && is_id(&value))
        })
        .collect();
    if theirs.is_empty() { path.to_owned() } else { format!("{path}?{}", theirs.join("&")) }
}

/// `n1-….17`: a session's name, a dot, a number.
fn is_id(value: &[u8]) -> bool {
    let text = String::from_utf8_lossy(value);
    underpass::codec::sse::parse_id(&text).is_some()
}

/// Percent-decoded as forms are.
fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.extend(u8::try_from(high * 16 + low));
                at += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    out
}
