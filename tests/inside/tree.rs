//! No file of Rust is forgotten: each under `src/` and `tests/` is named by a `mod` that leads to it from a crate's root.
//!
//! Enters: the source text. Leaves: the files that no crate has. Must not touch: what they say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Fewer files than this and the test looks in the wrong place.
const FEWEST_FILES: usize = 150;

#[test]
fn no_file_is_forgotten() {
    // Cleaned, as the file of a `#[path]` is below: two names of one file would be two files.
    let home = fs::canonicalize(env!("CARGO_MANIFEST_DIR")).expect("the package's folder");
    let mut all = BTreeSet::new();
    walk(&home.join("src"), &mut all);
    walk(&home.join("tests"), &mut all);
    assert!(all.len() >= FEWEST_FILES, "only {} files: is this the right place?", all.len());
    let mut reached = BTreeSet::new();
    for root in all.iter().filter(|file| is_root(file, &home)) {
        follow(root, true, &mut reached);
    }
    let forgotten: Vec<_> = all.difference(&reached).collect();
    assert!(forgotten.is_empty(), "no `mod` names {forgotten:#?}");
}

/// A file with which cargo begins a crate, by where it lies.
fn is_root(file: &Path, home: &Path) -> bool {
    let file = file.strip_prefix(home).expect("walked from there");
    let parts: Vec<_> = file.iter().filter_map(|part| part.to_str()).collect();
    let ours = matches!(parts[..], ["src", "lib.rs" | "main.rs"] | ["tests", _] | ["tests", _, "main.rs"]);
    // The fuzz targets are a package of their own.
    ours || matches!(parts[..], ["tests", "fuzz", "judges.rs"] | ["tests", "fuzz", "fuzz_targets", _])
}

fn walk(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("a readable folder").path();
        // What npm installs is nobody's module.
        if path.is_dir() && !path.ends_with("node_modules") {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.insert(path);
        }
    }
}

/// Notes the file, and all that its modules lead to. Those of a `root` lie beside it, as those of a `mod.rs` do, and not in a
/// folder of its name.
fn follow(file: &Path, root: bool, reached: &mut BTreeSet<PathBuf>) {
    if !reached.insert(file.to_owned()) {
        return;
    }
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let beside = file.parent().expect("a file lies in a folder");
    for (path, name) in modules(&text) {
        let below = if root || file.ends_with("mod.rs") { beside.to_owned() } else { file.with_extension("") };
        let place = match path {
            Some(path) => fs::canonicalize(beside.join(path)).expect("the file of a `#[path]`"),
            None if below.join(&name).join("mod.rs").exists() => below.join(&name).join("mod.rs"),
            None => below.join(&name).with_extension("rs"),
        };
        follow(&place, false, reached);
    }
}

/// The modules with a file of their own, and the path where one is written.
fn modules(text: &str) -> Vec<(Option<String>, String)> {
    let (mut found, mut path) = (Vec::new(), None);
    for line in text.lines() {
        if let Some(written) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            path = Some(written.to_owned());
        }
        let words: Vec<_> = line.strip_suffix(';').into_iter().flat_map(str::split_whitespace).collect();
        if let ["mod", name] | ["pub" | "pub(crate)" | "pub(super)", "mod", name] = words[..] {
            found.push((path.take(), name.to_owned()));
        }
    }
    found
}

#[test]
fn modules_are_found_in_all_their_forms() {
    let text =
        "//! mod no;\nmod a;\n#[cfg(test)]\n#[path = \"b_tests.rs\"]\nmod b;\npub(crate) mod c;\nmod inline {\n}\n";
    let found = modules(text);
    let named = |path: Option<&str>, name: &str| (path.map(str::to_owned), name.to_owned());
    assert_eq!(found, [named(None, "a"), named(Some("b_tests.rs"), "b"), named(None, "c")]);
}
