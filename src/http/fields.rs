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

/// All list members of all lines of a field; one line that is no text does not hide the others.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Fields that were read by hand.
pub struct Fields {
    /// All of them.
    pub headers: HeaderMap,
    /// The length of the body that they tell, in bytes.
    pub length: Option<usize>,
}

/// Makes a map of `fields`, which lie in `bytes`, with room for `more`. `None` for names and values that are none, for a
/// length that is no number or is told twice, and when a field is odd: then two readers could differ on where the
/// message ends.
#[must_use]
pub fn read_fields(
    bytes: &Bytes,
    fields: &[httparse::Header<'_>],
    more: usize,
    is_odd: impl Fn(&HeaderName, &[u8]) -> bool,
) -> Option<Fields> {
    let (mut headers, mut length) = (HeaderMap::with_capacity(fields.len() + more), None);
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        if is_odd(&name, field.value) {
            return None;
        }
        if name == CONTENT_LENGTH && length.replace(decimal(field.value)?).is_some() {
            return None;
        }
        headers.append(name, HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).ok()?);
    }
    Some(Fields { headers, length })
}

/// Digits only: what else might be a number, two readers could read differently.
fn decimal(digits: &[u8]) -> Option<usize> {
    let sound = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| sound)?.parse().ok()
}
