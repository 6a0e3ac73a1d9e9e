//! Parameters and tokens that are not what they must be, at every endpoint that takes them.

use super::house::House;
use super::raw;

/// No digits, no matter how one looks at them.
const NO_NUMBERS: &[&str] = &[
    "",
    "x",
    "-1",
    "1.5",
    "1e3",
    "+1",
    "%2b1",
    "%2B1",
    "%00",
    "1%00",
    "%001",
    "%201",
    "1%20",
    "0x1",
    "%ff",
    "%ZZ",
    "1%",
    "%EF%BC%91",
    "%D9%A3",
    "NaN",
    "null",
    "true",
    "Infinity",
    "[]",
    "1,2",
    "1;2",
    "9007199254740992",
    "18446744073709551615",
    "18446744073709551616",
    "340282366920938463463374607431768211456",
    "%0d%0a",
    "..",
    "%3Cb%3E",
    "01",
    "00",
    "0000000000000002",
    "%31",
    "1%30",
];

#[tokio::test]
async fn cursors_and_numbers_that_are_none() {
    let mut house = House::open("").await;
    for verb in ["sse", "stream", "poll", "send", "ack"] {
        let method = if matches!(verb, "send" | "ack") { "POST" } else { "GET" };
        for number in NO_NUMBERS {
            let path = house.url(&format!("{verb}?after={number}"));
            house.refuses((method, &path), &[], b"", (400, "bad_request", "`after=")).await;
        }
    }
    for number in NO_NUMBERS.iter().chain(&["0"]) {
        let path = house.url(&format!("send?seq={number}&as=text"));
        house.refuses(("POST", &path), &[], b"never", (400, "bad_request", "`seq=")).await;
    }
    let path = house.url("ws?after=x");
    let headers = raw::handshake(&[("Sec-WebSocket-Protocol", "underpass.v1")]);
    house.refuses(("GET", &path), &headers, b"", (400, "bad_request", "`after=")).await;
    let path = house.url("ack");
    house.refuses(("POST", &path), &[], b"", (400, "bad_request", "`after` is missing")).await;
    house.lives_on().await;
}

#[tokio::test]
async fn cursors_beyond_what_was_sent() {
    let mut house = House::open("").await;
    house.lives_on().await;
    for verb in ["sse", "stream", "poll", "send", "ack"] {
        let method = if matches!(verb, "send" | "ack") { "POST" } else { "GET" };
        for number in ["2", "9007199254740991"] {
            let path = house.url(&format!("{verb}?after={number}"));
            house.refuses((method, &path), &[], b"", (400, "bad_cursor", "`after`")).await;
        }
    }
    let path = house.url("send?as=text&after=9");
    house.refuses(("POST", &path), &[], b"never", (400, "bad_cursor", "1")).await;
    let path = house.url("ws?after=2");
    let headers = raw::handshake(&[("Sec-WebSocket-Protocol", "underpass.v1")]);
    house.refuses(("GET", &path), &headers, b"", (400, "bad_cursor", "`after`")).await;
    house.lives_on().await;
}

#[tokio::test]
async fn numbers_too_far_ahead_are_a_gap_that_keeps_nothing() {
    let mut house = House::open("").await;
    let two = br#"{"messages":["never","never"]}"#;
    for seq in ["65", "66", "1000000", "9007199254740990", "9007199254740991"] {
        let path = house.url(&format!("send?seq={seq}"));
        let answer = house.refuses(("POST", &path), &[], two, (409, "gap", "1")).await;
        assert_eq!(answer.json()["next"], 1);
    }
    house.lives_on().await;
}

#[tokio::test]
async fn waits_that_are_no_times() {
    let mut house = House::open("").await;
    for wait in [
        "",
        "x",
        "-1",
        "NaN",
        "inf",
        "1e400",
        "1e3",
        ".",
        "..",
        "1.2.3",
        "%00",
        "0x1",
        "+1",
        "1,5",
        "%ff",
        "99999999999999999999999999",
    ] {
        let path = house.url(&format!("poll?wait={wait}"));
        house.refuses(("GET", &path), &[], b"", (400, "bad_request", "`wait=")).await;
    }
    for (wait, status) in [("0", 200), ("0.001", 200), (".0", 200), ("0.", 200)] {
        let path = house.url(&format!("poll?wait={wait}"));
        assert_eq!(house.ask("GET", &path, &[], b"").await.status, status, "{wait}");
    }
    house.lives_on().await;
}

#[tokio::test]
async fn forms_and_content_types_that_nobody_knows() {
    let mut house = House::open("").await;
    for name in ["", "xml", "JSON", "text%00", "frames,json", "%ff"] {
        let send = house.url(&format!("send?as={name}"));
        house.refuses(("POST", &send), &[], b"never", (400, "bad_request", "`as`")).await;
        let poll = house.url(&format!("poll?as={name}&wait=0"));
        house.refuses(("GET", &poll), &[], b"", (400, "bad_request", "`as`")).await;
    }
    let poll = house.url("poll?as=text&wait=0");
    house.refuses(("GET", &poll), &[], b"", (400, "bad_request", "`as`")).await;
    let send = house.url("send");
    for content_type in [
        "image/png",
        "application/xml",
        "multipart/form-data; boundary=x",
        "text/html",
        "text",
        "/",
        "*/*",
        ";",
        "application/json,text/plain",
        "application/jsonx",
        "text/plain/x",
    ] {
        let answer = house.ask("POST", &send, &[("Content-Type", content_type)], b"never").await;
        let empty = content_type == ";";
        assert_eq!((answer.status, answer.refused().as_str()), (400, "bad_request"), "{content_type}");
        assert!(empty || answer.message().contains("Content-Type"), "{content_type}: {}", answer.message());
    }
    // What is no text at all.
    let mut wire = house.wire().await;
    let mut bytes = raw::request("POST", &send, &[("Content-Type", "text/plain~")], b"never");
    let at = bytes.iter().position(|byte| *byte == b'~').expect("it is there");
    bytes[at] = 0xff;
    wire.write(&bytes).await;
    let answer = wire.answer(false).await.expect("an answer");
    assert_eq!((answer.status, answer.refused().as_str()), (400, "bad_request"));
    house.lives_on().await;
}

#[tokio::test]
async fn parameters_that_are_repeated_foreign_or_many_do_no_harm() {
    let mut house = House::open("").await;
    let many = "x=1&".repeat(300);
    for query in [
        "wait=0&wait=x&after=0&after=-1",
        "wait=0&foo=bar&%00=1&=&&&&%ff=%ff",
        "wait=0&AFTER=-1&Wait=x",
        "wait=0&underpass.after=x&lastEventId=..",
        &format!("{many}wait=0"),
    ] {
        let path = house.url(&format!("poll?{query}"));
        assert_eq!(house.ask("GET", &path, &[], b"").await.status, 200, "{query}");
    }
    let long = house.url(&format!("poll?wait=0&n={}", "n".repeat(129)));
    let answer = raw::ask(house.site.at, "GET", &long, &[], b"").await;
    assert_eq!((answer.status, answer.refused().as_str()), (400, "bad_request"));
    assert!(answer.message().contains("`n`"), "{}", answer.message());
    for (query, echoed) in [("%00%0d%0a%22%5c%3Cb%3E", "\0\r\n\"\\<b>"), ("%ff", "\u{fffd}"), ("", "")] {
        let path = house.url(&format!("poll?wait=0&n={query}"));
        let answer = raw::ask(house.site.at, "GET", &path, &[], b"").await;
        assert_eq!(answer.json()["n"], echoed, "{query}");
    }
    // More than a head may hold.
    let path = house.url(&format!("poll?x={}", "x".repeat(20_000)));
    let answer = raw::ask(house.site.at, "GET", &path, &[], b"").await;
    assert!(matches!(answer.status, 414 | 431), "{answer:?}");
    house.lives_on().await;
}

#[tokio::test]
async fn tokens_that_are_not_exactly_right_are_all_unknown_alike() {
    let mut house = House::open("").await;
    let token = house.opened.session["token"].as_str().expect("a token").to_owned();
    let unknown = format!("n1-{}", "A".repeat(44));
    let path = |token: &str| format!("/_underpass/s/{token}/poll?wait=0");
    let model = raw::ask(house.site.at, "GET", &path(&unknown), &[], b"").await;
    assert_eq!((model.status, model.refused().as_str()), (404, "unknown_session"));
    let mut forged: Vec<String> = Vec::new();
    for at in 0..token.len() {
        for bit in 0..7 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] ^= 1 << bit;
            // What cannot stand in a path, or ends the segment, is another path.
            if bytes[at].is_ascii_alphanumeric() || b"-_.~!$&'()*+,=:@;".contains(&bytes[at]) {
                forged.push(String::from_utf8(bytes).expect("ASCII"));
            }
        }
        forged.push(token[..at].to_owned());
        forged.push(format!("{}%{:02x}{}", &token[..at], token.as_bytes()[at], &token[at + 1..]));
    }
    forged.extend([format!("{token}A"), format!("{token}%00"), format!("%20{token}"), token.to_ascii_uppercase()]);
    forged.extend([token.replacen("n1", "n2", 1), token.replacen("n1-", "", 1), "x".repeat(8000), "%".into()]);
    assert!(forged.len() > 300, "{}", forged.len());
    for token in forged {
        let answer = raw::ask(house.site.at, "GET", &path(&token), &[], b"").await;
        assert_eq!((answer.status, &answer.body), (404, &model.body), "{token}");
        answer.is_protected();
    }
    for verb in ["sse", "stream", "poll", "ws", "send", "ack", "close"] {
        let method = if matches!(verb, "send" | "ack" | "close") { "POST" } else { "GET" };
        let (last, flipped) = token.split_at(token.len() - 1);
        let wrong = format!("{last}{}", if flipped == "A" { "B" } else { "A" });
        for token in [&wrong, &unknown] {
            let path = format!("/_underpass/s/{token}/{verb}?after=0");
            let answer = raw::ask(house.site.at, method, &path, &[], b"").await;
            assert_eq!((answer.status, &answer.body), (404, &model.body), "{verb}");
        }
    }
    house.lives_on().await;
}
