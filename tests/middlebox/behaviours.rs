//! What networks are known to do, and what each is covered by. Enters: nothing. Leaves: a table for `docs/NETWORKS.md`, and
//! complaints where it names what is not there. Must not touch: what the tests do.

use std::fs;
use std::path::Path;

use Cover::{Case, Code, Not, Product, Row};

/// What holds a behaviour.
pub(crate) enum Cover {
    /// A row of this test's table.
    Row(&'static str),
    /// A real proxy of `tests/networks`.
    Product(&'static str),
    /// A case of `tests/client`.
    Case(&'static str),
    /// A file under the repository's root, and a test in it.
    Code(&'static str, &'static str),
    /// Why there is no test.
    Not(&'static str),
}

/// Its number, what happens, and what holds it.
type Behaviour = (&'static str, &'static str, &'static [Cover]);

/// All of them. Those with a `b` were noted later than their neighbours.
pub(crate) const ALL: [Behaviour; 62] = [
    // Answers held or changed.
    (
        "1",
        "a reverse proxy buffers answers",
        &[
            Product("nginx, `proxy_pass` only (HTTP/1.0 to us)"),
            Product("nginx, `proxy_ignore_headers X-Accel-Buffering`"),
            Row("holds all streams to the end"),
        ],
    ),
    (
        "2",
        "padding gets out, small events do not",
        &[Row("holds the first 2 KiB of streams"), Row("passes streams in blocks of 4 KiB")],
    ),
    (
        "3",
        "compression keeps small writes",
        &[
            Product("nginx, `gzip` for event streams"),
            Product("apache, `SetOutputFilter DEFLATE`"),
            Row("gives each event when the next one comes"),
        ],
    ),
    (
        "4",
        "a scanner wants the whole answer first",
        &[
            Product("e2guardian, Debian's story"),
            Product("privoxy, Debian's actions and filters"),
            Product("mitmproxy"),
            Product("lighttpd `mod_proxy`"),
            Row("holds event streams to the end"),
        ],
    ),
    (
        "5",
        "each event comes when the next one does",
        &[
            Row("gives each event when the next one comes"),
            Row("gives each write of any stream when the next one comes"),
        ],
    ),
    (
        "6",
        "treats a stream by the `Accept` of its request",
        &[Row("holds what is not asked for as an event stream"), Row("renames `Cache-Control` and `Accept`")],
    ),
    (
        "7",
        "a stream comes 20 s late",
        &[Row("passes streams 20 s late"), Row("passes streams 20 s late, WebSockets at once")],
    ),
    (
        "8",
        "an answer comes after many minutes, or when the client has left",
        &[Row("holds streams and reads on when the client left")],
    ),
    (
        "9",
        "holds streams in the clear, not in TLS",
        &[Row("holds the first 64 KiB of streams"), Product("mitmproxy, TLS intercepted")],
    ),
    (
        "10",
        "a good stream goes mute",
        &[
            Row("passes 800 bytes of each event stream, then nothing"),
            Row("passes 800 bytes of each stream, then nothing"),
            Case("a stream that goes mute is left, and what it swallowed comes another way"),
        ],
    ),
    ("11", "passes large writes, not heartbeats", &[Row("passes streams in blocks of 4 KiB")]),
    (
        "12",
        "the head comes with the first byte",
        &[Row("holds the head until the first byte"), Product("mitmproxy, `stream_large_bodies=1`")],
    ),
    (
        "13",
        "knows event streams by the bare type only",
        &[
            Row("holds event streams whose type has parameters"),
            Code("tests/it/streams.rs", "every_answer_of_ours_is_protected_and_has_its_type"),
        ],
    ),
    (
        "14",
        "HTTP/1.0 on the way",
        &[
            Row("HTTP/1.0 to the sidecar"),
            Product("nginx, `proxy_pass` only (HTTP/1.0 to us)"),
            Code("tests/it/streams.rs", "http_1_0_gets_streams_ended_by_the_close_and_polls_with_a_length"),
        ],
    ),
    // WebSockets.
    (
        "15",
        "`Upgrade` is taken out, a plain GET arrives",
        &[
            Row("takes `Upgrade` out and sends the rest on"),
            Product("varnish, default VCL"),
            Code("tests/it/beside.rs", "a_handshake_that_lost_its_upgrade_is_told_so"),
        ],
    ),
    (
        "16",
        "`Connection` is written anew",
        &[Row("writes `Connection: keep-alive` over `Upgrade`"), Row("writes `Connection: keep-alive, Upgrade`")],
    ),
    (
        "17",
        "knows no WebSockets and answers itself",
        &[
            Row("refuses WebSockets with 403"),
            Row("answers WebSockets with a page and 200"),
            Product("e2guardian, Debian's story"),
        ],
    ),
    ("18", "the handshake is swallowed", &[Row("swallows the handshake"), Case("sse when the handshake is swallowed")]),
    (
        "19",
        "the 101 passes, frames do not",
        &[
            Row("passes the 101, no frame down"),
            Row("passes the 101, no frame up"),
            Row("passes the 101, no frame either way"),
        ],
    ),
    (
        "20",
        "each WebSocket dies young",
        &[
            Row("kills each WebSocket after 150 ms"),
            Row("resets each WebSocket after 500 ms"),
            Case("WebSockets that die young are given up"),
        ],
    ),
    (
        "21",
        "a carrier breaks WebSockets in the clear",
        &[Row("silences each WebSocket after 1.5 s"), Row("takes `Sec-WebSocket-Protocol` out of the 101")],
    ),
    ("22", "WebSockets are refused by policy", &[Row("refuses WebSockets with 403"), Product("squid")]),
    (
        "23",
        "compression of frames is damaged",
        &[
            Row("takes `Sec-WebSocket-Extensions` out of the 101"),
            Code("tests/hostile/identity.rs", "a_sessions_handshake_is_an_ordinary_one"),
        ],
    ),
    (
        "24",
        "HTTP/2 without WebSockets in it",
        &[Code("tests/it/secure.rs", "all_of_a_session_over_one_http_2_connection")],
    ),
    (
        "25",
        "an idle WebSocket is closed, or only seems open",
        &[Row("closes a WebSocket idle for 5 s"), Row("silences each WebSocket after 1.5 s")],
    ),
    // Time-outs and cuts.
    (
        "26",
        "cuts what is idle",
        &[
            Row("ends streams idle for 5 s"),
            Product("nginx, `proxy_read_timeout 5s`"),
            Product("haproxy, 3 s timeouts"),
        ],
    ),
    ("27", "wants the first byte in time", &[Row("504 for polls after 3 s"), Product("haproxy, 3 s timeouts")]),
    ("28", "wants the whole answer in time", &[Row("504 for polls after 3 s"), Row("ends each stream after 2 s")]),
    (
        "29",
        "no answer lasts longer than so",
        &[
            Row("ends each stream after 2 s"),
            Row("silences each stream after 2 s"),
            Code("tests/it/streams.rs", "an_old_stream_is_recycled_and_nothing_is_missed"),
        ],
    ),
    (
        "30",
        "forgets connections without a word",
        &[
            Row("forgets all connections half way, without a word"),
            Row("forgets all connections half way; no WebSockets"),
            Row("forgets all connections half way; holds streams"),
        ],
    ),
    (
        "31",
        "a reset in the middle",
        &[
            Row("resets each stream after 2 s"),
            Row("resets three in ten polls within the body"),
            Code("tests/it/exactly_once.rs", "over_sse"),
        ],
    ),
    (
        "32",
        "cut short as if it were whole",
        &[
            Row("cuts three in ten polls short as if they were whole"),
            Row("ends each event stream cleanly after 700 bytes"),
        ],
    ),
    (
        "33",
        "slow and far away",
        &[Row("700 ms later, all of it"), Row("700 ms each way, WebSockets too"), Row("24 kB a second and 300 ms")],
    ),
    // Requests.
    (
        "34",
        "a GET is sent again",
        &[
            Row("sends each GET twice"),
            Row("sends everything twice, streams held"),
            Code("tests/it/attachments.rs", "an_old_request_that_is_repeated_changes_nothing"),
        ],
    ),
    (
        "35",
        "a POST is sent again",
        &[
            Row("sends each POST twice"),
            Row("drops three in ten answers"),
            Code("tests/it/sessions.rs", "the_same_nonce_opens_the_same_session_even_while_the_backend_is_dialled"),
        ],
    ),
    ("36", "same GETs have one answer", &[Row("one answer for the same GETs"), Product("varnish, default VCL")]),
    ("37", "answers to GETs are kept", &[Row("keeps the answers of GETs by URL")]),
    (
        "38",
        "answers to POSTs are kept",
        &[Code("tests/it/streams.rs", "every_answer_of_ours_is_protected_and_has_its_type")],
    ),
    (
        "39",
        "a body is refused for its type",
        &[
            Row("403 for JSON and plain text that is sent"),
            Row("five sockets: holds streams; 403 for JSON and plain text"),
        ],
    ),
    ("40", "methods are refused", &[Row("405 for all but GET and POST")]),
    (
        "41",
        "headers are taken out",
        &[
            Row("takes out `Last-Event-ID` and every header it does not know"),
            Code("tests/it/streams.rs", "the_cursor_of_an_event_source_is_the_highest_it_knows"),
        ],
    ),
    ("42", "long URLs are refused", &[Row("414 beyond 500 bytes of URL")]),
    ("43", "large bodies are refused", &[Row("413 beyond 120 bytes")]),
    (
        "44",
        "error pages are replaced",
        &[
            Row("the backend closes while nobody can be reached; error pages of its own"),
            Row("writes error pages of its own"),
            Code("tests/it/refusals.rs", "a_backend_that_is_down"),
        ],
    ),
    (
        "45",
        "bodies are changed",
        &[
            Row("writes a script into text"),
            Row("writes a script before the end of an event stream"),
            Row("writes a script into streams and one in three polls"),
            Row("takes out `Cache-Control` and `X-Accel-Buffering`"),
        ],
    ),
    (
        "45b",
        "the request arrives, its answer does not",
        &[
            Row("holds streams and reads on when the client left"),
            Row("drops three in ten answers"),
            Code("tests/it/attachments.rs", "the_newest_attachment_wins_and_the_older_ends_cleanly"),
        ],
    ),
    // TLS, passwords, ways.
    (
        "46",
        "TLS is opened on the way",
        &[Product("mitmproxy, TLS intercepted"), Case("25 sockets in one page, with no more than four requests held")],
    ),
    (
        "47",
        "wants a password",
        &[
            Row("wants a password for WebSockets only"),
            Not("passwords for HTTP are the browser's affair: it asks the user before any page is shown"),
        ],
    ),
    ("48", "CONNECT to port 443 only", &[Product("squid"), Product("tinyproxy")]),
    (
        "49",
        "a balancer that keeps nobody together",
        &[
            Row("two sidecars, by the token's node"),
            Row("two sidecars, WebSockets too"),
            Row("five sockets: holds streams; two sidecars"),
        ],
    ),
    ("50", "the address changes", &[Row("from other addresses in turn"), Row("cannot be reached for 3 s half way")]),
    (
        "51",
        "a page to log in stands before everything",
        &[
            Row("a page to log in, one request in five"),
            Case("a portal that answers in the sidecar's place is no verdict"),
        ],
    ),
    // Browsers and machines.
    (
        "52",
        "six connections to a host",
        &[
            Case("25 sockets in one page, with no more than four requests held"),
            Case("seven tabs with a socket each, also when the first ones go"),
        ],
    ),
    (
        "53",
        "timers of hidden pages are slowed",
        &[Not(
            "the watchdogs go by the time of arrival and heartbeats are the sidecar's; headless Chromium does not slow timers",
        )],
    ),
    (
        "53b",
        "the browser drops a silent stream",
        &[
            Row("ends streams idle for 5 s"),
            Code("tests/it/streams.rs", "heartbeats_tell_the_last_number_when_nothing_else_is_written"),
        ],
    ),
    (
        "54",
        "a sleeping machine wakes with dead connections",
        &[
            Row("forgets all connections half way, without a word"),
            Case("back from the back/forward cache a socket goes on"),
        ],
    ),
    ("55", "navigation breaks streams with an error", &[Case("a page that leaves closes its session")]),
    (
        "56",
        "a service worker in the way",
        &[Not(
            "a worker's answers are those of the boxes here (held, cut, 503); which paths it takes is the site's to say",
        )],
    ),
    (
        "57",
        "an EventSource has no headers and tells no status",
        &[Row("403 for event streams"), Code("tests/it/refusals.rs", "a_backend_that_is_down")],
    ),
    (
        "58",
        "scripts do not see comments",
        &[
            Row("passes 800 bytes of each event stream, then nothing"),
            Code("tests/it/streams.rs", "heartbeats_tell_the_last_number_when_nothing_else_is_written"),
        ],
    ),
    (
        "59",
        "a library subscribes again on its own",
        &[
            Code("tests/real/event_sources.rs", "npm_eventsource_parser_and_fetch_come_back"),
            Code("tests/it/attachments.rs", "an_old_request_that_is_repeated_changes_nothing"),
        ],
    ),
    (
        "60",
        "data comes only at the end, or after so many bytes",
        &[Row("holds all streams to the end"), Row("holds the first 2 KiB of streams")],
    ),
];

/// The list, as a table.
pub(crate) fn text() -> String {
    let mut text = String::from("| | what happens | held by |\n|---|---|---|\n");
    for (number, what, covers) in ALL {
        let covers: Vec<String> = covers.iter().map(Cover::shown).collect();
        text += &format!("| {number} | {what} | {} |\n", covers.join("; "));
    }
    text
}

/// What the list names and is not there, and what it lacks.
pub(crate) fn complaints() -> Vec<String> {
    let numbers = (1..=60).map(|number| number.to_string()).chain(["45b".into(), "53b".into()]);
    let known = |number: &String| ALL.iter().filter(|(known, ..)| known == number).count() == 1;
    let mut wrong: Vec<String> =
        numbers.filter(|number| !known(number)).map(|n| format!("{n} is not there once")).collect();
    for (number, _, covers) in &ALL {
        let bad = covers.iter().filter(|cover| !cover.exists());
        wrong.extend(bad.map(|cover| format!("{number}: there is no {}", cover.shown())));
        if covers.is_empty() {
            wrong.push(format!("{number}: nothing holds it, and no reason is given"));
        }
    }
    wrong
}

impl Cover {
    fn shown(&self) -> String {
        match self {
            Row(name) => (*name).to_owned(),
            Product(name) => format!("{name} (real)"),
            Case(name) => format!("{name} (`tests/client`)"),
            Code(file, test) => format!("`{file}`: `{test}`"),
            Not(why) => format!("no test: {why}"),
        }
    }

    fn exists(&self) -> bool {
        let quoted = |name: &str| format!("\"{name}\"");
        match self {
            Row(name) => {
                ["rows", "tours"].iter().any(|file| has(&format!("tests/middlebox/{file}.mjs"), &quoted(name)))
            }
            Product(name) => has("tests/networks/boxes.rs", &quoted(name)),
            Case(name) => has("tests/client/cases.mjs", &quoted(name)),
            Code(file, test) => has(file, &format!("fn {test}(")),
            Not(why) => !why.is_empty(),
        }
    }
}

fn has(file: &str, text: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).is_ok_and(|whole| whole.contains(text))
}
