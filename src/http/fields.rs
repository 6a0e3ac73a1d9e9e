//! Header fields: lists of tokens, and fields read from bytes. Pure.
//!
//! Enters: a map of fields, or fields that the parser found. Leaves: list members; a map, when every field can be read in
//! one way only. Must not touch: what single fields mean to the rooms that use them.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue};

/// Whether the comma-separated field has this token, in any case.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|found| found.eq_ignore_ascii_case(token))
}

/// All members of a field's list, from all its lines. A line that is no text is left out; the others count.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Behind the empty line that ends a head, where that line ends at `from` or later.
#[must_use]
pub fn end_of_head(bytes: &[u8], from: usize) -> Option<usize> {
    let feeds = (from..bytes.len()).filter(|at| bytes[*at] == b'\n');
    feeds.map(|at| &bytes[..=at]).find(|head| head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n")).map(<[u8]>::len)
}

/// The fields of a head, and the length of the body behind it.
pub struct Fields {
    /// All of them.
    pub headers: HeaderMap,
    /// `Content-Length`, in bytes.
    pub length: Option<usize>,
}

/// Makes a map of `fields`, which lie in `bytes`, with room for `more`. `None` when a name or a value is invalid, when a
/// `Content-Length` is no number or stands there twice, and when `is_ambiguous` says so of a field: two readers could
/// then disagree on where the message ends (RFC 9112 section 6.3).
#[must_use]
pub fn read_fields(
    bytes: &Bytes,
    fields: &[httparse::Header<'_>],
    more: usize,
    is_ambiguous: impl Fn(&HeaderName, &[u8]) -> bool,
) -> Option<Fields> {
    let (mut headers, mut length) = (HeaderMap::with_capacity(fields.len() + more), None);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if is_ambiguous(&name, field.value) {
            return None;
        }
        if name == CONTENT_LENGTH && length.replace(decimal(field.value)?).is_some() {
            return None;
        }
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?);
    }
    Some(Fields { headers, length })
}

/// Digits only: two readers could disagree on `+1`, `0x1` or `1, 1`.
fn decimal(digits: &[u8]) -> Option<usize> {
    let sound = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| sound)?.parse().ok()
}
