//! What the metrics are made of: fixed sets of series, and a histogram without a lock.
//!
//! Enters: label words at the start, observations later. Leaves: encoded samples. Must not touch: names of metrics, the
//! rooms that count.

use std::fmt;
use std::ops::Index;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

type Labels = Vec<(&'static str, &'static str)>;

/// The series of one metric, all made at the start. Counting is an index and an atomic add, and no input can add a
/// series, which a `Family` of the crate would allow (and which it looks up under a lock).
#[derive(Clone, Debug)]
pub(super) struct Series<M>(Arc<[(Labels, M)]>);

impl<M: Default> Series<M> {
    /// One series for each set of labels, in that order.
    pub(super) fn new(labels: impl IntoIterator<Item = Labels>) -> Self {
        Self(labels.into_iter().map(|labels| (labels, M::default())).collect())
    }

    /// One series for each word, with a single label.
    pub(super) fn by(label: &'static str, words: impl IntoIterator<Item = &'static str>) -> Self {
        Self::new(words.into_iter().map(|word| vec![(label, word)]))
    }
}

impl<M> Index<usize> for Series<M> {
    type Output = M;

    fn index(&self, at: usize) -> &M {
        &self.0[at].1
    }
}

impl<M: EncodeMetric + TypedMetric> EncodeMetric for Series<M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// Upper bounds of the buckets, in microseconds: 0.1 ms to 60 s. One more bucket takes the rest.
const BOUNDS: [u64; 18] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// How long things took, in seconds. The crate's own histogram takes a mutex for each observation; this one is on the
/// way of every message.
#[derive(Clone, Debug, Default)]
pub(super) struct Delays(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

impl Delays {
    /// Counts one delay.
    pub(super) fn observe(&self, delay: Duration) {
        // Bounds are inclusive, so a delay is rounded up to the microsecond: 100.5 µs is not within 100 µs.
        let micros = delay.as_nanos().div_ceil(1_000);
        let bucket = BOUNDS.partition_point(|bound| u128::from(*bound) < micros);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.0.nanos.fetch_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Delays {
    /// The upper bound of each bucket in seconds, `None` for the last, and what fell into it.
    pub(super) fn read(&self) -> impl Iterator<Item = (Option<f64>, u64)> {
        let bounds = BOUNDS.iter().map(|micros| Some(*micros as f64 / 1e6)).chain([None]);
        bounds.zip(self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)))
    }
}

impl TypedMetric for Delays {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Delays {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.0.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
        // Counted from the same reading, so that the count is the last bucket, as the format demands.
        let count = buckets.iter().map(|(_, count)| count).sum();
        let seconds = self.0.nanos.load(Ordering::Relaxed) as f64 / 1e9;
        encoder.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_of(delay: Duration) -> usize {
        let delays = Delays::default();
        delays.observe(delay);
        let hit = |bucket: &AtomicU64| bucket.load(Ordering::Relaxed) == 1;
        assert_eq!(delays.0.buckets.iter().filter(|bucket| hit(bucket)).count(), 1);
        delays.0.buckets.iter().position(hit).expect("one bucket was just found")
    }

    #[test]
    fn a_delay_falls_into_the_smallest_bucket_that_holds_it() {
        assert_eq!(bucket_of(Duration::ZERO), 0);
        assert_eq!(bucket_of(Duration::from_micros(100)), 0);
        assert_eq!(bucket_of(Duration::from_nanos(100_001)), 1);
        assert_eq!(bucket_of(Duration::from_secs(60)), BOUNDS.len() - 1);
        assert_eq!(bucket_of(Duration::from_nanos(60_000_000_001)), BOUNDS.len());
        assert_eq!(bucket_of(Duration::MAX), BOUNDS.len());
    }

    #[test]
    fn bounds_rise() {
        assert!(BOUNDS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
