//! The `ws` transport under a client that breaks its rules: the attachment ends with the right code, the session does not.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::house::House;
use super::raw::{self, Wire, find, handshake, request};
use crate::support::site::soon;

const V1: (&str, &str) = ("Sec-WebSocket-Protocol", "underpass.v1");

/// The code with which an attachment ends; frames before it are passed over.
async fn ending(ws: &mut WebSocketStream<TcpStream>) -> u16 {
    loop {
        match soon("a close", ws.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
            Some(Ok(_)) => {}
            other => panic!("no close frame but {other:?}"),
        }
    }
}

fn with(kind: u8, payload: &[u8]) -> Message {
    Message::binary([&[kind], payload].concat())
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_attachment_with_1002() {
    let mut house = House::open("").await;
    house.lives_on().await;
    let long = [&[0x0f, 0xa0, 1][..], &[b'r'; 124]].concat();
    let close = |code: u16| with(8, &[code.to_be_bytes().as_slice(), &[1]].concat());
    let mut cases = vec![
        Message::text(""),
        Message::text("x"),
        Message::text("2hi"),
        Message::text(" 1hi"),
        Message::text("\u{feff}1hi"),
        Message::binary(Vec::new()),
        with(0, b""),
        with(1, b"hi"),
        with(3, b""),
        with(7, b"x"),
        with(255, b""),
        with(10, b""),
        with(10, &[0; 7]),
        with(10, &[0; 9]),
        with(8, b""),
        with(8, &[3, 232]),
        with(8, &[3, 232, 2]),
        with(8, &[3, 232, 1, 0xff]),
        with(8, &long),
        with(9, &[0; 8]),
        with(11, b"{}"),
        with(12, &[0; 16]),
        with(13, b""),
        with(14, &[0; 4]),
        // Acknowledging what was not sent.
        with(10, &2_u64.to_be_bytes()),
        with(10, &u64::MAX.to_be_bytes()),
        with(10, &(1_u64 << 53).to_be_bytes()),
    ];
    cases.extend([0, 999, 1001, 1002, 1005, 1006, 1015, 2999, 5000, 65535].map(close));
    for message in cases {
        let before = house.standing().await;
        let mut ws = house.site.websocket(&house.url("ws"), &[V1]).await;
        let told = format!("{message:?}");
        ws.send(message).await.expect("it is taken");
        assert_eq!(ending(&mut ws).await, 1002, "{told}");
        let after = house.standing().await;
        assert_eq!((&after["next"], &after["sent"]), (&before["next"], &before["sent"]), "{told}");
    }
    house.lives_on().await;
}

#[tokio::test]
async fn messages_over_the_limit_end_the_attachment_with_1009() {
    let mut house = House::open("[session]\nmessage = 1000\n").await;
    let before = house.standing().await;
    for size in [1001, 8 * 1024, 8 * 1024 + 1, 100_000] {
        for message in [Message::text(format!("1{}", "a".repeat(size))), with(2, &vec![0; size])] {
            let mut ws = house.site.websocket(&house.url("ws"), &[V1]).await;
            // It may be told of the end before it has sent all.
            let _ = ws.send(message).await;
            assert_eq!(ending(&mut ws).await, 1009, "{size}");
        }
    }
    assert_eq!(house.standing().await["next"], before["next"]);
    let mut ws = house.site.websocket(&house.url("ws"), &[V1]).await;
    ws.send(Message::text(format!("1{}", "a".repeat(1000)))).await.expect("it is taken");
    assert_eq!(house.socket.next_text().await.len(), 1000);
    house.lives_on().await;
}

/// RFC 6455 itself broken: what no client library would send.
#[tokio::test]
async fn broken_websocket_frames_end_the_attachment() {
    let mut house = House::open("").await;
    let masked = |first: u8, payload: &[u8]| [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat();
    let cases: &[(&str, Vec<u8>, u16)] = &[
        ("not masked", vec![0x81, 2, b'1', b'a'], 1002),
        ("reserved bit", masked(0xc1, b"1a"), 1002),
        ("all reserved bits", masked(0xf1, b"1a"), 1002),
        ("opcode 3", masked(0x83, b"1a"), 1002),
        ("opcode 15", masked(0x8f, b""), 1002),
        ("fragmented ping", masked(0x09, b""), 1002),
        ("continuation of nothing", masked(0x80, b"1a"), 1002),
        ("message within a message", [masked(0x01, b"1a"), masked(0x81, b"1b")].concat(), 1002),
        ("long ping", [&[0x89, 0xfe, 0, 126, 0, 0, 0, 0][..], &[b'p'; 126]].concat(), 1002),
        ("close of one byte", masked(0x88, &[3]), 1002),
        ("close with 1005", masked(0x88, &1005_u16.to_be_bytes()), 1002),
        ("text that is none", masked(0x81, b"1\xff"), 1007),
        ("half a surrogate", masked(0x81, b"1\xed\xa0\x80"), 1007),
        ("a frame without end", vec![0x82, 0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0], 1009),
        ("a length of 2^63", vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 1009),
    ];
    for (what, bytes, code) in cases {
        let before = house.standing().await;
        let (mut wire, _) = switched(&house).await;
        wire.write(bytes).await;
        let _ = wire.socket.shutdown().await;
        let rest = wire.rest().await;
        let close = [&[0x88][..], &code.to_be_bytes()].map(<[u8]>::to_vec);
        // The frame's length lies between; the payload begins with the code.
        let found = rest.windows(4).any(|four| four[0] == close[0][0] && four[2..] == close[1][..]);
        assert!(found, "{what}: no close with {code} in {:?}", String::from_utf8_lossy(&rest));
        assert_eq!(house.standing().await["next"], before["next"], "{what}");
    }
    house.lives_on().await;
}

/// A WebSocket of a session on a bare connection, with what has come behind the 101.
async fn switched(house: &House) -> (Wire, raw::Answer) {
    let mut wire = house.wire().await;
    wire.write(&request("GET", &house.url("ws"), &handshake(&[V1]), b"")).await;
    let answer = wire.answer(false).await.expect("an answer");
    assert_eq!(answer.status, 101, "{answer:?}");
    (wire, answer)
}

#[tokio::test]
async fn handshakes_that_lack_something_attach_nothing() {
    let mut house = House::open("").await;
    let path = house.url("ws");
    let other = ("Sec-WebSocket-Protocol", "underpass.v2, chat");
    type Case<'a> = (&'a [(&'a str, &'a str)], u16, &'a str, &'a str);
    let cases: &[Case<'_>] = &[
        (&[], 400, "bad_request", "underpass.v1"),
        (&[other], 400, "bad_request", "underpass.v1"),
        (&[("Sec-WebSocket-Protocol", "underpass.v1x")], 400, "bad_request", "underpass.v1"),
        (&[V1, ("Sec-WebSocket-Version", "8")], 400, "bad_request", "Sec-WebSocket-Version: 13"),
        (&[V1, ("Sec-WebSocket-Version", "")], 400, "bad_request", "Sec-WebSocket-Version: 13"),
        (&[V1, ("Sec-WebSocket-Key", "")], 400, "bad_request", "Sec-WebSocket-Key"),
        (&[V1, ("Upgrade", "")], 426, "upgrade_lost", "Upgrade"),
        (&[V1, ("Upgrade", "h2c")], 426, "upgrade_lost", "Upgrade"),
        (&[V1, ("Connection", "")], 426, "upgrade_lost", "Connection"),
        (&[V1, ("Connection", "keep-alive")], 426, "upgrade_lost", "Connection"),
    ];
    for (more, status, code, says) in cases {
        house.refuses(("GET", &path), &handshake(more), b"", (*status, code, says)).await;
    }
    house.lives_on().await;
}

/// What a client sends behind a handshake that is refused is a request of its own, or nothing.
#[tokio::test]
async fn frames_behind_a_refused_handshake_go_nowhere() {
    let mut house = House::open("").await;
    let before = house.standing().await;
    let mut wire = house.wire().await;
    let mut bytes = request("GET", &house.url("ws"), &handshake(&[]), b"");
    bytes.extend_from_slice(&[0x81, 0x87, 0, 0, 0, 0, b'1', b'n', b'e', b'v', b'e', b'r', b'!']);
    wire.write(&bytes).await;
    let _ = wire.socket.shutdown().await;
    let rest = wire.rest().await;
    assert!(find(&rest, b"HTTP/1.1 400").is_some(), "{:?}", String::from_utf8_lossy(&rest));
    assert!(find(&rest, b"HTTP/1.1 101").is_none());
    assert_eq!(house.standing().await, before);
    house.lives_on().await;
}
