//! What is wrong with a configuration, told the way a compiler tells it.
//!
//! Enters: places in a text and what was found there. Leaves: [`Mistakes`], which prints itself: file, line and column,
//! the line with the offending part underlined, and what to write instead. Must not touch: files, other rooms.

use std::error::Error;
use std::fmt;
use std::ops::Range;

/// Mistakes listed at most; further ones are only counted.
pub(super) const LISTED: usize = 100;
/// Characters of a line shown at most.
const SHOWN: usize = 100;
/// Characters shown before the offending ones, when the line has to be cut.
const LEAD: usize = 30;

/// Everything wrong with one configuration, in the order of its lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    source: String,
    listed: Vec<Mistake>,
    unlisted: usize,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it stands; `None` for what is missing altogether and for flags.
    pub place: Option<Place>,
    /// What is wrong, naming the key.
    pub what: String,
    /// What to write instead; may be empty.
    pub hint: String,
}

/// A place in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// The line, cut around the place if it is long, control characters replaced.
    pub excerpt: String,
    /// The offending part of `excerpt`, in characters; at least one, which may lie just behind its end.
    pub underline: Range<usize>,
}

/// A mistake whose place is still a range of bytes.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) span: Option<Range<usize>>,
    pub(super) what: String,
    pub(super) hint: String,
}

impl Mistakes {
    /// The mistakes listed, in the order of their lines; those without a place are last.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.listed.iter()
    }

    /// How many there are, also those beyond the hundred that are listed.
    pub fn count(&self) -> usize {
        self.listed.len() + self.unlisted
    }

    /// Finds line and column of each. `source` names `text` to the operator.
    pub(super) fn new(source: &str, text: &str, mut found: Vec<Found>) -> Self {
        found.sort_by_key(|found| found.span.as_ref().map_or(usize::MAX, |span| span.start));
        let unlisted = found.len().saturating_sub(LISTED);
        let listed = found.into_iter().take(LISTED).map(|found| Mistake {
            place: found.span.map(|span| Place::new(text, span)),
            what: found.what,
            hint: found.hint,
        });
        Self { source: source.to_owned(), listed: listed.collect(), unlisted }
    }
}

impl Place {
    /// A span of bytes in `text`; of one over several lines, the part on the first.
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

impl Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.listed {
            mistake.show(&self.source, f)?;
        }
        if self.unlisted > 0 {
            writeln!(f, "and {} more", self.unlisted)?;
        }
        let plural = if self.count() == 1 { "" } else { "s" };
        write!(f, "{} error{plural} in {}; configuration not applied", self.count(), self.source)
    }
}

impl Mistake {
    fn show(&self, source: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(place) = &self.place else {
            writeln!(f, "{source}: {}", self.what)?;
            return if self.hint.is_empty() { Ok(()) } else { writeln!(f, "    {}", self.hint) };
        };
        let Place { line, column, excerpt, underline } = place;
        let gutter = line.to_string().len();
        let carets = "^".repeat(underline.len());
        writeln!(f, "{source}:{line}:{column}: {}", self.what)?;
        writeln!(f, "  {line} | {excerpt}")?;
        let told = format!("  {:gutter$} | {:indent$}{carets} {}", "", "", self.hint, indent = underline.start);
        writeln!(f, "{}", told.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, span: Option<Range<usize>>) -> String {
        let found = Found { span, what: "wrong".to_owned(), hint: "right".to_owned() };
        Mistakes::new("f", text, vec![found]).to_string()
    }

    #[test]
    fn underlines_the_part_of_the_line() {
        let told = told("a = 1\r\nbé = 22\r\n", Some(13..15));
        assert_eq!(told, "f:2:6: wrong\n  2 | bé = 22\n    |      ^^ right\n1 error in f; configuration not applied");
    }

    #[test]
    fn a_span_over_lines_or_behind_the_end_is_cut() {
        assert!(told("ab\ncd", Some(1..5)).contains("f:1:2: wrong\n  1 | ab\n    |  ^ right"));
        assert!(told("ab", Some(2..2)).contains("f:1:3: wrong\n  1 | ab\n    |   ^ right"));
        assert!(told("ab", Some(90..99)).contains("f:1:3:"));
        assert!(told("", None).starts_with("f: wrong\n    right\n"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{}x\u{1b}{}", "-".repeat(5000), "+".repeat(5000));
        let told = told(&text, Some(5000..5001));
        assert!(told.contains("f:1:5001: wrong"));
        assert!(told.contains(&format!("  1 | {}x {}\n", "-".repeat(LEAD), "+".repeat(SHOWN - LEAD - 2))));
        assert!(told.contains(&format!("    | {}^ right", " ".repeat(LEAD))));
    }

    #[test]
    fn lists_a_hundred_and_counts_the_rest() {
        let found = |at| Found { span: Some(at..at), what: String::new(), hint: String::new() };
        let mistakes = Mistakes::new("f", "", (0..250).map(found).collect());
        assert_eq!((mistakes.iter().count(), mistakes.count()), (LISTED, 250));
        assert!(mistakes.to_string().ends_with("and 150 more\n250 errors in f; configuration not applied"));
    }
}
