//! What is known of one transport, and the words for it.
//!
//! Enters: what happened, as it happens. Leaves: words for each column, and whether it is fit for use. Must not touch: the
//! network.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::selftest::TICKS;

/// A message that took no longer was not held.
const PROMPT: Duration = Duration::from_millis(750);
/// A silence before a cut that is worth a word.
const QUIET: Duration = Duration::from_secs(2);

/// The columns, in the order of [`Row::cells`].
pub(super) const COLUMNS: [&str; 5] = ["opens", "streams", "is cut", "round trip", "128 KiB"];

/// One transport.
pub(super) struct Row {
    pub(super) name: &'static str,
    seen: Mutex<Seen>,
    changed: Notify,
}

/// What happened to it so far.
pub(super) struct Seen {
    asked: Instant,
    /// When the conversation began, as late as it can have been.
    pub(super) begun: Option<Instant>,
    opened: Option<Duration>,
    why: Option<String>,
    /// Whether it can be seen to stream: POST does not, nor does what a foreign backend says.
    pub(super) streams: bool,
    /// How many delays prove it.
    pub(super) enough: usize,
    pub(super) delays: Vec<Duration>,
    pub(super) rtts: Vec<Duration>,
    pub(super) bursts: usize,
    pub(super) burst: Option<Duration>,
    pub(super) heard: Instant,
    attached: Instant,
    cuts: Vec<Cut>,
    pub(super) mute: Option<Duration>,
    echoed: Vec<String>,
    /// Nothing more will come of it.
    pub(super) over: bool,
    /// The cursor of its session.
    pub(super) cursor: u64,
    /// What it lasted, once the test is over.
    lasted: Option<Duration>,
}

struct Cut {
    age: Duration,
    silence: Duration,
    why: String,
}

impl Row {
    pub(super) fn new(name: &'static str, streams: bool) -> Self {
        let now = Instant::now();
        let seen = Seen {
            asked: now,
            begun: None,
            opened: None,
            why: None,
            streams,
            enough: 3,
            delays: Vec::new(),
            rtts: Vec::new(),
            bursts: 0,
            burst: None,
            heard: now,
            attached: now,
            cuts: Vec::new(),
            mute: None,
            echoed: Vec::new(),
            over: false,
            cursor: 0,
            lasted: None,
        };
        Self { name, seen: Mutex::new(seen), changed: Notify::new() }
    }

    /// Reads or changes it; who waits for something is told.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        let result = act(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    /// Waits until something holds; false when it does not in time.
    pub(super) async fn until(&self, patience: Duration, mut holds: impl FnMut(&Seen) -> bool) -> bool {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.lock()) {
                    return;
                }
                changed.await;
            }
        };
        timeout(patience, waiting).await.is_ok()
    }

    /// It begins now; what went before was for others.
    pub(super) fn asking(&self) {
        self.with(|seen| seen.asked = Instant::now());
    }

    /// A request that waits begins now.
    pub(super) fn attaching(&self) {
        self.with(|seen| (seen.attached, seen.heard) = (Instant::now(), Instant::now()));
    }

    pub(super) fn opened(&self) {
        self.with(|seen| {
            let now = Instant::now();
            seen.opened.get_or_insert(now - seen.asked);
            (seen.attached, seen.heard) = (now, now);
        });
    }

    pub(super) fn refused(&self, why: impl Into<String>) {
        let why = why.into();
        let opened = self.lock().opened.is_some();
        if opened {
            return self.cut(why);
        }
        self.with(|seen| {
            seen.why.get_or_insert(why);
        });
    }

    pub(super) fn cut(&self, why: impl Into<String>) {
        let why = why.into();
        self.with(|seen| {
            let now = Instant::now();
            seen.cuts.push(Cut { age: now - seen.attached, silence: now - seen.heard, why });
        });
    }

    /// Whether it is of no use to try again.
    pub(super) fn is_hopeless(&self) -> bool {
        let seen = self.lock();
        seen.why.is_some() || seen.cuts.len() >= 3
    }

    /// A message of the self-test's conversation.
    pub(super) fn deliver(&self, text: &str) {
        self.with(|seen| {
            let now = Instant::now();
            seen.heard = now;
            match tick(text) {
                Some(at) => seen.delays.push((now - seen.begun.unwrap_or(now)).saturating_sub(at)),
                None if text.starts_with("burst") => seen.bursts += 1,
                None if text.starts_with("echo-") => seen.echoed.push(text.to_owned()),
                None => {}
            }
        });
    }

    /// Waits for this text to come back.
    pub(super) async fn echoed(&self, text: &str, patience: Duration) -> bool {
        self.until(patience, |seen| seen.echoed.iter().any(|one| one == text)).await
    }

    /// The test is over, and lasted so long.
    pub(super) fn end(&self, lasted: Duration) {
        self.with(|seen| seen.lasted = Some(lasted));
    }

    /// The words for each of [`COLUMNS`].
    pub(super) fn cells(&self) -> [String; 5] {
        let seen = self.lock();
        [seen.opens(), seen.flows(), seen.breaks(), seen.trips(), seen.burst.map_or_else(none, span)]
    }

    /// Whether a client can use it.
    pub(super) fn works(&self) -> bool {
        let seen = self.lock();
        seen.opened.is_some() && (!seen.streams || seen.delay().is_some_and(|delay| delay < PROMPT))
    }

    /// Whether it was cut, or went dead.
    pub(super) fn was_cut(&self) -> bool {
        let seen = self.lock();
        !seen.cuts.is_empty() || seen.mute.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// The usual delay, if there is evidence enough.
    fn delay(&self) -> Option<Duration> {
        (self.delays.len() >= self.enough).then(|| median(&self.delays))
    }

    /// All messages that come by themselves are there.
    pub(super) fn all_ticks(&self) -> bool {
        self.delays.len() >= TICKS as usize
    }

    fn lasted(&self) -> Duration {
        self.lasted.unwrap_or_else(|| self.asked.elapsed())
    }

    fn opens(&self) -> String {
        match (self.opened, &self.why) {
            (Some(took), _) => format!("yes, {}", span(took)),
            (None, Some(why)) => format!("no: {why}"),
            (None, None) => format!("no answer in {}", span(self.lasted())),
        }
    }

    fn flows(&self) -> String {
        if !self.streams || self.why.is_some() {
            return none();
        }
        match self.delay() {
            Some(delay) if delay < PROMPT => "yes, at once".into(),
            Some(delay) => format!("held for {}", span(delay)),
            None if self.begun.is_none() => none(),
            None => format!("held, nothing for {}", span(self.lasted())),
        }
    }

    fn breaks(&self) -> String {
        if self.opened.is_none() {
            return none();
        }
        let Some(first) = self.cuts.first() else {
            return match self.mute {
                Some(within) => format!("went dead without a word within {}", span(within)),
                None if self.begun.is_none() => none(),
                None => format!("no, in {}", span(self.lasted())),
            };
        };
        let mut words = format!("after {}", span(first.age));
        if first.silence > QUIET {
            words += &format!(", the last {} silent", span(first.silence));
        }
        if !first.why.is_empty() {
            words += &format!(" ({})", first.why);
        }
        if self.cuts.len() > 1 {
            words += &format!("; {} times", self.cuts.len());
        }
        words
    }

    fn trips(&self) -> String {
        let Some(most) = self.rtts.iter().max() else { return none() };
        format!("{}, at most {}", span(median(&self.rtts)), span(*most))
    }
}

fn none() -> String {
    "–".into()
}

fn median(spans: &[Duration]) -> Duration {
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// When the conversation says that it said this, if it is one of its own messages.
fn tick(text: &str) -> Option<Duration> {
    let tick: serde_json::Value = serde_json::from_str(text).ok().filter(|_| text.starts_with("{\"tick\""))?;
    tick["at"].as_u64().map(Duration::from_millis)
}

/// A span for people.
pub(super) fn span(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        _ if seconds < 0.001 => "< 1 ms".into(),
        _ if seconds < 0.95 => format!("{} ms", span.as_millis()),
        _ if seconds < 9.95 => format!("{seconds:.1} s"),
        _ => format!("{seconds:.0} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn held_late_and_prompt_are_told_apart() {
        for (late, words, works) in
            [(20, "yes, at once", true), (1000, "held for 1.0 s", false), (55_000, "held for 55 s", false)]
        {
            let row = Row::new("sse", true);
            row.with(|seen| seen.begun = Some(Instant::now()));
            row.opened();
            tokio::time::advance(Duration::from_millis(late)).await;
            for tick in 1..=3 {
                row.deliver(&format!("{{\"tick\":{tick},\"at\":{}}}", (tick - 1) * 1000));
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            assert_eq!((row.cells()[1].as_str(), row.works()), (words, works));
        }
        let row = Row::new("sse", true);
        row.with(|seen| seen.begun = Some(Instant::now()));
        row.end(Duration::from_secs(12));
        assert_eq!(row.cells()[..2], ["no answer in 12 s", "held, nothing for 12 s"]);
        assert!(!row.works());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_has_its_age_and_the_silence_before_it() {
        let row = Row::new("stream", true);
        row.opened();
        tokio::time::advance(Duration::from_secs(5)).await;
        row.deliver("echo-a");
        tokio::time::advance(Duration::from_secs(7)).await;
        row.cut("");
        assert_eq!(row.cells()[2], "after 12 s, the last 7.0 s silent");
        assert!(row.was_cut() && !row.is_hopeless());
        row.refused("502");
        row.refused("502");
        assert_eq!(row.cells()[2], "after 12 s, the last 7.0 s silent; 3 times");
        assert!(row.is_hopeless());
    }
}
