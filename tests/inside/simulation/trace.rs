//! The last steps of a run, shown when it fails.
//!
//! Enters: steps, one line each. Leaves: on a panic, the last of them. Must not touch: what happens.

use std::collections::VecDeque;

use underpass::session::{Message, Moment, Pulled};

/// How many steps a failure shows.
const SHOWN: usize = 30;

/// The last steps, when they are wanted: lines are expensive.
pub(crate) struct Trace {
    lines: Option<VecDeque<String>>,
    steps: usize,
}

impl Trace {
    pub(crate) fn new(wanted: bool) -> Self {
        Self { lines: wanted.then(VecDeque::new), steps: 0 }
    }

    pub(crate) fn note(&mut self, now: Moment, step: impl FnOnce() -> String) {
        self.steps += 1;
        let Some(lines) = &mut self.lines else { return };
        if lines.len() == SHOWN {
            lines.pop_front();
        }
        lines.push_back(format!("{:5} {:>14} µs  {}", self.steps, now.0, step()));
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.lines.iter().flatten() {
                eprintln!("{line}");
            }
        }
    }
}

pub(crate) fn brief(message: &Message) -> String {
    format!("{:?}[{}]", message.kind(), message.payload().len())
}

pub(crate) fn brief_pulled(pulled: &Pulled) -> String {
    match pulled {
        Pulled::Batch { first, count, .. } => format!("{count} messages from {first}"),
        other => format!("{other:?}"),
    }
}
