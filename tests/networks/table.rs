//! The table of `docs/NETWORKS.md`. Enters: what was measured. Leaves: its text, and the file when that is asked for. Must
//! not touch: what stands before the table's mark.

use std::fs;

use crate::Row;
use crate::boxes::Spec;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/NETWORKS.md");
const MARK: &str = "<!-- tests/networks writes from here -->\n";

/// The rows, as a table.
pub(crate) fn text(rows: &[(&Spec, Row)]) -> String {
    let mut text = String::from(
        "| proxy | stands before | ends on | because | first message | message after 7 s of silence | 1,000 each way, once, \
         in order | close by backend | close by page | page dies: backend let go after |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (spec, row) in rows {
        text += &line(spec, row);
    }
    text
}

/// Writes the table behind the mark.
pub(crate) fn write(table: &str) {
    let old = fs::read_to_string(FILE).expect("docs/NETWORKS.md is there");
    let kept = old.find(MARK).map(|at| &old[..at + MARK.len()]).expect("it has its mark");
    fs::write(FILE, format!("{kept}\n{table}")).expect("it can be written");
}

fn line(spec: &Spec, row: &Row) -> String {
    let page = &row.page;
    let stands = if spec.forward { row.browser } else { "the sidecar" };
    let count = &page["counted"];
    let whole = if count["wrong"] == -1 { "yes" } else { "**no**" };
    let close = |seen: &serde_json::Value| format!("{} {}", seen["code"], seen["reason"].as_str().unwrap_or_default());
    let released = row.released.as_ref();
    let released = released.map_or("**never**".into(), |(after, _)| format!("{:.1} s", after.as_secs_f64()));
    format!(
        "| {} | {stands} | {} | {} | {} ms | {} ms | {whole} | {} | {} | {released} |\n",
        spec.name,
        row.transport(),
        row.last_move("cause"),
        row.first(),
        page["echoed"]["late"],
        close(count),
        close(&page["echoed"]),
    )
}
