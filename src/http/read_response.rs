//! A short answer that is there in one piece, read by hand. Pure.
//!
//! Enters: bytes that a backend sent on a request without a body. Leaves: the answer, when it is all there, can be read in
//! one way only, and another request may follow on the connection. Must not touch: anything else, which is hyper's
//! (see `by_hand`).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{Response, StatusCode, response};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::fields::{Fields, read_fields};

/// Fields of an answer that is read by hand; most have a dozen at most.
pub(crate) const FIELDS: usize = 32;

/// What the bytes of an answer are so far.
#[derive(Debug)]
pub enum Judged<T> {
    /// All of it, with nothing behind it but what is a part of `T`.
    Sound(T),
    /// The beginning of what may be sound.
    Unfinished,
    /// For hyper to judge.
    Doubtful,
}

impl<T> Judged<T> {
    /// Judges on: `None` is a doubt.
    pub(crate) fn and_then<U>(self, judge: impl FnOnce(T) -> Option<U>) -> Judged<U> {
        match self {
            Self::Sound(sound) => judge(sound).map_or(Judged::Doubtful, Judged::Sound),
            Self::Unfinished => Judged::Unfinished,
            Self::Doubtful => Judged::Doubtful,
        }
    }
}

/// The head of an answer.
pub(crate) struct Head {
    pub(crate) parts: response::Parts,
    /// The length of the body that it tells, in bytes.
    pub(crate) length: Option<usize>,
    /// Where it ends.
    pub(crate) end: usize,
}

/// Reads the head of an answer. The parser is hyper's own, with its settings, so that both read alike; an odd field is a
/// doubt (see [`read_fields`]).
pub(crate) fn read_head(seen: &Bytes, is_odd: impl Fn(&HeaderName, &[u8]) -> bool) -> Judged<Head> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut head, seen, &mut fields) {
        Ok(Status::Complete(end)) => Judged::Sound(end).and_then(|end| whole_head(seen, end, &head, is_odd)),
        Ok(Status::Partial) => Judged::Unfinished,
        Err(_) => Judged::Doubtful,
    }
}

fn whole_head(
    seen: &Bytes,
    end: usize,
    head: &httparse::Response<'_, '_>,
    is_odd: impl Fn(&HeaderName, &[u8]) -> bool,
) -> Option<Head> {
    // An empty line may stand before it (RFC 9112 section 2.2), but who would write one?
    if head.version != Some(1) || !seen.starts_with(b"H") {
        return None;
    }
    let Fields { headers, length } = read_fields(seen, head.headers, 0, is_odd)?;
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (StatusCode::from_u16(head.code?).ok()?, headers);
    let own = head.reason.filter(|reason| Some(*reason) != parts.status.canonical_reason());
    if let Some(reason) = own {
        parts.extensions.insert(ReasonPhrase::try_from(seen.slice_ref(reason.as_bytes())).ok()?);
    }
    Some(Head { parts, length, end })
}

/// What has come so far of an answer to GET: sound when the bytes are all of it and no more.
#[must_use]
pub fn short(seen: &Bytes) -> Judged<Response<Bytes>> {
    read_head(seen, is_odd).and_then(|Head { parts, length, end }| {
        // RFC 9112 section 6.3: these two have no body, whatever is said of its length.
        let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = if bodiless { 0 } else { length? };
        let whole = !parts.status.is_informational() && seen.len() - end == length;
        whole.then(|| Response::from_parts(parts, seen.slice(end..)))
    })
}

/// What tells of another framing, or of a connection that does not go on.
fn is_odd(name: &HeaderName, value: &[u8]) -> bool {
    match *name {
        TRANSFER_ENCODING | TRAILER | UPGRADE => true,
        CONNECTION => !value.eq_ignore_ascii_case(b"keep-alive"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use hyper::ext::ReasonPhrase;

    use super::*;

    const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\nA: 1\r\nA: 2\r\n\r\nhi";

    fn read(text: &str) -> Judged<Response<Bytes>> {
        short(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn sound(text: &str) -> Response<Bytes> {
        let Judged::Sound(response) = read(text) else { panic!("it is sound: {text:?}") };
        response
    }

    #[test]
    fn a_short_answer_is_taken_as_it_is() {
        let response = sound(GOOD);
        assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &b"hi"[..]));
        assert_eq!(response.headers().get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(response.extensions().get::<ReasonPhrase>().is_none());

        let response = sound("HTTP/1.1 404 Gone Fishing\r\nContent-Length: 0\r\n\r\n");
        let reason = response.extensions().get::<ReasonPhrase>().expect("the backend's own");
        assert_eq!((response.status(), reason.as_bytes()), (StatusCode::NOT_FOUND, &b"Gone Fishing"[..]));
    }

    #[test]
    fn some_answers_have_no_body_whatever_they_say() {
        for head in ["204 No Content\r\n\r\n", "304 Not Modified\r\nContent-Length: 9\r\n\r\n"] {
            assert!(sound(&format!("HTTP/1.1 {head}")).body().is_empty(), "{head}");
            assert!(matches!(read(&format!("HTTP/1.1 {head}x")), Judged::Doubtful), "{head}");
        }
    }

    #[test]
    fn every_beginning_of_a_head_is_unfinished() {
        let head = GOOD.len() - 2;
        for end in 0..head {
            assert!(matches!(read(&GOOD[..end]), Judged::Unfinished), "{end}");
        }
        // A body that is not there yet may be long in coming, and its beginning must not wait for its end.
        for end in head..GOOD.len() {
            assert!(matches!(read(&GOOD[..end]), Judged::Doubtful), "{end}");
        }
    }

    #[test]
    fn what_is_odd_in_any_way_is_left_to_hyper() {
        sound(GOOD);
        for (from, to) in [
            ("HTTP/1.1", "HTTP/1.0"),
            ("HTTP/1.1", "http/1.1"),
            ("200 OK", "100 Continue"),
            ("200 OK", "101 Switching Protocols"),
            ("200 OK", "103 Early Hints"),
            ("200 OK", "2000 OK"),
            ("hi", "hi!"),
            ("hi", "hiHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ("Content-Length: 2\r\n", ""),
            ("Content-Length: 2", "Content-Length: +2"),
            ("Content-Length: 2", "Content-Length: 2, 2"),
            ("Content-Length: 2", "Content-Length: 0x2"),
            ("Content-Length: 2", "Content-Length:"),
            ("Content-Length: 2", "Content-Length : 2"),
            ("Content-Length: 2", "Content-Length: 2\r\nContent-Length: 2"),
            ("Content-Length: 2", "Content-Length: 18446744073709551617"),
            ("Content-Length: 2", "Content-Length: 2\r\nTransfer-Encoding: chunked"),
            ("Content-Length: 2", "Transfer-Encoding: chunked"),
            ("A: 1", "Trailer: x"),
            ("A: 1", "Upgrade: h2c"),
            ("A: 1", "A: 1\r\n 2"),
            ("A: 1", "A: 1\0"),
            ("A: 1", ": 1"),
            ("Keep-Alive", "close"),
            ("Keep-Alive", "keep-alive, close"),
        ] {
            let odd = GOOD.replacen(from, to, 1);
            assert_ne!(odd, GOOD);
            assert!(matches!(read(&odd), Judged::Doubtful), "{odd:?}");
        }
        let many = GOOD.replacen("\r\n", &["\r\n", &"X: y\r\n".repeat(FIELDS)].concat(), 1);
        assert!(matches!(read(&many), Judged::Doubtful));
    }
}
