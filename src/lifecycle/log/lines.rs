//! An event as a line of the log: text here, a JSON object in `json`.
//!
//! Enters: events. Leaves: lines, whose values are cut to a length, so that no path, host or address that a stranger sends
//! makes a long one. Must not touch: where the lines go.
//!
//! Lines without colours are formatted here, byte for byte as tracing-subscriber formats them: its own formatting took an
//! eighth of the instructions for opening and closing a session, and cuts nothing. Colours are left to it.

mod json;

use std::error::Error;
use std::fmt::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::{RecordFields, VisitOutput as _};
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

pub(super) use self::json::JsonLines;
use self::json::{put_json, put_json_end, put_json_head};
use super::times::put_time;
use crate::config::LogFormat;

/// The longest value in a line, in bytes before they are escaped.
const VALUE: usize = 256;
/// The longest value of the fields in which we speak ourselves.
const WORDS: usize = 4096;

/// The most bytes of this field's value that are shown.
fn longest(field: &str) -> usize {
    match field {
        "message" | "error" | "what" | "change" => WORDS,
        _ => VALUE,
    }
}

/// A value, of which at most so many bytes are shown.
pub(super) struct Cut<T>(pub(super) T, pub(super) usize);

impl<T: fmt::Debug> fmt::Debug for Cut<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut short = Short { to: f, left: Some(self.1) };
        write!(short, "{:?}", self.0)
    }
}

/// Takes everything, and passes on the first bytes.
struct Short<'a, 'f> {
    to: &'a mut fmt::Formatter<'f>,
    /// `None` once something was left out.
    left: Option<usize>,
}

impl fmt::Write for Short<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(left) = self.left else { return Ok(()) };
        if text.len() <= left {
            self.left = Some(left - text.len());
            return self.to.write_str(text);
        }
        self.left = None;
        self.to.write_str(&text[..text.floor_char_boundary(left)])?;
        self.to.write_str("…")
    }
}

/// A text, cut like [`Cut`]; whole and not copied, as a rule.
fn cut(text: &str, most: usize) -> std::borrow::Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)]).into()
}

/// Where lines go, as far as it changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The journal of systemd: a line begins with its priority, and a text has no time, which the journal has.
    Journal,
    Elsewhere,
}

impl Place {
    /// What standard error is: `JOURNAL_STREAM` has the device and the inode of the journal's socket (systemd.exec(5)).
    pub(super) fn of_standard_error() -> Self {
        let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
        let stat = std::fs::metadata("/proc/self/fd/2");
        let is_it = stat.is_ok_and(|stat| told == format!("{}:{}", stat.dev(), stat.ino()));
        if is_it { Self::Journal } else { Self::Elsewhere }
    }

    /// A priority of syslog, as sd-daemon(3) has it.
    fn begin(self, writer: &mut Writer<'_>, at: Level) -> fmt::Result {
        if self == Self::Elsewhere {
            return Ok(());
        }
        writer.write_str(match at {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            Level::DEBUG | Level::TRACE => "<7>",
        })
    }
}

/// A line that is no event: what the log says of itself.
pub(super) fn line((format, place): (LogFormat, Place), at: Level, message: &str, numbers: &[(&str, u64)]) -> String {
    const TARGET: &str = "underpass::log";
    let mut line = String::new();
    let mut writer = Writer::new(&mut line);
    // A String takes all that is written.
    let _ = match format {
        LogFormat::Text => put_head(&mut writer, place, at, TARGET)
            .and_then(|()| writer.write_str(message))
            .and_then(|()| numbers.iter().try_for_each(|(name, number)| write!(writer, " {name}={number}"))),
        LogFormat::Json => put_json_head(&mut writer, place, at).and_then(|()| {
            put_json(&mut writer, "message", message)?;
            numbers.iter().try_for_each(|(name, number)| put_json(&mut writer, name, number))?;
            put_json_end(&mut writer, TARGET)
        }),
    };
    line.push('\n');
    line
}

/// `<time> <level> <target>: <message> <field>=<value> …`; without spans, because underpass uses none.
pub(super) struct TextLines(pub(super) Place);

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        put_head(&mut writer, self.0, *about.level(), about.target())?;
        let mut fields = Fields { writer: writer.by_ref(), first: true, done: Ok(()) };
        event.record(&mut fields);
        fields.done?;
        writer.write_char('\n')
    }
}

fn put_head(writer: &mut Writer<'_>, place: Place, at: Level, target: &str) -> fmt::Result {
    place.begin(writer, at)?;
    match place {
        Place::Journal => writer.write_str(level(at).trim_start())?,
        Place::Elsewhere => {
            put_time(writer, SystemTime::now())?;
            writer.write_str(level(at))?;
        }
    }
    writer.write_str(target)?;
    writer.write_str(": ")
}

/// The fields of an event, for lines that are the library's otherwise.
pub(super) struct ShortFields;

impl<'w> FormatFields<'w> for ShortFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, of: R) -> fmt::Result {
        let mut fields = Fields { writer, first: true, done: Ok(()) };
        of.record(&mut fields);
        fields.done
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => " ERROR ",
        Level::WARN => "  WARN ",
        Level::INFO => "  INFO ",
        Level::DEBUG => " DEBUG ",
        Level::TRACE => " TRACE ",
    }
}

/// Writes the fields of an event: plain strings and numbers itself, all others through the library.
struct Fields<'a> {
    writer: Writer<'a>,
    first: bool,
    done: fmt::Result,
}

impl Fields<'_> {
    fn by_library(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        if self.done.is_ok() {
            let mut visitor = DefaultVisitor::new(self.writer.by_ref(), std::mem::take(&mut self.first));
            record(&mut visitor);
            self.done = visitor.finish();
        }
    }

    /// False for the fields that the library formats in a special way.
    fn is_usual(&self, field: &Field) -> bool {
        field.name() != "message" && !field.name().starts_with("r#") && !self.writer.has_ansi_escapes()
    }

    fn put(&mut self, name: &str, value: [&str; 3]) {
        let space = if std::mem::take(&mut self.first) { "" } else { " " };
        let mut parts = [space, name, "="].into_iter().chain(value);
        if self.done.is_ok() {
            self.done = parts.try_for_each(|part| self.writer.write_str(part));
        }
    }
}

impl Visit for Fields<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
        let value = &*cut(value, longest(field.name()));
        if self.is_usual(field) && value.bytes().all(plain) {
            self.put(field.name(), ["\"", value, "\""]);
        } else {
            self.by_library(|library| library.record_str(field, value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if self.is_usual(field) {
            self.put(field.name(), ["", &value.to_string(), ""]);
        } else {
            self.by_library(|library| library.record_u64(field, value));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.by_library(|library| library.record_error(field, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.by_library(|library| library.record_debug(field, &Cut(value, longest(field.name()))));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    /// A writer that keeps what was written.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics here").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Written {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    fn log_events() {
        tracing::info!(session = "n1-x", down = 7u64, signed = -7, fine = true, reason = "", "session ended");
        tracing::warn!(odd = "a \"quoted\" \\ line\nand \u{e9} \u{1b}[31m", r#type = "x", "odd \u{1b}[31m");
        let error = io::Error::other("of this");
        tracing::error!(error = &error as &(dyn Error + 'static), %error, text = String::from("x"), nothing = None::<u8>);
        tracing::debug!("no fields, {}", "but a message");
        tracing::trace!(target: "elsewhere", only = "a field");
    }

    fn log_long_values() {
        let path = "/\u{e9}".repeat(5000);
        tracing::info!(path = path.as_str(), client = %path, host = ?path, error = %path, "long {path}");
    }

    /// Lines without their times, which differ.
    fn lines(written: &Written) -> Vec<String> {
        let text = String::from_utf8(written.0.lock().expect("nobody panics here").clone()).expect("UTF-8");
        let without_time = |line: &str| {
            let (time, rest) = line.split_at("2026-11-23T07:19:33.000000Z".len());
            assert!(time.ends_with('Z') && time.contains("T"), "{line}");
            rest.to_owned()
        };
        text.lines().map(without_time).collect()
    }

    #[test]
    fn in_the_journal_lines_have_a_priority_and_texts_no_time() {
        for (at, priority) in
            [(Level::ERROR, 3), (Level::WARN, 4), (Level::INFO, 6), (Level::DEBUG, 7), (Level::TRACE, 7)]
        {
            let text = line((LogFormat::Text, Place::Journal), at, "well", &[]);
            assert_eq!(text, format!("<{priority}>{at} underpass::log: well\n"));
            let json = line((LogFormat::Json, Place::Journal), at, "well", &[]);
            assert!(json.starts_with(&format!("<{priority}>{{\"timestamp\":\"2")), "{json}");
        }
    }

    #[test]
    fn lines_are_those_of_the_library() {
        let (ours, theirs) = (Written::default(), Written::default());
        let all = || tracing_subscriber::fmt().with_ansi(false).with_max_level(Level::TRACE);
        tracing::subscriber::with_default(
            all().with_writer(ours.clone()).event_format(TextLines(Place::Elsewhere)).finish(),
            log_events,
        );
        tracing::subscriber::with_default(all().with_writer(theirs.clone()).finish(), log_events);
        assert_eq!(lines(&ours).len(), 5);
        assert_eq!(lines(&ours), lines(&theirs));
    }

    #[test]
    fn objects_are_those_of_the_library() {
        let (ours, theirs) = (Written::default(), Written::default());
        let all = || tracing_subscriber::fmt().with_ansi(false).with_max_level(Level::TRACE);
        tracing::subscriber::with_default(
            all().with_writer(ours.clone()).event_format(JsonLines(Place::Elsewhere)).finish(),
            log_events,
        );
        let library = all().with_writer(theirs.clone()).json().flatten_event(true).finish();
        tracing::subscriber::with_default(library, log_events);
        let without_time = |written: &Written| -> Vec<String> {
            let text = String::from_utf8(written.0.lock().expect("nobody panics here").clone()).expect("UTF-8");
            let time = "{\"timestamp\":\"2026-11-23T07:19:33.000000Z".len();
            text.lines().map(|line| line[time..].to_owned()).collect()
        };
        assert_eq!(without_time(&ours).len(), 5);
        assert_eq!(without_time(&ours), without_time(&theirs));
    }

    #[test]
    fn colours_are_those_of_the_library() {
        let (ours, theirs) = (Written::default(), Written::default());
        let all = || tracing_subscriber::fmt().with_ansi(true).without_time().with_max_level(Level::TRACE);
        tracing::subscriber::with_default(all().with_writer(ours.clone()).fmt_fields(ShortFields).finish(), log_events);
        tracing::subscriber::with_default(all().with_writer(theirs.clone()).finish(), log_events);
        let text = |written: &Written| String::from_utf8(written.0.lock().expect("nobody panics here").clone());
        assert_eq!(text(&ours), text(&theirs));
    }

    #[test]
    fn no_value_makes_a_long_line_in_any_format() {
        let most = 3 * VALUE + 2 * WORDS + 400;
        let all = || tracing_subscriber::fmt().with_ansi(false);
        let text = Written::default();
        let json = text.clone();
        tracing::subscriber::with_default(
            all().with_writer(text.clone()).event_format(TextLines(Place::Elsewhere)).finish(),
            log_long_values,
        );
        tracing::subscriber::with_default(
            all().with_writer(json).event_format(JsonLines(Place::Elsewhere)).finish(),
            log_long_values,
        );
        let coloured = all().with_ansi(true).with_writer(text.clone()).fmt_fields(ShortFields).finish();
        tracing::subscriber::with_default(coloured, log_long_values);
        let text = String::from_utf8(text.0.lock().expect("nobody panics here").clone()).expect("UTF-8");
        assert_eq!(text.lines().count(), 3);
        for line in text.lines() {
            assert!(line.len() < most && line.matches('…').count() == 5, "{} bytes: {line}", line.len());
        }
    }

    #[test]
    fn what_the_log_says_of_itself_has_the_form_of_the_others() {
        let text = line((LogFormat::Text, Place::Elsewhere), Level::WARN, "lines dropped", &[("dropped", 7)]);
        assert_eq!(&text["2026-11-23T07:19:33.000000Z".len()..], "  WARN underpass::log: lines dropped dropped=7\n");
        let json = line((LogFormat::Json, Place::Elsewhere), Level::WARN, "lines \"dropped\"", &[("dropped", 7)]);
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(
            (&json["level"], &json["message"], &json["dropped"]),
            (&"WARN".into(), &"lines \"dropped\"".into(), &7.into())
        );
    }
}
