//! Properties of the codecs through their public face, against parsers that were written here from the standards and
//! share nothing with them.
//!
//! Enters: random messages and random bytes. Leaves: verdicts. Must not touch: the network, the codecs' insides.

mod oracle;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use underpass::codec::encoding::Encoding as _;
use underpass::codec::frames::{ClientFrame, Frame, WsPayload};
use underpass::codec::poll::PollResponse;
use underpass::codec::request::{OpenRequest, decode_close};
use underpass::codec::sse::{self, Events, Ids};
use underpass::codec::{DecodeError, batch, frames};
use underpass::session::{Close, Message};

use self::oracle::*;

const TOKEN: &str = "n1-abcdefghijklmnopqrstuv";
const ANY: usize = usize::MAX;

/// Text that tries to break out of a line, an event, a string or a form.
fn text() -> impl Strategy<Value = String> {
    let hostile = prop::sample::select(vec![
        "\r",
        "\n",
        "\r\n",
        "\n\n",
        "\0",
        "\u{feff}",
        "\u{2028}",
        "\u{85}",
        "\u{b}",
        " ",
        ":",
        "data: ",
        "\nid: 5\n",
        "\nevent: close\n",
        "\n\nevent: close\ndata: {}\n\n",
        "retry: 1\n",
        "\"",
        "\\",
        "\\u0000",
        "&messages=",
        "%0a",
        "+",
        "é",
        "😀",
        "\u{10ffff}",
        "\u{7f}",
        "\u{1f}",
    ]);
    let piece = prop_oneof![3 => hostile.prop_map(str::to_owned), 2 => "(?s).{0,12}", 1 => "[a-z]{200,300}"];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        text().prop_map(Message::text),
        vec(any::<u8>(), 0..80).prop_map(Message::binary),
        // Bytes that are text, and text that looks like base64: the type has to survive as well.
        text().prop_map(|text| Message::binary(text.into_bytes())),
        Just(Message::text("AAEC/w==")),
    ]
}

fn close() -> impl Strategy<Value = Close> {
    (any::<u16>(), text(), any::<bool>()).prop_map(|(code, reason, clean)| Close { code, reason, clean })
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        message().prop_map(Frame::Message),
        close().prop_map(Frame::Close),
        any::<u64>().prop_map(Frame::Heartbeat),
        any::<u64>().prop_map(Frame::Ack),
        text().prop_map(Frame::Facts),
        any::<(u64, u64)>().prop_map(|(from, to)| Frame::Lost { from, to }),
        Just(Frame::Superseded),
        any::<u32>().prop_map(Frame::Reconnect),
    ]
}

/// Any JSON, but more often of a shape that is nearly or exactly right.
fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
        "[A-Za-z0-9+/]{0,9}={0,2}".prop_map(|text| json!({ "base64": text })),
        vec(any::<u8>(), 0..20).prop_map(|bytes| json!({ "base64": base64_of(&bytes) })),
        prop::sample::select(vec![r#"{"base64":"AA==","x":1}"#, r#"{"x":"AA=="}"#, r#"{"base64":["AA=="]}"#])
            .prop_map(|text| text.parse().expect("JSON")),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let name = prop::sample::select(vec!["messages", "base64", "x", ""]).prop_map(str::to_owned);
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec(inner.clone(), 0..6).prop_map(|list| json!({ "messages": list })),
            prop::collection::btree_map(name, inner, 0..3).prop_map(|map| map.into_iter().collect::<Value>()),
        ]
    })
}

fn events_of(stream: &[u8], cuts: &[usize]) -> EventSource {
    let mut source = EventSource::default();
    let mut rest = stream;
    for cut in cuts.iter().cycle() {
        let (chunk, later) = rest.split_at((*cut).min(rest.len()));
        source.feed(chunk);
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    source
}

fn one_event_each(messages: &[Message], ids: Ids<'_>, first: u64, cuts: &[usize]) -> Result<(), TestCaseError> {
    let (mut out, events) = (BytesMut::new(), Events(ids));
    events.opening(&mut out, first - 1, "{\"from\":0}");
    for (number, message) in (first..).zip(messages) {
        events.message(&mut out, number, message);
        events.heartbeat(&mut out, number);
    }
    let last = first + messages.len() as u64;
    events.close(&mut out, last, &Close::clean(4001, "a\r\nb"));
    let source = events_of(&out, cuts);
    prop_assert_eq!(source.retry, Some(1000));
    prop_assert_eq!(source.events.len(), messages.len() * 2 + 2);
    let id = |number: u64| match ids {
        Ids::Bare => number.to_string(),
        Ids::Token(token) => format!("{token}.{number}"),
    };
    prop_assert_eq!(&source.events[0].name, "session");
    prop_assert_eq!(&source.events[0].last_id, &id(first - 1));
    for ((number, message), pair) in (first..).zip(messages).zip(source.events[1..].chunks(2)) {
        prop_assert_eq!(message_of(&pair[0]), Some(message.clone()));
        prop_assert_eq!(&pair[0].last_id, &id(number));
        let beat = Event { name: "heartbeat".into(), data: number.to_string(), last_id: id(number) };
        prop_assert_eq!(&pair[1], &beat);
    }
    let end = &source.events[source.events.len() - 1];
    prop_assert_eq!((end.name.as_str(), &end.last_id), ("close", &id(last)));
    let close: Value = serde_json::from_str(&end.data).expect("a close is JSON");
    prop_assert_eq!(close, json!({ "code": 4001, "reason": "a\r\nb", "clean": true }));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_event_stream_carries_every_message_once(
        messages in vec(message(), 0..12),
        first in 1u64..1 << 53,
        token: bool,
        cuts in vec(1usize..40, 1..6),
    ) {
        let ids = if token { Ids::Token(TOKEN) } else { Ids::Bare };
        one_event_each(&messages, ids, first, &cuts)?;
    }

    #[test]
    fn an_id_that_was_written_is_read_again(number in 0..=sse::MAX_NUMBER) {
        let id = format!("{TOKEN}.{number}");
        prop_assert_eq!(sse::parse_id(&id), Some((TOKEN, number)));
    }

    #[test]
    fn frames_come_back_and_are_what_the_table_says(sent in vec(frame(), 0..12)) {
        let mut out = BytesMut::new();
        for frame in &sent {
            frame.encode(&mut out);
        }
        let plain = frames_of(&out).expect("whole frames");
        prop_assert_eq!(plain.len(), sent.len());
        for (frame, (kind, payload)) in sent.iter().zip(plain) {
            prop_assert_eq!(frame.kind() as u8, kind);
            if let Frame::Message(message) = frame {
                prop_assert_eq!(&message.payload()[..], payload);
            }
        }
        prop_assert_eq!(frames::decode_all(out.freeze()), Ok(sent));
    }

    #[test]
    fn frames_come_back_from_a_websocket(sent in frame()) {
        let came = match sent.to_ws() {
            WsPayload::Text(text) => {
                prop_assert_eq!(text.as_bytes()[0], b'1');
                Frame::from_ws_text(&text)
            }
            WsPayload::Binary(bytes) => {
                prop_assert_eq!(bytes[0], sent.kind() as u8);
                Frame::from_ws_binary(bytes)
            }
        };
        prop_assert_eq!(came, Ok(sent));
    }

    /// Whole frames with one byte changed or cut off: what is accepted is what the bytes say.
    #[test]
    fn damaged_frames_are_refused_or_mean_what_they_say(
        sent in vec(frame(), 1..5), at: prop::sample::Index, byte: u8, cut: bool,
    ) {
        let mut out = BytesMut::new();
        sent.iter().for_each(|frame| frame.encode(&mut out));
        let at = at.index(out.len());
        if cut { out.truncate(at) } else { out[at] = byte }
        let body = out.freeze();
        let expected: Option<Vec<Message>> =
            frames_of(&body).and_then(|frames| frames.into_iter().map(message_of_frame).collect());
        prop_assert_eq!(frames::messages(body.clone(), ANY).ok(), expected);
        if let Ok(read) = frames::decode_all(body.clone()) {
            let mut again = BytesMut::new();
            read.iter().for_each(|frame| frame.encode(&mut again));
            prop_assert_eq!(again, body);
        }
    }

    #[test]
    fn json_bodies_are_read_as_their_value_says(value in json_value(), pretty: bool) {
        let body = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let body = body.expect("a value is JSON");
        let expected = messages_of_value(&value);
        prop_assert_eq!(batch::decode_json(body.as_bytes(), ANY).ok(), expected.clone(), "{}", body);
        let wrapped = json!({ "messages": value });
        let form = |value: &Value| {
            let text = value.to_string();
            let body: String = form_urlencoded::Serializer::new(String::new())
                .append_pair("t", "1").append_pair("messages", &text).finish();
            batch::decode_form(body.as_bytes(), ANY).ok()
        };
        prop_assert_eq!(form(&wrapped), messages_of_value(&wrapped));
        if value.is_array() {
            prop_assert_eq!(form(&value), messages_of_value(&wrapped));
        } else {
            prop_assert_eq!(form(&value), expected);
        }
    }

    #[test]
    fn json_bodies_come_back(messages in vec(message(), 0..12), escaped: bool) {
        let list: Vec<Value> = messages.iter().map(value_of_message).collect();
        let mut body = json!({ "x": null, "messages": list }).to_string();
        if escaped {
            body = body.chars().map(|c| match c {
                ' '..='\u{7e}' => c.to_string(),
                _ => c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04X}")).collect(),
            }).collect();
        }
        prop_assert_eq!(batch::decode_json(body.as_bytes(), ANY), Ok(messages.clone()));
        let longest = messages.iter().map(|message| message.payload().len()).max().unwrap_or(0);
        prop_assert_eq!(batch::decode_json(body.as_bytes(), longest), Ok(messages.clone()));
        if longest > 0 {
            let index = messages.iter().position(|message| message.payload().len() == longest).expect("the longest");
            let limit = longest - 1;
            prop_assert_eq!(batch::decode_json(body.as_bytes(), limit), Err(DecodeError::TooLarge { index, limit }));
        }
    }

    #[test]
    fn a_poll_is_the_value_that_it_should_be(
        messages in vec(message(), 0..8),
        (from, after, next) in any::<(u64, u64, u64)>(),
        close in prop::option::of(close()),
        lost: Option<(u64, u64)>,
        nonce in prop::option::of(text()),
        superseded: bool,
        reconnect: Option<u32>,
    ) {
        let list: Vec<Value> = messages.iter().map(value_of_message).collect();
        let mut expected = json!({ "from": from, "after": after, "messages": list, "next": next });
        if let Some(close) = &close {
            expected["close"] = json!({ "code": close.code, "reason": close.reason, "clean": close.clean });
        }
        if let Some((from, to)) = lost {
            expected["lost"] = json!({ "from": from, "to": to });
        }
        if let Some(nonce) = &nonce {
            expected["n"] = json!(nonce);
        }
        if superseded {
            expected["superseded"] = json!(true);
        }
        if let Some(after_ms) = reconnect {
            expected["reconnect"] = json!({ "after_ms": after_ms });
        }
        let close = close.as_ref();
        let nonce = nonce.as_deref();
        let answer = PollResponse { from, after, messages: &messages, close, lost, next, nonce, superseded, reconnect };
        let mut body = BytesMut::new();
        answer.encode_json(&mut body);
        let body: Value = serde_json::from_slice(&body).expect("a poll is JSON");
        prop_assert_eq!(body, expected.clone());

        let mut body = BytesMut::new();
        answer.encode_frames(&mut body);
        let frames = frames_of(&body).expect("whole frames");
        let facts: Value = serde_json::from_slice(frames[0].1).expect("facts are JSON");
        for name in ["from", "after", "next", "n"] {
            prop_assert_eq!(facts.get(name), expected.get(name));
        }
        let kinds: Vec<u8> = frames.iter().map(|frame| frame.0).filter(|kind| *kind > 2).collect();
        let wanted = [(11, true), (12, lost.is_some()), (8, close.is_some()), (13, superseded), (14, reconnect.is_some())];
        let wanted: Vec<u8> = wanted.into_iter().filter(|(_, there)| *there).map(|(kind, _)| kind).collect();
        prop_assert_eq!(kinds, wanted);
        let came: Vec<Message> = frames.into_iter().filter_map(message_of_frame).collect();
        prop_assert_eq!(came, messages);
    }

    /// Strangers' bytes are refused or accepted, and never more than that.
    #[test]
    fn no_bytes_bring_a_decoder_down(bytes in vec(any::<u8>(), 0..200), text in text(), kind in 0u8..16) {
        let near = [&[kind], &bytes[..]].concat();
        for bytes in [bytes, text.clone().into_bytes(), near] {
            let body = Bytes::from(bytes);
            for form in ["json", "frames", "form", "text", "binary"] {
                let form = batch::Form::from_request(None, Some(form)).expect("a form's name");
                let _ = form.decode(body.clone(), 20);
            }
            if let Ok(frame) = Frame::from_ws_binary(body.clone()) {
                prop_assert_eq!(frame.to_ws(), WsPayload::Binary(body.clone()));
                let _ = ClientFrame::try_from(frame);
            }
            let _ = (frames::decode_all(body.clone()), OpenRequest::decode(&body), decode_close(&body));
        }
        let _ = (Frame::from_ws_text(&text), sse::parse_id(&text), sse::parse_number(&text));
        let _ = batch::Form::from_request(Some(&text), None);
    }
}

/// Messages of a megabyte, also one that is nothing but line ends.
#[test]
fn an_event_stream_carries_long_messages() {
    let long = ["x".repeat(1 << 20), "\n".repeat(1 << 18), "\r".repeat(1 << 18)].map(Message::text);
    let binary = Message::binary((0..=255).cycle().take(100_001).collect::<Vec<u8>>());
    let messages = [&long[..], &[binary]].concat();
    one_event_each(&messages, Ids::Bare, 1, &[65_536, 1, 999]).expect("every message once");
}
