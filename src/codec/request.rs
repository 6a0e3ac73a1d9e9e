//! The small bodies and parameters of clients: `open` and `close`.
//!
//! Enters: a body or a parameter of a client. Leaves: checked values, or an error that names the field. Must not
//! touch: anything else. No tree is made of a body: of what is not asked for, nothing is kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::DecodeError;
use super::batch::form_decoded;
use super::sse::{MAX_NUMBER, is_url_safe};
use crate::session::Close;

/// The most sessions that one `poll` may ask for.
pub const MAX_POLLED: usize = 256;

/// The body of a `poll` for several sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PollRequest {
    /// Tokens, each once, with the cursor to present; `None` reads from what is acknowledged.
    pub sessions: Vec<(String, Option<u64>)>,
}

impl PollRequest {
    /// Reads a body: `{"sessions":{"<token>":17,"<token>":null}}`. Other fields are ignored.
    ///
    /// # Errors
    /// Not such an object, none or too many sessions, or the token or cursor that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let wrong = || DecodeError::malformed("`sessions` must be an object: of each token its cursor");
        let json = json(body);
        let named: BTreeMap<String, &RawValue> = value(object(&json)?.sessions).ok().flatten().ok_or_else(wrong)?;
        if named.is_empty() || named.len() > MAX_POLLED {
            let message = format!("`sessions` holds {}: it must be 1 to {MAX_POLLED}", named.len());
            return Err(DecodeError::malformed(message));
        }
        let sessions = named.into_iter().map(|(token, cursor)| polled(token, cursor));
        Ok(Self { sessions: sessions.collect::<Result<_, _>>()? })
    }
}

fn polled(token: String, cursor: &RawValue) -> Result<(String, Option<u64>), DecodeError> {
    if token.is_empty() || token.len() > 256 || !token.bytes().all(is_url_safe) {
        return Err(DecodeError::malformed("`sessions` names what is no token"));
    }
    match serde_json::from_str::<Option<u64>>(cursor.get()) {
        Ok(cursor) if cursor.is_none_or(|cursor| cursor <= MAX_NUMBER) => Ok((token, cursor)),
        _ => Err(DecodeError::malformed("a cursor in `sessions` must be a number, or null")),
    }
}

/// The body of `open`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenRequest {
    /// Makes the request repeatable: the same nonce gets the same session.
    pub nonce: Option<String>,
    /// The subprotocols offered, in the client's order.
    pub protocols: Vec<String>,
}

impl OpenRequest {
    /// Reads a body: nothing, or `{"nonce":"…","protocols":["a","b"]}`. Other fields are ignored.
    ///
    /// # Errors
    /// Not a JSON object, or the field that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let json = json(body);
        let fields = object(&json)?;
        let nonce = text(fields.nonce, "nonce")?;
        if let Some(nonce) = &nonce {
            check_nonce(nonce)?;
        }
        Ok(Self { nonce, protocols: protocols(fields.protocols)? })
    }
}

/// Reads the body of `close`: nothing, or `{"code":1000,"reason":""}`, where each field may be missing.
///
/// # Errors
/// Not a JSON object, or the field that is wrong: a code that is not 1000 or 3000 to 4999, a reason over 123 bytes.
pub fn decode_close(body: &[u8]) -> Result<Close, DecodeError> {
    let json = json(body);
    let fields = object(&json)?;
    let code = match value::<u16>(fields.code) {
        Ok(code) if code.is_none_or(Close::is_allowed_from_client) => code.unwrap_or(1000),
        _ => return Err(DecodeError::malformed("`code` must be the number 1000 or one of 3000 to 4999")),
    };
    let reason = text(fields.reason, "reason")?.unwrap_or_default();
    if reason.len() > Close::MAX_REASON {
        return Err(DecodeError::malformed(format!(
            "`reason` has {} bytes of UTF-8; a close frame takes at most {}",
            reason.len(),
            Close::MAX_REASON
        )));
    }
    Ok(Close::clean(code, reason))
}

/// A nonce is 16 to 64 URL-safe characters: letters, digits, `-` and `_`.
///
/// # Errors
/// Says so.
pub fn check_nonce(nonce: &str) -> Result<(), DecodeError> {
    if (16..=64).contains(&nonce.len()) && nonce.bytes().all(is_url_safe) {
        return Ok(());
    }
    Err(DecodeError::malformed("`nonce` must be 16 to 64 letters, digits, `-` and `_`"))
}

/// Subprotocols are tokens (RFC 9110 section 5.6.2), each offered once (RFC 6455 section 4.1). How much they weigh together
/// is the caller's affair: services carry credentials of some KiB in them.
///
/// # Errors
/// Names the one that is wrong by its index.
pub fn check_protocols<'a>(protocols: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>, DecodeError> {
    let (mut checked, mut earlier) = (Vec::new(), HashSet::new());
    for protocol in protocols {
        let fault = if protocol.is_empty() || !protocol.bytes().all(is_token) {
            "is not a token (letters, digits and !#$%&'*+-.^_`|~)"
        } else if !earlier.insert(protocol) {
            "was offered before"
        } else {
            checked.push(protocol.to_owned());
            continue;
        };
        return Err(DecodeError::malformed(format!("`protocols[{}]` {fault}", checked.len())));
    }
    Ok(checked)
}

/// The subprotocols of a list such as `a,b`: the parameter `underpass.protocols`, or a `Sec-WebSocket-Protocol` header.
/// Spaces around names and empty elements do not count (RFC 9110 section 5.6.1).
///
/// # Errors
/// As [`check_protocols`].
pub fn check_protocol_list(list: &str) -> Result<Vec<String>, DecodeError> {
    check_protocols(list.split(',').map(|name| name.trim_matches([' ', '\t'])).filter(|name| !name.is_empty()))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// All fields that any of these bodies has, as they are written.
#[derive(Default, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default, deserialize_with = "written")]
    nonce: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "written")]
    protocols: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "written")]
    sessions: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "written")]
    code: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "written")]
    reason: Option<&'a RawValue>,
}

/// `null` is a value as well: it is there.
fn written<'de, D: Deserializer<'de>>(field: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(field).map(Some)
}

/// The JSON that a body is, or that is the url-encoded field `json` of it: there are filters that refuse a body whose content
/// type is JSON.
fn json(body: &[u8]) -> Cow<'_, [u8]> {
    body.strip_prefix(b"json=").map_or(Cow::Borrowed(body), |form| form_decoded(form).into())
}

/// The object that it must be; nothing at all has no fields.
fn object(json: &[u8]) -> Result<Fields<'_>, DecodeError> {
    let refused =
        |why: &dyn std::fmt::Display| DecodeError::malformed(format!("the body must be empty or a JSON object: {why}"));
    match json.trim_ascii_start().first() {
        None => Ok(Fields::default()),
        // serde would take the values of an array for those of the fields.
        Some(b'[') => Err(refused(&"it is an array")),
        Some(_) => serde_json::from_slice(json).map_err(|error| refused(&error)),
    }
}

/// A field's value, when it is there.
fn value<'a, T: Deserialize<'a>>(field: Option<&'a RawValue>) -> serde_json::Result<Option<T>> {
    field.map(|field| serde_json::from_str(field.get())).transpose()
}

fn text(field: Option<&RawValue>, name: &str) -> Result<Option<String>, DecodeError> {
    value(field).map_err(|error| {
        let what = if error.is_data() { "must be a string".to_owned() } else { format!("is no JSON: {error}") };
        DecodeError::malformed(format!("`{name}` {what}"))
    })
}

fn protocols(field: Option<&RawValue>) -> Result<Vec<String>, DecodeError> {
    let names: Option<Vec<Cow<'_, str>>> =
        value(field).map_err(|_| DecodeError::malformed("`protocols` must be an array of strings"))?;
    check_protocols(names.iter().flatten().map(AsRef::as_ref))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes() {
        assert_eq!(decode_close(b""), Ok(Close::clean(1000, "")));
        assert_eq!(decode_close(b" {} "), Ok(Close::clean(1000, "")));
        assert_eq!(decode_close(br#"{"code":4001,"reason":"bye","x":1}"#), Ok(Close::clean(4001, "bye")));
        let longest = format!(r#"{{"reason":"{}a"}}"#, "é".repeat(61));
        assert_eq!(decode_close(longest.as_bytes()).map(|close| close.reason.len()), Ok(123));
    }

    #[test]
    fn closes_that_are_refused() {
        for (body, field) in [
            (r#"{"code":1001}"#, "`code`"),
            (r#"{"code":5000}"#, "`code`"),
            (r#"{"code":66536}"#, "`code`"),
            (r#"{"code":"1000"}"#, "`code`"),
            (r#"{"code":-1000}"#, "`code`"),
            (r#"{"reason":5}"#, "`reason` must be a string"),
            (r#"["x"]"#, "the body must be empty or a JSON object"),
            ("bye", "the body must be empty or a JSON object"),
            (&format!(r#"{{"reason":"{}"}}"#, "é".repeat(62)), "`reason` has 124 bytes"),
        ] {
            let error = decode_close(body.as_bytes()).expect_err(body).to_string();
            assert!(error.starts_with(field), "{body}: {error}");
        }
    }

    #[test]
    fn opens() {
        assert_eq!(OpenRequest::decode(b""), Ok(OpenRequest::default()));
        let body = br#"{"nonce":"abcdefghijklmno_","protocols":["chat.v1","b"],"x":{}}"#;
        let request = OpenRequest::decode(body).expect("well-formed");
        assert_eq!(request.nonce.as_deref(), Some("abcdefghijklmno_"));
        assert_eq!(request.protocols, ["chat.v1", "b"]);
        let form = b"json=%7B%22nonce%22%3A%22abcdefghijklmno_%22%2C%22protocols%22%3A%5B%22chat.v1%22%2C%22b%22%5D%7D";
        assert_eq!(OpenRequest::decode(form), Ok(request));
        assert_eq!(check_protocol_list(" a,\tb ,,c").as_deref(), Ok(&["a".to_owned(), "b".into(), "c".into()][..]));
        assert_eq!(check_protocol_list(""), Ok(vec![]));
    }

    /// Without the fields that nobody asks for, however many they are and whatever is in them.
    #[test]
    fn bodies_are_read_without_a_tree() {
        let many = format!(r#"{{"x":[{}{{}}],"code":4000,"nonce":"abcdefghijklmno_"}}"#, r#"{"":0},"#.repeat(500));
        assert_eq!(decode_close(many.as_bytes()).map(|close| close.code), Ok(4000));
        assert!(OpenRequest::decode(many.as_bytes()).is_ok());
        for body in
            [r#"{"nonce":"abcdefghijklmno_","nonce":"abcdefghijklmno-"}"#, r#"["abcdefghijklmno_"]"#, "[", "{", "1"]
        {
            let error = OpenRequest::decode(body.as_bytes()).expect_err(body).to_string();
            assert!(error.starts_with("the body must be empty or a JSON object: "), "{error}");
        }
    }

    #[test]
    fn polls_and_what_is_no_poll() {
        let polled = PollRequest::decode(br#"{"sessions":{"n1-b":null,"n1-a":17}}"#).expect("well-formed");
        assert_eq!(polled.sessions, [("n1-a".to_owned(), Some(17)), ("n1-b".to_owned(), None)]);
        for (body, what) in [
            ("{}", "`sessions` must be"),
            (r#"{"sessions":null}"#, "`sessions` must be"),
            (r#"{"sessions":["n1-a"]}"#, "`sessions` must be"),
            (r#"{"sessions":{}}"#, "`sessions` holds 0"),
            (r#"{"sessions":{"n1/a":1}}"#, "`sessions` names"),
            (r#"{"sessions":{"n1-a":{"":{"":0}}}}"#, "a cursor in `sessions`"),
            (r#"{"sessions":{"n1-a":-1}}"#, "a cursor in `sessions`"),
            (r#"{"sessions":{"n1-a":1.5}}"#, "a cursor in `sessions`"),
            (r#"{"sessions":{"n1-a":9007199254740993}}"#, "a cursor in `sessions`"),
        ] {
            let error = PollRequest::decode(body.as_bytes()).expect_err(body).to_string();
            assert!(error.starts_with(what), "{body}: {error}");
        }
    }

    #[test]
    fn opens_that_are_refused() {
        for (body, field) in [
            (r#"{"nonce":"abcdefghijklmno"}"#, "`nonce`"),
            (r#"{"nonce":"abcdefghijklmno/"}"#, "`nonce`"),
            (&format!(r#"{{"nonce":"{}"}}"#, "a".repeat(65)), "`nonce`"),
            (r#"{"nonce":null}"#, "`nonce` must be a string"),
            (r#"{"protocols":"a"}"#, "`protocols` must be an array"),
            (r#"{"protocols":["a",1]}"#, "`protocols` must be an array"),
            (r#"{"protocols":["a","a"]}"#, "`protocols[1]` was offered before"),
            (r#"{"protocols":["a","b c"]}"#, "`protocols[1]` is not a token"),
            (r#"{"protocols":[""]}"#, "`protocols[0]` is not a token"),
            (r#"{"protocols":["a\r\nX: y"]}"#, "`protocols[0]` is not a token"),
        ] {
            let error = OpenRequest::decode(body.as_bytes()).expect_err(body).to_string();
            assert!(error.starts_with(field), "{body}: {error}");
        }
    }
}
