//! Reads the tables of a file key by key.
//!
//! Enters: the tables of the TOML parser, with the span of each value. Leaves: the values, written to their targets; and a
//! [`Report`] of all errors, of unknown keys, and of the keys that exist. Reading a key makes it known: there is no second
//! list of keys. Must not touch: the meaning of any key (`keys`, `rules`).

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::errors::{LISTED, SpannedError};
use super::values::{self, ValueError};

/// A range of bytes in the file.
pub(super) type Span = Range<usize>;

/// What was found while reading.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Vec<SpannedError>,
    missing: Vec<SpannedError>,
    keys: Vec<Key>,
    /// Where each key was set, by its path: `session.grace`, `route[0].upstream`.
    set: Vec<(String, Span)>,
    unknown: Vec<Unknown>,
}

/// A key that the file may have. At the top level the table's name is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) table: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    /// Texts; a single one may stand for a list where that is said.
    List,
    Flag,
    /// A count, a size or a duration.
    Number,
    /// A table, or a list of tables.
    Table,
}

#[derive(Debug)]
struct Unknown {
    table: &'static str,
    /// The table as messages name it: ` in [session]`.
    in_table: &'static str,
    name: String,
    span: Span,
}

/// One table of the file. Without `values` it is a dry run, which reports nothing and only collects the keys that the table
/// may have.
pub(super) struct Table<'r, 'd> {
    name: &'static str,
    in_table: &'static str,
    values: Option<&'d DeTable<'d>>,
    /// Which of several, counted from 0.
    index: Option<usize>,
    /// Its `[header]`, if it has one.
    header: Option<Span>,
    read_keys: Vec<&'static str>,
    errors_before: usize,
    report: &'r mut Report,
}

impl Report {
    /// Reads a whole document; with `None`, collects only the keys that it may have.
    pub(super) fn read<T>(document: Option<&DeTable<'_>>, read: impl FnOnce(&mut Table<'_, '_>) -> T) -> (Self, T) {
        let mut report = Self::default();
        let mut top = Table::new("", " at the top level", document, (None, None), &mut report);
        let value = read(&mut top);
        top.finish();
        (report, value)
    }

    /// Every key and table that was read; tables are keys of the top level.
    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Where each key was set, by its path.
    pub(super) fn set(&self) -> &[(String, Span)] {
        &self.set
    }

    /// All errors in values and in keys. `complete` says that the whole file could be read; otherwise a key that seems missing
    /// may only be unread.
    pub(super) fn into_errors(mut self, complete: bool) -> Vec<SpannedError> {
        // Only those that will be listed need a hint.
        self.unknown.sort_by_key(|unknown| unknown.span.start);
        for (at, unknown) in self.unknown.iter().enumerate() {
            let hint = if at < LISTED { unknown.hint(&self.keys) } else { String::new() };
            self.errors.push(SpannedError { span: Some(unknown.span.clone()), what: unknown.what(), hint });
        }
        if complete {
            self.errors.append(&mut self.missing);
        }
        self.errors
    }
}

impl<'r, 'd> Table<'r, 'd> {
    /// Reads a text with `parse`. Returns its span, if it is there and valid.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        parse: impl FnOnce(&str) -> Result<T, ValueError>,
    ) -> Option<Span> {
        self.set(key, Kind::Text, target, |value| parse(values::text(value)?))
    }

    /// Reads a list of texts, each with `parse`.
    pub(super) fn texts<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, ValueError>) -> Vec<T> {
        let Some(value) = self.value(key, Kind::List) else { return Vec::new() };
        self.note(key, value.span());
        let Some(list) = value.get_ref().as_array() else {
            self.error(key, value.span(), ValueError::new("must be a list", "write it in brackets: [\"…\", \"…\"]"));
            return Vec::new();
        };
        let mut read = Vec::new();
        for item in list.iter() {
            match values::text(item.get_ref()).and_then(&parse) {
                Ok(value) => read.push(value),
                Err(error) => self.error(key, item.span(), error),
            }
        }
        read
    }

    /// Reads a text, or a list of texts, each with `parse`.
    pub(super) fn one_or_more<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Vec<T> {
        if self.values.and_then(|values| values.get(key)).is_some_and(|value| value.get_ref().is_array()) {
            return self.texts(key, parse);
        }
        let mut one = None;
        self.text(key, &mut one, |text| parse(text).map(Some));
        one.into_iter().collect()
    }

    pub(super) fn flag(&mut self, key: &'static str, target: &mut bool) -> Option<Span> {
        self.set(key, Kind::Flag, target, values::flag)
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        target: &mut Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Span> {
        self.set(key, Kind::Number, target, |value| {
            values::within(values::duration(value)?, &bounds, values::show_duration)
        })
    }

    /// Like `duration`, but zero is allowed too: it switches the timer off.
    pub(super) fn duration_or_zero(
        &mut self,
        key: &'static str,
        target: &mut Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Span> {
        self.set(key, Kind::Number, target, |value| match values::duration(value)? {
            Duration::ZERO => Ok(Duration::ZERO),
            duration => values::within(duration, &bounds, values::show_duration)
                .map_err(|error| ValueError::new(error.what, "0 is allowed as well and switches it off")),
        })
    }

    pub(super) fn size<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        target: &mut T,
        bounds: RangeInclusive<u64>,
    ) -> Option<Span> {
        self.set(key, Kind::Number, target, |value| {
            fit(values::within(values::size(value)?, &bounds, values::show_size)?)
        })
    }

    pub(super) fn count<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        target: &mut T,
        bounds: RangeInclusive<u64>,
    ) -> Option<Span> {
        self.set(key, Kind::Number, target, |value| fit(values::within(values::count(value)?, &bounds, |count| count)?))
    }

    /// Reads the table `[key]`; if it is not there, only collects its keys.
    pub(super) fn section(&mut self, key: &'static str, in_table: &'static str, read: impl FnOnce(&mut Table<'_, '_>)) {
        let value = self.value(key, Kind::Table);
        let values = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, values) {
            self.error(
                key,
                value.span(),
                ValueError::new("must be a table", format!("write [{key}] and its keys below it")),
            );
        }
        let mut table = Table::new(key, in_table, values, (value.map(Spanned::span), None), self.report);
        read(&mut table);
        table.finish();
    }

    /// Reads each of the tables `[[key]]`; if there is none, only collects their keys.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        in_table: &'static str,
        read: impl Fn(&mut Table<'_, '_>) -> T,
    ) -> Vec<T> {
        let value = self.value(key, Kind::Table);
        let items = value.and_then(|value| value.get_ref().as_array());
        if let (Some(value), None) = (value, items) {
            let hint = format!("write [[{key}]] with two brackets, and its keys below it");
            self.error(key, value.span(), ValueError::new("must be a list of tables", hint));
        }
        let mut done = Vec::new();
        for (at, item) in items.into_iter().flat_map(|items| items.iter()).enumerate() {
            let Some(values) = item.get_ref().as_table() else {
                self.error(key, item.span(), ValueError::new("must hold tables only", format!("write [[{key}]]")));
                continue;
            };
            let mut table = Table::new(key, in_table, Some(values), (Some(item.span()), Some(at)), self.report);
            done.push(read(&mut table));
            table.finish();
        }
        let mut dry_run = Table::new(key, in_table, None, (None, None), self.report);
        read(&mut dry_run);
        dry_run.finish();
        done
    }

    /// The span of the key, if it is there, whatever its value.
    pub(super) fn key_span(&self, key: &str) -> Option<Span> {
        self.values?.get_key_value(key).map(|(key, _)| key.span())
    }

    /// The span of its header.
    pub(super) fn header(&self) -> Option<Span> {
        self.header.clone()
    }

    /// Whether there was no error in this table so far. Otherwise rules between keys are not checked.
    pub(super) fn is_clean(&self) -> bool {
        self.report.errors.len() == self.errors_before
    }

    /// Reports an error in the value of `key`.
    pub(super) fn error(&mut self, key: &str, span: Span, error: ValueError) {
        let path = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        let what = format!("`{path}` {}", error.what);
        self.report.errors.push(SpannedError { span: Some(span), what, hint: error.hint });
    }

    /// Reports that a required key is missing.
    pub(super) fn missing(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        if self.values.is_some() {
            self.report.missing.push(SpannedError { span: self.header.clone(), what: what.into(), hint: hint.into() });
        }
    }

    fn new(
        name: &'static str,
        in_table: &'static str,
        values: Option<&'d DeTable<'d>>,
        (header, index): (Option<Span>, Option<usize>),
        report: &'r mut Report,
    ) -> Self {
        let errors_before = report.errors.len();
        Self { name, in_table, values, index, header, read_keys: Vec::new(), errors_before, report }
    }

    /// Notes where a key was set.
    fn note(&mut self, key: &str, span: Span) {
        let path = match (self.name, self.index) {
            ("", _) => key.to_owned(),
            (table, None) => format!("{table}.{key}"),
            (table, Some(index)) => format!("{table}[{index}].{key}"),
        };
        self.report.set.push((path, span));
    }

    fn value(&mut self, key: &'static str, kind: Kind) -> Option<&'d Spanned<DeValue<'d>>> {
        let known = Key { table: self.name, name: key, kind };
        if !self.report.keys.contains(&known) {
            self.report.keys.push(known);
        }
        self.read_keys.push(key);
        self.values?.get(key)
    }

    fn set<T>(
        &mut self,
        key: &'static str,
        kind: Kind,
        target: &mut T,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, ValueError>,
    ) -> Option<Span> {
        let value = self.value(key, kind)?;
        match read(value.get_ref()) {
            Ok(read) => {
                *target = read;
                self.note(key, value.span());
                Some(value.span())
            }
            Err(error) => {
                self.error(key, value.span(), error);
                None
            }
        }
    }

    /// Collects the unknown keys. Their hints are made at the end, when the keys of all tables are known.
    fn finish(self) {
        let (table, in_table) = (self.name, self.in_table);
        for (key, _) in self.values.into_iter().flat_map(|values| values.iter()) {
            let name = key.get_ref().as_ref();
            if !self.read_keys.contains(&name) {
                self.report.unknown.push(Unknown { table, in_table, name: name.to_owned(), span: key.span() });
            }
        }
    }
}

impl Unknown {
    fn what(&self) -> String {
        let name: String = self.name.escape_debug().take(60).collect();
        format!("unknown key `{name}`{}", self.in_table)
    }

    /// The table to which it belongs, if it is a key of another one; otherwise a key of this table with a similar name.
    fn hint(&self, keys: &[Key]) -> String {
        let elsewhere: Vec<_> =
            keys.iter().filter(|key| key.name == self.name).map(|key| table_hint(key.table)).collect();
        if !elsewhere.is_empty() {
            return format!("it belongs {}", elsewhere.join(" or "));
        }
        let here = keys.iter().filter(|key| key.table == self.table).map(|key| key.name);
        nearest(&self.name, here).map_or_else(String::new, |near| format!("did you mean `{near}`?"))
    }
}

/// The candidate for which `word` may be a typing error.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let distance = |candidate| strsim::damerau_levenshtein(&word, candidate);
    let (distance, candidate) = candidates.map(|candidate| (distance(candidate), candidate)).min()?;
    (distance <= 1 + candidate.len() / 5).then_some(candidate)
}

fn table_hint(table: &str) -> String {
    match table {
        "" => "above the first table".to_owned(),
        "listener" | "route" => format!("to [[{table}]]"),
        _ => format!("to [{table}]"),
    }
}

/// Fails only where `usize` has fewer than 64 bits: there the limits of a key may not fit into its type.
fn fit<T: TryFrom<u64>>(value: u64) -> Result<T, ValueError> {
    T::try_from(value).map_err(|_| ValueError::new("is more than this machine can count", ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let words = ["grace", "heartbeat", "wait", "wait_max", "ack_bytes"];
        let near = |word| nearest(word, words.into_iter());
        assert_eq!(near("graze"), Some("grace"));
        assert_eq!(near("hearbeat"), Some("heartbeat"));
        assert_eq!(near("Ack-Bytes"), Some("ack_bytes"));
        assert_eq!(near("colour"), None);
        assert_eq!(near(&"wait".repeat(100)), None);
    }
}
