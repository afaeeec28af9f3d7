//! The function of the embedding program that is handed every entry.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::entry::Entry;
use crate::server::config::AuditSink;

/// How many entries may wait for the function. It is told of no more: requests do not wait for it.
const QUEUE_ENTRIES: usize = 4_096;

/// Hands entries to a function, on a thread of its own.
pub(super) struct Callback {
    entries: SyncSender<Arc<Entry>>,
    missed: AtomicU64,
}

impl Callback {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn start(sink: AuditSink) -> io::Result<Self> {
        let (entries, waiting) = sync_channel(QUEUE_ENTRIES);
        thread::Builder::new()
            .name("noex-audit-entry".to_owned())
            .spawn(move || hand_over(&waiting, &sink))?;
        Ok(Self {
            entries,
            missed: AtomicU64::new(0),
        })
    }

    /// Hands over an entry, unless too many wait already.
    pub(super) fn offer(&self, entry: &Arc<Entry>) {
        if self.entries.try_send(Arc::clone(entry)).is_err() {
            let missed = self.missed.fetch_add(1, Ordering::Relaxed) + 1;
            if missed.is_power_of_two() {
                tracing::warn!(missed, "the audit function is too slow and misses entries");
            }
        }
    }
}

fn hand_over(waiting: &Receiver<Arc<Entry>>, sink: &AuditSink) {
    while let Ok(entry) = waiting.recv() {
        let Ok(entry) = serde_json::to_value(&*entry) else { continue };
        // A fault of the function must neither end the thread nor reach those whose requests are recorded.
        if catch_unwind(AssertUnwindSafe(|| sink.take(&entry))).is_err() {
            tracing::error!("the audit function has panicked");
        }
    }
}
