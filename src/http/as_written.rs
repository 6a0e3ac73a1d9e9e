//! How a head was written, where its meaning does not say: the case of field names, and a target that [`Uri`] refuses.
//! Pure.
//!
//! Enters: names and targets as a peer wrote them. Leaves: the same, for whoever writes the head again. Must not touch: what
//! they mean.
//!
//! Names are alike in any case (RFC 9110 section 5.1), but programs on small devices search for `Sec-WebSocket-Accept` as the
//! RFC prints it. So a name leaves as it came. What came in the usual case, as nearly all do, is not kept anywhere.

use bytes::{Bytes, BytesMut};
use http::Uri;

/// What programs write into a target although RFC 3986 has it encoded there, and [`Uri`] refuses.
const REFUSED: [(char, &str); 4] = [('"', "%22"), ('<', "%3C"), ('>', "%3E"), ('`', "%60")];

/// What is to be written again as it was. In the extensions of a request or a response; without it everything was written
/// as usual.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsWritten {
    /// Names in another case than the usual one.
    names: Vec<Bytes>,
    /// The target in origin form, where the `Uri` has it encoded.
    target: Option<Bytes>,
}

/// In the extensions of a request that hyper has read: the case of its names is in hyper's own extension, which only
/// hyper can write.
#[derive(Clone, Copy, Debug)]
pub struct NamesKeptByHyper;

impl AsWritten {
    /// What is unusual in these names, which lie in `bytes`, beside a target that needed encoding; `None` when nothing is.
    pub(crate) fn of<'a>(bytes: &Bytes, names: impl Iterator<Item = &'a [u8]>, target: Option<Bytes>) -> Option<Self> {
        let names: Vec<_> = names.filter(|name| !is_usual(name)).map(|name| bytes.slice_ref(name)).collect();
        (target.is_some() || !names.is_empty()).then_some(Self { names, target })
    }

    /// What is unusual in the names of a complete head, whose first line is not looked at.
    pub(crate) fn of_head(head: &Bytes) -> Option<Self> {
        let lines = head.split(|byte| *byte == b'\n').skip(1);
        let names = lines.filter_map(|line| Some(line[..line.iter().position(|byte| *byte == b':')?].trim_ascii_end()));
        Self::of(head, names, None)
    }

    /// The target as it was written, where the `Uri` differs.
    #[must_use]
    pub fn target(&self) -> Option<&Bytes> {
        self.target.as_ref()
    }

    /// The same names beside another target.
    #[must_use]
    pub fn with_target(&self, target: Option<Bytes>) -> Self {
        Self { names: self.names.clone(), target }
    }

    fn name(&self, name: &str) -> Option<&[u8]> {
        self.names.iter().map(|written| &written[..]).find(|written| written.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// A target that [`Uri`] refuses, with what it refuses encoded; `None` when that is not the reason.
#[must_use]
pub fn encoded(target: &str) -> Option<Uri> {
    if !target.starts_with('/') || !target.contains(REFUSED.map(|(sign, _)| sign)) {
        return None;
    }
    let mut text = String::with_capacity(target.len() + 8);
    for sign in target.chars() {
        match REFUSED.into_iter().find(|(refused, _)| *refused == sign) {
            Some((_, encoded)) => text.push_str(encoded),
            None => text.push(sign),
        }
    }
    text.parse().ok()
}

/// A target of the same length that [`Uri`] takes.
pub(crate) fn stand_in(target: &Bytes) -> Option<Uri> {
    let is_refused = |byte: u8| REFUSED.into_iter().any(|(sign, _)| sign == char::from(byte));
    let replaced: Vec<u8> = target.iter().map(|byte| if is_refused(*byte) { b'_' } else { *byte }).collect();
    Uri::from_maybe_shared(Bytes::from(replaced)).ok()
}

/// Appends a name in lower case: as it was written, or else in the usual case.
pub(crate) fn put_name(out: &mut BytesMut, name: &str, written: Option<&AsWritten>) {
    if let Some(name) = written.and_then(|written| written.name(name)) {
        return out.extend_from_slice(name);
    }
    if let Some(special) = special(name.as_bytes()) {
        return out.extend_from_slice(special.as_bytes());
    }
    let start = out.len();
    out.extend_from_slice(name.as_bytes());
    let mut begins = true;
    for byte in &mut out[start..] {
        if std::mem::replace(&mut begins, *byte == b'-') {
            byte.make_ascii_uppercase();
        }
    }
}

/// Whether a name has a capital at the beginning of each word and nowhere else, or its own usual case.
fn is_usual(name: &[u8]) -> bool {
    if let Some(special) = special(name) {
        return special.as_bytes() == name;
    }
    let mut begins = true;
    name.iter().all(|byte| {
        let is_first = std::mem::replace(&mut begins, *byte == b'-');
        if is_first { !byte.is_ascii_lowercase() } else { !byte.is_ascii_uppercase() }
    })
}

/// The usual case of names for which it is another one; found by their length first, since each name of each head is
/// looked up.
fn special(name: &[u8]) -> Option<&'static str> {
    let alike: &[&'static str] = match name.len() {
        2 => &["TE"],
        3 => &["DNT", "NEL"],
        4 => &["ETag"],
        7 => &["Sec-GPC"],
        9 => &["SourceMap"],
        15 => &["X-UA-Compatible"],
        16 => &["WWW-Authenticate", "X-XSS-Protection"],
        17 => &["Sec-WebSocket-Key"],
        20 => &["Sec-WebSocket-Accept"],
        21 => &["Sec-WebSocket-Version"],
        22 => &["Sec-WebSocket-Protocol"],
        24 => &["Sec-WebSocket-Extensions"],
        _ => &[],
    };
    alike.iter().find(|special| special.as_bytes().eq_ignore_ascii_case(name)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(name: &str, written: Option<&AsWritten>) -> String {
        let mut out = BytesMut::new();
        put_name(&mut out, name, written);
        String::from_utf8(out.into()).expect("ASCII")
    }

    #[test]
    fn names_have_the_usual_case_unless_they_came_otherwise() {
        let head = Bytes::from_static(
            b"HTTP/1.1 200 OK\r\nContent-Type: a: b\r\nX-ApiKey: 1\r\nsec-ch-ua : x\r\nETag: y\r\nwww-authenticate: z\r\n\r\n",
        );
        let written = AsWritten::of_head(&head);
        for (name, as_usual, as_written) in [
            ("content-type", "Content-Type", "Content-Type"),
            ("x-apikey", "X-Apikey", "X-ApiKey"),
            ("sec-ch-ua", "Sec-Ch-Ua", "sec-ch-ua"),
            ("etag", "ETag", "ETag"),
            ("www-authenticate", "WWW-Authenticate", "www-authenticate"),
            ("sec-websocket-accept", "Sec-WebSocket-Accept", "Sec-WebSocket-Accept"),
            ("x--odd-", "X--Odd-", "X--Odd-"),
        ] {
            assert_eq!(put(name, None), as_usual);
            assert_eq!(put(name, written.as_ref()), as_written);
        }
        let names: Vec<_> = written.expect("three are unusual").names;
        assert_eq!(names, ["X-ApiKey", "sec-ch-ua", "www-authenticate"]);
        assert_eq!(AsWritten::of_head(&Bytes::from_static(b"GET / HTTP/1.1\r\nHost: x\r\nTE: a\r\n\r\n")), None);
    }

    #[test]
    fn targets_that_programs_write_have_a_uri_and_a_stand_in() {
        for (target, uri) in [
            ("/x?filter={\"room\":1}", "/x?filter={%22room%22:1}"),
            ("/a<b>`?q=a<b", "/a%3Cb%3E%60?q=a%3Cb"),
            ("/é\"ü?\"ß", "/é%22ü?%22ß"),
        ] {
            assert_eq!(encoded(target).expect("a target").to_string(), uri);
            let target = Bytes::copy_from_slice(target.as_bytes());
            assert_eq!(stand_in(&target).expect("a target").to_string().len(), target.len());
        }
        for other in ["/plain?x", "*", "http://a/\"", "", "/a\u{1}\""] {
            assert_eq!(encoded(other), None, "{other}");
        }
    }
}
