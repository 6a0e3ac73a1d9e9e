//! What our writers write, hyper reads as it was meant: one head, and no more.
//!
//! Enters: any legal head. Leaves: the same head as hyper reads it. Must not touch: odd bytes, which no type of a head lets
//! through.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::ext::ReasonPhrase;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::oracle::{Ending, RequestSeen, ResponseSeen, ask, fields, serve, switch};
use super::ours::{Framing, Limits, write_request, write_response};

const TOKEN: &[u8] = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn token() -> impl Strategy<Value = Vec<u8>> {
    vec(select(TOKEN), 1..20)
}

/// A value as both types of a field allow it; spaces around it are no part of it.
fn value() -> impl Strategy<Value = HeaderValue> {
    let byte = prop_oneof![20 => 0x20..0x7f_u8, 2 => 0x80..=0xff_u8, 1 => Just(b'\t')];
    vec(byte, 0..30).prop_map(|bytes| {
        let bytes = bytes.trim_ascii();
        HeaderValue::from_bytes(bytes).expect("visible, or a space")
    })
}

/// Any fields, with those among them that are said to mean something.
fn headers(meant: &'static [HeaderName]) -> impl Strategy<Value = HeaderMap> {
    let any = token().prop_map(|name| HeaderName::from_bytes(&name).expect("a token"));
    let name = prop_oneof![6 => any, 1 => select(meant)];
    vec((name, value()), 0..20).prop_map(|fields| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    })
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![
        Just(Framing::None),
        (0..50_u64).prop_map(|length| Framing::Length(Some(length))),
        Just(Framing::Chunked),
        Just(Framing::End),
    ]
}

fn status() -> impl Strategy<Value = StatusCode> {
    let usual =
        select(&[StatusCode::OK, StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED, StatusCode::BAD_GATEWAY][..]);
    let any = (200..1000_u16).prop_map(|code| StatusCode::from_u16(code).expect("three digits"));
    prop_oneof![1 => usual, 1 => any, 1 => Just(StatusCode::SWITCHING_PROTOCOLS)]
}

/// Without the framing and the state of the connection, which are ours.
fn relayed(headers: &HeaderMap, status: StatusCode) -> Vec<(String, Bytes)> {
    let mut relayed = fields(headers);
    relayed.retain(|(name, _)| match name.as_str() {
        "transfer-encoding" | "content-length" => false,
        "connection" => status == StatusCode::SWITCHING_PROTOCOLS,
        _ => true,
    });
    relayed
}

/// Strictly written: hyper also reads what ends its lines in another way.
fn is_one_head(text: &[u8]) -> bool {
    let ends = |end: &[u8]| text.windows(end.len()).filter(|bytes| bytes == &end).count();
    text.ends_with(b"\r\n\r\n")
        && ends(b"\r\n\r\n") == 1
        && [ends(b"\r"), ends(b"\n")].iter().all(|half| *half == ends(b"\r\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hyper_reads_the_response_that_we_write(
        status in status(),
        reason in proptest::option::of(value()),
        headers in headers(&[CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, DATE]),
        framing in framing(),
        keep_alive in any::<bool>(),
        dated in any::<bool>(),
    ) {
        let upgrades = status == StatusCode::SWITCHING_PROTOCOLS;
        let bodiless = upgrades || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
        // As the listener does it: no body, no framing; and nothing else goes without.
        let framing = match framing {
            _ if bodiless => Framing::None,
            Framing::None => Framing::Length(Some(0)),
            framing => framing,
        };
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers.clone();
        let reason = reason.map(|reason| Bytes::copy_from_slice(reason.as_bytes()));
        if let Some(reason) = reason.clone() {
            response.extensions_mut().insert(ReasonPhrase::try_from(reason).expect("a phrase"));
        }
        let head = write_response(&response.into_parts().0, framing, keep_alive || upgrades, dated);
        prop_assert!(is_one_head(&head), "{}", head.escape_ascii());
        let mut expected = relayed(&headers, status);
        let (wire, body) = match framing {
            Framing::None | Framing::Length(None) => (&b""[..], Bytes::new()),
            Framing::Length(Some(length)) => {
                expected.push(("content-length".into(), length.to_string().into()));
                let body = vec![b'x'; usize::try_from(length).expect("short")];
                (&body.clone()[..], body.into())
            }
            Framing::Chunked => {
                expected.push(("transfer-encoding".into(), "chunked".into()));
                (&b"2\r\nhi\r\n0\r\n\r\n"[..], Bytes::from("hi"))
            }
            Framing::End => (&b"hi"[..], Bytes::from("hi")),
        };
        let ending = if framing == Framing::End { Ending::Closed } else { Ending::Open };
        let seen = if upgrades { switch(&[&head, b"rest"]) } else { ask(&[&head, wire], ending) };
        let mut seen = seen.expect("hyper reads it").expect("it is whole");
        if !keep_alive && !upgrades {
            expected.push(("connection".into(), "close".into()));
        }
        if !dated {
            let at = seen.fields.iter().rposition(|(name, _)| name == "date").expect("a date");
            let date = seen.fields.remove(at).1;
            let date = std::str::from_utf8(&date).expect("text");
            prop_assert!(httpdate::parse_http_date(date).is_ok(), "{date:?}");
        }
        // The map puts fields of one name together.
        expected.sort_by(|(one, _), (other, _)| one.cmp(other));
        seen.fields.sort_by(|(one, _), (other, _)| one.cmp(other));
        let canonical = status.canonical_reason().map(|reason| Bytes::from_static(reason.as_bytes()));
        // hyper tells a phrase only when it is not the usual one, and none when it is no text.
        let reason = reason.or(canonical.clone()).unwrap_or_default();
        let reason = if reason.is_ascii() { reason } else { Bytes::new() };
        let expected = ResponseSeen {
            status,
            reason: (Some(&reason) != canonical.as_ref()).then_some(reason),
            version: Version::HTTP_11,
            fields: expected,
            body,
            rest: if upgrades { "rest".into() } else { Bytes::new() },
            keeps_alive: keep_alive && !upgrades && framing != Framing::End,
        };
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn hyper_reads_the_request_that_we_write(
        method in token(),
        path in vec(select(&b"/abc%20;:@&=+$,.-_~!*'()?x"[..]), 0..40),
        mut headers in headers(&[http::header::HOST, http::header::COOKIE, CONNECTION]),
    ) {
        let method = Method::from_bytes(&method).expect("a token");
        let target = format!("/{}", String::from_utf8_lossy(&path));
        let uri: Uri = target.parse().expect("a path");
        // It has no body, and so none of these.
        for framing in [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT] {
            headers.remove(framing);
        }
        let mut request = Request::new(Bytes::new());
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        let text = write_request(&request);
        prop_assert!(is_one_head(&text), "{}", text.escape_ascii());
        let limits = Limits { bytes: 64 * 1024, fields: 100 };
        let seen = serve(limits, &[&text, b"rest"]).expect("hyper reads it").expect("it is whole");
        prop_assert_eq!(seen, RequestSeen::new(request, "rest".into()));
    }
}
