//! A short request that is there in one piece, read by hand. Pure.
//!
//! Enters: bytes that were read ahead. Leaves: the request and how many bytes it took, when it is all there and can be
//! read in one way only. Must not touch: anything else: what is not taken here is left to hyper, which reads or refuses
//! it as it would have.
//!
//! Most requests are a head without a body or with a small one, and come in one segment. hyper would take two buffers of
//! 8 KiB and a dozen steps for each. The parser is hyper's own, with its settings, so that both read alike.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, HeaderName, TE, TRANSFER_ENCODING};
use http::{Method, Request, Uri, Version};
use httparse::{ParserConfig, Status};

use super::fields::{Fields, has_token, read_fields};
use super::incoming::Sent;
use crate::config::Client;

/// The most fields of a request that is read here; browsers send some twenty.
const FIELDS: usize = 64;
/// Room for fields that the way to the backend adds: who the client is.
const ADDED: usize = 3;

/// The request at the beginning of `bytes`, and where it ends there.
#[must_use]
pub fn whole(bytes: &Bytes, limits: &Client) -> Option<(Request<Sent>, usize)> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS];
    let mut head = httparse::Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut head, bytes, &mut fields);
    let Ok(Status::Complete(length)) = parsed else { return None };
    let fits = length <= limits.header_bytes && head.headers.len() <= limits.header_fields;
    if !fits || head.version != Some(1) {
        return None;
    }
    let Fields { headers, length: body } = read_fields(bytes, head.headers, ADDED, is_odd)?;
    let end = length.checked_add(body.unwrap_or(0)).filter(|end| *end <= bytes.len())?;
    // Copied, so that a message that waits does not keep the request around it.
    let mut request = Request::new(Sent::Whole(Bytes::copy_from_slice(&bytes[length..end])));
    *request.method_mut() = method(head.method?)?;
    *request.uri_mut() = Uri::from_maybe_shared(bytes.slice_ref(head.path?.as_bytes())).ok()?;
    *request.version_mut() = Version::HTTP_11;
    *request.headers_mut() = headers;
    Some((request, end))
}

/// What tells of another end than a length (RFC 9112 section 6.3), or asks for more than a body: a 100 before it, trailers
/// behind it.
fn is_odd(name: &HeaderName, _: &[u8]) -> bool {
    matches!(*name, TRANSFER_ENCODING | EXPECT | TE)
}

/// Not those whose answers are framed in their own way (RFC 9112 section 6.3).
fn method(name: &str) -> Option<Method> {
    let method = Method::from_bytes(name.as_bytes()).ok()?;
    (method != Method::HEAD && method != Method::CONNECT).then_some(method)
}

/// Whether the client allows another request behind this one.
#[must_use]
pub fn keeps_alive<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11 && !has_token(request.headers(), &CONNECTION, "close")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Request<Sent>, usize)> {
        whole(&Bytes::copy_from_slice(text.as_bytes()), &Client::default())
    }

    #[test]
    fn a_whole_request_is_taken_up_to_its_end() {
        let text = "POST /a?b=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nA: 1\r\nA: 2\r\n\r\nhiGET / HT";
        let (request, end) = read(text).expect("it is whole");
        assert_eq!(&text[end..], "GET / HT");
        assert_eq!((request.method().as_str(), request.uri().to_string().as_str()), ("POST", "/a?b=1"));
        assert_eq!(request.headers().get_all("a").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert!(matches!(request.body(), Sent::Whole(body) if body == "hi"));
    }

    #[test]
    fn what_is_not_all_there_or_odd_is_left_to_hyper() {
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1));
        for text in [
            "",
            "GET / HTTP/1.1\r\nHost: x\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
            "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nhi",
            "POST / HTTP/1.1\r\nContent-Length: +2\r\n\r\nhi",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551615\r\n\r\nhi",
            "POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nTE: trailers\r\n\r\n",
            &many,
        ] {
            assert!(read(text).is_none(), "{text:?}");
        }
    }
}
