//! The JSON of `send`, read in one pass without a tree.
//!
//! Enters: text of a client. Leaves: messages, or an error with the index of the message. Must not touch: anything
//! else. Payloads are copied once, out of the text into their message.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::super::DecodeError;
use super::MOST_MESSAGES;
use crate::session::Message;

/// `{"messages":[…]}`; nothing at all is no messages.
pub(super) fn object(text: &str, max_message: usize) -> Result<Vec<Message>, DecodeError> {
    if text.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    Reading::new(max_message).run(text, |reading, json| json.deserialize_map(Object(reading)))
}

/// `{"messages":[…]}` or the array alone.
pub(super) fn object_or_array(text: &str, max_message: usize) -> Result<Vec<Message>, DecodeError> {
    if text.trim_ascii_start().starts_with('[') {
        return Reading::new(max_message).run(text, |reading, json| List(reading).deserialize(json));
    }
    object(text, max_message)
}

/// What was read so far, and the place, which errors name.
struct Reading {
    max_message: usize,
    messages: Vec<Message>,
    in_list: bool,
    too_large: bool,
    too_many: bool,
}

type Json<'de> = serde_json::Deserializer<serde_json::de::StrRead<'de>>;

impl Reading {
    fn new(max_message: usize) -> Self {
        Self { max_message, messages: Vec::new(), in_list: false, too_large: false, too_many: false }
    }

    fn run<'de>(
        mut self,
        text: &'de str,
        read: impl FnOnce(&mut Self, &mut Json<'de>) -> serde_json::Result<()>,
    ) -> Result<Vec<Message>, DecodeError> {
        let mut json = Json::from_str(text);
        match read(&mut self, &mut json).and_then(|()| json.end()) {
            Ok(()) => Ok(self.messages),
            Err(_) if self.too_large => {
                Err(DecodeError::TooLarge { index: self.messages.len(), limit: self.max_message })
            }
            Err(_) if self.too_many => Err(DecodeError::TooMany { limit: MOST_MESSAGES }),
            Err(error) if self.in_list => {
                let hint = surrogate_hint(&error.to_string());
                Err(DecodeError::malformed(format!("messages[{}]: {error}{hint}", self.messages.len())))
            }
            Err(error) => Err(DecodeError::malformed(format!("the messages are not the JSON they must be: {error}"))),
        }
    }

    /// An error when a payload is too long; [`Reading::run`] adds which one.
    fn check<E: Error>(&mut self, length: usize) -> Result<(), E> {
        self.too_large = length > self.max_message;
        if self.too_large { Err(E::custom("too large")) } else { Ok(()) }
    }
}

/// serde_json's error for half a surrogate pair does not say that it is one.
fn surrogate_hint(error: &str) -> &'static str {
    if error.contains("hex escape") { " (a lone surrogate such as \\ud800 is not text; send it as base64)" } else { "" }
}

/// The whole body; fields that are not `messages` are ignored.
struct Object<'a>(&'a mut Reading);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object {\"messages\":[…]}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = false;
        while let Some(key) = map.next_key::<String>()? {
            if key != "messages" {
                map.next_value::<IgnoredAny>()?;
            } else if seen {
                return Err(A::Error::duplicate_field("messages"));
            } else {
                seen = true;
                map.next_value_seed(List(self.0))?;
            }
        }
        Ok(())
    }
}

/// The array of messages.
struct List<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for List<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.0.in_list = true;
        while let Some(message) = list.next_element_seed(One(self.0))? {
            self.0.too_many = self.0.messages.len() == MOST_MESSAGES;
            if self.0.too_many {
                return Err(A::Error::custom("too many messages"));
            }
            self.0.messages.push(message);
        }
        self.0.in_list = false;
        Ok(())
    }
}

/// One message: a string, or `{"base64":"…"}`.
struct One<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = Message;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Message, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or {\"base64\":\"…\"}")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Message, E> {
        self.0.check(text.len())?;
        Ok(Message::text(text))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
        let mut message = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != "base64" {
                return Err(A::Error::custom("a binary message is {\"base64\":\"…\"} without any other field"));
            }
            if message.is_some() {
                return Err(A::Error::duplicate_field("base64"));
            }
            message = Some(map.next_value_seed(Base64(self.0))?);
        }
        message.ok_or_else(|| A::Error::missing_field("base64"))
    }
}

/// The string in `{"base64":"…"}`.
struct Base64<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for Base64<'_> {
    type Value = Message;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Message, D::Error> {
        json.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Base64<'_> {
    type Value = Message;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string of base64")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Message, E> {
        // Padded as it should be, or not at all (RFC 4648 section 3.2).
        let engine = if text.ends_with('=') { STANDARD } else { STANDARD_NO_PAD };
        let bytes = engine.decode(text).map_err(|error| E::custom(format_args!("base64: {error}")))?;
        self.0.check(bytes.len())?;
        Ok(Message::binary(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        object(text, 100).expect_err("refused").to_string()
    }

    #[test]
    fn the_body_of_the_protocol() {
        let messages = object(r#" {"x":[{}],"messages":["text",{"base64":"AAEC/w=="}],"y":null} "#, 4);
        assert_eq!(messages, Ok(vec![Message::text("text"), Message::binary(vec![0, 1, 2, 255])]));
        let unpadded = object(r#"{"messages":[{"base64":"AAEC/w"},{"base64":""}]}"#, 4);
        assert_eq!(unpadded, Ok(vec![Message::binary(vec![0, 1, 2, 255]), Message::binary(vec![])]));
    }

    #[test]
    fn nothing_is_no_messages() {
        for text in ["", " \r\n", "{}", r#"{"messages":[]}"#, r#"{"other":1}"#] {
            assert_eq!(object(text, 0), Ok(vec![]), "{text}");
        }
    }

    #[test]
    fn errors_name_the_message() {
        for (text, start) in [
            (
                r#"{"messages":["a",3]}"#,
                "messages[1]: invalid type: integer `3`, expected a string or {\"base64\":\"…\"}",
            ),
            (r#"{"messages":["\ud800"]}"#, "messages[0]: unexpected end of hex escape"),
            (r#"{"messages":["\udc00"]}"#, "messages[0]: lone leading surrogate in hex escape"),
            (r#"{"messages":["a",null]}"#, "messages[1]: invalid type: null"),
            (r#"{"messages":["a" "b"]}"#, "messages[1]: expected `,` or `]`"),
            (r#"{"messages":["a",["b"]]}"#, "messages[1]: invalid type: sequence"),
            (r#"{"messages":["a",{}]}"#, "messages[1]: missing field `base64`"),
            (r#"{"messages":[{"base64":"AA==","x":1}]}"#, "messages[0]: a binary message is"),
            (r#"{"messages":[{"base64":"AA==","base64":"AA=="}]}"#, "messages[0]: duplicate field `base64`"),
            (r#"{"messages":[{"base64":7}]}"#, "messages[0]: invalid type: integer `7`, expected a string of base64"),
            (r#"{"messages":[{"base64":"A-_A"}]}"#, "messages[0]: base64: "),
            (r#"{"messages":[{"base64":"AB=="}]}"#, "messages[0]: base64: "),
            (r#"{"messages":[{"base64":"A"}]}"#, "messages[0]: base64: "),
            (r#"{"messages":["a"#, "messages[0]: EOF while parsing a string"),
            (r#"{"messages":[],"messages":[]}"#, "the messages are not the JSON they must be: duplicate field"),
            (r#"{"messages":[]} x"#, "the messages are not the JSON they must be: trailing characters"),
            (r#"{"messages":"a"}"#, "the messages are not the JSON they must be: invalid type: string"),
            (r#"["a"]"#, "the messages are not the JSON they must be: invalid type: sequence, expected an object"),
            ("hi", "the messages are not the JSON they must be: expected value"),
        ] {
            let error = refused(text);
            assert!(error.starts_with(start), "{text}: {error}");
        }
    }

    #[test]
    fn lone_surrogates_are_named() {
        for text in [r#"["\ud800"]"#, r#"["\udc00"]"#, r#"["\ud800\n"]"#, r#"["\ud83d\ud83d"]"#, r#"["\ud83dx"]"#] {
            let error = object_or_array(text, 100).expect_err(text).to_string();
            assert!(error.contains("lone surrogate such as \\ud800"), "{text}: {error}");
        }
        assert_eq!(object_or_array(r#"["\ud83d\ude00"]"#, 4), Ok(vec![Message::text("😀")]));
    }

    #[test]
    fn a_message_over_the_limit_is_named() {
        for text in [r#"["ab","abc"]"#, r#"["ab",{"base64":"YWJj"}]"#] {
            let error = object_or_array(text, 2);
            assert_eq!(error, Err(DecodeError::TooLarge { index: 1, limit: 2 }), "{text}");
            assert_eq!(object_or_array(text, 3).map(|messages| messages.len()), Ok(2));
        }
    }

    /// Deep nesting is an error or passed over, never a deep stack.
    #[test]
    fn depth_bombs() {
        let deep = |opening: &str| opening.repeat(2_000_000);
        assert!(object_or_array(&deep("["), 9).is_err());
        assert!(object(&deep("{\"messages\":["), 9).is_err());
        assert!(object(&format!("{{\"messages\":[{{\"base64\":{}", deep("[")), 9).is_err());
        assert!(object(&format!("{{\"x\":{}", deep("[")), 9).is_err());
        assert!(object(&format!("{{\"x\":{}", deep("{\"a\":")), 9).is_err());
        let passed = format!("{{\"x\":{}{},\"messages\":[\"a\"]}}", "[".repeat(50_000), "]".repeat(50_000));
        assert_eq!(object(&passed, 9), Ok(vec![Message::text("a")]));
    }
}
