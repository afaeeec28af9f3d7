//! The way of entries to the file: a bounded queue and one thread, which writes all that waits with one sync.
//!
//! Answers to what must not go unrecorded wait until their line is on disk. While the queue is fuller than it should
//! be, all recorded requests wait, so that connections slow down and nothing is lost. Beyond that, which takes tens of
//! thousands of connections or a disk that fails, entries stay in memory alone, and a line tells how many are missing.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::entry::Entry;

/// From so many bytes on, all answers to what is recorded wait.
const FULL_BYTES: usize = 4 << 20;

/// The most bytes of entries that wait to be written.
const MAX_BYTES: usize = 32 << 20;

/// How long the thread waits before it tries again what has failed.
const RETRY: Duration = Duration::from_millis(250);

/// What entries are appended to.
pub(super) trait Append: Send + 'static {
    /// Appends the first of some entries, at least one where there is one, and a line about those that are missing before
    /// them. Gives how many: these are on disk, and the rest is to be brought again.
    ///
    /// # Errors
    /// Where none are; it may be tried again.
    fn append(&mut self, entries: &[Arc<Entry>], missed: u64) -> io::Result<usize>;
}

/// An entry that is not on disk, and will not be soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotRecorded;

/// Done when an entry is on disk.
pub(crate) type Durable = Pin<Box<dyn Future<Output = Result<(), NotRecorded>> + Send>>;

/// How far the thread is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Entries up to this id are on disk.
    durable: u64,
    /// Writing has failed, and has not succeeded since.
    is_failing: bool,
    /// The thread has ended.
    is_over: bool,
}

#[derive(Default)]
struct Waiting {
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    /// Entries that found no room since the last that did.
    missed: u64,
    is_closed: bool,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something to write, or nothing will come any more.
    news: Condvar,
    progress: watch::Sender<Progress>,
}

/// Entries on their way to a file.
pub(super) struct FileQueue(Arc<Shared>);

impl FileQueue {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub(super) fn start(file: Box<dyn Append>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            news: Condvar::new(),
            progress: watch::Sender::default(),
        });
        let writer = Writer {
            file,
            shared: Over(Arc::clone(&shared)),
        };
        thread::Builder::new().name("noex-audit".to_owned()).spawn(move || writer.run())?;
        Ok(Self(shared))
    }

    /// Whether writing fails at present.
    pub(super) fn is_failing(&self) -> bool {
        let progress = self.0.progress.borrow();
        progress.is_failing || progress.is_over
    }

    /// Hands over an entry. Gives what its answer has to wait for.
    pub(super) fn append(&self, entry: Arc<Entry>, must_be_durable: bool) -> Option<Durable> {
        let id = entry.id;
        let mut waiting = self.0.waiting.lock();
        let bytes = waiting.bytes + entry.weight();
        if bytes > MAX_BYTES || waiting.is_closed {
            waiting.missed += 1;
            return must_be_durable.then(|| Box::pin(async { Err(NotRecorded) }) as Durable);
        }
        waiting.entries.push_back(entry);
        waiting.bytes = bytes;
        drop(waiting);
        self.0.news.notify_one();
        (must_be_durable || bytes > FULL_BYTES).then(|| self.until(move |progress| progress.durable >= id))
    }

    /// Learns of an entry that is not to be written: only that there was one.
    pub(super) fn miss(&self) {
        self.0.waiting.lock().missed += 1;
    }

    /// Writes what waits, and ends. Returns when that is done, or has failed.
    pub(super) async fn close(&self) {
        self.end();
        // Whether it was all written, the log says.
        let _ = self.until(|progress| progress.is_over).await;
    }

    /// Returns when writing does not fail any more.
    #[cfg(test)]
    pub(super) async fn recovered(&self) {
        let mut progress = self.0.progress.subscribe();
        progress.wait_for(|progress| !progress.is_failing).await.expect("it goes on");
    }

    fn end(&self) {
        self.0.waiting.lock().is_closed = true;
        self.0.news.notify_one();
    }

    fn until(&self, is_reached: impl Fn(&Progress) -> bool + Send + Sync + 'static) -> Durable {
        let mut progress = self.0.progress.subscribe();
        Box::pin(async move {
            let ended = |progress: &Progress| is_reached(progress) || progress.is_failing || progress.is_over;
            let reached = progress.wait_for(ended).await.is_ok_and(|progress| is_reached(&progress));
            if reached { Ok(()) } else { Err(NotRecorded) }
        })
    }
}

impl Drop for FileQueue {
    /// What waits is still written.
    fn drop(&mut self) {
        self.end();
    }
}

/// The thread that writes.
struct Writer {
    // Closed before anybody is told that the thread is over: it may be opened again at once.
    file: Box<dyn Append>,
    shared: Over,
}

/// Tells that the thread is over when it is dropped. Also where the thread panics: nobody is to wait for ever.
struct Over(Arc<Shared>);

impl Deref for Over {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Drop for Over {
    fn drop(&mut self) {
        self.progress.send_modify(|progress| progress.is_over = true);
    }
}

impl Writer {
    fn run(mut self) {
        while let Some((batch, missed)) = self.next() {
            let left = self.write(&batch, missed);
            if left > 0 {
                tracing::error!(entries = left, "the last entries of the audit log are not in its file");
                return;
            }
        }
    }

    /// All that waits, as soon as anything does; none when nothing will come any more.
    fn next(&self) -> Option<(Vec<Arc<Entry>>, u64)> {
        let mut waiting = self.shared.waiting.lock();
        while waiting.entries.is_empty() {
            if waiting.is_closed && waiting.missed == 0 {
                return None;
            }
            if waiting.is_closed {
                break;
            }
            self.shared.news.wait(&mut waiting);
        }
        waiting.bytes = 0;
        Some((waiting.entries.drain(..).collect(), std::mem::take(&mut waiting.missed)))
    }

    /// Writes, piece by piece, and tries again what has failed. Only at the end is it given up: gives how many entries,
    /// and such that are missing, were left then.
    fn write(&mut self, mut rest: &[Arc<Entry>], mut missed: u64) -> u64 {
        loop {
            match self.file.append(rest, missed) {
                Ok(count) => {
                    let (written, left) = rest.split_at(count);
                    self.written(written);
                    (rest, missed) = (left, 0);
                    if rest.is_empty() {
                        return 0;
                    }
                    continue;
                }
                Err(error) => self.failed(&error),
            }
            if self.has_ended_within(RETRY) {
                return rest.len() as u64 + missed;
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        self.shared.progress.send_modify(|progress| {
            if !progress.is_failing {
                tracing::error!(%error, "the audit log cannot be written");
            }
            progress.is_failing = true;
        });
    }

    /// Waits. Tells whether nothing will come any more.
    fn has_ended_within(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut waiting = self.shared.waiting.lock();
        while !waiting.is_closed {
            if self.shared.news.wait_until(&mut waiting, until).timed_out() {
                return false;
            }
        }
        true
    }

    fn written(&self, batch: &[Arc<Entry>]) {
        let last = batch.iter().map(|entry| entry.id).max();
        self.shared.progress.send_modify(|progress| {
            progress.durable = progress.durable.max(last.unwrap_or(0));
            if progress.is_failing {
                tracing::info!("the audit log can be written again");
            }
            progress.is_failing = false;
        });
    }
}
