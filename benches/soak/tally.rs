//! What all clients have done and seen, counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// The most faults that are kept.
const FAULTS_MAX: usize = 20;

/// Counts by name, and faults.
#[derive(Default)]
pub struct Tally {
    counts: Mutex<BTreeMap<&'static str, u64>>,
    ends: Mutex<BTreeMap<String, u64>>,
    settled: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl Tally {
    /// One more of these.
    pub fn count(&self, what: &'static str) {
        *self.counts.lock().entry(what).or_default() += 1;
    }

    /// The server has ended a connection so.
    pub fn ended(&self, how: String) {
        *self.ends.lock().entry(how).or_default() += 1;
    }

    /// Something that must not be.
    pub fn fault(&self, what: String) {
        let mut faults = self.faults.lock();
        if faults.len() < FAULTS_MAX {
            faults.push(what);
        }
    }

    pub fn faults(&self) -> Vec<String> {
        self.faults.lock().clone()
    }

    pub fn begin_round(&self) {
        self.settled.store(0, Ordering::Release);
    }

    /// One more client has what a fresh query gives.
    pub fn settle(&self) {
        self.settled.fetch_add(1, Ordering::AcqRel);
    }

    pub fn settled(&self) -> u64 {
        self.settled.load(Ordering::Acquire)
    }

    /// All counts in one line.
    pub fn line(&self) -> String {
        let mut line = String::new();
        for (what, number) in &*self.counts.lock() {
            // Writing to a text cannot fail.
            let _ = write!(line, "{what} {number}  ");
        }
        for (how, number) in &*self.ends.lock() {
            let _ = write!(line, "{how} {number}  ");
        }
        line
    }
}
