//! The rules of the house, held against every file under `src/`: doors between rooms, purity, docs, size, leftovers.
//!
//! Enters: the source text. Leaves: every breach with its file and line. Must not touch: anything compiled; the source is
//! read as text, stripped of comments, literals and test modules, which is enough for rules this plain.

#[path = "house/text.rs"]
mod text;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use text::{without_prose, without_tests, words};

/// Fewer files than this and the test looks in the wrong place.
const FEWEST_FILES: usize = 80;

/// A file of more lines than this is two files.
const MOST_LINES: usize = 400;

/// Who may import whom. `config` is open to all and not listed; a path with `::` opens just that part of a room.
const DOORS: &[(&str, &[&str])] = &[
    ("session", &[]),
    ("codec", &["session"]),
    ("config", &[]),
    ("client", &[]),
    ("lifecycle", &[]),
    ("demo", &[]),
    ("selftest", &["session", "upstream::socket"]),
    // A client: of the house it knows what a client could take with it.
    ("probe", &["codec", "session", "upstream::dial", "upstream::socket", "upstream::tls", "selftest"]),
    ("terms", &[]),
    ("metrics", &["terms"]),
    ("http", &[]),
    ("upstream", &["http", "session"]),
    ("registry", &["session", "upstream", "terms", "metrics", "lifecycle"]),
    ("transport", &["http", "codec", "session", "registry", "terms", "upstream"]),
    ("admin", &["metrics", "lifecycle"]),
    (
        "gateway",
        &[
            "http",
            "transport",
            "upstream",
            "registry",
            "terms",
            "metrics",
            "admin",
            "client",
            "listener::peer",
            "listener::framing",
            "listener::handler",
            "codec",
            "session",
            "lifecycle",
            "selftest",
        ],
    ),
    ("listener", &["http", "lifecycle", "metrics"]),
];

/// Files that see all rooms.
const HALLS: &[&str] = &["main.rs", "lib.rs", "app.rs"];

/// What is decided without a runtime, a clock or a die. A folder stands for all files in it.
const PURE: &[&str] = &[
    "session/",
    "codec/",
    "terms.rs",
    "http/fields.rs",
    "upstream/headers.rs",
    "upstream/frame.rs",
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

#[test]
fn the_house_is_in_order() {
    let files = sources();
    assert!(files.len() >= FEWEST_FILES, "only {} files under src: is this the right place?", files.len());
    let breaches: Vec<String> = files.iter().flat_map(breaches_of).collect();
    assert!(breaches.is_empty(), "{} breaches:\n{}", breaches.len(), breaches.join("\n"));
}

/// One source file.
struct Source {
    /// From `src/`, with `/`.
    name: String,
    text: String,
    /// Comments, literals and test modules are blank; lines are where they were.
    code: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into(), code: without_tests(&without_prose(text)) }
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| if place.ends_with('/') { self.name.starts_with(place) } else { self.name == *place })
    }

    /// A file that holds nothing but tests.
    fn is_test(&self) -> bool {
        self.name.ends_with("tests.rs")
    }

    fn room(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap_or_default()
    }

    /// How many modules lie between this file's and the crate's.
    fn depth(&self) -> usize {
        let folders = self.name.matches('/').count();
        if self.name.ends_with("mod.rs") { folders } else { folders + 1 }
    }

    fn breach(&self, at: usize, what: &str) -> String {
        format!("src/{}:{}: {what}", self.name, self.code[..at].matches('\n').count() + 1)
    }
}

fn breaches_of(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    if !source.text.trim_start().starts_with("//!") {
        found.push(source.breach(0, "does not begin with `//!`: what enters, what leaves, what it must not touch"));
    }
    if source.is_test() {
        return found;
    }
    let lines = source.text.lines().count();
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

// === doors ===

fn forbidden_doors(source: &Source) -> Vec<String> {
    if HALLS.contains(&source.name.as_str()) {
        return Vec::new();
    }
    let room = source.room();
    let Some((_, open)) = DOORS.iter().find(|(name, _)| *name == room) else {
        return vec![source.breach(0, &format!("the room `{room}` is not in the table of doors"))];
    };
    let rooms: BTreeSet<&str> = DOORS.iter().map(|(name, _)| *name).chain(["app", "main"]).collect();
    let allowed = |path: &str| open.iter().chain(&[room, "config"]).any(|door| is_below(path, door));
    let mut found = Vec::new();
    for (at, path) in house_paths(source) {
        let target = path.split("::").next().unwrap_or_default();
        if target.is_empty() || target == "*" {
            found.push(source.breach(at, "imports the whole house"));
        } else if rooms.contains(target) && !allowed(&path) {
            found.push(source.breach(at, &format!("`{room}` may not import `{path}`")));
        }
    }
    found
}

/// All paths that start at the crate's root, by `crate::` or by enough `super::`, without that start.
fn house_paths(source: &Source) -> Vec<(usize, String)> {
    let ups = "super::".repeat(source.depth());
    let mut found = Vec::new();
    for start in ["crate::", ups.as_str()] {
        for at in words(&source.code, start) {
            let mut paths = Vec::new();
            expand(&source.code[at + start.len()..], "", &mut paths);
            found.extend(paths.into_iter().map(|path| (at, path)));
        }
    }
    found
}

/// Expands `a::{b, c::d}` to `a::b` and `a::c::d`; returns how much of the text it took.
fn expand(text: &str, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut path = prefix.to_owned();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        let rest = &text[at..];
        if rest.starts_with('{') {
            return at + expand_group(rest, &path, found);
        }
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(rest.len());
        path.push_str(&rest[..word]);
        at += word;
        if !text[at..].starts_with("::") {
            found.push(path);
            return at;
        }
        path.push_str("::");
        at += 2;
    }
}

fn expand_group(text: &str, prefix: &str, found: &mut Vec<String>) -> usize {
    let mut at = 1;
    while at < text.len() && !text[at..].starts_with('}') {
        let separator = text[at..].starts_with(|c: char| c == ',' || c.is_whitespace());
        let renamed = text[at..].starts_with("as ");
        at += match (separator, renamed) {
            (true, _) => 1,
            (_, true) => text[at..].find([',', '}']).unwrap_or(1),
            _ => expand(&text[at..], prefix, found).max(1),
        };
    }
    at + 1
}

fn is_below(path: &str, door: &str) -> bool {
    path.strip_prefix(door).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
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

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    walk(&root, &mut paths);
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.strip_prefix(&root).expect("walked from there").to_string_lossy().replace('\\', "/");
        Source::new(&name, &fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    };
    paths.iter().map(read).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
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
        ("app.rs", "//! D\nfn a() { b().unwrap() }", "2: `.unwrap()`"),
        ("app.rs", "//! D\nfn a() { todo!() }", "`todo!`"),
        ("app.rs", "//! D\nfn a() { unimplemented!() }", "`unimplemented!`"),
        ("app.rs", &long, "401 lines"),
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
        ("app.rs", "//! D\nuse crate::{admin, client, codec, gateway};"),
    ];
    for (name, text) in cases {
        let found = breaches_of(&Source::new(name, text));
        assert!(found.is_empty(), "{name}: {text}\nfound {found:?}");
    }
}
