//! The rules of the house, held against every file under `src/`: doors between rooms, purity, docs, size, leftovers.
//!
//! Enters: the source text. Leaves: every breach with its file and line. Must not touch: anything compiled; the source is
//! read as text, stripped of comments, literals and test modules, which is enough for rules this plain.

#[path = "house/circles.rs"]
mod circles;
#[path = "house/map.rs"]
mod map;
#[path = "house/source.rs"]
mod source;
#[path = "house/text.rs"]
mod text;

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use circles::circles;
use source::{Source, expand, is_below};
use text::{without_prose, words};

/// Fewer files than this and the test looks in the wrong place.
const FEWEST_FILES: usize = 80;

/// A file of more lines than this, test modules apart, is two files.
const MOST_LINES: usize = 400;

/// Unit tests stand in the file that they test, as `mod tests`. From so many lines on they are a file of their own, `tests.rs`
/// in a folder named like the file; with fewer than the second number they may not be. Between the two either will do, so
/// that one more test need not move all the others.
const MOST_TEST_LINES: usize = 250;
const FEWEST_TEST_FILE_LINES: usize = 200;

/// Who may import whom. `config` is open to all and not listed; a path with `::` opens just that part of a room.
const DOORS: &[(&str, &[&str])] = &[
    ("session", &[]),
    ("codec", &["session"]),
    ("config", &[]),
    ("certificate", &[]),
    ("client", &[]),
    ("lifecycle", &[]),
    ("demo", &[]),
    ("check", &["lifecycle::descriptors"]),
    ("handover", &["lifecycle::moving", "lifecycle::systemd"]),
    // A client of another process.
    ("control", &[]),
    ("selftest", &["session", "upstream::socket"]),
    // A client: of the house it knows what a client could take with it.
    ("probe", &["codec", "session", "upstream::dial", "upstream::socket", "upstream::tls", "selftest"]),
    ("terms", &[]),
    ("metrics", &["lifecycle::moving", "terms"]),
    ("http", &[]),
    ("upstream", &["certificate", "http", "session"]),
    ("budget", &[]),
    ("limits", &["metrics", "terms"]),
    ("registry", &["budget", "session", "upstream", "terms", "metrics", "lifecycle", "limits"]),
    ("transport", &["http", "codec", "session", "registry", "terms", "upstream", "budget", "lifecycle"]),
    ("admin", &["budget", "lifecycle", "metrics", "registry", "session"]),
    (
        "gateway",
        &[
            "http",
            "transport",
            "upstream",
            "registry",
            "terms",
            "metrics",
            "client",
            "listener::peer",
            "listener::framing",
            "listener::handler",
            "listener::traffic",
            "listener::dialling",
            "limits",
            "codec",
            "session",
            "lifecycle",
            "selftest",
        ],
    ),
    ("listener", &["budget", "certificate", "http", "lifecycle", "limits", "metrics"]),
];

/// Rooms that see all others.
const HALLS: &[&str] = &["main", "lib", "app"];

/// What is decided without a runtime, a clock or a die. A folder stands for all files in it.
const PURE: &[&str] = &[
    "session/",
    "codec/",
    "terms.rs",
    "certificate.rs",
    "budget/marks.rs",
    "limits/rate.rs",
    "handover/format.rs",
    "http/fields.rs",
    "upstream/headers.rs",
    "upstream/frame.rs",
    "upstream/read_log.rs",
    "listener/peer.rs",
];

/// Paths that a pure file may not name. A path also stands for what is below it.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "tokio_rustls",
    "tokio_tungstenite",
    "hyper",
    "hyper_util",
    "tower",
    "rustls",
    "socket2",
    "rand",
    "getrandom",
    "Instant",
    "SystemTime",
    "std::thread",
    "std::fs",
    "std::env",
    "std::process",
    "std::io::stdin",
    "std::time::Instant",
    "std::time::SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "ToSocketAddrs",
];

/// Pure files that know no addresses either.
const ADDRESSLESS: &[&str] = &["session/", "codec/"];

/// What is not finished, or falls over without a word.
const LEFTOVERS: &[&str] = &["todo!", "unimplemented!", ".unwrap()", "dbg!"];

const MAP: &str = "docs/ARCHITECTURE.md";

#[test]
fn the_house_is_in_order() {
    let files = sources();
    assert!(files.len() >= FEWEST_FILES, "only {} files under src: is this the right place?", files.len());
    none(files.iter().flat_map(breaches_of).collect());
}

#[test]
fn every_door_is_used() {
    none(idle_doors(&sources(), DOORS));
}

#[test]
fn no_files_need_each_other() {
    let together = |circle: &Vec<String>| format!("these need each other: {}", circle.join(", "));
    none(circles(&sources()).iter().map(together).collect());
}

#[test]
fn the_map_shows_the_house_as_it_is() {
    let map = fs::read_to_string(root().join(MAP)).expect("the map is there");
    let mut wrong = map::wrong_rooms(&map, &names_under("src", |_| true));
    wrong.extend(map::wrong_doors(&map, DOORS));
    wrong.extend(map::wrong_tests(&map, &names_under("tests", |name| name.ends_with(".rs"))));
    none(wrong.iter().map(|what| format!("{MAP}: {what}")).collect());
}

fn none(breaches: Vec<String>) {
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

fn breaches_of(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.text.trim_start().starts_with("//!") {
        found.push(source.breach(0, "does not begin with `//!`: what enters, what leaves, what it must not touch"));
    }
    let with_tests = without_prose(&source.text);
    found.extend(words(&with_tests, "#[path").map(|at| source.breach(at, "`#[path]`: a module has its usual place")));
    found.extend(misplaced_tests(source));
    if source.is_test() {
        return found;
    }
    let tests: usize = source.tests.iter().map(|tests| lines_of(source, tests)).sum();
    let lines = source.text.lines().count() - tests;
    if lines > MOST_LINES {
        found.push(source.breach(source.code.len(), &format!("{lines} lines; {MOST_LINES} are allowed")));
    }
    for leftover in LEFTOVERS {
        found.extend(words(&source.code, leftover).map(|at| source.breach(at, &format!("`{leftover}`"))));
    }
    found.extend(impurities(source));
    found.extend(forbidden_doors(source));
    found
}

fn misplaced_tests(source: &Source) -> Vec<String> {
    if source.is_test() {
        let lines = source.text.lines().count();
        let few =
            format!("{lines} lines of tests; under {FEWEST_TEST_FILE_LINES} they stand in the file that they test");
        return (lines < FEWEST_TEST_FILE_LINES).then(|| source.breach(0, &few)).into_iter().collect();
    }
    let long = source.tests.iter().filter(|tests| lines_of(source, tests) > MOST_TEST_LINES);
    let many = |tests: &Range<usize>| {
        let lines = lines_of(source, tests);
        source.breach(
            tests.start,
            &format!("{lines} lines of tests; over {MOST_TEST_LINES} they are a file of their own"),
        )
    };
    long.map(many).collect()
}

fn lines_of(source: &Source, part: &Range<usize>) -> usize {
    source.line(part.end) - source.line(part.start) + 1
}

// === doors ===

fn forbidden_doors(source: &Source) -> Vec<String> {
    let room = source.room();
    if HALLS.contains(&room) {
        return Vec::new();
    }
    let Some((_, open)) = DOORS.iter().find(|(name, _)| *name == room) else {
        return vec![source.breach(0, &format!("the room `{room}` is not in the table of doors"))];
    };
    let rooms: BTreeSet<&str> = DOORS.iter().map(|(name, _)| *name).chain(["app", "main"]).collect();
    let allowed = |path: &str| open.iter().chain(&[room, "config"]).any(|door| is_below(path, door));
    let mut found = Vec::new();
    for path in source.house_paths() {
        let target = path.path.split("::").next().unwrap_or_default();
        if target.is_empty() || target == "*" {
            found.push(source.breach(path.at, "imports the whole house"));
        } else if rooms.contains(target) && !allowed(&path.path) {
            found.push(source.breach(path.at, &format!("`{room}` may not import `{}`", path.path)));
        }
    }
    found
}

/// Doors that are open and through which nobody goes.
fn idle_doors(sources: &[Source], doors: &[(&str, &[&str])]) -> Vec<String> {
    let mut used: BTreeSet<(&str, String)> = BTreeSet::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        used.extend(source.house_paths().into_iter().map(|path| (source.room(), path.path)));
    }
    let pairs = doors.iter().flat_map(|(room, open)| open.iter().map(move |door| (*room, *door)));
    let idle = pairs.filter(|(room, door)| !used.iter().any(|(from, path)| from == room && is_below(path, door)));
    idle.map(|(room, door)| format!("no file of `{room}` imports `{door}`: close that door")).collect()
}

// === purity ===

fn impurities(source: &Source) -> Vec<String> {
    if !source.is_in(PURE) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for impure in IMPURE {
        let at = words(&source.code, impure).map(|at| source.breach(at, &format!("`{impure}` in a pure file")));
        found.extend(at);
    }
    // `use std::{thread, …}` names no `std::thread`: expand what is imported from std.
    for at in words(&source.code, "std::") {
        let mut paths = Vec::new();
        expand(&source.code[at..], "", &mut paths);
        let addresses = if source.is_in(ADDRESSLESS) { "std::net" } else { "std::net::Tcp" };
        let bad = |path: &&String| IMPURE.iter().chain(&[addresses]).any(|impure| is_below(path, impure));
        found.extend(paths.iter().filter(bad).map(|path| source.breach(at, &format!("`{path}` in a pure file"))));
    }
    found.sort();
    found.dedup();
    found
}

// === reading ===

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let read = |name: String| {
        let path = root().join("src").join(&name);
        Source::new(&name, &fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    names_under("src", |name| name.ends_with(".rs")).into_iter().map(read).collect()
}

/// Files of a folder and of those in it, by their names from there, with `/`.
fn names_under(folder: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let folder = root().join(folder);
    let (mut names, mut open) = (Vec::new(), vec![folder.clone()]);
    while let Some(next) = open.pop() {
        let entries = fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display()));
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.strip_prefix(&folder).expect("walked from there").to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                open.push(path);
            } else if wanted(&name) {
                names.push(name);
            }
        }
    }
    names.sort();
    names
}

// === the rules can be broken ===

#[test]
fn each_rule_finds_its_breach() {
    let long = format!("//! D\n{}", "// x\n".repeat(MOST_LINES));
    let cases: &[(&str, &str, &str)] = &[
        ("session/a.rs", "use bytes::Bytes;", "does not begin"),
        (
            "session/a.rs",
            "//! D\nuse crate::registry::LiveSession;",
            "2: `session` may not import `registry::LiveSession`",
        ),
        ("codec/a.rs", "//! D\nuse crate::{session::Kind, upstream::{socket as s}};", "import `upstream::socket`"),
        ("codec/mod.rs", "//! D\nuse super::registry::LiveSession;", "import `registry::LiveSession`"),
        ("codec/a.rs", "//! D\nuse super::super::registry::LiveSession;", "import `registry::LiveSession`"),
        ("codec/a.rs", "//! D\nfn a(b: &crate::app::App) {}", "import `app::App`"),
        ("gateway/a.rs", "//! D\nuse crate::listener::conn;", "import `listener::conn`"),
        ("admin/a.rs", "//! D\nuse crate::*;", "the whole house"),
        ("cellar/a.rs", "//! D\n", "not in the table"),
        ("session/a.rs", "//! D\nuse tokio::sync::Notify;", "`tokio` in a pure file"),
        ("session/a.rs", "//! D\nuse std::{fmt, thread};", "`std::thread` in a pure file"),
        ("codec/a.rs", "//! D\nuse std::net::IpAddr;", "`std::net::IpAddr` in a pure file"),
        ("listener/peer.rs", "//! D\nuse std::net::{IpAddr, TcpStream};", "`TcpStream` in a pure file"),
        ("upstream/frame.rs", "//! D\nfn a() { let b = Instant::now(); }", "`Instant` in a pure file"),
        ("app/mod.rs", "//! D\nfn a() { b().unwrap() }", "2: `.unwrap()`"),
        ("app/mod.rs", "//! D\nfn a() { todo!() }", "`todo!`"),
        ("app/mod.rs", "//! D\nfn a() { unimplemented!() }", "`unimplemented!`"),
        ("app/mod.rs", &long, "401 lines"),
        ("app/mod.rs", &format!("{long}#[cfg(test)]\nmod tests {{\n\n}}\n"), "401 lines"),
        ("app/mod.rs", &tested(MOST_TEST_LINES + 1), "2: 251 lines of tests"),
        ("session/tests.rs", "//! D\n", "1 lines of tests; under 200"),
        ("session/a.rs", "//! D\n#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;", "`#[path]`"),
    ];
    for (name, text, breach) in cases {
        let found = breaches_of(&Source::new(name, text));
        assert!(found.len() == 1 && found[0].contains(breach), "{name}: {text}\nexpected {breach}, found {found:?}");
    }
}

#[test]
fn what_is_allowed_is_not_a_breach() {
    let long = format!("//! D\n{}", "// x\n".repeat(MOST_LINES));
    let cases: &[(&str, &str)] = &[
        ("session/a.rs", "//! D\n// tokio, crate::registry\nconst A: &str = \"tokio::spawn \\\" .unwrap()\";"),
        ("session/a.rs", "//! D\nconst A: &str = r#\"todo!() \" \"#; const B: char = '\"'; fn a<'a>(b: &'a str) {}"),
        ("session/a.rs", "//! D\n#[cfg(test)]\nmod tests { use tokio::x; fn a() { b().unwrap(); } }"),
        ("session/a.rs", "//! D\nuse super::event::Message;\nuse crate::session::Kind;\nuse crate::config::Limits;"),
        ("session/a.rs", "//! D\nfn operand(strand: u8, hyperbole: u8) { a.unwrap_or(b) }"),
        ("gateway/a.rs", "//! D\nuse crate::listener::peer::Peer;\nuse crate::{config::Config, codec};"),
        ("listener/peer.rs", "//! D\nuse std::net::{IpAddr, SocketAddr};"),
        ("registry/a.rs", "//! D\nuse tokio::time::Instant;\npub(crate) fn a() {}"),
        ("session/tests.rs", &long),
        ("app/mod.rs", &format!("{}{}", tested(MOST_TEST_LINES), "// x\n".repeat(MOST_LINES - 1))),
        ("app/mod.rs", "//! D\nuse crate::{admin, client, codec, gateway};"),
    ];
    for (name, text) in cases {
        let found = breaches_of(&Source::new(name, text));
        assert!(found.is_empty(), "{name}: {text}\nfound {found:?}");
    }
}

/// A file with a test module of so many lines.
fn tested(lines: usize) -> String {
    format!("//! D\n#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(lines - 3))
}

#[test]
fn a_door_that_nobody_uses_is_found() {
    let sources = [
        Source::new("a/mod.rs", "//! D\nuse crate::b::Thing;\n#[cfg(test)]\nmod tests { use crate::c::Other; }"),
        Source::new("a/tests.rs", "//! D\nuse crate::c::Other;"),
        Source::new("d/x.rs", "//! D\nuse super::super::b::{self, part::Thing};"),
    ];
    assert_eq!(idle_doors(&sources, &[("a", &["b"]), ("d", &["b", "b::part"]), ("b", &[])]), Vec::<String>::new());
    let found = idle_doors(&sources, &[("a", &["b", "c"]), ("d", &["b::other"])]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("no file of `a` imports `c`") && found[1].contains("`d` imports `b::other`"),
        "{found:?}"
    );
}

#[test]
fn a_circle_is_found_however_long_and_through_whatever_door() {
    let found =
        |files: &[(&str, &str)]| circles(&files.iter().map(|(name, text)| Source::new(name, text)).collect::<Vec<_>>());
    let two = found(&[("r/a.rs", "use super::b::B;"), ("r/b.rs", "use crate::r::{c, a::A};"), ("r/c.rs", "")]);
    assert_eq!(two, [["r/a.rs", "r/b.rs"]]);
    let three =
        [("r/a.rs", "use crate::s::b;"), ("s/b.rs", "use super::super::t::C;"), ("t.rs", "use crate::r::a::A;")];
    assert_eq!(found(&three), [["r/a.rs", "s/b.rs", "t.rs"]]);
    let exported = [("r/mod.rs", "pub use self::a::A;"), ("r/a.rs", "use super::b;"), ("r/b.rs", "use super::{A, x};")];
    assert_eq!(found(&exported), [["r/a.rs", "r/b.rs"]]);
    let pairs = [
        ("r/a.rs", "use super::b;"),
        ("r/b.rs", "use super::a;"),
        ("s.rs", "use crate::t;"),
        ("t.rs", "use crate::s;"),
    ];
    assert_eq!(found(&pairs), [["r/a.rs", "r/b.rs"], ["s.rs", "t.rs"]]);
    let line = [
        ("r/mod.rs", "use self::a::A;"),
        ("r/a.rs", "use super::X; use super::b;"),
        ("r/b.rs", "fn b() { self::c() }"),
    ];
    assert_eq!(found(&line), Vec::<Vec<String>>::new(), "a module and what is below it are one piece");
    let tested = [("r/a.rs", "use super::b;"), ("r/b.rs", "#[cfg(test)]\nmod tests { use super::super::a; }")];
    assert_eq!(found(&tested), Vec::<Vec<String>>::new(), "tests may look at anything");
}

#[test]
fn a_map_that_differs_is_found() {
    let map = |room: &str, doors: &str, tests: &str| {
        format!(
            "| room | files | is for |\n|---|---|---|\n| `a/` | {room} | x |\n| `b` `c` | | y `z` |\n\n\
             | room | may import |\n|---|---|\n| `a` | {doors} |\n| `b` `c` | nothing |\n\n\
             | subject | where |\n|---|---|\n| x | {tests} |\n\n`d`\n"
        )
    };
    let files = ["a/mod.rs", "a/b/c.rs", "a/b/tests.rs", "a/page.html", "b.rs", "c.rs"].map(str::to_owned);
    let tests = ["house.rs", "house/text.rs", "in/main.rs", "in/one/mod.rs", "in/one/two.rs"].map(str::to_owned);
    let doors: &[(&str, &[&str])] = &[("a", &["b", "c::d"]), ("b", &[]), ("c", &[])];
    let wrong = |map: &str| {
        let mut wrong = map::wrong_rooms(map, &files);
        wrong.extend(map::wrong_doors(map, doors));
        wrong.extend(map::wrong_tests(map, &tests));
        wrong
    };
    let (room, open, places) = ("`mod` `b/c` `page.html`", "`b`; of c: `c::d`", "`house.rs`, `house`, `in/one`");
    assert_eq!(wrong(&map(room, open, places)), Vec::<String>::new());
    let cases = [
        (map("`mod` `b/c`", open, places), "the row of `a/` does not name `page.html`"),
        (map("`mod` `b/c` `page.html` `old`", open, places), "the row of `a/` names `old`"),
        (map(room, open, places).replace("`b` `c` | |", "`b` | |"), "no row for `c`"),
        (map(room, open, places).replace("`b` `c` | |", "`b` `c` `d/` | |"), "a row for `d/`"),
        (map(room, "`b`", places), "says of `a`"),
        (map(room, "`b` `c::d` `e`", places), "says of `a`"),
        (map(room, open, places).replace("`b` `c` | nothing", "`b` | nothing"), "says of `c`"),
        (map(room, open, "`house.rs`, `house`"), "nobody to `tests/in/one/two.rs`"),
        (map(room, open, "`house`, `in`"), "nobody to `tests/house.rs`"),
        (map(room, open, &format!("{places}, `gone`")), "a row for `tests/gone`"),
    ];
    for (map, what) in cases {
        let found = wrong(&map);
        assert!(found.len() == 1 && found[0].contains(what), "expected {what}, found {found:?}\n{map}");
    }
}
