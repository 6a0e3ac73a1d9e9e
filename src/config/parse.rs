//! From a text to the run-time [`Config`]: the TOML, the keys, and which of all mistakes are told.
//!
//! Enters: a text and its name. Leaves: a [`Config`] that is right in every part, or all [`Mistakes`]. Must not touch: the
//! files that the configuration names (they are opened at the start), other rooms.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::mistakes::{Found, Mistakes};
use super::reader::{Report, Span};
use super::{Config, file};

/// Parses and checks a whole file.
pub(super) fn config(bytes: &[u8], name: &str) -> Result<Config, Mistakes> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_text(bytes, error.valid_up_to(), name))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (document, errors) = DeTable::parse_recoverable(text);
    let (report, config) = Report::read(Some(document.get_ref()), file::config);
    let lines = Lines::of(text);
    let mut found = syntax(text, &lines, &errors);
    let unreadable: BTreeSet<_> = found.iter().filter_map(|syntax| lines.first(syntax)).collect();
    // What was read from a line that is not TOML is a guess of the parser; so is what is missing.
    let guessed = |read: &Found| lines.all(read).is_some_and(|lines| unreadable.range(lines).next().is_some());
    let read = report.into_mistakes(found.is_empty());
    found.extend(read.into_iter().filter(|read| !guessed(read)));
    if found.is_empty() { Ok(config) } else { Err(Mistakes::new(name, text, found)) }
}

/// Every key the file may have: `node`, `session.grace`, `listener.address` …
pub(super) fn keys() -> Vec<String> {
    let (report, _) = Report::read(None, file::config);
    let tables: Vec<_> = report.keys().iter().map(|key| key.table).collect();
    let path = |table: &str, name: &str| if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
    let leaves = report.keys().iter().filter(|key| !(key.table.is_empty() && tables.contains(&key.name)));
    leaves.map(|key| path(key.table, key.name)).collect()
}

fn not_text(bytes: &[u8], at: usize, name: &str) -> Mistakes {
    let what = "the file is not UTF-8 text".to_owned();
    let hint = "save it as UTF-8".to_owned();
    let text = String::from_utf8_lossy(bytes);
    Mistakes::new(name, &text, vec![Found { span: Some(at..at + 1), what, hint }])
}

/// What the TOML parser says: for each line the first, since the others follow from it.
fn syntax(text: &str, lines: &Lines, errors: &[toml::de::Error]) -> Vec<Found> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for error in errors {
        let mistake = Found { span: error.span(), what: format!("not TOML: {}", error.message()), hint: String::new() };
        if seen.insert(lines.first(&mistake)) {
            let hint = unquoted(text, error.span()).unwrap_or_default();
            found.push(Found { hint, ..mistake });
        }
    }
    found
}

/// The commonest slip: a text without its quotes.
fn unquoted(text: &str, span: Option<Span>) -> Option<String> {
    let at = text.floor_char_boundary(span?.start);
    let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let (_, value) = text[start..].lines().next()?.split_once('=')?;
    let value = value.split('#').next()?.trim();
    let bare = value.len() < 60 && value.starts_with(|c: char| c.is_alphanumeric() || c == '/' || c == ':');
    (bare && !value.contains(['"', '\''])).then(|| format!("write \"{value}\", with quotes"))
}

/// Where the lines of a text end.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at).collect())
    }

    /// The line on which it begins, counted from 0.
    fn first(&self, found: &Found) -> Option<usize> {
        found.span.as_ref().map(|span| self.line(span.start))
    }

    fn all(&self, found: &Found) -> Option<RangeInclusive<usize>> {
        found.span.as_ref().map(|span| self.line(span.start)..=self.line(span.end.max(span.start)))
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mistake_a_line_hides_what_follows_from_it() {
        let told = Config::parse("listen = 127.0.0.1:80\nupstream = ws://a\nnode = 1\n", "f").map_err(|m| m.count());
        assert_eq!(told, Err(3));
    }
}
