//! Counters that all connections share. Every thread writes to cells of its own, so that two threads never take a
//! cache line from each other; whoever reads adds the cells up.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::histogram::{Distribution, Histogram, LatencyStats};
use crate::protocol::{CloseCode, ErrorCode, Tier};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Sockets that were accepted.
    Accepted,
    /// Of those: dropped, at once or to make room for others, because too many handshakes were under way.
    Dropped,
    /// Of those: ended in no connection, because the request was refused, malformed or too slow.
    Refused,
    /// Connections that were begun.
    Opened,
    /// Messages of clients.
    MessagesIn,
    /// Their bytes, without frames.
    BytesIn,
    /// Messages to clients that were handed to the WebSocket layer.
    MessagesOut,
    /// Their bytes, without frames.
    BytesOut,
    /// Answers to requests, errors included.
    Answers,
    /// Messages about subscriptions.
    Pushes,
    /// Updates that were replaced by newer ones before they were sent.
    Coalesced,
    /// Whole results that were sent in the place of what has changed.
    Resynced,
    /// Changes that followers of a bucket were told they have missed.
    MissedChanges,
    /// Requests taken and not answered yet. Goes up and down.
    InFlight,
    /// Bytes that clients have not taken yet. Goes up and down.
    UnsentBytes,
}

impl Count {
    const LAST: Self = Self::UnsentBytes;
    const NUMBER: usize = Self::LAST as usize + 1;
}

const TIERS: usize = 3;

/// One thread's counters. Aligned to two cache lines, since processors fetch them in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Cell {
    counts: [AtomicU64; Count::NUMBER],
    errors: [AtomicU64; ErrorCode::ALL.len()],
    closes: [AtomicU64; CloseCode::ALL.len()],
    latency: [Histogram; TIERS],
}

impl Default for Cell {
    fn default() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            errors: std::array::from_fn(|_| AtomicU64::new(0)),
            closes: std::array::from_fn(|_| AtomicU64::new(0)),
            latency: Default::default(),
        }
    }
}

/// The number of this thread among those that count anything.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // A thread that is ending shares the first cell.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

/// All counters of a server.
#[derive(Debug)]
pub(crate) struct Counters {
    cells: Box<[Cell]>,
}

impl Default for Counters {
    fn default() -> Self {
        // Twice as many as there are threads of the runtime: others, numbered in between, rarely share one with them.
        let cells = 2 * std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cells: (0..cells).map(|_| Cell::default()).collect(),
        }
    }
}

impl Counters {
    fn cell(&self) -> &Cell {
        &self.cells[thread_number() % self.cells.len()]
    }

    pub(crate) fn add(&self, count: Count, number: u64) {
        if number > 0 {
            self.cell().counts[count as usize].fetch_add(number, Ordering::Relaxed);
        }
    }

    /// Moves what goes up and down from one number to another. The parts that threads hold may be below zero; their
    /// sum is not.
    pub(super) fn shift(&self, count: Count, from: u64, to: u64) {
        if from != to {
            self.cell().counts[count as usize].fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
        }
    }

    /// An answer was an error of this code.
    pub(super) fn failed(&self, code: ErrorCode) {
        self.cell().errors[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The server begins to close a connection with this code.
    pub(crate) fn closed(&self, code: CloseCode) {
        self.cell().closes[code as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn answered(&self, tier: Tier, time: Duration) {
        self.cell().latency[tier as usize].record(time);
    }

    /// The sum of all threads. What goes up and down may just be moving from one thread to another: it is never
    /// shown below zero.
    pub(crate) fn total(&self, count: Count) -> u64 {
        let sum = sum(self.cells.iter().map(|cell| &cell.counts[count as usize]));
        if (sum as i64) < 0 { 0 } else { sum }
    }

    pub(super) fn total_of_errors(&self, code: ErrorCode) -> u64 {
        sum(self.cells.iter().map(|cell| &cell.errors[code as usize]))
    }

    pub(crate) fn total_of_closes(&self, code: CloseCode) -> u64 {
        sum(self.cells.iter().map(|cell| &cell.closes[code as usize]))
    }

    pub(crate) fn latency(&self, tier: Tier) -> LatencyStats {
        Distribution::of(self.cells.iter().map(|cell| &cell.latency[tier as usize])).summary()
    }
}

fn sum<'c>(counters: impl Iterator<Item = &'c AtomicU64>) -> u64 {
    counters.fold(0, |sum, counter| sum.wrapping_add(counter.load(Ordering::Relaxed)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_numbered_as_they_are_listed() {
        for (at, code) in ErrorCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at, "{code}");
        }
        for (at, code) in CloseCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, at, "{code:?}");
        }
        assert_eq!([Tier::Read, Tier::Write, Tier::Admin].map(|tier| tier as usize), [0, 1, 2]);
    }

    #[test]
    fn what_many_threads_count_adds_up() {
        let counters = Counters::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counters.add(Count::Answers, 2);
                        counters.failed(ErrorCode::NotFound);
                        counters.answered(Tier::Write, Duration::from_micros(5));
                    }
                });
            }
        });
        assert_eq!(counters.total(Count::Answers), 16_000);
        assert_eq!(counters.total_of_errors(ErrorCode::NotFound), 8_000);
        assert_eq!(counters.latency(Tier::Write).count, 8_000);
        assert_eq!(counters.total(Count::Pushes), 0);
    }

    #[test]
    fn what_one_thread_raises_another_may_lower() {
        let counters = Counters::default();
        counters.shift(Count::UnsentBytes, 0, 700);
        std::thread::scope(|scope| {
            scope.spawn(|| counters.shift(Count::UnsentBytes, 700, 300));
        });
        assert_eq!(counters.total(Count::UnsentBytes), 300);
        counters.shift(Count::UnsentBytes, 301, 0);
        assert_eq!(counters.total(Count::UnsentBytes), 0, "never below zero");
    }
}
