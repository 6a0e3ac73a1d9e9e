//! What is laid over the file: variables of the environment, and flags.
//!
//! Enters: keys, values as texts, and where each comes from. Leaves: the file's tables with these in place of their own or
//! behind them, and for each span behind the end of the file where it comes from. Must not touch: the environment itself
//! (`sources`).

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::errors::SpannedError;
use super::reader::{Kind, Span};

/// One value that stands before that of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// As `session.grace`, or `route[0].upstream` in a table that may be there several times.
    pub key: String,
    /// As text: a list with commas or in brackets, a flag as true or false, a number or a text as they are.
    pub value: String,
    /// As errors name it: a variable, or a flag.
    pub origin: String,
}

/// All of them, in their order.
pub(super) struct Layers(Vec<Layer>);

pub(super) struct Layer {
    table: String,
    /// Which table of that name, counted from 0, where there may be several.
    index: Option<usize>,
    name: String,
    /// `v = <value>`, as TOML.
    line: String,
    /// The value alone.
    pub(super) shown: String,
    pub(super) origin: String,
    span: Span,
}

impl Layers {
    /// `end` is the length of the file; each gets a place of its own behind it. `kinds` is what each key takes.
    pub(super) fn of(over: &[Overlay], end: usize, kinds: &[(String, Kind)]) -> Self {
        let layer = |(at, overlay): (usize, &Overlay)| {
            let (table, name) = overlay.key.split_once('.').unwrap_or(("", &overlay.key));
            let (table, index) = split_index(table);
            let any = |key: &str| match index {
                Some(_) => key == format!("{table}[].{name}"),
                None => key == overlay.key,
            };
            let kind = kinds.iter().find(|(key, _)| any(key)).map_or(Kind::Text, |(_, kind)| *kind);
            let shown = literal(kind, &overlay.value);
            let span = end + 1 + 2 * at..end + 2 + 2 * at;
            let (table, name, origin) = (table.to_owned(), name.to_owned(), overlay.origin.clone());
            Layer { table, index, name, line: format!("v = {shown}"), shown, origin, span }
        };
        let mut layers: Vec<_> = over.iter().enumerate().map(layer).collect();
        // A table is made behind those that are there, so the lower numbers come first.
        layers.sort_by_key(|layer| layer.index);
        Self(layers)
    }

    /// Puts each into its table. What is left over is for a table that is neither there nor the next one.
    pub(super) fn lay_over<'a>(&'a self, document: &mut DeTable<'a>) -> Vec<SpannedError> {
        let mut errors = Vec::new();
        for layer in &self.0 {
            let (mut parsed, _) = DeTable::parse_recoverable(&layer.line);
            let Some(value) = parsed.get_mut().remove("v") else { continue };
            let value = Spanned::new(layer.span.clone(), all_at(value.into_inner(), &layer.span));
            match layer.table_in(document) {
                Ok(Some(table)) => {
                    table.remove(layer.name.as_str());
                    table.insert(Spanned::new(layer.span.clone(), DeString::Borrowed(&layer.name)), value);
                }
                // The file has something else there, which is an error of its own.
                Ok(None) => {}
                Err(there) => errors.push(layer.gap(there)),
            }
        }
        errors
    }

    /// The one that has this span.
    pub(super) fn find(&self, span: &Span) -> Option<&Layer> {
        self.0.iter().find(|layer| layer.span == *span)
    }

    /// An error that is in one of these names it instead of a line.
    pub(super) fn named(&self, error: SpannedError) -> SpannedError {
        match error.span.as_ref().and_then(|span| self.find(span)) {
            Some(layer) => SpannedError { span: None, what: format!("{}: {}", layer.origin, error.what), ..error },
            None => error,
        }
    }
}

impl Layer {
    /// The table that it belongs into, made where there is none; `None` where something else stands in its place.
    ///
    /// # Errors
    /// How many tables of the name there are, when that would leave one out.
    fn table_in<'d, 'a>(&'a self, document: &'d mut DeTable<'a>) -> Result<Option<&'d mut DeTable<'a>>, usize> {
        if self.table.is_empty() {
            return Ok(Some(document));
        }
        if document.get(self.table.as_str()).is_none() {
            let key = Spanned::new(self.span.clone(), DeString::Borrowed(&self.table));
            let none = self.index.map_or_else(|| DeValue::Table(DeTable::new()), |_| DeValue::Array(DeArray::new()));
            document.insert(key, Spanned::new(self.span.clone(), none));
        }
        let found = document.get_mut(self.table.as_str()).map(Spanned::get_mut);
        let found = match (found, self.index) {
            (Some(DeValue::Array(list)), Some(index)) => {
                if index > list.len() {
                    return Err(list.len());
                }
                if index == list.len() {
                    list.push(Spanned::new(self.span.clone(), DeValue::Table(DeTable::new())));
                }
                list.get_mut(index).map(Spanned::get_mut)
            }
            (found, None) => found,
            _ => None,
        };
        Ok(found.and_then(|found| if let DeValue::Table(table) = found { Some(table) } else { None }))
    }

    fn gap(&self, there: usize) -> SpannedError {
        let what = format!("there is no [[{}]] before it: they are counted from 0, and there are {there}", self.table);
        let index = self.index.unwrap_or_default();
        let hint = format!("the next one is {}", self.origin.replacen(&index.to_string(), &there.to_string(), 1));
        SpannedError { span: Some(self.span.clone()), what, hint }
    }
}

/// `route[2]` as `route` and 2.
fn split_index(table: &str) -> (&str, Option<usize>) {
    let split = || {
        let (name, index) = table.strip_suffix(']')?.split_once('[')?;
        Some((name, index.parse().ok()?))
    };
    split().map_or((table, None), |(name, index)| (name, Some(index)))
}

/// The items of a list get the span of the whole.
fn all_at<'a>(value: DeValue<'a>, span: &Span) -> DeValue<'a> {
    match value {
        DeValue::Array(list) => {
            DeValue::Array(list.into_iter().map(|item| Spanned::new(span.clone(), item.into_inner())).collect())
        }
        other => other,
    }
}

/// The text as TOML writes it for a key of this kind. What does not fit becomes a text, and is refused as one.
fn literal(kind: Kind, text: &str) -> String {
    let plain = text.trim();
    match kind {
        Kind::Flag => match plain.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "1" => return "true".to_owned(),
            "false" | "no" | "off" | "0" => return "false".to_owned(),
            _ => {}
        },
        Kind::Number => {
            if let Ok(number) = plain.parse::<u32>() {
                return number.to_string();
            }
        }
        Kind::List => {
            if plain.starts_with('[') && DeTable::parse(&format!("v = {plain}")).is_ok() {
                return plain.to_owned();
            }
            let items = plain.split(',').map(str::trim).filter(|item| !item.is_empty()).map(quoted);
            return format!("[{}]", items.collect::<Vec<_>>().join(", "));
        }
        Kind::Text | Kind::Table => return quoted(text),
    }
    quoted(plain)
}

/// A basic string. What JSON escapes, TOML escapes alike; DEL it wants escaped as well.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}
