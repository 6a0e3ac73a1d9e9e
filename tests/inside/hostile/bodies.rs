//! Bodies that are malformed, oversized, cut short or late, at every endpoint that takes one.

use super::house::House;
use super::raw::{self, chunked, request};

/// Small limits, so that bodies can be one byte over them.
const SMALL: &str = "[session]\nmessage = 1000\nbody = 4000\n";

#[tokio::test]
async fn json_that_is_none_or_says_something_else() {
    let mut house = House::open(SMALL).await;
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(1500), "]".repeat(1500));
    let deep_objects = format!("{{\"messages\":[{}1{}]}}", "{\"base64\":".repeat(200), "}".repeat(200));
    let cases: &[(&[u8], &str)] = &[
        (b"{", "the JSON"),
        (b"nothing", "the JSON"),
        (b"[]", "the JSON"),
        (b"\"text\"", "the JSON"),
        (b"null", "the JSON"),
        (b"7", "the JSON"),
        (br#"{"messages":null}"#, "the JSON"),
        (br#"{"messages":"a"}"#, "the JSON"),
        (br#"{"messages":{}}"#, "the JSON"),
        (br#"{"messages":["a"],"messages":["b"]}"#, "messages"),
        (br#"{"messages":["a"]} x"#, "trailing"),
        (br#"{"messages":["a"]}{"messages":["b"]}"#, "trailing"),
        (br#"{"messages":["a",]}"#, "messages[1]"),
        (br#"{"messages":["a""b"]}"#, "messages[1]"),
        (br#"{"messages":["a","b"#, "messages[1]"),
        (br#"{"messages":[1]}"#, "messages[0]"),
        (br#"{"messages":["a",null]}"#, "messages[1]"),
        (br#"{"messages":["a",true]}"#, "messages[1]"),
        (br#"{"messages":["a",["b"]]}"#, "messages[1]"),
        (br#"{"messages":["a",{}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":7}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":null}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"A"}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"A==="}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"AA=A"}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"AB=="}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"_-8="}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"A A="}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"AA==","x":1}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"base64":"AA==","base64":"AA=="}]}"#, "messages[1]"),
        (br#"{"messages":["a",{"text":"b"}]}"#, "messages[1]"),
        (br#"{"messages":["a","\ud800"]}"#, "messages[1]"),
        (br#"{"messages":["a","\udc00\ud800"]}"#, "messages[1]"),
        (br#"{"messages":["a","\ud800\u0041"]}"#, "messages[1]"),
        (br#"{"messages":["a","\x41"]}"#, "messages[1]"),
        (b"{\"messages\":[\"a\",\"\n\"]}", "messages[1]"),
        (b"{\"messages\":[\"a\",\"\0\"]}", "messages[1]"),
        (b"{\"messages\":[\"a\xff\"]}", "UTF-8"),
        (b"\xef\xbb\xbf{\"messages\":[\"a\"]}", "JSON"),
        (b"{\"messages\":[\"a\xed\xa0\x80\"]}", "UTF-8"),
        (b"{\"messages\":[\"a\xc0\x80\"]}", "UTF-8"),
        (b"\xff\xfe{\0}\0", "UTF-8"),
        (deep.as_bytes(), "messages[0]"),
        (deep_objects.as_bytes(), "messages[0]"),
    ];
    for (body, says) in cases {
        for more in ["", "&seq=1"] {
            let path = house.url(&format!("send?as=json{more}"));
            house.refuses(("POST", &path), &[], body, (400, "bad_request", says)).await;
        }
    }
    // Nesting where nobody looks is passed over, whatever its depth.
    let elsewhere = format!("{{\"x\":{}{},\"messages\":[]}}", "[".repeat(1500), "]".repeat(1500));
    assert_eq!(house.ask("POST", &house.url("send"), &[], elsewhere.as_bytes()).await.status, 200);
    house.lives_on().await;
}

#[tokio::test]
async fn frames_that_are_cut_or_unknown() {
    let mut house = House::open(SMALL).await;
    let cases: &[(&[u8], &str)] = &[
        (&[1], "frame 0"),
        (&[1, 0, 0, 0], "frame 0"),
        (&[1, 0, 0, 0, 2, b'a'], "frame 0"),
        (&[1, 0xff, 0xff, 0xff, 0xff], "frame 0"),
        (&[1, 0, 0, 0, 1, b'a', 2], "frame 1 at byte 6"),
        (&[1, 0, 0, 0, 1, b'a', 2, 0, 0, 0, 9, 0], "frame 1 at byte 6"),
        (&[1, 0, 0, 0, 1, 0xff], "UTF-8"),
        (&[1, 0, 0, 0, 3, 0xed, 0xa0, 0x80], "UTF-8"),
        (&[0, 0, 0, 0, 0], "kind 0"),
        (&[3, 0, 0, 0, 0], "kind 3"),
        (&[255, 0, 0, 0, 0], "kind 255"),
        (&[8, 0, 0, 0, 3, 3, 232, 1], "not for clients"),
        (&[9, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0], "not for clients"),
        (&[10, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0], "not for clients"),
        (&[13, 0, 0, 0, 0], "not for clients"),
        (b"{\"messages\":[]}", "frame 0"),
    ];
    for (body, says) in cases {
        let path = house.url("send");
        let headers = [("Content-Type", "application/octet-stream")];
        house.refuses(("POST", &path), &headers, body, (400, "bad_request", says)).await;
    }
    house.lives_on().await;
}

#[tokio::test]
async fn forms_and_texts_that_are_wrong() {
    let mut house = House::open(SMALL).await;
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    for (body, says) in [
        (b"hello".as_slice(), "no field `messages`"),
        (b"x=1&y=2", "no field `messages`"),
        (b"messages=[]&messages=[]", "more than once"),
        (b"messages=", ""),
        (b"messages=[%22a%22", "messages[1]"),
        (b"messages=%ff", "UTF-8"),
        (b"messages=[%22%ff%22]", "UTF-8"),
        (b"messages=[\"%00\"]", "messages[0]"),
        (b"messages=%5B%7B%22base64%22%3A%22AA+=%22%7D%5D", "messages[0]"),
    ] {
        if says.is_empty() {
            assert_eq!(house.ask("POST", &house.url("send"), &form, body).await.status, 200);
            continue;
        }
        house.refuses(("POST", &house.url("send")), &form, body, (400, "bad_request", says)).await;
    }
    for body in [b"\xff".as_slice(), b"a\xed\xa0\x80", b"a\xf4\x90\x80\x80", b"a\xc3"] {
        let path = house.url("send?as=text");
        house.refuses(("POST", &path), &[], body, (400, "bad_request", "UTF-8")).await;
    }
    house.lives_on().await;
}

#[tokio::test]
async fn one_byte_too_much_is_too_large_however_it_comes() {
    let mut house = House::open(SMALL).await;
    let (fits, over) = ("a".repeat(1000), "a".repeat(1001));
    let listed = format!("{{\"messages\":[\"b\",\"{over}\"]}}");
    let framed = [&[1, 0, 0, 0, 1, b'a', 2, 0, 0, 0x03, 0xe9][..], over.as_bytes()].concat();
    let base64 = format!("{{\"messages\":[\"b\",\"c\",{{\"base64\":\"{}\"}}]}}", "AAAA".repeat(334));
    for (form, body, says) in [
        ("text", over.as_bytes(), "messages[0]"),
        ("binary", over.as_bytes(), "messages[0]"),
        ("json", listed.as_bytes(), "messages[1]"),
        ("frames", &framed, "messages[1]"),
        ("json", base64.as_bytes(), "messages[2]"),
    ] {
        let path = house.url(&format!("send?as={form}"));
        let answer = house.refuses(("POST", &path), &[], body, (413, "too_large", says)).await;
        assert_eq!(answer.json()["limit"], 1000, "{form}");
    }
    let (body, path) = (vec![b' '; 4001], house.url("send"));
    let answer = house.refuses(("POST", &path), &[], &body, (413, "too_large", "the body")).await;
    assert_eq!(answer.json()["limit"], 4000);
    let coded = [("Transfer-Encoding", "chunked")];
    for size in [1, 100, 4001] {
        let bytes = chunked(&body, size);
        let answer = house.refuses(("POST", &path), &coded, &bytes, (413, "too_large", "the body")).await;
        assert_eq!(answer.json()["limit"], 4000);
    }
    // Announced, and never sent: refused without waiting for it.
    for length in ["4001", "9999999999999999"] {
        let headers = [("Content-Length", length)];
        house.refuses(("POST", &path), &headers, b"", (413, "too_large", "the body")).await;
    }
    for (path, limit) in [("/chat?underpass=open".to_owned(), 65_536), (house.url("close"), 8192)] {
        let (target, body, says) = (("POST", path.as_str()), vec![b' '; limit + 1], limit.to_string());
        house.refuses(target, &[], &body, (413, "too_large", &says)).await;
        house.refuses(target, &coded, &chunked(&body, 999), (413, "too_large", &says)).await;
    }
    // The limits themselves are fine.
    let answer = house.ask("POST", &house.url("send?as=text"), &[], fits.as_bytes()).await;
    assert_eq!((answer.status, house.socket.next_text().await), (200, fits));
    assert_eq!(house.ask("POST", &path, &coded, &chunked(&body[..4000], 7)).await.status, 200);
    house.lives_on().await;
}

#[tokio::test]
async fn a_body_that_stalls_or_breaks_off_is_not_accepted() {
    let mut house = House::open("[client]\nbody = \"200ms\"\n").await;
    let before = house.standing().await;
    for path in [house.url("send?as=text"), house.url("close"), "/chat?underpass=open".to_owned()] {
        for (headers, part) in [
            ([("Content-Length", "20")], b"never ".as_slice()),
            ([("Content-Length", "20")], b""),
            ([("Transfer-Encoding", "chunked")], b"6\r\nnever \r\n"),
            ([("Transfer-Encoding", "chunked")], b"6\r\nnev"),
        ] {
            let bytes = request("POST", &path, &headers, part);
            let mut stalling = house.wire().await;
            stalling.write(&bytes).await;
            let answer = stalling.answer(false).await.expect("an answer");
            assert_eq!((answer.status, answer.refused().as_str()), (400, "bad_request"), "{path}");
            assert!(answer.message().contains("stalled"), "{}", answer.message());
            let mut broken = house.wire().await;
            broken.write(&bytes).await;
            drop(broken);
        }
    }
    for junk in ["zz\r\nnever\r\n", "-1\r\n", "6 never\r\n", "5\r\nneverX", "ffffffffffffffffff\r\n"] {
        let path = house.url("send?as=text");
        let bytes = request("POST", &path, &[("Transfer-Encoding", "chunked")], junk.as_bytes());
        let mut wire = house.wire().await;
        wire.write(&bytes).await;
        let answer = wire.answer(false).await.expect("an answer");
        assert_eq!((answer.status, answer.refused().as_str()), (400, "bad_request"), "{junk:?}");
        assert!(answer.message().contains("broke off"), "{junk:?}: {}", answer.message());
    }
    assert_eq!(house.standing().await, before);
    house.lives_on().await;
}

#[tokio::test]
async fn closes_that_may_not_be() {
    let mut house = House::open("").await;
    let path = house.url("close");
    for code in [
        "0",
        "999",
        "1001",
        "1002",
        "1004",
        "1005",
        "1006",
        "1011",
        "1012",
        "1015",
        "2999",
        "5000",
        "65535",
        "65536",
        "66536",
        "-1000",
        "1000.5",
        "1e3",
        "\"1000\"",
        "null",
        "[]",
        "true",
        "18446744073709552616",
    ] {
        let body = format!("{{\"code\":{code}}}");
        house.refuses(("POST", &path), &[], body.as_bytes(), (400, "bad_request", "`code`")).await;
    }
    let (long, wide) = ("r".repeat(124), "é".repeat(62));
    for reason in [format!("\"{long}\""), format!("\"{wide}\""), "7".into(), "null".into(), "[]".into(), "{}".into()] {
        let body = format!("{{\"code\":4000,\"reason\":{reason}}}");
        house.refuses(("POST", &path), &[], body.as_bytes(), (400, "bad_request", "`reason`")).await;
    }
    for body in [b"bye".as_slice(), b"[]", b"1000", b"\"x\"", b"{", b"\xff", b"{\"reason\":\"\xff\"}", b"{}x"] {
        house.refuses(("POST", &path), &[], body, (400, "bad_request", "JSON")).await;
    }
    let lone = br#"{"reason":"\ud800"}"#;
    house.refuses(("POST", &path), &[], lone, (400, "bad_request", "JSON")).await;
    house.lives_on().await;
}

#[tokio::test]
async fn opens_that_may_not_be() {
    let mut house = House::open("").await;
    let (short, long) = ("a".repeat(15), "a".repeat(65));
    let nonces =
        [short.as_str(), &long, "abcdefghijklmno/", "abcdefghijklmno ", "abcdefghijklmno%", "äbcdefghijklmnop", ""];
    let mut cases: Vec<(String, &str)> =
        nonces.iter().map(|nonce| (format!("{{\"nonce\":\"{nonce}\"}}"), "`nonce`")).collect();
    cases.extend([
        (r#"{"nonce":7}"#.into(), "`nonce`"),
        (r#"{"nonce":null}"#.into(), "`nonce`"),
        (r#"{"nonce":"abcdefghijklmno\u0000"}"#.into(), "`nonce`"),
        (r#"{"protocols":"a"}"#.into(), "`protocols`"),
        (r#"{"protocols":{}}"#.into(), "`protocols`"),
        (r#"{"protocols":[1]}"#.into(), "`protocols`"),
        (r#"{"protocols":["a","a"]}"#.into(), "`protocols[1]`"),
        (r#"{"protocols":["a",""]}"#.into(), "`protocols[1]`"),
        (r#"{"protocols":["a, b"]}"#.into(), "`protocols[0]`"),
        (r#"{"protocols":["a\r\nX-Injected: 1"]}"#.into(), "`protocols[0]`"),
        ("[]".into(), "JSON"),
        ("nonce".into(), "JSON"),
        ("{}{}".into(), "JSON"),
    ]);
    for (body, says) in &cases {
        house.refuses(("POST", "/chat?underpass=open"), &[], body.as_bytes(), (400, "bad_request", says)).await;
    }
    for nonce in [short.as_str(), &long, "abcdefghijklmno%2f", "abcdefghijklmno%00", ""] {
        let (open, sse) = (
            format!("/chat?underpass.nonce={nonce}&underpass=open"),
            format!("/chat?underpass.nonce={nonce}&underpass=sse"),
        );
        house.refuses(("GET", &sse), &[], b"", (400, "bad_request", "`nonce`")).await;
        house.refuses(("POST", &open), &[], b"", (400, "bad_request", "`nonce`")).await;
    }
    for protocols in ["a,a", "a%20b", "a%0d%0ab", "%ff", "a,%00"] {
        let path = format!("/chat?underpass.protocols={protocols}&underpass=sse");
        house.refuses(("GET", &path), &[], b"", (400, "bad_request", "`protocols[")).await;
    }
    for after in ["", "x", "7", "n1-short.7", "..", "%00"] {
        let path = format!("/chat?underpass.after={after}&underpass=sse");
        house.refuses(("GET", &path), &[], b"", (400, "bad_request", "`underpass.after`")).await;
    }
    house.lives_on().await;
}

#[tokio::test]
async fn a_nonce_is_good_for_one_purpose() {
    let mut house = House::open("").await;
    let body = br#"{"nonce":"abcdefghijklmnop"}"#;
    let path = "/chat?underpass=open";
    let first = raw::ask(house.site.at, "POST", path, &[], body).await.json();
    let again = raw::ask(house.site.at, "POST", path, &[], body).await.json();
    assert_eq!(first["session"]["token"], again["session"]["token"]);
    let _socket = house.backend.accept().await;
    let other: &[u8] = br#"{"nonce":"abcdefghijklmnop","protocols":["a"]}"#;
    for (path, body) in [("/other?underpass=open", body.as_slice()), (path, other)] {
        house.refuses(("POST", path), &[], body, (409, "nonce_reused", "nonce")).await;
    }
    house.lives_on().await;
}
