//! An event as a JSON object on a line of its own, byte for byte as tracing-subscriber writes it.
//!
//! Enters: events. Leaves: lines. Must not touch: where the lines go.

use std::fmt;
use std::time::SystemTime;

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::super::times::put_time;
use super::{Cut, Place, cut, level, longest};

/// `{"timestamp":…,"level":…,<field>:<value>,…,"target":…}`.
pub(in super::super) struct JsonLines(pub(in super::super) Place);

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        put_json_head(&mut writer, self.0, *about.level())?;
        let mut fields = JsonFields { writer: writer.by_ref(), done: Ok(()) };
        event.record(&mut fields);
        fields.done?;
        put_json_end(&mut writer, about.target())?;
        writer.write_char('\n')
    }
}

pub(super) fn put_json_head(writer: &mut Writer<'_>, place: Place, at: Level) -> fmt::Result {
    place.begin(writer, at)?;
    writer.write_str("{\"timestamp\":\"")?;
    put_time(writer, SystemTime::now())?;
    write!(writer, "\",\"level\":\"{}\"", level(at).trim())
}

pub(super) fn put_json_end(writer: &mut Writer<'_>, target: &str) -> fmt::Result {
    put_json(writer, "target", target)?;
    writer.write_char('}')
}

pub(super) fn put_json(writer: &mut Writer<'_>, name: &str, value: impl Serialize) -> fmt::Result {
    // Names are those in our code, and need no escapes.
    let value = serde_json::to_string(&value).map_err(|_| fmt::Error)?;
    write!(writer, ",\"{name}\":{value}")
}

struct JsonFields<'a> {
    writer: Writer<'a>,
    done: fmt::Result,
}

impl JsonFields<'_> {
    fn put(&mut self, field: &Field, value: impl Serialize) {
        if self.done.is_ok() {
            self.done = put_json(&mut self.writer, field.name(), value);
        }
    }
}

impl Visit for JsonFields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, cut(value, longest(field.name())));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{:?}", Cut(value, longest(field.name()))));
    }
}
