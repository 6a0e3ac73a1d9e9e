//! docs/ARCHITECTURE.md against what it describes: each room's files, the doors, the places of tests.
//!
//! Enters: the document, the names of files. Leaves: what is missing in it, and what it names that is gone. Must not
//! touch: the words beside the names.

use std::collections::{BTreeMap, BTreeSet};

/// Beginnings of the tables, which are found by them.
const ROOMS: &str = "| room | files |";
const DOORS: &str = "| room | may import |";
const TESTS: &str = "| where | holds |";

/// Rooms whose row names other files than there are, and files without a row. `files` are all under `src/`.
pub(crate) fn wrong_rooms(map: &str, files: &[String]) -> Vec<String> {
    let mut rows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for [room, named, ..] in rows_of(map, ROOMS) {
        for room in quoted(&room) {
            rows.entry(room).or_default().extend(quoted(&named));
        }
    }
    let mut found = Vec::new();
    let mut there: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.ends_with("/tests.rs")) {
        let (room, name) = match file.split_once('/') {
            Some((room, name)) => (format!("{room}/"), Some(name.trim_end_matches(".rs").to_owned())),
            None => (file.trim_end_matches(".rs").to_owned(), None),
        };
        there.entry(room).or_default().extend(name);
    }
    for (room, files) in &there {
        let Some(named) = rows.get(room) else {
            found.push(format!("{ROOMS} has no row for `{room}`"));
            continue;
        };
        let single = !room.ends_with('/');
        found.extend(files.difference(named).map(|file| format!("the row of `{room}` does not name `{file}`")));
        let gone = named.difference(files).filter(|_| !single);
        found.extend(gone.map(|file| format!("the row of `{room}` names `{file}`, which is not there")));
    }
    let gone = rows.keys().filter(|room| !there.contains_key(*room));
    found.extend(gone.map(|room| format!("{ROOMS} has a row for `{room}`, which is not there")));
    found
}

/// Rooms whose doors are told differently in the document.
pub(crate) fn wrong_doors(map: &str, doors: &[(&str, &[&str])]) -> Vec<String> {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for [rooms, open, ..] in rows_of(map, DOORS) {
        for room in quoted(&rooms) {
            told.entry(room).or_default().extend(quoted(&open));
        }
    }
    let real: BTreeMap<String, BTreeSet<String>> = doors
        .iter()
        .map(|(room, open)| ((*room).to_owned(), open.iter().map(|door| (*door).to_owned()).collect()))
        .collect();
    let rooms: BTreeSet<_> = told.keys().chain(real.keys()).collect();
    let differs = rooms.into_iter().filter(|room| told.get(*room) != real.get(*room));
    differs
        .map(|room| format!("{DOORS} says of `{room}` {:?}, open are {:?}", told.get(room), real.get(room)))
        .collect()
}

/// Tests that no row leads to, and rows that lead nowhere. `tests` are all `.rs` files under `tests/`. A row may name a file
/// or a folder, which stands for all that is in it. The roots of binaries and folders, which only list others, need none.
pub(crate) fn wrong_tests(map: &str, tests: &[String]) -> Vec<String> {
    let named: Vec<String> = rows_of(map, TESTS).into_iter().flat_map(|[place, ..]| quoted(&place)).collect();
    let named: Vec<&str> = named.iter().filter_map(|place| place.strip_prefix("tests/")).collect();
    let is_in = |file: &str, place: &str| {
        file.strip_prefix(place.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_index = |file: &str| file.ends_with("/main.rs") || file.ends_with("/mod.rs");
    let lost = |file: &&String| !is_index(file) && !named.iter().any(|place| is_in(file, place));
    let mut found: Vec<String> =
        tests.iter().filter(lost).map(|file| format!("{TESTS} leads nobody to `tests/{file}`")).collect();
    let gone = named.iter().filter(|place| !tests.iter().any(|file| is_in(file, place)));
    found.extend(gone.map(|place| format!("{TESTS} has a row for `tests/{place}`, which is not there")));
    found
}

/// The first two cells of each row of the table that begins so.
fn rows_of(map: &str, head: &str) -> Vec<[String; 2]> {
    let lines = map.lines().skip_while(|line| !line.starts_with(head)).skip(2);
    let cells = |line: &str| {
        let mut cells = line.split('|').skip(1).map(|cell| cell.trim().to_owned());
        [cells.next().unwrap_or_default(), cells.next().unwrap_or_default()]
    };
    lines.take_while(|line| line.starts_with('|')).map(cells).collect()
}

/// What stands in backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}
