//! The errors in a configuration, printed the way a compiler prints them.
//!
//! Enters: spans of a text and what is wrong there. Leaves: [`ConfigErrors`], which prints itself: file, line and column,
//! the line with the wrong part underlined, and what to write instead. Must not touch: files, other rooms.

use std::error::Error;
use std::fmt;
use std::ops::Range;

/// The most errors that are listed; further ones are only counted.
pub(super) const LISTED: usize = 100;
/// The most characters of a line that are shown.
const SHOWN: usize = 100;
/// How many characters before the wrong part are shown when the line has to be cut.
const LEAD: usize = 30;

/// All errors in one configuration, in the order of its lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    source: String,
    listed: Vec<ConfigError>,
    unlisted: usize,
}

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it is; `None` for a key that is missing, and for flags.
    pub location: Option<Location>,
    /// What is wrong, naming the key.
    pub what: String,
    /// What to write instead; may be empty.
    pub hint: String,
}

/// A part of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The line, cut around the wrong part if it is long, with control characters replaced.
    pub excerpt: String,
    /// The wrong part of `excerpt`, in characters: at least one, which may be just behind the end.
    pub underline: Range<usize>,
}

/// An error whose location is still a range of bytes.
#[derive(Debug)]
pub(super) struct SpannedError {
    pub(super) span: Option<Range<usize>>,
    pub(super) what: String,
    pub(super) hint: String,
}

impl ConfigErrors {
    /// The listed errors in the order of their lines; those without a location come last.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.listed.iter()
    }

    /// How many there are, including those that are not listed.
    pub fn count(&self) -> usize {
        self.listed.len() + self.unlisted
    }

    /// Finds line and column of each. `source` is the name of `text` for the operator.
    pub(super) fn new(source: &str, text: &str, mut errors: Vec<SpannedError>) -> Self {
        errors.sort_by_key(|error| error.span.as_ref().map_or(usize::MAX, |span| span.start));
        let unlisted = errors.len().saturating_sub(LISTED);
        let listed = errors.into_iter().take(LISTED).map(|error| ConfigError {
            location: error.span.map(|span| Location::new(text, span)),
            what: error.what,
            hint: error.hint,
        });
        Self { source: source.to_owned(), listed: listed.collect(), unlisted }
    }
}

impl Location {
    /// A span of bytes in `text`; if it covers several lines, its part on the first line.
    fn new(text: &str, span: Range<usize>) -> Self {
        let start = text.floor_char_boundary(span.start);
        let end = text.floor_char_boundary(span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let before = text[line_start..start].chars().count();
        let width = text[start..end.min(line_end)].trim_end_matches('\r').chars().count().max(1);
        let cut = if before > SHOWN - LEAD { before - LEAD } else { 0 };
        let shown: String = text[line_start..line_end].trim_end_matches('\r').chars().skip(cut).take(SHOWN).collect();
        Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: before + 1,
            excerpt: shown.replace(char::is_control, " "),
            underline: before - cut..(before - cut + width).min(SHOWN.max(before - cut + 1)),
        }
    }
}

impl Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.listed {
            error.show(&self.source, f)?;
        }
        if self.unlisted > 0 {
            writeln!(f, "and {} more", self.unlisted)?;
        }
        let plural = if self.count() == 1 { "" } else { "s" };
        write!(f, "{} error{plural} in {}; configuration not applied", self.count(), self.source)
    }
}

impl ConfigError {
    fn show(&self, source: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(location) = &self.location else {
            writeln!(f, "{source}: {}", self.what)?;
            return if self.hint.is_empty() { Ok(()) } else { writeln!(f, "    {}", self.hint) };
        };
        let Location { line, column, excerpt, underline } = location;
        let gutter = line.to_string().len();
        let carets = "^".repeat(underline.len());
        writeln!(f, "{source}:{line}:{column}: {}", self.what)?;
        writeln!(f, "  {line} | {excerpt}")?;
        let marked = format!("  {:gutter$} | {:indent$}{carets} {}", "", "", self.hint, indent = underline.start);
        writeln!(f, "{}", marked.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Option<Range<usize>>) -> String {
        let error = SpannedError { span, what: "wrong".to_owned(), hint: "right".to_owned() };
        ConfigErrors::new("f", text, vec![error]).to_string()
    }

    #[test]
    fn underlines_the_part_of_the_line() {
        let shown = shown("a = 1\r\nbé = 22\r\n", Some(13..15));
        assert_eq!(shown, "f:2:6: wrong\n  2 | bé = 22\n    |      ^^ right\n1 error in f; configuration not applied");
    }

    #[test]
    fn a_span_over_lines_or_behind_the_end_is_cut() {
        assert!(shown("ab\ncd", Some(1..5)).contains("f:1:2: wrong\n  1 | ab\n    |  ^ right"));
        assert!(shown("ab", Some(2..2)).contains("f:1:3: wrong\n  1 | ab\n    |   ^ right"));
        assert!(shown("ab", Some(90..99)).contains("f:1:3:"));
        assert!(shown("", None).starts_with("f: wrong\n    right\n"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_wrong_part() {
        let text = format!("{}x\u{1b}{}", "-".repeat(5000), "+".repeat(5000));
        let shown = shown(&text, Some(5000..5001));
        assert!(shown.contains("f:1:5001: wrong"));
        assert!(shown.contains(&format!("  1 | {}x {}\n", "-".repeat(LEAD), "+".repeat(SHOWN - LEAD - 2))));
        assert!(shown.contains(&format!("    | {}^ right", " ".repeat(LEAD))));
    }

    #[test]
    fn lists_a_hundred_and_counts_the_rest() {
        let error_at = |at| SpannedError { span: Some(at..at), what: String::new(), hint: String::new() };
        let errors = ConfigErrors::new("f", "", (0..250).map(error_at).collect());
        assert_eq!((errors.iter().count(), errors.count()), (LISTED, 250));
        assert!(errors.to_string().ends_with("and 150 more\n250 errors in f; configuration not applied"));
    }
}
