//! One row: what the page told, what the backend saw, and what is wrong with either. Enters: a line of JSON, ends of
//! conversations. Leaves: complaints. Must not touch: what is measured.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::networks::backend::Ended;

/// A first message that takes longer is a failure; the aim is `AIM`.
const FIRST: u64 = 15_000;
/// What the first message should take at most, in milliseconds.
pub(crate) const AIM: u64 = 4000;

/// What was seen through a box.
pub(crate) struct Row {
    pub(crate) told: Value,
    /// When it was told: the page has just died.
    pub(crate) at: Instant,
    /// The backend's record of `/echo`, `/numbers` and `/ghost`, and when it was made.
    pub(crate) ends: [Option<(Instant, Ended)>; 3],
}

impl Row {
    pub(crate) fn new(told: Value) -> Self {
        Self { told, at: Instant::now(), ends: [None, None, None] }
    }

    pub(crate) fn number(&self) -> u64 {
        self.told["number"].as_u64().unwrap_or(u64::MAX)
    }

    /// Which of its conversations this path is.
    pub(crate) fn which(&self, path: &str) -> Option<usize> {
        let (kind, query) = path.split_once('?')?;
        let number: u64 = query.rsplit('&').next()?.parse().ok()?;
        let which = ["/echo", "/numbers", "/ghost"].iter().position(|known| *known == kind)?;
        (number == self.number()).then_some(which)
    }

    /// Some only count: nobody leaves, and no transport is asked for.
    pub(crate) fn counts_only(&self) -> bool {
        self.told["ends"] == "any"
    }

    /// Whether the backend has not seen the last of it.
    pub(crate) fn waits(&self) -> bool {
        let open = if self.counts_only() { self.ends[1].is_none() } else { self.ends.iter().any(Option::is_none) };
        open && self.told.get("failed").is_none()
    }

    /// From the death of the page until the backend was let go.
    pub(crate) fn released(&self) -> Option<Duration> {
        Some(self.ends[2].as_ref()?.0.saturating_duration_since(self.at))
    }

    /// How often each switch struck.
    pub(crate) fn struck(&self, switch: &str) -> u64 {
        self.told["struck"][switch].as_u64().unwrap_or_default()
    }

    /// Whether the protocol gives this switch nothing to strike at.
    fn never(&self, switch: &str) -> bool {
        self.told["never"].as_array().is_some_and(|never| never.iter().any(|name| name == switch))
    }

    /// Its switches.
    pub(crate) fn switches(&self) -> impl Iterator<Item = &str> {
        self.told["switches"].as_array().into_iter().flatten().filter_map(Value::as_str)
    }

    pub(crate) fn name(&self) -> &str {
        self.told["name"].as_str().unwrap_or_default()
    }

    /// What is not as it should be.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let (told, seen) = (&self.told, &self.told["seen"]);
        let mut wrong = Vec::new();
        let mut check = |right: bool, what: &str| {
            if !right {
                wrong.push(format!("{}: {what}: {told}", self.name()));
            }
        };
        if told.get("failed").is_some() {
            check(false, "did not end well");
            return wrong;
        }
        let count = &seen["counted"];
        check(self.is_whole(), "not all messages once and in order");
        check(count["code"] == 4200 && count["reason"] == "all came", "the backend's close at the page");
        check(self.saw(1, 4200, "all came"), &format!("the backend's close, answered with {:?}", self.ends[1]));
        if self.counts_only() {
            return wrong;
        }
        let echo = &seen["echoed"];
        check(echo["transport"] == told["ends"], "another transport");
        check(told["last"] == "any" || seen["last"] == told["ends"], "a later socket is on another transport");
        check(seen["first"].as_u64().is_some_and(|first| first <= FIRST), "the first message is late");
        check(echo["extra"] == 0 && echo["code"] == 4321 && echo["reason"] == "enough", "the page's close");
        check(self.saw(0, 4321, "enough"), &format!("the page's close at the backend: {:?}", self.ends[0]));
        check(self.saw(2, 1001, "client gone"), &format!("a dead page's backend connection: {:?}", self.ends[2]));
        for switch in self.switches() {
            check(
                (self.struck(switch) == 0) == self.never(switch),
                &format!("`{switch}` struck {} times", self.struck(switch)),
            );
        }
        wrong
    }

    /// Whether all messages came down once, in order. That they did so up is what the backend's close says.
    pub(crate) fn is_whole(&self) -> bool {
        let count = &self.told["seen"]["counted"];
        count["wrong"] == -1 && count["got"].is_u64() && count["got"] == self.told["messages"]
    }

    fn saw(&self, which: usize, code: u16, reason: &str) -> bool {
        self.ends[which].as_ref().is_some_and(|(_, end)| end.code == code && end.reason == reason)
    }
}
