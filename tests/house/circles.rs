//! Circles: files that need each other, directly or by way of others.
//!
//! Enters: the sources. Leaves: each group of files of which every one leads to every other. Must not touch: what a path
//! is for. A module and what lies below it count as one piece: a parent names its children, and they may use what it
//! declares. Calls without a path (methods, macros) are not seen.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::Source;

/// Files that need each other, by name; each group once, in order.
pub(crate) fn circles(sources: &[Source]) -> Vec<Vec<String>> {
    let house = House::new(sources);
    let needs: Vec<BTreeSet<usize>> = (0..house.files.len()).map(|file| house.needs(file)).collect();
    let reach: Vec<BTreeSet<usize>> = (0..needs.len()).map(|file| reached(&needs, file)).collect();
    let group = |file: usize| reach[file].iter().copied().filter(|other| reach[*other].contains(&file)).collect();
    let groups: BTreeSet<Vec<usize>> = (0..needs.len()).map(group).filter(|group: &Vec<_>| !group.is_empty()).collect();
    let name = |file: usize| house.files[file].name.clone();
    groups.into_iter().map(|group| group.into_iter().map(name).collect()).collect()
}

/// All that can be reached from one file by at least one step.
fn reached(needs: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(file) = open.pop() {
        open.extend(needs[file].iter().filter(|next| found.insert(**next)));
    }
    found
}

struct House<'a> {
    files: Vec<&'a Source>,
    /// `registry::cell` → its file.
    modules: BTreeMap<String, usize>,
    /// `registry::Reader` → `registry::reader::Reader`, where `registry` has `pub use self::reader::Reader`.
    exports: BTreeMap<String, String>,
}

impl<'a> House<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let files: Vec<_> = sources.iter().filter(|source| !source.is_test() && !source.module().is_empty()).collect();
        let modules = files.iter().enumerate().map(|(at, source)| (source.module().join("::"), at)).collect();
        let mut exports = BTreeMap::new();
        for source in &files {
            let module = source.module().join("::");
            for path in source.house_paths().into_iter().filter(|path| path.exported) {
                let name = path.path.rsplit("::").next().unwrap_or_default();
                exports.insert(format!("{module}::{name}"), path.path);
            }
        }
        Self { files, modules, exports }
    }

    fn needs(&self, file: usize) -> BTreeSet<usize> {
        let from = self.files[file].module();
        let is_family = |other: &usize| {
            let to = self.files[*other].module();
            to.starts_with(&from) || from.starts_with(&to)
        };
        let paths = self.files[file].house_paths();
        paths.iter().filter_map(|path| self.file_of(&path.path)).filter(|other| !is_family(other)).collect()
    }

    /// The file that has what the path leads to, through one `pub use` at most.
    fn file_of(&self, path: &str) -> Option<usize> {
        let mut starts = path.match_indices("::").map(|(at, _)| &path[..at]).chain([path]).collect::<Vec<_>>();
        starts.reverse();
        let exported = starts.iter().find_map(|start| self.exports.get(*start).filter(|to| to.as_str() != path));
        let own = starts.iter().find_map(|start| self.modules.get(*start)).copied();
        exported.and_then(|to| self.own_file_of(to)).or(own)
    }

    fn own_file_of(&self, path: &str) -> Option<usize> {
        let starts = path.match_indices("::").map(|(at, _)| &path[..at]).chain([path]);
        starts.filter_map(|start| self.modules.get(start)).last().copied()
    }
}
