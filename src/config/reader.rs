//! Reads the tables of a file key by key.
//!
//! Enters: the tables as the TOML parser leaves them, with the place of each value. Leaves: the values, through `&mut`
//! to where they belong; and a [`Report`] of all that was wrong, of keys nobody asked for, and of keys there are. A key
//! is known because it is read: there is no second list. Must not touch: the meaning of any key (`file`, `rules`).

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistakes::{Found, LISTED};
use super::values::{self, Wrong};

/// A range of bytes in the file.
pub(super) type Span = Range<usize>;

/// What came to light while reading.
#[derive(Debug, Default)]
pub(super) struct Report {
    mistakes: Vec<Found>,
    missing: Vec<Found>,
    keys: Vec<Key>,
    unknown: Vec<Unknown>,
}

/// A key that the file may have. At the top level the table's name is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) table: &'static str,
    pub(super) name: &'static str,
}

#[derive(Debug)]
struct Unknown {
    table: &'static str,
    /// As it is to be written in a message: ` in [session]`.
    whence: &'static str,
    name: String,
    span: Span,
}

/// One table of the file, or the idea of one: without `values` it has no keys, reports nothing, and is only read to
/// learn which keys it may have.
pub(super) struct Table<'r, 'd> {
    name: &'static str,
    whence: &'static str,
    values: Option<&'d DeTable<'d>>,
    /// Its head, where it has one.
    head: Option<Span>,
    asked: Vec<&'static str>,
    mistakes_before: usize,
    report: &'r mut Report,
}

impl Report {
    /// Reads a whole document; with `None`, only which keys it may have.
    pub(super) fn read<T>(document: Option<&DeTable<'_>>, read: impl FnOnce(&mut Table<'_, '_>) -> T) -> (Self, T) {
        let mut report = Self::default();
        let mut top = Table::new("", " at the top level", document, None, &mut report);
        let value = read(&mut top);
        top.finish();
        (report, value)
    }

    /// Every key and table that was asked for; tables stand at the top level.
    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// All mistakes, those in values and those in keys. `whole` says that the file could be read in full, so that what
    /// is missing is not merely unread.
    pub(super) fn into_mistakes(mut self, whole: bool) -> Vec<Found> {
        // Those that will not be listed need no explanation.
        self.unknown.sort_by_key(|unknown| unknown.span.start);
        for (at, unknown) in self.unknown.iter().enumerate() {
            let hint = if at < LISTED { unknown.hint(&self.keys) } else { String::new() };
            self.mistakes.push(Found { span: Some(unknown.span.clone()), what: unknown.what(), hint });
        }
        if whole {
            self.mistakes.append(&mut self.missing);
        }
        self.mistakes
    }
}

impl<'r, 'd> Table<'r, 'd> {
    /// Reads a text through `parse`. Answers where it stands, if it stands there and is right.
    pub(super) fn text<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Span> {
        self.set(key, target, |value| parse(values::text(value)?))
    }

    /// Reads a list of texts, each through `parse`.
    pub(super) fn texts<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, Wrong>) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.wrong(key, value.span(), Wrong::new("must be a list", "write it in brackets: [\"…\", \"…\"]"));
            return Vec::new();
        };
        let mut read = Vec::new();
        for item in list.iter() {
            match values::text(item.get_ref()).and_then(&parse) {
                Ok(value) => read.push(value),
                Err(wrong) => self.wrong(key, item.span(), wrong),
            }
        }
        read
    }

    pub(super) fn flag(&mut self, key: &'static str, target: &mut bool) -> Option<Span> {
        self.set(key, target, values::flag)
    }

    pub(super) fn duration(
        &mut self,
        key: &'static str,
        target: &mut Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Span> {
        self.set(key, target, |value| values::within(values::duration(value)?, &bounds, values::show_duration))
    }

    /// As `duration`, but zero is allowed as well, for what zero switches off.
    pub(super) fn duration_or_zero(
        &mut self,
        key: &'static str,
        target: &mut Duration,
        bounds: RangeInclusive<Duration>,
    ) -> Option<Span> {
        self.set(key, target, |value| match values::duration(value)? {
            Duration::ZERO => Ok(Duration::ZERO),
            duration => values::within(duration, &bounds, values::show_duration)
                .map_err(|wrong| Wrong::new(wrong.what, "0 is allowed as well and switches it off")),
        })
    }

    pub(super) fn size<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        target: &mut T,
        bounds: RangeInclusive<u64>,
    ) -> Option<Span> {
        self.set(key, target, |value| fit(values::within(values::size(value)?, &bounds, values::show_size)?))
    }

    pub(super) fn count<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        target: &mut T,
        bounds: RangeInclusive<u64>,
    ) -> Option<Span> {
        self.set(key, target, |value| fit(values::within(values::count(value)?, &bounds, |count| count)?))
    }

    /// Reads the table `[key]`; without it, learns its keys.
    pub(super) fn section(&mut self, key: &'static str, whence: &'static str, read: impl FnOnce(&mut Table<'_, '_>)) {
        let value = self.value(key);
        let values = value.and_then(|value| value.get_ref().as_table());
        if let (Some(value), None) = (value, values) {
            self.wrong(
                key,
                value.span(),
                Wrong::new("must be a table", format!("write [{key}] and its keys below it")),
            );
        }
        let mut table = Table::new(key, whence, values, value.map(Spanned::span), self.report);
        read(&mut table);
        table.finish();
    }

    /// Reads each of the tables `[[key]]`; without any, learns their keys.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        whence: &'static str,
        read: impl Fn(&mut Table<'_, '_>) -> T,
    ) -> Vec<T> {
        let value = self.value(key);
        let items = value.and_then(|value| value.get_ref().as_array());
        if let (Some(value), None) = (value, items) {
            let hint = format!("write [[{key}]] with two brackets, and its keys below it");
            self.wrong(key, value.span(), Wrong::new("must be a list of tables", hint));
        }
        let mut done = Vec::new();
        for item in items.into_iter().flat_map(|items| items.iter()) {
            let Some(values) = item.get_ref().as_table() else {
                self.wrong(key, item.span(), Wrong::new("must hold tables only", format!("write [[{key}]]")));
                continue;
            };
            let mut table = Table::new(key, whence, Some(values), Some(item.span()), self.report);
            done.push(read(&mut table));
            table.finish();
        }
        let mut idea = Table::new(key, whence, None, None, self.report);
        read(&mut idea);
        idea.finish();
        done
    }

    /// Where the key stands, if it does, whatever its value.
    pub(super) fn place(&self, key: &str) -> Option<Span> {
        self.values?.get_key_value(key).map(|(key, _)| key.span())
    }

    /// The head of this table.
    pub(super) fn head(&self) -> Option<Span> {
        self.head.clone()
    }

    /// Whether all that was read of this table so far is right; rules between keys mean little otherwise.
    pub(super) fn is_clean(&self) -> bool {
        self.report.mistakes.len() == self.mistakes_before
    }

    /// Reports a mistake in the value of `key`.
    pub(super) fn wrong(&mut self, key: &str, span: Span, wrong: Wrong) {
        let path = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        let what = format!("`{path}` {}", wrong.what);
        self.report.mistakes.push(Found { span: Some(span), what, hint: wrong.hint });
    }

    /// Reports that something that must be there is not.
    pub(super) fn missing(&mut self, what: impl Into<String>, hint: impl Into<String>) {
        if self.values.is_some() {
            self.report.missing.push(Found { span: self.head.clone(), what: what.into(), hint: hint.into() });
        }
    }

    fn new(
        name: &'static str,
        whence: &'static str,
        values: Option<&'d DeTable<'d>>,
        head: Option<Span>,
        report: &'r mut Report,
    ) -> Self {
        let mistakes_before = report.mistakes.len();
        Self { name, whence, values, head, asked: Vec::new(), mistakes_before, report }
    }

    fn value(&mut self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        let known = Key { table: self.name, name: key };
        if !self.report.keys.contains(&known) {
            self.report.keys.push(known);
        }
        self.asked.push(key);
        self.values?.get(key)
    }

    fn set<T>(
        &mut self,
        key: &'static str,
        target: &mut T,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Span> {
        let value = self.value(key)?;
        match read(value.get_ref()) {
            Ok(read) => {
                *target = read;
                Some(value.span())
            }
            Err(wrong) => {
                self.wrong(key, value.span(), wrong);
                None
            }
        }
    }

    /// Notes the keys that nobody asked for. They are explained at the end, when all tables have been read.
    fn finish(self) {
        let (table, whence) = (self.name, self.whence);
        for (key, _) in self.values.into_iter().flat_map(|values| values.iter()) {
            let name = key.get_ref().as_ref();
            if !self.asked.contains(&name) {
                self.report.unknown.push(Unknown { table, whence, name: name.to_owned(), span: key.span() });
            }
        }
    }
}

impl Unknown {
    fn what(&self) -> String {
        let name: String = self.name.escape_debug().take(60).collect();
        format!("unknown key `{name}`{}", self.whence)
    }

    /// Where it belongs if it is a key of another table; else which key of this table it may be a slip of.
    fn hint(&self, keys: &[Key]) -> String {
        let elsewhere: Vec<_> = keys.iter().filter(|key| key.name == self.name).map(|key| home(key.table)).collect();
        if !elsewhere.is_empty() {
            return format!("it belongs {}", elsewhere.join(" or "));
        }
        let here = keys.iter().filter(|key| key.table == self.table).map(|key| key.name);
        nearest(&self.name, here).map_or_else(String::new, |near| format!("did you mean `{near}`?"))
    }
}

/// The candidate that `word` may be a slip of.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let slips = |candidate| strsim::damerau_levenshtein(&word, candidate);
    let (slips, candidate) = candidates.map(|candidate| (slips(candidate), candidate)).min()?;
    (slips <= 1 + candidate.len() / 5).then_some(candidate)
}

fn home(table: &str) -> String {
    match table {
        "" => "above the first table".to_owned(),
        "listener" | "route" => format!("to [[{table}]]"),
        _ => format!("to [{table}]"),
    }
}

/// The bounds of every key lie within its type on 64 bits; on fewer they may not.
fn fit<T: TryFrom<u64>>(value: u64) -> Result<T, Wrong> {
    T::try_from(value).map_err(|_| Wrong::new("is more than this machine can count", ""))
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
