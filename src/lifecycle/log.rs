//! The process's log: lines on standard error.
//!
//! Enters: format and level; events from all rooms. Leaves: one line for each event, written at once, so that none is lost
//! when the process dies. Must not touch: what the events say.
//!
//! Lines without colours are formatted here, byte for byte as tracing-subscriber formats them, because its own formatting
//! took an eighth of the instructions for opening and closing a session.

mod level;

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::io::IsTerminal as _;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::VisitOutput as _;
use tracing_subscriber::fmt::format::{DefaultVisitor, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

pub use self::level::{LevelError, level, set_level};
use crate::config::{Log, LogFormat};

/// Starts logging. Must be called once only.
pub fn start(log: &Log) {
    let (level, filter) = match (std::env::var(EnvFilter::DEFAULT_ENV), EnvFilter::try_from_default_env()) {
        (Ok(level), Ok(filter)) => (level, filter),
        _ => (log.level.clone(), EnvFilter::new(&log.level)),
    };
    // Colours help at a terminal; in a journal or a file they are unreadable bytes.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let lines = match log.format {
        LogFormat::Text if colours => lines.boxed(),
        LogFormat::Text => lines.event_format(Plain).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry().with(level::layer(&level, filter)).with(lines).init();
}

/// `<time> <level> <target>: <message> <field>=<value> …`; without spans, because underpass uses none.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        put_time(&mut writer, SystemTime::now())?;
        writer.write_str(word(*about.level()))?;
        writer.write_str(about.target())?;
        writer.write_str(": ")?;
        let mut fields = Fields { writer: writer.by_ref(), first: true, done: Ok(()) };
        event.record(&mut fields);
        fields.done?;
        writer.write_char('\n')
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => " ERROR ",
        Level::WARN => "  WARN ",
        Level::INFO => "  INFO ",
        Level::DEBUG => " DEBUG ",
        Level::TRACE => " TRACE ",
    }
}

thread_local! {
    /// The second that was written last, and its text.
    static SECOND: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

/// RFC 3339 with microseconds. Everything before the fraction is formatted only once a second.
fn put_time(writer: &mut Writer<'_>, now: SystemTime) -> fmt::Result {
    // Only a clock that is wrong is before 1970.
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    SECOND.with_borrow_mut(|(second, text)| {
        if *second != since.as_secs() || text.is_empty() {
            (*second, *text) = (since.as_secs(), second_of(since.as_secs()));
        }
        writer.write_str(text)
    })?;
    let micros = since.subsec_micros();
    let digits = [100_000, 10_000, 1000, 100, 10, 1].map(|least| b'0' + (micros / least % 10) as u8);
    writer.write_str(std::str::from_utf8(&digits).unwrap_or_default())?;
    writer.write_char('Z')
}

/// Date and time of a second since 1970, up to and including the point before the fraction.
fn second_of(second: u64) -> String {
    let (year, month, day) = date_of(second / 86_400);
    let (hour, minute, second) = (second / 3600 % 24, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.")
}

/// Year, month and day of a day since 1970. Computed in eras of 400 years whose years begin in March, so that the leap day
/// is the last day of a year.
fn date_of(day: u64) -> (u64, u64, u64) {
    const ERA: u64 = 146_097;
    let shifted = day + 719_468;
    let of_era = shifted % ERA;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / (ERA - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = shifted / ERA * 400 + year_of_era + u64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
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
    fn is_usual(field: &Field) -> bool {
        field.name() != "message" && !field.name().starts_with("r#")
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
        if Self::is_usual(field) && value.bytes().all(plain) {
            self.put(field.name(), ["\"", value, "\""]);
        } else {
            self.by_library(|library| library.record_str(field, value));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if Self::is_usual(field) {
            self.put(field.name(), ["", &value.to_string(), ""]);
        } else {
            self.by_library(|library| library.record_u64(field, value));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.by_library(|library| library.record_error(field, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.by_library(|library| library.record_debug(field, value));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

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
    fn lines_are_those_of_the_library() {
        let (ours, theirs) = (Written::default(), Written::default());
        let all = || tracing_subscriber::fmt().with_ansi(false).with_max_level(Level::TRACE);
        tracing::subscriber::with_default(all().with_writer(ours.clone()).event_format(Plain).finish(), log_events);
        tracing::subscriber::with_default(all().with_writer(theirs.clone()).finish(), log_events);
        assert_eq!(lines(&ours).len(), 5);
        assert_eq!(lines(&ours), lines(&theirs));
    }

    #[test]
    fn times_are_those_of_another_calendar() {
        let years = (0..140 * 366).map(|day| day * 86_400 + day % 86_400);
        for second in years.chain([1_795_418_373]) {
            let http = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            let (date, time) = (http.split(' ').collect::<Vec<_>>(), second_of(second));
            let month = "JanFebMarAprMayJunJulAugSepOctNovDec".find(date[2]).expect("a month") / 3 + 1;
            assert_eq!(time, format!("{}-{month:02}-{}T{}.", date[3], date[1], date[4]));
        }
        let mut written = String::new();
        let now = UNIX_EPOCH + Duration::from_micros(1_795_418_373_012_345);
        put_time(&mut Writer::new(&mut written), now).expect("memory takes all");
        assert_eq!(written, "2026-11-23T07:19:33.012345Z");
    }
}
