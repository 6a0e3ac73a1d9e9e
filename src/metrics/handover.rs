//! What there is to count of hand-overs.
//!
//! Enters: what the app tells. Leaves: metrics. Must not touch: what is handed over.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use super::series::{Delays, Series};
use crate::lifecycle::moving::Kind;
use crate::terms::{Crossing, HandedOver};

/// Hand-overs to this process, and those of this process that failed: whoever lives on counts.
#[derive(Debug)]
pub struct Handovers {
    results: Series<Counter>,
    time: Delays,
    items: Series<Counter>,
}

impl Default for Handovers {
    fn default() -> Self {
        Self {
            results: Series::by("result", HandedOver::WORDS.iter().copied()),
            time: Delays::default(),
            items: Series::new(items()),
        }
    }
}

impl Handovers {
    /// A hand-over has ended so.
    pub fn ended(&self, result: HandedOver) {
        self.results[result as usize].inc();
    }

    /// Nothing was served for so long: from the old process's letting go to the acceptance of connections, here or there.
    pub fn took(&self, time: Duration) {
        self.time.observe(time);
    }

    /// So many things of this kind came from the predecessor.
    pub fn came(&self, kind: Kind, what: Crossing, count: u64) {
        self.items[row(kind, what)].inc_by(count);
    }

    pub(super) fn register(&self, of: &mut Registry) {
        let help = "Hand-overs to this process, and those of this process that failed, by result";
        of.register("handover", help, self.results.clone());
        let help = "How long nothing was served in a hand-over";
        of.register_with_unit("handover", help, Unit::Seconds, self.time.clone());
        let help = "What came from the process before, by kind and by what became of it";
        of.register("handover_items", help, self.items.clone());
    }
}

/// Where a kind and what became of it stand among the items.
fn row(kind: Kind, what: Crossing) -> usize {
    let row = Kind::ALL.iter().position(|other| *other == kind).unwrap_or_default();
    row * Crossing::ALL.len() + what as usize
}

fn items() -> impl Iterator<Item = Vec<(&'static str, &'static str)>> {
    let results = |kind: Kind| Crossing::WORDS.iter().map(move |what| vec![("kind", kind.as_str()), ("result", *what)]);
    Kind::ALL.into_iter().flat_map(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_that_crosses_has_the_row_of_its_labels() {
        let labels: Vec<_> = items().collect();
        for kind in Kind::ALL {
            for what in Crossing::ALL {
                let expected = vec![("kind", kind.as_str()), ("result", what.as_str())];
                assert_eq!(Some(row(kind, *what)), labels.iter().position(|pair| *pair == expected));
            }
        }
    }
}
