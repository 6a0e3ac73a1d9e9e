//! The kept corpus of the fuzz targets, judged without a fuzzer: cases by hand, and what was ever found.
//!
//! Enters: the files under `tests/fuzz/corpus`, whose names say what is odd about them. Leaves: those on which two readers
//! differ, whole or cut anywhere. Must not touch: the files.

use std::fs;
use std::path::Path;

use super::judge;
use super::ours::Limits;

/// Fewer files than this and the corpus is gone.
const FEWEST: usize = 40;

fn replay(kind: &str, judge: impl Fn(&[u8], &[usize]) -> Result<bool, String>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(kind);
    let (mut all, mut taken, mut wrong) = (0, 0, Vec::new());
    for file in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = file.expect("a readable folder").path();
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let cuts: Vec<usize> = (1..bytes.len()).collect();
        match judge(&bytes, &cuts) {
            Ok(is_taken) => taken += usize::from(is_taken),
            Err(differs) => wrong.push(format!("{}: {differs}", path.display())),
        }
        all += 1;
    }
    println!("{kind}: {taken} of {all} taken by our reader");
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(all >= FEWEST && taken * 4 >= all, "{kind}: {taken} of {all} taken");
}

#[test]
fn hyper_sees_the_kept_requests_that_we_see() {
    replay("request", |bytes, cuts| judge::request(bytes, Limits::usual(), cuts));
}

#[test]
fn hyper_sees_the_kept_responses_that_we_see() {
    replay("response", judge::response);
}
