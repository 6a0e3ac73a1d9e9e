//! The bodies of `send`: which form a body has, and the messages in it.
//!
//! Enters: a body of a client, already limited in size. Leaves: its messages in order, or an error that names the
//! message by its index (`messages[3]: …`); nothing in between. Must not touch: anything else; it never panics, takes
//! time and memory in proportion to the body, and does not descend into nested JSON.

mod json;

use std::borrow::Cow;

use bytes::Bytes;
use percent_encoding::percent_decode;

use super::{DecodeError, frames};
use crate::session::Message;

/// The most messages of a body. Each takes some 64 bytes beside its payload, and three bytes of JSON make an empty one.
pub const MOST_MESSAGES: usize = 65_536;

/// How the messages of a body are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"messages":["text",{"base64":"…"}]}`.
    Json,
    /// Frames of kinds 1 and 2.
    Frames,
    /// `messages=` and the JSON, url-encoded.
    Form,
    /// The body is one text message.
    Text,
    /// The body is one binary message.
    Binary,
}

impl Form {
    /// The form of a request: `as_param` (the query parameter `as`) decides, else the `Content-Type`, whose parameters
    /// do not matter; a body without either is JSON.
    ///
    /// # Errors
    /// A value that names no form; the error lists those that do.
    pub fn from_request(content_type: Option<&str>, as_param: Option<&str>) -> Result<Self, DecodeError> {
        match as_param {
            Some(name) => Self::from_name(name)
                .ok_or_else(|| DecodeError::malformed("`as` is none of json, frames, form, text and binary")),
            None => Self::from_content_type(content_type.unwrap_or_default()).ok_or_else(|| {
                DecodeError::malformed(
                    "the Content-Type is none of application/json, application/octet-stream (frames), \
                     application/x-www-form-urlencoded and text/plain; `as=` (json, frames, form, text or binary) says \
                     it as well",
                )
            }),
        }
    }

    /// The messages of a body in this form. An empty body is no messages, but one empty message as `Text` or `Binary`.
    ///
    /// # Errors
    /// [`DecodeError`]; nothing of the body is accepted then.
    pub fn decode(self, body: Bytes, max_message: usize) -> Result<Vec<Message>, DecodeError> {
        match self {
            Self::Json => decode_json(&body, max_message),
            Self::Frames => frames::messages(body, max_message),
            Self::Form => decode_form(&body, max_message),
            Self::Text => decode_text(body, max_message).map(|message| vec![message]),
            Self::Binary => decode_binary(body, max_message).map(|message| vec![message]),
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "json" => Self::Json,
            "frames" => Self::Frames,
            "form" => Self::Form,
            "text" => Self::Text,
            "binary" => Self::Binary,
            _ => return None,
        })
    }

    fn from_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        let known = [
            ("", Self::Json),
            ("application/json", Self::Json),
            ("application/octet-stream", Self::Frames),
            ("application/x-www-form-urlencoded", Self::Form),
            ("text/plain", Self::Text),
        ];
        known.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(essence)).map(|(_, form)| form)
    }
}

/// The messages of `{"messages":["text",{"base64":"…"}]}`. An empty body, and an object without `messages`, is none.
///
/// # Errors
/// Not UTF-8, not JSON, not of this shape, or a message over `max_message` bytes.
pub fn decode_json(body: &[u8], max_message: usize) -> Result<Vec<Message>, DecodeError> {
    json::object(utf8("the body", body)?, max_message)
}

/// The messages of `messages=…`: the JSON array of them, or the object around it, url-encoded. An empty body is none.
///
/// # Errors
/// As for [`decode_json`]; also a form without the field, or with two of it.
pub fn decode_form(body: &[u8], max_message: usize) -> Result<Vec<Message>, DecodeError> {
    if body.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    let mut fields = body.split(|byte| *byte == b'&').filter_map(messages_field);
    let Some(field) = fields.next() else {
        return Err(DecodeError::malformed(
            "the form has no field `messages` (curl -d sends a form unless told otherwise: add as=text, or say \
             Content-Type: text/plain)",
        ));
    };
    if fields.next().is_some() {
        return Err(DecodeError::malformed("the form has the field `messages` more than once"));
    }
    json::object_or_array(utf8("the field `messages`", &form_decoded(field))?, max_message)
}

/// The body as one text message, also an empty one.
///
/// # Errors
/// Over `max_message` bytes, or not UTF-8: the error says from which byte on.
pub fn decode_text(body: Bytes, max_message: usize) -> Result<Message, DecodeError> {
    fits(0, body.len(), max_message)?;
    Message::text_from_utf8(body).map_err(|at| not_utf8("the body", at))
}

/// The body as one binary message, also an empty one.
///
/// # Errors
/// Over `max_message` bytes.
pub fn decode_binary(body: Bytes, max_message: usize) -> Result<Message, DecodeError> {
    fits(0, body.len(), max_message)?;
    Ok(Message::binary(body))
}

fn fits(index: usize, length: usize, limit: usize) -> Result<(), DecodeError> {
    if length > limit { Err(DecodeError::TooLarge { index, limit }) } else { Ok(()) }
}

fn utf8<'a>(whose: &str, bytes: &'a [u8]) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|error| not_utf8(whose, error.valid_up_to()))
}

fn not_utf8(whose: &str, at: usize) -> DecodeError {
    DecodeError::malformed(format!("{whose} is not UTF-8 from its byte {at} on"))
}

/// The value of a form field that is called `messages`, or `json` as in the forms of other requests.
fn messages_field(field: &[u8]) -> Option<&[u8]> {
    let equals = field.iter().position(|byte| *byte == b'=')?;
    matches!(&*form_decoded(&field[..equals]), b"messages" | b"json").then_some(&field[equals + 1..])
}

/// The bytes behind a url-encoded form value (URL standard, section 5.1). Done here and not by `form_urlencoded`, which
/// puts U+FFFD for what is not UTF-8 and so would silently change a message.
pub(super) fn form_decoded(value: &[u8]) -> Vec<u8> {
    let spaced: Cow<'_, [u8]> = if value.contains(&b'+') {
        value.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect()
    } else {
        value.into()
    };
    percent_decode(&spaced).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(form: Form, body: &'static [u8]) -> String {
        form.decode(Bytes::from_static(body), 100).expect_err("refused").to_string()
    }

    #[test]
    fn the_form_of_a_request() {
        let form = |content_type, name| Form::from_request(content_type, name).ok();
        assert_eq!(form(None, None), Some(Form::Json));
        assert_eq!(form(Some("Application/JSON"), None), Some(Form::Json));
        assert_eq!(form(Some("application/octet-stream"), None), Some(Form::Frames));
        assert_eq!(form(Some("application/x-www-form-urlencoded"), None), Some(Form::Form));
        assert_eq!(form(Some("text/plain;charset=UTF-8"), None), Some(Form::Text));
        assert_eq!(form(Some("text/plain"), Some("json")), Some(Form::Json));
        assert_eq!(form(Some("image/png"), Some("binary")), Some(Form::Binary));
        assert_eq!(form(Some("image/png"), None), None);
        assert_eq!(form(Some("text/plain"), Some("xml")), None);
        assert_eq!(form(Some("text/plain"), Some("")), None);
    }

    #[test]
    fn forms_hold_the_array_or_the_object() {
        let two = Ok(vec![Message::text("a b+"), Message::binary(vec![0, 1, 2, 255])]);
        assert_eq!(decode_form(b"messages=%5B%22a+b%2B%22%2C%7B%22base64%22%3A%22AAEC%2Fw%3D%3D%22%7D%5D", 100), two);
        assert_eq!(decode_form(br#"x=1&messages={"messages":["a+b%2b",{"base64":"AAEC/w=="}]}"#, 100), two);
        assert_eq!(decode_form(b"", 100), Ok(vec![]));
        assert_eq!(decode_form(br#"json={"messages":["a+b%2b",{"base64":"AAEC/w=="}]}"#, 100), two);
        assert!(refused(Form::Form, b"hi").starts_with("the form has no field `messages` (curl"));
        assert_eq!(refused(Form::Form, b"messages=[]&messages=[]"), "the form has the field `messages` more than once");
        assert_eq!(refused(Form::Form, b"messages=%5B%22%ff"), "the field `messages` is not UTF-8 from its byte 2 on");
    }

    #[test]
    fn a_body_of_few_bytes_does_not_become_any_number_of_messages() {
        let json = |count: usize| format!("[{}\"\"]", "\"\",".repeat(count - 1));
        let frames = |count: usize| Bytes::from([2, 0, 0, 0, 0].repeat(count));
        let too_many = Err(DecodeError::TooMany { limit: MOST_MESSAGES });
        for (count, expected) in [(MOST_MESSAGES, Ok(MOST_MESSAGES)), (MOST_MESSAGES + 1, too_many)] {
            let object = format!("{{\"messages\":{}}}", json(count));
            assert_eq!(decode_json(object.as_bytes(), 9).map(|messages| messages.len()), expected);
            let form = format!("messages={}", json(count));
            assert_eq!(decode_form(form.as_bytes(), 9).map(|messages| messages.len()), expected);
            assert_eq!(Form::Frames.decode(frames(count), 9).map(|messages| messages.len()), expected);
        }
    }

    #[test]
    fn bodies_that_are_one_message() {
        assert_eq!(Form::Text.decode(Bytes::new(), 0), Ok(vec![Message::text("")]));
        assert_eq!(Form::Binary.decode(Bytes::from_static(&[255]), 1), Ok(vec![Message::binary(vec![255])]));
        assert_eq!(refused(Form::Text, b"ab\xff"), "the body is not UTF-8 from its byte 2 on");
        let limit = Err(DecodeError::TooLarge { index: 0, limit: 1 });
        assert_eq!(Form::Text.decode(Bytes::from_static(b"ab"), 1), limit);
        assert_eq!(Form::Binary.decode(Bytes::from_static(b"ab"), 1), limit);
    }
}
