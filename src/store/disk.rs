//! The thread on which commit groups go to disk, so that no task ever waits for one.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::durability::{Batch, Durability, DurabilityError};

/// How long the thread sleeps when there is nothing to do at all.
const IDLE: Duration = Duration::from_secs(60);

/// How long the thread waits for an append before it does a step of housekeeping.
const HOUSEKEEPING: Duration = Duration::from_millis(5);

/// How long appends may keep housekeeping from being done.
const HOUSEKEEPING_LATEST: Duration = Duration::from_millis(100);

/// What the thread is asked to do.
enum Job {
    Append(Box<Batch>),
    Close,
}

/// A handle on the thread.
pub(super) struct Disk {
    jobs: Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread has to say.
#[derive(Debug)]
pub(super) enum DiskReport {
    /// A group is as durable as the level promises.
    Appended,
    /// The disk failed; nothing is stored any more.
    Failed(String),
    /// Everything is on disk and closed.
    Closed,
}

impl Disk {
    /// Starts the thread. With `sync_every`, groups are appended at once and made durable at least so often.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(super) fn start(
        durability: Box<dyn Durability>,
        sync_every: Option<Duration>,
        report: impl Fn(DiskReport) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (jobs, inbox) = channel();
        let report = Reporter(Box::new(report));
        let worker = Worker {
            durability,
            sync_every,
            report,
            unsynced_since: None,
            more_to_tidy: true,
            tidied: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("noex-disk".to_owned())
            .spawn(move || worker.run(&inbox))?;
        Ok(Self {
            jobs,
            thread: Some(thread),
        })
    }

    /// Hands a group over. Its end is reported; without the thread nothing is.
    pub(super) fn append(&self, batch: Batch) -> bool {
        self.jobs.send(Job::Append(Box::new(batch))).is_ok()
    }

    /// Has everything written and closed; the end is reported.
    pub(super) fn close(&self) {
        // A thread that has failed is gone already.
        let _ = self.jobs.send(Job::Close);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

/// Tells the actor, also where the thread panics: nobody must wait for ever for a thread that is gone.
struct Reporter(Box<dyn Fn(DiskReport) + Send>);

impl Reporter {
    fn say(&self, report: DiskReport) {
        (self.0)(report);
    }

    fn failed(&self, error: &DurabilityError) {
        self.say(DiskReport::Failed(error.to_string()));
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.say(DiskReport::Failed("the disk thread panicked".to_owned()));
        }
    }
}

struct Worker {
    durability: Box<dyn Durability>,
    sync_every: Option<Duration>,
    report: Reporter,
    unsynced_since: Option<Instant>,
    more_to_tidy: bool,
    tidied: Instant,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Job>) {
        loop {
            let done = match inbox.recv_timeout(self.patience()) {
                Ok(Job::Append(batch)) => self.append(&batch),
                Ok(Job::Close) | Err(RecvTimeoutError::Disconnected) => return self.close(),
                Err(RecvTimeoutError::Timeout) => self.sync_if_due().and_then(|()| self.tidy()),
            };
            if let Err(error) = done {
                return self.report.failed(&error);
            }
        }
    }

    fn close(mut self) {
        if let Err(error) = self.durability.sync() {
            return self.report.failed(&error);
        }
        match self.durability.close() {
            Ok(()) => self.report.say(DiskReport::Closed),
            Err(error) => self.report.failed(&error),
        }
    }

    fn append(&mut self, batch: &Batch) -> Result<(), DurabilityError> {
        self.durability.append(batch)?;
        if self.sync_every.is_some() {
            self.unsynced_since.get_or_insert_with(Instant::now);
        }
        self.sync_if_due()?;
        self.report.say(DiskReport::Appended);
        self.more_to_tidy |= !batch.dropped.is_empty();
        // Appends come first, but not for ever: what is dropped must go from the disk also under steady load.
        if self.more_to_tidy && self.tidied.elapsed() > HOUSEKEEPING_LATEST {
            self.tidy()
        } else {
            Ok(())
        }
    }

    fn tidy(&mut self) -> Result<(), DurabilityError> {
        self.more_to_tidy = self.durability.tidy()?;
        self.tidied = Instant::now();
        Ok(())
    }

    fn sync_if_due(&mut self) -> Result<(), DurabilityError> {
        let (Some(every), Some(since)) = (self.sync_every, self.unsynced_since) else {
            return Ok(());
        };
        if since.elapsed() >= every {
            self.durability.sync()?;
            self.unsynced_since = None;
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        match (self.sync_every, self.unsynced_since) {
            (Some(every), Some(since)) => every.saturating_sub(since.elapsed()),
            _ if self.more_to_tidy => HOUSEKEEPING,
            _ => IDLE,
        }
    }
}
