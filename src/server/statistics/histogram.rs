//! A histogram of times: fixed buckets, four to each doubling, written with one relaxed addition.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Buckets up to 2^33 µs, more than two hours. The last one takes whatever is longer.
const BUCKETS: usize = 128;

/// Every doubling has so many buckets, so that an estimate is at most a quarter too high.
const STEPS: usize = 4;

/// Counts times. Several threads may write at once.
#[derive(Debug)]
pub(super) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    max_us: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            max_us: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub(super) fn record(&self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(micros)].fetch_add(1, Ordering::Relaxed);
        // Looked at first: a new maximum is rare, and reading costs the other threads nothing.
        if micros > self.max_us.load(Ordering::Relaxed) {
            self.max_us.fetch_max(micros, Ordering::Relaxed);
        }
    }
}

fn bucket_of(micros: u64) -> usize {
    if micros < STEPS as u64 {
        return micros as usize;
    }
    let octave = micros.ilog2() as usize;
    // The two bits behind the leading one.
    let step = (micros >> (octave - 2)) as usize % STEPS;
    ((octave - 1) * STEPS + step).min(BUCKETS - 1)
}

/// The longest time that falls into a bucket.
fn longest_in(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (octave, step) = (bucket / STEPS + 1, bucket % STEPS);
    (((STEPS + step + 1) as u64) << (octave - 2)) - 1
}

/// What several histograms hold together, at one moment.
pub(super) struct Distribution {
    buckets: [u64; BUCKETS],
    max_us: u64,
}

impl Distribution {
    pub(super) fn of<'h>(histograms: impl Iterator<Item = &'h Histogram>) -> Self {
        let mut sum = Self {
            buckets: [0; BUCKETS],
            max_us: 0,
        };
        for histogram in histograms {
            for (sum, bucket) in sum.buckets.iter_mut().zip(&histogram.buckets) {
                *sum += bucket.load(Ordering::Relaxed);
            }
            sum.max_us = sum.max_us.max(histogram.max_us.load(Ordering::Relaxed));
        }
        sum
    }

    pub(super) fn summary(&self) -> LatencyStats {
        let count = self.buckets.iter().sum();
        LatencyStats {
            count,
            p50_us: self.within(count, 500),
            p95_us: self.within(count, 950),
            p99_us: self.within(count, 990),
            max_us: self.max_us,
        }
    }

    /// A time that so many of a thousand did not exceed.
    fn within(&self, count: u64, per_mille: u64) -> u64 {
        let rank = (u128::from(count) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|times| {
            seen += u128::from(*times);
            seen >= rank
        });
        match bucket {
            None => self.max_us,
            // Without bounds of its own.
            Some(bucket) if bucket == BUCKETS - 1 => self.max_us,
            Some(bucket) => longest_in(bucket).min(self.max_us),
        }
    }
}

/// How long answers took, in microseconds: from the moment at which the request was read to the one at which its
/// answer was handed to the socket. Percentiles are estimates that are never too low, and at most a quarter too high.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LatencyStats {
    /// Answers.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// 95 of 100 took no longer.
    pub p95_us: u64,
    /// 99 of 100 took no longer.
    pub p99_us: u64,
    /// The longest.
    pub max_us: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary_of(micros: impl IntoIterator<Item = u64>) -> LatencyStats {
        let histograms = [Histogram::default(), Histogram::default()];
        for (at, micros) in micros.into_iter().enumerate() {
            histograms[at % 2].record(Duration::from_micros(micros));
        }
        Distribution::of(histograms.iter()).summary()
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        for bucket in 0..BUCKETS - 2 {
            let longest = longest_in(bucket);
            assert_eq!((bucket_of(longest), bucket_of(longest + 1)), (bucket, bucket + 1), "{longest}");
        }
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn nothing_recorded_is_nothing_shown() {
        let none = LatencyStats {
            count: 0,
            p50_us: 0,
            p95_us: 0,
            p99_us: 0,
            max_us: 0,
        };
        assert_eq!(summary_of([]), none);
    }

    #[test]
    fn a_single_time_is_every_percentile() {
        for micros in [0, 1, 3, 4, 1000, 12_345_678, u64::MAX] {
            let summary = summary_of([micros]);
            assert_eq!(
                (summary.count, summary.p50_us, summary.p99_us, summary.max_us),
                (1, micros, micros, micros)
            );
        }
    }

    #[test]
    fn times_beyond_the_last_bucket_are_shown_as_the_longest() {
        let hours = 3_600_000_000;
        let summary = summary_of([1, 5 * hours, 7 * hours]);
        assert_eq!((summary.p50_us, summary.p99_us), (7 * hours, 7 * hours));
    }

    proptest! {
        #[test]
        fn an_estimate_is_never_too_low_and_at_most_a_quarter_too_high(mut times in prop::collection::vec(0_u64..1_000_000, 1..300)) {
            let summary = summary_of(times.iter().copied());
            times.sort_unstable();
            for (estimate, per_cent) in [(summary.p50_us, 50), (summary.p95_us, 95), (summary.p99_us, 99)] {
                let exact = times[(times.len() * per_cent).div_ceil(100) - 1];
                prop_assert!(estimate >= exact && estimate <= exact + exact / 4, "{} % is {}, shown as {}", per_cent, exact, estimate);
            }
            prop_assert_eq!(summary.max_us, *times.last().unwrap());
            prop_assert_eq!(summary.count, times.len() as u64);
        }
    }
}
