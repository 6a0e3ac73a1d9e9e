//! What the admin listener answers, as tables for people.
//!
//! Enters: JSON. Leaves: text; of what comes from clients (paths, causes) no control character. Must not touch: where it
//! comes from.

use serde_json::Value;

/// The longest cell, in characters; longer ones are cut.
const CELL: usize = 60;

/// The answer of `/sessions`.
pub(super) fn sessions(answer: &Value) -> String {
    let head =
        ["ID", "CLIENT", "ROUTE", "PATH", "NOW", "BEFORE", "CAUSE", "AGE", "IDLE", "DOWN", "UP", "KEPT", "QUEUED", ""];
    let list = answer["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let row = |one: &Value| {
        let mark = if !one["ended"].is_null() {
            format!("ended {}", one["ended"]["code"])
        } else if one["paused"] == true {
            "paused".to_owned()
        } else {
            String::new()
        };
        let way = |way: &str| {
            let bytes = bytes(one["bytes"][way].as_f64().unwrap_or_default());
            format!("{} ({bytes})", one["messages"][way])
        };
        let span = |name: &str| span(one[name].as_f64().unwrap_or_default());
        let size = |name: &str| bytes(one[name].as_f64().unwrap_or_default());
        let [id, client, route, path] = ["id", "client", "route", "path"].map(|name| text(&one[name]));
        let [now, before, cause] = ["transport", "before", "cause"].map(|name| text(&one[name]));
        let (age, idle, kept, queued) = (span("age"), span("idle"), size("kept"), size("queued"));
        vec![id, client, route, path, now, before, cause, age, idle, way("down"), way("up"), kept, queued, mark]
    };
    let shown = table(&head, list.iter().map(row).collect());
    let total = answer["total"].as_u64().unwrap_or_default();
    if total > list.len() as u64 {
        let first = answer["offset"].as_u64().unwrap_or_default();
        let part = match list.len() as u64 {
            0 => format!("none beyond {first}"),
            count => format!("{} to {}", first + 1, first + count),
        };
        return format!("{shown}{part} of {total}; --offset and --limit show others\n");
    }
    format!("{shown}{total} session(s)\n")
}

/// The answer of `/status`.
pub(super) fn status(answer: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let counted = &answer["counted"];
    let age = span(number(&answer["now"]) - number(&answer["started"]));
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut text = format!(
        "underpass {}, {}, for {age}; log level {}\n\n",
        word(&answer["version"]),
        word(&answer["phase"]),
        word(&answer["log_level"])
    );
    let pairs = |of: &Value| -> Vec<String> {
        of.as_object().into_iter().flatten().map(|(name, count)| format!("{name} {count}")).collect()
    };
    let line =
        |name: &str, of: Vec<String>| format!("{name:<13}{}\n", if of.is_empty() { "-".into() } else { of.join(", ") });
    text += &line("sessions", pairs(&counted["active"]));
    let routes = answer["routes"].as_array().into_iter().flatten();
    text += &line("routes", routes.map(|one| format!("{} {}", word(&one["route"]), one["sessions"])).collect());
    text += &line("ended", pairs(&counted["ended"]));
    text += &line("refused", pairs(&counted["refusals"]));
    let beside = [("tunnels", "tunnels"), ("proxied now", "proxied"), ("connections", "connections")];
    text += &line("beside", beside.map(|(name, key)| format!("{name} {}", counted[key])).to_vec());
    let moved = |way: &str| format!("{way} {} ({})", counted[way][0], bytes(number(&counted[way][1])));
    text += &line("messages", vec![moved("down"), moved("up")]);
    let (buffers, size) = (&answer["buffers"], |value: &Value| bytes(number(value)));
    let (kept, queued) = (size(&buffers["kept"]), size(&buffers["queued"]));
    text += &line("buffers", vec![format!("kept {kept}, queued {queued}, paused {}", buffers["paused"])]);
    text += &line("reloads", reloads(answer));
    text.push('\n');
    let limits = answer["limits"].as_array().into_iter().flatten().map(|one| {
        let (used, limit) = (number(&one["used"]), number(&one["limit"]));
        let show = |value: f64| if one["unit"] == "bytes" { bytes(value) } else { format!("{value}") };
        vec![word(&one["name"]), show(used), show(limit), format!("{:.0} %", 100.0 * used / limit.max(1.0))]
    });
    text += &table(&["LIMIT", "USED", "OF", ""], limits.collect());
    let now = number(&answer["now"]);
    let backends = answer["backends"].as_array().into_iter().flatten().map(|one| {
        let opening = format!("{} of {}", one["dials"], one["dials_limit"]);
        vec![word(&one["route"]), opening, one["waiting"].to_string(), one["pooled"].to_string()]
    });
    text += &format!("\n{}", table(&["BACKEND OF", "OPENING", "WAITING", "IDLE"], backends.collect()));
    let certificates = answer["certificates"].as_array().into_iter().flatten().map(|one| {
        let left = number(&one["expires"]) - now;
        vec![word(&one["file"]), if left < 0.0 { "EXPIRED".to_owned() } else { format!("in {}", span(left)) }]
    });
    let certificates: Vec<_> = certificates.collect();
    if !certificates.is_empty() {
        text += &format!("\n{}", table(&["CERTIFICATE", "EXPIRES"], certificates));
    }
    let changes = answer["changes"].as_array().into_iter().flatten().take(10).map(|one| {
        let ago = format!("{} ago", span((now - number(&one["at"])).max(0.0)));
        vec![ago, word(&one["session"]), word(&one["from"]), word(&one["to"]), word(&one["cause"])]
    });
    let changes: Vec<_> = changes.collect();
    if !changes.is_empty() {
        text += &format!("\n{}", table(&["CHANGED", "SESSION", "FROM", "TO", "CAUSE"], changes));
    }
    text
}

/// How many reloads there were, and what became of the last one.
fn reloads(answer: &Value) -> Vec<String> {
    let (counts, last) = (&answer["counted"]["reloads"], &answer["configuration"]["last_reload"]);
    let mut told = vec![format!("applied {}", counts[0]), format!("refused {}", counts[1])];
    if let (Some(at), Some(now)) = (last["at"].as_f64(), answer["now"].as_f64()) {
        let result = if last["applied"] == true { "applied" } else { "REFUSED, the log says why" };
        told.push(format!("the last {} ago: {result}", span(now - at)));
    }
    told
}

/// Columns as wide as their widest cell.
fn table(head: &[&str], rows: Vec<Vec<String>>) -> String {
    let clean = |cell: String| -> String {
        let cell = cell.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char });
        cell.take(CELL).collect()
    };
    let mut rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.into_iter().map(clean).collect()).collect();
    rows.insert(0, head.iter().map(|cell| (*cell).to_owned()).collect());
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// `1.5 MiB`.
fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut count, mut unit) = (count, 0);
    while count >= 1024.0 && unit + 1 < units.len() {
        count /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count:.0} B") } else { format!("{count:.1} {}", units[unit]) }
}

/// `12s`, `5m12s`, `3h05m`, `4d03h`.
fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86_400 => format!("{}h{:02}m", whole / 3600, whole / 60 % 60),
        _ => format!("{}d{:02}h", whole / 86_400, whole / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_shown_for_people() {
        assert_eq!([bytes(0.0), bytes(1023.0), bytes(1536.0)], ["0 B", "1023 B", "1.5 KiB"]);
        assert_eq!(
            [span(-1.0), span(59.9), span(312.0), span(11_100.0), span(356_400.0)],
            ["0s", "59s", "5m12s", "3h05m", "4d03h"]
        );
    }

    #[test]
    fn what_clients_say_cannot_move_the_cursor() {
        let one = json!({ "id": "a", "path": format!("/\u{1b}[2J{}", "x".repeat(100)), "messages": {}, "bytes": {} });
        let shown = sessions(&json!({ "total": 3, "offset": 1, "sessions": [one] }));
        assert!(!shown.contains('\u{1b}') && shown.contains("/\u{fffd}[2Jxxx"), "{shown}");
        assert!(
            shown.lines().all(|line| line.chars().count() < 200)
                && shown.ends_with("2 to 2 of 3; --offset and --limit show others\n")
        );
    }
}
