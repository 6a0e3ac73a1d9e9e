//! What networks are known to do, and what holds each: the last table of `docs/NETWORKS.md`. Enters: its text. Leaves:
//! complaints where it lacks a behaviour, or names what is not there. Must not touch: what the tests do.

use std::fs;
use std::path::Path;

/// What is wrong with the table: each behaviour stands there once (those with a `b` were noted later than their
/// neighbours), and what holds it exists.
pub(crate) fn complaints(table: &str) -> Vec<String> {
    let rows: Vec<Vec<&str>> =
        table.lines().skip(2).map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
    let times = |number: &String| rows.iter().filter(|row| row[0] == number).count();
    let numbers = (1..=60).map(|number| number.to_string()).chain(["45b".into(), "53b".into()]);
    let missing = numbers.filter(|number| times(number) != 1).map(|number| format!("{number} is not there once"));
    let mut wrong: Vec<String> = missing.collect();
    for row in &rows {
        let [number, what, covers] = row[..] else {
            wrong.push(format!("a row of {} columns: {row:?}", row.len()));
            continue;
        };
        if what.is_empty() {
            wrong.push(format!("{number}: does not say what happens"));
        }
        let unknown = covers.split("<br>").filter(|cover| !exists(cover));
        wrong.extend(unknown.map(|cover| format!("{number}: there is no {cover}")));
    }
    wrong
}

/// Whether that is there: a real proxy, a case of the client's, a test by its file and name, a reason why there is none; all
/// others are rows of the table before this one.
fn exists(cover: &str) -> bool {
    let quoted = |name: &str| format!("\"{name}\"");
    if let Some(product) = cover.strip_suffix(" (real)") {
        return has("tests/outside/networks/boxes.rs", &quoted(product));
    }
    if let Some(case) = cover.strip_suffix(" (`tests/outside/client`)") {
        return has("tests/outside/client/cases.mjs", &quoted(case));
    }
    if let Some(reason) = cover.strip_prefix("no test: ") {
        return !reason.is_empty();
    }
    let test = cover.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')?.split_once("`: `"));
    if let Some((file, test)) = test {
        return has(file, &format!("fn {test}("));
    }
    ["rows", "tours"].iter().any(|file| has(&format!("tests/outside/middlebox/{file}.mjs"), &quoted(cover)))
}

fn has(file: &str, text: &str) -> bool {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(path).is_ok_and(|whole| whole.contains(text))
}

#[test]
fn what_is_wrong_with_a_list_is_found() {
    let of = |row: &str| complaints(&format!("| | what happens | held by |\n|---|---|---|\n{row}\n")).join("\n");
    for (row, wrong) in [
        ("| 1 | a box | no such row |", "1: there is no no such row"),
        ("| 1 | a box | no such proxy (real) |", "no such proxy"),
        ("| 1 | a box | `tests/house.rs`: `no_such_test` |", "no_such_test"),
        ("| 1 | a box | |", "1: there is no "),
        ("| 2 | a box | refuses WebSockets with 403 |", "1 is not there once"),
    ] {
        assert!(of(row).contains(wrong), "{row}: {}", of(row));
    }
    let right =
        "| 1 | a box | refuses WebSockets with 403<br>squid (real)<br>`tests/house.rs`: `the_house_is_in_order` |";
    assert!(of(right).starts_with("2 is not there once") && !of(right).contains("there is no"), "{}", of(right));
}
