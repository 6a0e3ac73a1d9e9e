//! What the repository says of itself, held against what is true: the notices of what the binary contains, the Rust
//! version, the changelog.
//!
//! Enters: files at the root, and what cargo says of the dependencies. Leaves: what is missing or differs. Must not touch:
//! the network.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Fewer crates than this, and cargo was asked the wrong question.
const FEWEST_CRATES: usize = 80;

#[test]
fn every_crate_in_the_binary_is_in_the_notices_and_no_other() {
    let (linked, noticed) = (linked(), noticed(&read("THIRD-PARTY-NOTICES.md")));
    assert!(linked.len() >= FEWEST_CRATES, "cargo names only {} crates", linked.len());
    let missing: Vec<_> = linked.difference(&noticed).collect();
    let stale: Vec<_> = noticed.difference(&linked).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "THIRD-PARTY-NOTICES.md lacks {missing:?} and has {stale:?}, which is not linked; CONTRIBUTING.md says how to write it"
    );
}

#[test]
fn the_notices_have_the_license_of_each_part_that_asks_for_more_than_a_name() {
    let notices = read("THIRD-PARTY-NOTICES.md");
    for words in ["Mozilla Public License Version 2.0", "Apache License", "Unicode, Inc.", "mimalloc", "BoringSSL"] {
        assert!(notices.contains(words), "THIRD-PARTY-NOTICES.md lacks {words:?}");
    }
}

/// What `cargo deny check licenses sources` says, where that tool is not.
#[test]
fn every_crate_in_the_binary_has_a_license_and_a_source_that_deny_toml_allows() {
    let rules: toml::Table = read("deny.toml").parse().expect("deny.toml is TOML");
    let words = |list: &toml::Value| -> BTreeSet<String> {
        list.as_array().into_iter().flatten().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    let (allowed, exceptions) = (words(&rules["licenses"]["allow"]), rules["licenses"]["exceptions"].as_array());
    let linked = linked();
    let mut wrong = Vec::new();
    for package in packages().as_array().expect("a list of packages") {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        if !linked.contains(&format!("{} {}", text("name"), text("version"))) {
            continue;
        }
        let more = exceptions.into_iter().flatten().find(|one| one["crate"].as_str() == Some(text("name")));
        let more = more.map(|one| words(&one["allow"])).unwrap_or_default();
        if !is_allowed(text("license"), &|license| allowed.contains(license) || more.contains(license)) {
            wrong.push(format!("{}: its license is {:?}", text("name"), text("license")));
        }
        if text("source") != "registry+https://github.com/rust-lang/crates.io-index" {
            wrong.push(format!("{}: it comes from {:?}", text("name"), text("source")));
        }
    }
    assert!(wrong.is_empty(), "deny.toml does not allow\n{}", wrong.join("\n"));
}

#[test]
fn licenses_are_read_as_they_are_meant() {
    let allowed = |text: &str| is_allowed(text, &|license| matches!(license, "MIT" | "ISC"));
    for text in [
        "MIT",
        "Apache-2.0 OR MIT",
        "MIT/Apache-2.0",
        "(GPL-3.0 OR ISC) AND MIT",
        "GPL-3.0 AND GPL-3.0 OR MIT",
        "MIT WITH x OR ISC",
    ] {
        assert!(allowed(text), "{text}");
    }
    for text in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "MIT WITH x", "MIT AND", "(MIT"] {
        assert!(!allowed(text), "{text}");
    }
}

/// Whether an SPDX expression can be met: `AND` binds before `OR`; a slash is an old `OR`.
fn is_allowed(expression: &str, allowed: &dyn Fn(&str) -> bool) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<_> = spaced.split_whitespace().collect();
    let mut left = &words[..];
    any(&mut left, allowed) == Some(true) && left.is_empty()
}

fn any(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = all(words, allowed)?;
    while let [word, rest @ ..] = words
        && *word == "OR"
    {
        *words = rest;
        met |= all(words, allowed)?;
    }
    Some(met)
}

fn all(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let mut met = one(words, allowed)?;
    while let [word, rest @ ..] = words
        && *word == "AND"
    {
        *words = rest;
        met &= one(words, allowed)?;
    }
    Some(met)
}

fn one(words: &mut &[&str], allowed: &dyn Fn(&str) -> bool) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    if *first != "(" {
        // A license with an exception is another license.
        if let ["WITH", exception, rest @ ..] = rest {
            *words = rest;
            return Some(allowed(&format!("{first} WITH {exception}")));
        }
        return Some(allowed(first));
    }
    let met = any(words, allowed)?;
    *words = words.strip_prefix(&[")"])?;
    Some(met)
}

#[test]
fn the_rust_version_is_the_same_wherever_it_is_named() {
    let version = env!("CARGO_PKG_RUST_VERSION");
    let places = [
        ("README.md", format!("Rust {version} or newer")),
        ("CONTRIBUTING.md", format!("Rust {version} or newer")),
        ("CONTRIBUTING.md", format!("\n{version} is `rust-version`")),
        (".github/workflows/ci.yml", format!("toolchain: \"{version}\"")),
        ("Dockerfile", format!("library/rust:{version}-alpine")),
    ];
    for (file, words) in places {
        assert!(read(file).contains(&words), "{file} lacks {words:?}");
    }
}

#[test]
fn the_changelog_has_this_version_and_what_comes_next() {
    let changelog = read("CHANGELOG.md");
    for heading in ["## [Unreleased]".to_owned(), format!("## [{}]", env!("CARGO_PKG_VERSION"))] {
        assert!(changelog.lines().any(|line| line.starts_with(&heading)), "CHANGELOG.md lacks {heading}");
    }
}

/// All crates of Cargo.lock, as cargo describes them. It downloads those that only other platforms need, which nobody has built here.
fn packages() -> serde_json::Value {
    let mut metadata = Command::new(env!("CARGO"));
    metadata.args(["metadata", "--locked", "--format-version", "1"]);
    let done = metadata.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs this test, so it is here");
    assert!(done.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&done.stderr));
    serde_json::from_slice::<serde_json::Value>(&done.stdout).expect("cargo writes JSON")["packages"].take()
}

/// `name version` of every crate that is linked into the binary or writes code into it, on the platforms of deny.toml.
fn linked() -> BTreeSet<String> {
    let mut tree = Command::new(env!("CARGO"));
    tree.args(["tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]);
    tree.args(["--target", "x86_64-unknown-linux-gnu", "--target", "aarch64-unknown-linux-gnu"]);
    let done = tree.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs this test, so it is here");
    assert!(done.status.success(), "cargo tree: {}", String::from_utf8_lossy(&done.stderr));
    let lines = String::from_utf8(done.stdout).expect("names of crates are ASCII");
    // `serde v1.0.229 (proc-macro) (*)`
    let package = |line: &str| {
        let (name, rest) = line.split_once(" v")?;
        Some(format!("{name} {}", rest.split(' ').next().unwrap_or(rest)))
    };
    lines.lines().filter_map(package).filter(|package| !package.starts_with("underpass ")).collect()
}

/// `name version` of every crate in the lists of the notices: `- [name version](address)`.
fn noticed(notices: &str) -> BTreeSet<String> {
    let package = |line: &str| Some(line.strip_prefix("- [")?.split_once("](")?.0.to_owned());
    notices.lines().filter_map(package).collect()
}

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
