//! What was measured of one transport, and how it is shown.
//!
//! Enters: events, at the time when they happen. Leaves: a text for each column, and whether a client can use the transport.
//! Must not touch: the network.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::selftest::TICKS;

/// A message that took no longer than this was not delayed by the network.
const PROMPT: Duration = Duration::from_millis(750);
/// A silence before a cut is shown when it was longer than this.
const QUIET: Duration = Duration::from_secs(2);

/// The titles of the columns, in the order of [`Findings::cells`].
pub(super) const COLUMNS: [&str; 5] = ["opens", "streams", "is cut", "round trip", "128 KiB"];

/// The findings about one transport.
pub(super) struct Findings {
    pub(super) name: &'static str,
    state: Mutex<State>,
    changed: Notify,
}

/// What has happened so far.
pub(super) struct State {
    started_at: Instant,
    /// The latest time at which the conversation can have begun.
    pub(super) begun: Option<Instant>,
    opened: Option<Duration>,
    why: Option<String>,
    /// Whether streaming can be measured: not for POST, and not for what a backend of others sends.
    pub(super) streams: bool,
    /// How many delays have to be measured for a result.
    pub(super) delays_needed: usize,
    pub(super) delays: Vec<Duration>,
    pub(super) rtts: Vec<Duration>,
    pub(super) bursts: usize,
    pub(super) burst: Option<Duration>,
    pub(super) received_at: Instant,
    attached_at: Instant,
    cuts: Vec<Cut>,
    pub(super) dead_after: Option<Duration>,
    echoed: Vec<String>,
    /// Nothing more will be measured.
    pub(super) over: bool,
    /// The cursor of its session.
    pub(super) cursor: u64,
    /// How long the test lasted, once it is over.
    lasted: Option<Duration>,
}

struct Cut {
    age: Duration,
    silence: Duration,
    why: String,
}

impl Findings {
    pub(super) fn new(name: &'static str, streams: bool) -> Self {
        let now = Instant::now();
        let state = State {
            started_at: now,
            begun: None,
            opened: None,
            why: None,
            streams,
            delays_needed: 3,
            delays: Vec::new(),
            rtts: Vec::new(),
            bursts: 0,
            burst: None,
            received_at: now,
            attached_at: now,
            cuts: Vec::new(),
            dead_after: None,
            echoed: Vec::new(),
            over: false,
            cursor: 0,
            lasted: None,
        };
        Self { name, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Reads or changes the state, and wakes those who wait for a change.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    /// Waits until `holds` returns true. False when this takes longer than `limit`.
    pub(super) async fn until(&self, limit: Duration, mut holds: impl FnMut(&State) -> bool) -> bool {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.lock()) {
                    return;
                }
                changed.await;
            }
        };
        timeout(limit, waiting).await.is_ok()
    }

    /// The test of this transport starts now; the time before does not count.
    pub(super) fn start(&self) {
        self.with(|state| state.started_at = Instant::now());
    }

    /// A request that waits for messages starts now.
    pub(super) fn attaching(&self) {
        self.with(|state| (state.attached_at, state.received_at) = (Instant::now(), Instant::now()));
    }

    pub(super) fn opened(&self) {
        self.with(|state| {
            let now = Instant::now();
            state.opened.get_or_insert(now - state.started_at);
            (state.attached_at, state.received_at) = (now, now);
        });
    }

    pub(super) fn refused(&self, why: impl Into<String>) {
        let why = why.into();
        let opened = self.lock().opened.is_some();
        if opened {
            return self.cut(why);
        }
        self.with(|state| {
            state.why.get_or_insert(why);
        });
    }

    pub(super) fn cut(&self, why: impl Into<String>) {
        let why = why.into();
        self.with(|state| {
            let now = Instant::now();
            state.cuts.push(Cut { age: now - state.attached_at, silence: now - state.received_at, why });
        });
    }

    /// Whether another attempt is pointless: it was refused, or cut three times.
    pub(super) fn has_failed(&self) -> bool {
        let state = self.lock();
        state.why.is_some() || state.cuts.len() >= 3
    }

    /// A message of the self-test's conversation.
    pub(super) fn deliver(&self, text: &str) {
        self.with(|state| {
            let now = Instant::now();
            state.received_at = now;
            match tick(text) {
                Some(at) => state.delays.push((now - state.begun.unwrap_or(now)).saturating_sub(at)),
                None if text.starts_with("burst") => state.bursts += 1,
                None if text.starts_with("echo-") => state.echoed.push(text.to_owned()),
                None => {}
            }
        });
    }

    /// Waits for this text to come back.
    pub(super) async fn echoed(&self, text: &str, limit: Duration) -> bool {
        self.until(limit, |state| state.echoed.iter().any(|one| one == text)).await
    }

    /// The test is over; it took `lasted`.
    pub(super) fn end(&self, lasted: Duration) {
        self.with(|state| state.lasted = Some(lasted));
    }

    /// The text for each of [`COLUMNS`].
    pub(super) fn cells(&self) -> [String; 5] {
        let state = self.lock();
        [state.opens(), state.streaming(), state.cut_text(), state.round_trips(), state.burst.map_or_else(none, span)]
    }

    /// Whether a client can use this transport.
    pub(super) fn works(&self) -> bool {
        let state = self.lock();
        state.opened.is_some() && (!state.streams || state.delay().is_some_and(|delay| delay < PROMPT))
    }

    /// Whether it was cut, or stopped without being closed.
    pub(super) fn was_cut(&self) -> bool {
        let state = self.lock();
        !state.cuts.is_empty() || state.dead_after.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The median delay, if enough were measured.
    fn delay(&self) -> Option<Duration> {
        (self.delays.len() >= self.delays_needed).then(|| median(&self.delays))
    }

    /// Whether all messages that the server sends by itself have arrived.
    pub(super) fn all_ticks(&self) -> bool {
        self.delays.len() >= TICKS as usize
    }

    fn lasted(&self) -> Duration {
        self.lasted.unwrap_or_else(|| self.started_at.elapsed())
    }

    fn opens(&self) -> String {
        match (self.opened, &self.why) {
            (Some(took), _) => format!("yes, {}", span(took)),
            (None, Some(why)) => format!("no: {why}"),
            (None, None) => format!("no answer in {}", span(self.lasted())),
        }
    }

    fn streaming(&self) -> String {
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

    fn cut_text(&self) -> String {
        if self.opened.is_none() {
            return none();
        }
        let Some(first) = self.cuts.first() else {
            return match self.dead_after {
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

    fn round_trips(&self) -> String {
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

/// The time that the server put into its message, if it is one of those that it sends by itself.
fn tick(text: &str) -> Option<Duration> {
    let tick: serde_json::Value = serde_json::from_str(text).ok().filter(|_| text.starts_with("{\"tick\""))?;
    tick["at"].as_u64().map(Duration::from_millis)
}

/// A duration as it is shown.
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
    async fn delayed_late_and_prompt_messages_are_distinguished() {
        for (late, words, works) in
            [(20, "yes, at once", true), (1000, "held for 1.0 s", false), (55_000, "held for 55 s", false)]
        {
            let findings = Findings::new("sse", true);
            findings.with(|state| state.begun = Some(Instant::now()));
            findings.opened();
            tokio::time::advance(Duration::from_millis(late)).await;
            for tick in 1..=3 {
                findings.deliver(&format!("{{\"tick\":{tick},\"at\":{}}}", (tick - 1) * 1000));
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            assert_eq!((findings.cells()[1].as_str(), findings.works()), (words, works));
        }
        let findings = Findings::new("sse", true);
        findings.with(|state| state.begun = Some(Instant::now()));
        findings.end(Duration::from_secs(12));
        assert_eq!(findings.cells()[..2], ["no answer in 12 s", "held, nothing for 12 s"]);
        assert!(!findings.works());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_has_its_age_and_the_silence_before_it() {
        let findings = Findings::new("stream", true);
        findings.opened();
        tokio::time::advance(Duration::from_secs(5)).await;
        findings.deliver("echo-a");
        tokio::time::advance(Duration::from_secs(7)).await;
        findings.cut("");
        assert_eq!(findings.cells()[2], "after 12 s, the last 7.0 s silent");
        assert!(findings.was_cut() && !findings.has_failed());
        findings.refused("502");
        findings.refused("502");
        assert_eq!(findings.cells()[2], "after 12 s, the last 7.0 s silent; 3 times");
        assert!(findings.has_failed());
    }
}
