//! The table of `docs/NETWORKS.md`. Enters: what was measured. Leaves: its text, and the file when that is asked for. Must
//! not touch: what stands outside the table's marks.

use super::Row;
use super::boxes::Spec;
use crate::section;

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

/// Writes the table between its marks.
pub(crate) fn write(table: &str) {
    section::write("docs/NETWORKS.md", "tests/outside/networks", table);
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
