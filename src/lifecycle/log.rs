//! The process's log: lines on standard error, which cost nobody anything but themselves.
//!
//! Enters: format and level; events from all rooms; panics. Leaves: one line for each, written by a thread of its own, so
//! that whatever becomes of standard error (not read, closed, a full disk) nobody waits and nobody fails for it. Must not
//! touch: what the events say.

mod floods;
mod level;
mod lines;
mod times;
mod writer;

use std::io::{self, IsTerminal as _};
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::Layer as _;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::floods::Floods;
pub use self::level::{LevelError, level, set_level};
use self::lines::{JsonLines, Place, ShortFields, TextLines, line};
use self::writer::Queue;
pub use self::writer::lines_dropped;
use crate::config::{Log, LogFormat};

/// How long the end of the process waits for the log to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The log of this process. Dropped, it waits until what was said is written, for a second at most.
#[must_use = "dropping it is the end of the log"]
pub struct Logging {
    queue: Arc<Queue>,
    floods: Arc<Floods>,
}

/// Starts logging. Must be called once only.
///
/// # Errors
/// When the system gives no thread.
pub fn start(log: &Log) -> io::Result<Logging> {
    let (level, filter) = match (std::env::var(EnvFilter::DEFAULT_ENV), EnvFilter::try_from_default_env()) {
        (Ok(level), Ok(filter)) => (level, filter),
        _ => (log.level.clone(), EnvFilter::new(&log.level)),
    };
    // Colours help at a terminal; in a journal or a file they are unreadable bytes.
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (format, place) = (log.format, Place::of_standard_error());
    let gap = move |dropped| {
        let what = "log lines dropped: standard error took them too slowly, or not at all";
        line((format, place), Level::WARN, what, &[("dropped", dropped)])
    };
    let queue = Arc::new(Queue::new(gap));
    let floods = Arc::new(Floods::new(Arc::clone(&queue)));
    let (due, tell) = (Arc::clone(&floods), Arc::clone(&floods));
    writer::spawn(writer::standard_error(), &queue, move || due.due(), move |now| tell.tell(now))?;
    log_panics((format, place), &queue);

    let lines = fmt::layer().with_writer(Arc::clone(&queue)).with_ansi(colours).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text if colours => lines.fmt_fields(ShortFields).boxed(),
        LogFormat::Text => lines.event_format(TextLines(place)).boxed(),
        LogFormat::Json => lines.event_format(JsonLines(place)).boxed(),
    };
    let filter = level::layer(&level, filter);
    tracing_subscriber::registry().with(filter).with(Arc::clone(&floods).layer()).with(lines).init();
    Ok(Logging { queue, floods })
}

/// Panics go to the log whatever its level. The usual hook would write to standard error itself, and wait for it.
fn log_panics(shape: (LogFormat, Place), queue: &Arc<Queue>) {
    let queue = Arc::clone(queue);
    panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        let mut what = format!("thread '{}' panicked at {place}: {message}", thread.name().unwrap_or("unnamed"));
        let backtrace = std::backtrace::Backtrace::capture();
        if backtrace.status() == std::backtrace::BacktraceStatus::Captured {
            what = format!("{what}\n{backtrace}");
        }
        queue.push(line(shape, Level::ERROR, &what, &[]).as_bytes());
    }));
}

impl Drop for Logging {
    fn drop(&mut self) {
        self.floods.tell_all();
        self.queue.flush(LAST_WORDS);
    }
}
