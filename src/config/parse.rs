//! From a text to the run-time [`Config`]: parses the TOML, has the keys read, and chooses which errors are reported.
//!
//! Enters: a text and its name. Leaves: a [`Config`] without any error, or all [`ConfigErrors`]. Must not touch: the
//! files that the configuration names (they are opened at the start), other rooms.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use toml::de::DeTable;

use super::errors::{ConfigErrors, SpannedError};
use super::layers::{Layers, Overlay};
use super::reader::{Key, Kind, Report, Span};
use super::{Config, Loaded, keys, settings};

/// Parses and checks a whole file.
pub(super) fn config(bytes: &[u8], name: &str) -> Result<Config, ConfigErrors> {
    loaded(bytes, name, &[]).map(|loaded| loaded.config)
}

/// Parses and checks a whole file with what is laid over it: later ones over earlier ones.
pub(super) fn loaded(bytes: &[u8], name: &str, over: &[Overlay]) -> Result<Loaded, ConfigErrors> {
    let text = std::str::from_utf8(bytes).map_err(|error| not_text(bytes, error.valid_up_to(), name))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut document, toml_errors) = DeTable::parse_recoverable(text);
    // What is laid over the file lies behind its end, so to speak: there its errors are found again.
    let layers = Layers::of(over, text.len(), &if over.is_empty() { Vec::new() } else { keys() });
    let misplaced = layers.lay_over(document.get_mut());
    let (report, config) = Report::read(Some(document.get_ref()), keys::config);
    let lines = Lines::of(text);
    let mut errors = syntax_errors(text, &lines, &toml_errors);
    let unreadable: BTreeSet<_> = errors.iter().filter_map(|error| lines.first(error)).collect();
    // On a line that is not TOML the parser guesses, so an error found there may be wrong; so may a key that seems missing.
    let is_guess =
        |error: &SpannedError| lines.all(error).is_some_and(|lines| unreadable.range(lines).next().is_some());
    let set = report.set().to_vec();
    let others = report.into_errors(errors.is_empty());
    errors.extend(misplaced.into_iter().chain(others).filter(|error| !is_guess(error)));
    let errors: Vec<_> = errors.into_iter().map(|error| layers.named(error)).collect();
    if !errors.is_empty() {
        return Err(ConfigErrors::new(name, text, errors));
    }
    let settings = settings::of(&config, &set, |span| match layers.find(&span) {
        Some(layer) => (layer.shown.clone(), layer.origin.clone()),
        None => (text[span.clone()].to_owned(), format!("{name}:{}", lines.line(span.start) + 1)),
    });
    Ok(Loaded { config, settings })
}

/// Every key that may be laid over a file, and what it takes: `session.grace`, and `route[].upstream` where there may be
/// several tables.
pub(super) fn keys() -> Vec<(String, Kind)> {
    let (report, _) = Report::read(None, keys::config);
    let path = |key: &Key| match key.table {
        "" => key.name.to_owned(),
        "listener" | "route" => format!("{}[].{}", key.table, key.name),
        table => format!("{table}.{}", key.name),
    };
    report.keys().iter().filter(|key| key.kind != Kind::Table).map(|key| (path(key), key.kind)).collect()
}

/// Every key that the file may have: `node`, `session.grace`, `listener.address` …
pub(super) fn all_keys() -> Vec<String> {
    let (report, _) = Report::read(None, keys::config);
    let tables: Vec<_> = report.keys().iter().map(|key| key.table).collect();
    let path = |table: &str, name: &str| if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") };
    let leaves = report.keys().iter().filter(|key| !(key.table.is_empty() && tables.contains(&key.name)));
    leaves.map(|key| path(key.table, key.name)).collect()
}

fn not_text(bytes: &[u8], at: usize, name: &str) -> ConfigErrors {
    let what = "the file is not UTF-8 text".to_owned();
    let hint = "save it as UTF-8".to_owned();
    let text = String::from_utf8_lossy(bytes);
    ConfigErrors::new(name, &text, vec![SpannedError { span: Some(at..at + 1), what, hint }])
}

/// The errors of the TOML parser, only the first of each line, because the others follow from it.
fn syntax_errors(text: &str, lines: &Lines, errors: &[toml::de::Error]) -> Vec<SpannedError> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for error in errors {
        let spanned =
            SpannedError { span: error.span(), what: format!("not TOML: {}", error.message()), hint: String::new() };
        if seen.insert(lines.first(&spanned)) {
            let hint = quotes_hint(text, error.span()).unwrap_or_default();
            found.push(SpannedError { hint, ..spanned });
        }
    }
    found
}

/// A hint for the most common error: a text without quotes.
fn quotes_hint(text: &str, span: Option<Span>) -> Option<String> {
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
    fn first(&self, error: &SpannedError) -> Option<usize> {
        error.span.as_ref().map(|span| self.line(span.start))
    }

    fn all(&self, error: &SpannedError) -> Option<RangeInclusive<usize>> {
        error.span.as_ref().map(|span| self.line(span.start)..=self.line(span.end.max(span.start)))
    }

    fn line(&self, at: usize) -> usize {
        self.0.partition_point(|end| *end < at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_line_only_the_first_syntax_error_is_reported() {
        let count =
            Config::parse("listen = 127.0.0.1:80\nupstream = ws://a\nnode = 1\n", "f").map_err(|errors| errors.count());
        assert_eq!(count, Err(3));
    }
}
