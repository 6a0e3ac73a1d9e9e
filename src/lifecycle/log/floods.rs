//! Warnings that come by the thousand: the first of each kind are shown, the others counted.
//!
//! Enters: every event that is a warning or an error. Leaves: whether it becomes a line, and, behind each ten seconds in which
//! some did not, a line that says how many. Must not touch: other levels; what strangers can cause there is one line for
//! each session that they were allowed to open.
//!
//! A kind is a place in the code, and the event's `code` if it has one.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{Debug, Write as _};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::lines::Cut;
use super::writer::Queue;

/// So many lines of a kind are shown in each [`WINDOW`].
const SHOWN: u64 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// Most kinds told apart. Codes beyond it are one kind for each place.
const KINDS: usize = 256;
/// The most bytes of a kind's message in the line about what was held back.
const NAME: usize = 120;
/// The target of those lines, which are never held back themselves.
const TARGET: &str = "underpass::log";

/// How often each kind was seen lately.
pub(super) struct Floods {
    kinds: Mutex<HashMap<Key, Kind>>,
    queue: Arc<Queue>,
}

/// The layer that asks [`Floods`].
pub(super) struct FloodLayer(Arc<Floods>);

type Key = (Identifier, u64);

struct Kind {
    name: String,
    level: Level,
    since: Instant,
    seen: u64,
}

impl Floods {
    /// Nothing was seen; `queue` has the writer that tells what was held back.
    pub(super) fn new(queue: Arc<Queue>) -> Self {
        Self { kinds: Mutex::default(), queue }
    }

    pub(super) fn layer(self: Arc<Self>) -> FloodLayer {
        FloodLayer(self)
    }

    /// Whether this event becomes a line.
    fn shows(&self, event: &Event<'_>, now: Instant) -> bool {
        let mut kind = About::default();
        event.record(&mut kind);
        let mut kinds = self.kinds();
        let mut key = (event.metadata().callsite(), kind.code);
        if kinds.len() >= KINDS && !kinds.contains_key(&key) {
            key.1 = 0;
        }
        let level = *event.metadata().level();
        let kind = kinds.entry(key).or_insert_with(|| Kind { name: kind.name(event), level, since: now, seen: 0 });
        if kind.held() == 0 && now >= kind.since + WINDOW {
            (kind.since, kind.seen) = (now, 0);
        }
        kind.seen += 1;
        let held = kind.held();
        drop(kinds);
        if held == 1 {
            self.queue.call();
        }
        held == 0
    }

    /// When there will be something to tell, if there will.
    pub(super) fn due(&self) -> Option<Instant> {
        self.kinds().values().filter(|kind| kind.held() > 0).map(|kind| kind.since + WINDOW).min()
    }

    /// Tells what was held back in windows that are over.
    pub(super) fn tell(&self, now: Instant) {
        self.tell_those(|kind| now >= kind.since + WINDOW, now);
    }

    /// Tells all that was held back.
    pub(super) fn tell_all(&self) {
        self.tell_those(|_| true, Instant::now());
    }

    fn tell_those(&self, is_due: impl Fn(&Kind) -> bool, now: Instant) {
        let mut told = Vec::new();
        for kind in self.kinds().values_mut().filter(|kind| kind.held() > 0 && is_due(kind)) {
            told.push((kind.level, kind.name.clone(), kind.held(), now - kind.since));
            (kind.since, kind.seen) = (now, 0);
        }
        // Not under the lock: these are events, too.
        for (level, name, held, time) in told {
            let seconds = time.as_secs().max(1);
            if level == Level::ERROR {
                tracing::error!(target: TARGET, held, "{name}: … and {held} more in {seconds} s");
            } else {
                tracing::warn!(target: TARGET, held, "{name}: … and {held} more in {seconds} s");
            }
        }
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Key, Kind>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kind {
    fn held(&self) -> u64 {
        self.seen.saturating_sub(SHOWN)
    }
}

impl<S: Subscriber> Layer<S> for FloodLayer {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let about = event.metadata();
        *about.level() > Level::WARN || about.target() == TARGET || self.0.shows(event, Instant::now())
    }
}

/// What makes an event one of a kind.
#[derive(Default)]
struct About {
    message: String,
    code: u64,
    code_text: String,
}

impl About {
    fn name(self, event: &Event<'_>) -> String {
        let message = if self.message.is_empty() { event.metadata().name().to_owned() } else { self.message };
        if self.code_text.is_empty() { message } else { format!("{message} ({})", self.code_text) }
    }
}

impl Visit for About {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "code" {
            let mut hasher = DefaultHasher::new();
            value.hash(&mut hasher);
            self.code = hasher.finish();
            self.code_text = value.chars().take(NAME).collect();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            // A String takes all that is written.
            let _ = write!(self.message, "{:?}", Cut(value, NAME));
        }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Counts the events that pass, and keeps the messages about what was held back.
    #[derive(Clone, Default)]
    struct Passed(Arc<Mutex<(usize, Vec<String>)>>);

    impl<S: Subscriber> Layer<S> for Passed {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let mut passed = self.0.lock().expect("nobody panics here");
            if event.metadata().target() == TARGET {
                let mut about = About::default();
                event.record(&mut about);
                passed.1.push(about.message);
            } else {
                passed.0 += 1;
            }
        }
    }

    fn refuse(code: &str) {
        tracing::warn!(code, "request refused");
    }

    #[test]
    fn the_first_of_each_kind_are_shown_and_the_others_counted() {
        let floods = Arc::new(Floods::new(Arc::new(Queue::new(|_| String::new()))));
        let passed = Passed::default();
        let seen = || std::mem::take(&mut *passed.0.lock().expect("nobody panics here"));
        let subscriber = tracing_subscriber::registry().with(Arc::clone(&floods).layer()).with(passed.clone());
        tracing::subscriber::with_default(subscriber, || {
            (0..5000).for_each(|_| refuse("backend_timeout"));
            refuse("internal");
            tracing::error!("another place");
            (0..100).for_each(|_| tracing::info!("no warning"));
            assert_eq!(seen(), (SHOWN as usize + 2 + 100, vec![]));
            let due = floods.due().expect("something was held back");
            floods.tell(due - Duration::from_millis(1));
            assert_eq!(seen().1, Vec::<String>::new());
            floods.tell(due);
            assert_eq!(seen().1, ["request refused (backend_timeout): … and 4980 more in 10 s"]);
            assert_eq!(floods.due(), None);
            (0..30).for_each(|_| refuse("backend_timeout"));
            floods.tell_all();
            assert_eq!(seen(), (20, vec!["request refused (backend_timeout): … and 10 more in 1 s".to_owned()]));
        });
    }

    #[test]
    fn words_without_end_make_no_kinds_without_end() {
        let floods = Arc::new(Floods::new(Arc::new(Queue::new(|_| String::new()))));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(Arc::clone(&floods).layer()), || {
            (0..5000).for_each(|number| refuse(&number.to_string()));
        });
        assert_eq!(floods.kinds().len(), KINDS + 1);
    }
}
