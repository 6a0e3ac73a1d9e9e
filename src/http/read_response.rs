//! Reads a response, or its head, that has come as a whole. Pure.
//!
//! Enters: what a backend has sent so far on a request without a body. Leaves: the response, when all of it is there, it
//! can be read in one way only, and the connection may carry another exchange. Must not touch: any other response. hyper
//! reads or refuses those as if nothing had been read.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderName, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{Response, StatusCode, response};
use httparse::{ParserConfig, Status};
use hyper::ext::ReasonPhrase;

use super::as_written::AsWritten;
use super::fields::{Fields, read_fields};

/// The most fields of a response that is read here; most responses have a dozen.
pub(crate) const MAX_FIELDS: usize = 32;

/// What the bytes that have come so far are.
#[derive(Debug)]
pub enum Parsed<T> {
    /// All of the message, and nothing behind it that is not a part of `T`.
    Complete(T),
    /// The beginning of a message that may become complete.
    Partial,
    /// Incomplete in a way that does not pay to wait for, or two readers could disagree on it: hyper's to read.
    Ambiguous,
}

impl<T> Parsed<T> {
    /// Reads on; `None` stands for ambiguous.
    pub(crate) fn and_then<U>(self, read: impl FnOnce(T) -> Option<U>) -> Parsed<U> {
        match self {
            Self::Complete(value) => read(value).map_or(Parsed::Ambiguous, Parsed::Complete),
            Self::Partial => Parsed::Partial,
            Self::Ambiguous => Parsed::Ambiguous,
        }
    }
}

/// The head of a response.
pub(crate) struct ResponseHead {
    pub(crate) parts: response::Parts,
    /// `Content-Length`, in bytes.
    pub(crate) length: Option<usize>,
    /// Where the head ends.
    pub(crate) end: usize,
}

/// Reads the head of a response. The parser is hyper's own, with its settings, so that both read alike.
pub(crate) fn read_head(seen: &Bytes, is_ambiguous: impl Fn(&HeaderName, &[u8]) -> bool) -> Parsed<ResponseHead> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut head = httparse::Response::new(&mut []);
    let mut config = ParserConfig::default();
    // A proxy takes them out (RFC 9112 section 5.1).
    config.allow_spaces_after_header_name_in_responses(true);
    match config.parse_response_with_uninit_headers(&mut head, seen, &mut fields) {
        Ok(Status::Complete(end)) => {
            Parsed::Complete(end).and_then(|end| complete_head(seen, end, &head, is_ambiguous))
        }
        Ok(Status::Partial) => Parsed::Partial,
        Err(_) => Parsed::Ambiguous,
    }
}

fn complete_head(
    seen: &Bytes,
    end: usize,
    head: &httparse::Response<'_, '_>,
    is_ambiguous: impl Fn(&HeaderName, &[u8]) -> bool,
) -> Option<ResponseHead> {
    // RFC 9112 section 2.2 allows an empty line before a request. Before a response it is unusual, and hyper's to read.
    if head.version != Some(1) || !seen.starts_with(b"H") {
        return None;
    }
    let Fields { headers, length } = read_fields(seen, head.headers, 0, is_ambiguous)?;
    let (mut parts, ()) = Response::new(()).into_parts();
    (parts.status, parts.headers) = (StatusCode::from_u16(head.code?).ok()?, headers);
    let own = head.reason.filter(|reason| Some(*reason) != parts.status.canonical_reason());
    if let Some(reason) = own {
        parts.extensions.insert(ReasonPhrase::try_from(seen.slice_ref(reason.as_bytes())).ok()?);
    }
    let names = head.headers.iter().map(|field| field.name.as_bytes());
    if let Some(written) = AsWritten::of(seen, names, None) {
        parts.extensions.insert(written);
    }
    Some(ResponseHead { parts, length, end })
}

/// The response to a GET: complete when `seen` is all of it and no more.
#[must_use]
pub fn read_short(seen: &Bytes) -> Parsed<Response<Bytes>> {
    read_head(seen, is_ambiguous).and_then(|ResponseHead { parts, length, end }| {
        // RFC 9112 section 6.3: these two have no body, whatever their fields say.
        let bodiless = matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let length = if bodiless { 0 } else { length? };
        let is_all = !parts.status.is_informational() && seen.len() - end == length;
        is_all.then(|| Response::from_parts(parts, seen.slice(end..)))
    })
}

/// Fields of another framing than a length, or of a connection that ends or becomes another protocol.
fn is_ambiguous(name: &HeaderName, value: &[u8]) -> bool {
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

    fn read(text: &str) -> Parsed<Response<Bytes>> {
        read_short(&Bytes::copy_from_slice(text.as_bytes()))
    }

    fn complete(text: &str) -> Response<Bytes> {
        let Parsed::Complete(response) = read(text) else { panic!("it is complete: {text:?}") };
        response
    }

    #[test]
    fn a_short_response_is_taken_as_it_is() {
        let response = complete(GOOD);
        assert_eq!((response.status(), &response.body()[..]), (StatusCode::OK, &b"hi"[..]));
        assert_eq!(response.headers().get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(response.extensions().get::<ReasonPhrase>().is_none());

        let response = complete("HTTP/1.1 404 Gone Fishing\r\nContent-Length: 0\r\n\r\n");
        let reason = response.extensions().get::<ReasonPhrase>().expect("the backend's own");
        assert_eq!((response.status(), reason.as_bytes()), (StatusCode::NOT_FOUND, &b"Gone Fishing"[..]));
    }

    #[test]
    fn a_blank_before_a_colon_is_taken_out() {
        let response = complete(&GOOD.replace("A: 1", "A : 1").replace("Content-Length:", "Content-Length\t :"));
        assert_eq!(response.headers().get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        for head in ["204 No Content\r\n\r\n", "304 Not Modified\r\nContent-Length: 9\r\n\r\n"] {
            assert!(complete(&format!("HTTP/1.1 {head}")).body().is_empty(), "{head}");
            assert!(matches!(read(&format!("HTTP/1.1 {head}x")), Parsed::Ambiguous), "{head}");
        }
    }

    #[test]
    fn every_beginning_of_a_head_is_partial() {
        let head = GOOD.len() - 2;
        for end in 0..head {
            assert!(matches!(read(&GOOD[..end]), Parsed::Partial), "{end}");
        }
        // A body that is not there yet may be long in coming, and its beginning must not wait for its end.
        for end in head..GOOD.len() {
            assert!(matches!(read(&GOOD[..end]), Parsed::Ambiguous), "{end}");
        }
    }

    #[test]
    fn what_is_ambiguous_in_any_way_is_left_to_hyper() {
        complete(GOOD);
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
            assert!(matches!(read(&odd), Parsed::Ambiguous), "{odd:?}");
        }
        let many = GOOD.replacen("\r\n", &["\r\n", &"X: y\r\n".repeat(MAX_FIELDS)].concat(), 1);
        assert!(matches!(read(&many), Parsed::Ambiguous));
    }
}
