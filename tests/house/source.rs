//! One source file, and the paths in it that lead into the house.
//!
//! Enters: its name and text. Leaves: its code without prose and tests, its module, its paths. Must not touch: rules,
//! other files.

use std::ops::Range;

use crate::text::{blank, test_items, without_prose, words};

/// One source file.
pub(crate) struct Source {
    /// From `src/`, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
    /// Comments, literals and test modules are blank; lines are where they were.
    pub(crate) code: String,
    /// Where in the code the test modules were.
    pub(crate) tests: Vec<Range<usize>>,
}

/// A path from the crate's root, such as `registry::Reader`, and where it stands.
pub(crate) struct HousePath {
    pub(crate) at: usize,
    pub(crate) path: String,
    /// What it is for: `pub use` makes its last name one of the module that has it.
    pub(crate) exported: bool,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let code = without_prose(text);
        let tests = test_items(&code);
        Self { name: name.into(), text: text.into(), code: blank(&code, &tests), tests }
    }

    pub(crate) fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| if place.ends_with('/') { self.name.starts_with(place) } else { self.name == *place })
    }

    /// A file that holds nothing but tests.
    pub(crate) fn is_test(&self) -> bool {
        self.name.ends_with("/tests.rs")
    }

    pub(crate) fn room(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap_or_default()
    }

    /// The modules from the crate's root down to this file's.
    pub(crate) fn module(&self) -> Vec<&str> {
        let mut modules: Vec<&str> = self.name.trim_end_matches(".rs").split('/').collect();
        modules.pop_if(|last| ["mod", "lib", "main"].contains(last));
        modules
    }

    pub(crate) fn breach(&self, at: usize, what: &str) -> String {
        format!("src/{}:{}: {what}", self.name, self.line(at))
    }

    pub(crate) fn line(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// All paths in the code that start with `crate`, `self` or `super`.
    pub(crate) fn house_paths(&self) -> Vec<HousePath> {
        let module = self.module();
        let mut found = Vec::new();
        for start in ["crate::", "self::", "super::"] {
            for at in words(&self.code, start) {
                let rest = self.code[at..].trim_start_matches("super::");
                let ups = (self.code.len() - at - rest.len()) / "super::".len();
                let base = match start {
                    "crate::" => &[],
                    "self::" => &module[..],
                    _ => &module[..module.len().saturating_sub(ups)],
                };
                let rest = if ups == 0 { &rest[start.len()..] } else { rest };
                let mut paths = Vec::new();
                expand(rest, &base.iter().map(|module| format!("{module}::")).collect::<String>(), &mut paths);
                let exported = self.is_export(at);
                let path = |path: String| path.strip_suffix("::self").map(str::to_owned).unwrap_or(path);
                found.extend(paths.into_iter().map(|one| HousePath { at, path: path(one), exported }));
            }
        }
        found
    }

    /// Whether what begins here stands in a `pub use`.
    fn is_export(&self, at: usize) -> bool {
        let before = self.code[..at].rsplit([';', '}', ']']).next().unwrap_or_default().trim();
        before.starts_with("pub") && before.ends_with(" use")
    }
}

/// Expands `a::{b, c::d}` to `a::b` and `a::c::d`; returns how much of the text it took.
pub(crate) fn expand(text: &str, prefix: &str, found: &mut Vec<String>) -> usize {
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

/// Whether a path is this one, or leads to what is below it.
pub(crate) fn is_below(path: &str, door: &str) -> bool {
    path.strip_prefix(door).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
