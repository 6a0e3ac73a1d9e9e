//! The table of rows for `docs/NETWORKS.md`. Enters: rows. Leaves: its text. Must not touch: the file.

use std::time::Duration;

use super::row::{AIM, Row};

/// Where it is written.
pub(crate) const FILE: &str = "docs/NETWORKS.md";

/// The rows, as a table.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text = String::from(
        "| the box | WebSockets | its switches struck | ends on | because | first message | numbers each way, once, in order, \
         while it changes | longest pause | close by backend | close by page | page dies: backend let go after |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        text += &line(row);
    }
    text
}

fn line(row: &Row) -> String {
    let seen = &row.told["seen"];
    let (count, echo) = (&seen["counted"], &seen["echoed"]);
    let whole = if row.is_whole() { "yes" } else { "**no**" };
    let close = |seen: &serde_json::Value| match seen["code"].as_u64() {
        Some(code) => format!("{code} {}", seen["reason"].as_str().unwrap_or_default()),
        None => "–".into(),
    };
    let first = match seen["first"].as_u64() {
        Some(first) if first > AIM => format!("**{first} ms**"),
        Some(first) => format!("{first} ms"),
        None => "–".into(),
    };
    let released = row.released().map_or("–".into(), |after| format!("{:.1} s", after.as_secs_f64()));
    let times = |times: u64| if times == 0 { "never".into() } else { format!("{times} ×") };
    let struck: Vec<String> =
        row.switches().map(|switch| format!("`{switch}` {}", times(row.struck(switch)))).collect();
    let struck = if struck.is_empty() { "–".into() } else { struck.join(", ") };
    let pause = count["pause"]
        .as_u64()
        .map_or("–".into(), |pause| format!("{:.1} s", Duration::from_millis(pause).as_secs_f64()));
    let word = |word: &serde_json::Value| word.as_str().unwrap_or("–").to_owned();
    let ws = if row.told["ws"] == true { "pass" } else { "refused" };
    format!(
        "| {} | {ws} | {struck} | {} | {} | {first} | {whole} | {pause} | {} | {} | {released} |\n",
        row.name(),
        word(&echo["transport"]),
        word(&echo["cause"]),
        close(count),
        close(echo),
    )
}
