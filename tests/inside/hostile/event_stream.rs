//! Text of the backend in an event stream: no byte of it ends a line or an event. Read by a parser that does to the letter
//! what the standard says (HTML, section 9.2.6).

use base64::Engine as _;

use super::house::{House, no_panics};
use super::raw::{Wire, find};

/// One event as a browser would hand it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

/// All events in an answer that was delimited by the end of its connection.
pub(crate) fn events(answer: &[u8]) -> Vec<Event> {
    let body = find(answer, b"\r\n\r\n").map(|at| &answer[at + 4..]).expect("a head");
    let text = std::str::from_utf8(body).expect("an event stream is UTF-8");
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
    let (mut events, mut event, mut data, mut id) = (Vec::new(), Event::default(), None::<String>, String::new());
    for line in text.split('\n') {
        if line.is_empty() {
            if let Some(data) = data.take() {
                events.push(Event { data, id: id.clone(), ..std::mem::take(&mut event) });
            }
            event = Event::default();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => event.name = value.to_owned(),
            "data" => match &mut data {
                Some(data) => data.extend(["\n", value]),
                None => data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => id = value.to_owned(),
            _ => {}
        }
    }
    events
}

/// What a client makes of the events: the messages, each with its number.
fn messages(events: &[Event]) -> Vec<(String, Vec<u8>)> {
    let base64 = base64::engine::general_purpose::STANDARD;
    let of = |event: &Event| match event.name.as_str() {
        "" => Some(event.data.clone().into_bytes()),
        "json" => Some(serde_json::from_str::<String>(&event.data).expect("a JSON string").into_bytes()),
        "binary" => Some(base64.decode(&event.data).expect("base64")),
        "session" | "heartbeat" | "close" => None,
        other => panic!("an event {other:?}"),
    };
    let number = |event: &Event| event.id.rsplit('.').next().unwrap_or_default().to_owned();
    events.iter().filter_map(|event| Some((number(event), of(event)?))).collect()
}

/// Texts that would do harm if they were written down carelessly, and many more of their pieces.
fn hostile_texts() -> Vec<String> {
    let mut texts: Vec<String> = [
        "",
        " ",
        "\n",
        "\r",
        "\r\n",
        "\n\n",
        "\r\r",
        "\n\r",
        "\0",
        "\u{feff}",
        "\u{feff}\u{feff}a",
        "a\n",
        "\na",
        "a\n\n",
        " a",
        ":",
        ": a",
        "data: x",
        "x\n\ndata: evil\n\n",
        "x\r\rdata: evil\r\r",
        "x\r\n\r\nevent: close\r\ndata: {}\r\n\r\n",
        "x\nid: 999\n",
        "x\rid: 999\r",
        "x\nretry: 1\n\n",
        "x\0y",
        "\0\n\0",
        "\u{2028}\u{2029}\u{85}\u{b}\u{c}",
        "\u{1f}\u{7f}",
        "</script>",
        "\u{fffd}",
        "\u{10ffff}",
        "\u{202e}",
        "\\n\\r",
        "\"",
        "{\"a\":1}",
        "event: session\ndata: {\"token\":\"evil\"}\n\n",
    ]
    .map(str::to_owned)
    .to_vec();
    let pieces = [
        "\r",
        "\n",
        "\r\n",
        "\0",
        "\u{feff}",
        "data:",
        "data: ",
        "id: 7",
        "event: close",
        ":",
        " ",
        "é",
        "x",
        "\u{2028}",
    ];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for _ in 0..300 {
        let mut text = String::new();
        for _ in 0..8 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            text.push_str(pieces[(seed % pieces.len() as u64) as usize]);
        }
        texts.push(text);
    }
    texts
}

#[tokio::test]
async fn hostile_text_comes_out_as_it_went_in() {
    let texts = hostile_texts();
    for one_request in [false, true] {
        let mut house = House::open("").await;
        let path = if one_request { "/chat?underpass=sse".to_owned() } else { house.url("sse") };
        let mut wire = Wire::open(house.site.at).await;
        wire.write(format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n").as_bytes()).await;
        if one_request {
            house.socket = house.backend.accept().await;
        }
        for text in &texts {
            house.socket.send(text).await;
            house.socket.send_binary(text.as_bytes()).await;
        }
        house.socket.close(1000, "").await;
        let events = events(&wire.rest().await);
        let expected: Vec<_> =
            texts.iter().flat_map(|text| [text, text]).map(|text| text.clone().into_bytes()).collect();
        let got = messages(&events);
        for (at, expected) in expected.iter().enumerate() {
            let (number, payload) = &got[at];
            assert_eq!(number, &(at + 1).to_string(), "{:?}", String::from_utf8_lossy(expected));
            assert_eq!(
                payload,
                expected,
                "{:?} as {:?}",
                String::from_utf8_lossy(expected),
                String::from_utf8_lossy(payload)
            );
        }
        assert_eq!(got.len(), expected.len());
        let (first, last) = (&events[0], events.last().expect("a close"));
        assert_eq!((first.name.as_str(), last.name.as_str()), ("session", "close"));
        assert_eq!(events.iter().filter(|event| matches!(event.name.as_str(), "session" | "close")).count(), 2);
    }
    no_panics();
}
