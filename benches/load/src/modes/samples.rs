//! Delays, gathered by many tasks of one thread; and their percentiles.
//!
//! Enters: nanoseconds. Leaves: milliseconds. Must not touch: clocks.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Delays while the window is open.
#[derive(Default)]
pub struct Samples {
    open: AtomicBool,
    delays: Mutex<Vec<u64>>,
}

impl Samples {
    /// Opens or closes the window.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, Relaxed);
    }

    /// Takes a delay, if the window is open.
    pub fn add(&self, delay: u64) {
        if self.open.load(Relaxed) {
            self.delays.lock().expect("no holder panics").push(delay);
        }
    }

    /// How many there are, and the 50th and 99th percentile in milliseconds.
    pub fn summary(&self) -> (usize, f64, f64) {
        let mut delays = self.delays.lock().expect("no holder panics");
        delays.sort_unstable();
        let at = |part: f64| {
            let place = ((delays.len() as f64 * part) as usize).min(delays.len().saturating_sub(1));
            delays.get(place).map_or(f64::NAN, |delay| *delay as f64 / 1e6)
        };
        (delays.len(), at(0.50), at(0.99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_an_open_window() {
        let samples = Samples::default();
        samples.add(1);
        samples.set_open(true);
        (1..=100).rev().for_each(|ms| samples.add(ms * 1_000_000));
        assert_eq!(samples.summary(), (100, 51.0, 100.0));
    }
}
