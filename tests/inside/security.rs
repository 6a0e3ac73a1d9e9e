//! The table of docs/SECURITY.md, held against what is there: each row names tests, and each that is named exists.
//!
//! Enters: the table, and the source of tests. Leaves: rows that name none, and names that nothing has. Must not touch: what
//! the tests say.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Fewer rows or tests than this and something else was read.
const FEWEST_ROWS: usize = 25;
const FEWEST_TESTS: usize = 500;

#[test]
fn each_threat_names_tests_and_each_that_is_named_exists() {
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut tests, mut files) = (BTreeSet::new(), BTreeSet::new());
    walk(&home.join("src"), &mut tests, &mut files);
    walk(&home.join("tests"), &mut tests, &mut files);
    assert!(tests.len() >= FEWEST_TESTS, "only {} tests: is this the right place?", tests.len());
    let text = read(&home.join("docs/SECURITY.md"));
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in text.lines().filter(|line| line.starts_with("| **")) {
        let [attack, _, held] = cells(row)[..] else { panic!("a row of three cells: {row}") };
        rows += 1;
        let named: Vec<_> = held.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            wrong.push(format!("{attack}: no test"));
        }
        let unknown = named.into_iter().filter(|name| !is_there(name, home, &tests, &files));
        wrong.extend(unknown.map(|name| format!("{attack}: there is no `{name}`")));
    }
    assert!(wrong.is_empty(), "docs/SECURITY.md\n{}", wrong.join("\n"));
    assert!(rows >= FEWEST_ROWS, "only {rows} rows");
}

/// The cells of a row; a bar within one is written `\|`.
fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split(" | ").map(str::trim).collect()
}

/// A test, a file or folder by its path, a file by its name, or a line of Cargo.toml.
fn is_there(name: &str, home: &Path, tests: &BTreeSet<String>, files: &BTreeSet<String>) -> bool {
    if name.contains('=') {
        return read(&home.join("Cargo.toml")).lines().any(|line| line == name);
    }
    if name.contains('/') {
        return home.join(name).exists();
    }
    tests.contains(name) || files.contains(name)
}

/// The names of all functions that are tests, and those of all files.
fn walk(folder: &Path, tests: &mut BTreeSet<String>, files: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            // What npm installs is not ours.
            if !path.ends_with("node_modules") {
                walk(&path, tests, files);
            }
            continue;
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            tests.extend(tests_of(&read(&path)));
        }
        files.extend(path.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    }
}

/// Functions behind `#[test]` or `#[tokio::test…]`, with or without attributes and comments between.
fn tests_of(source: &str) -> Vec<String> {
    let (mut found, mut marked) = (Vec::new(), false);
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((before, rest)) = line.split_once("fn ")
            && matches!(before, "" | "async ")
        {
            if marked {
                found.extend(rest.split(['(', '<']).next().map(str::to_owned));
            }
            marked = false;
        }
    }
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
