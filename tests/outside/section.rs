//! A part of a document that a test writes. Enters: a file of the repository, the part's name, its text. Leaves: the file
//! with that part replaced. Must not touch: what stands around the part's two marks.

use std::fs;
use std::path::Path;

/// What stands between `<!-- name: from here -->` and `<!-- name: to here -->`.
///
/// # Panics
/// The file or a mark is missing.
pub(crate) fn read(file: &str, name: &str) -> String {
    let text = fs::read_to_string(place(file)).expect("the file is there");
    let (from, to) = bounds(&text, name);
    text[from..to].trim().to_owned()
}

/// Writes that.
///
/// # Panics
/// The file or a mark is missing, or it cannot be written.
pub(crate) fn write(file: &str, name: &str, part: &str) {
    let text = fs::read_to_string(place(file)).expect("the file is there");
    let (from, to) = bounds(&text, name);
    let whole = format!("{}\n{}\n\n{}", &text[..from], part.trim(), &text[to..]);
    fs::write(place(file), whole).expect("it can be written");
}

fn place(file: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn bounds(text: &str, name: &str) -> (usize, usize) {
    let mark = |which: &str| format!("<!-- {name}: {which} here -->\n");
    let after = |mark: String| text.find(&mark).map(|at| at + mark.len());
    let from = after(mark("from")).expect("a mark where it begins");
    let to = text[from..].find(&mark("to")).map(|at| from + at).expect("a mark where it ends");
    (from, to)
}
