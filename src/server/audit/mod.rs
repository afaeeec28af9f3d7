//! The audit log: who did what, from where, and what came of it.
//!
//! What is recorded is decided by the operation ([`selection`]), what is said about it is read from the very fields that
//! its handler reads ([`subject`]), of changes of roles also from what they have done ([`role_change`]), and a [`Trace`] goes along with the request until its outcome is known. Entries are
//! kept in memory ([`rings`]), appended to a file ([`queue`], [`file`]) and handed to the embedding program
//! ([`callback`]).

mod callback;
mod entry;
mod file;
mod query;
mod queue;
mod rings;
mod role_change;
mod selection;
mod subject;
#[cfg(test)]
pub(crate) mod tests;
mod trace;
mod verify;

use parking_lot::Mutex;

use self::callback::Callback;
use self::entry::Entry;
pub(crate) use self::entry::Verdict;
use self::file::LogFile;
pub(crate) use self::query::{Answer, Filter, Query};
use self::queue::{Append, FileQueue};
pub(crate) use self::queue::{Durable, NotRecorded};
use self::rings::{Added, Rings};
pub(crate) use self::role_change::role_change;
pub(crate) use self::selection::Selection;
pub(crate) use self::trace::{Event, Trace};
pub use self::verify::{Verified, VerifyError, verify};
use super::config::AuditConfig;
use super::{StartError, wall_clock_ms};
use crate::protocol::{Request, Tier};

/// The audit log of a server.
pub(crate) struct AuditLog {
    tiers: Vec<Tier>,
    rings: Mutex<Rings>,
    file: Option<FileQueue>,
    callback: Option<Callback>,
}

impl AuditLog {
    /// Opens the log and its file, where there is one.
    ///
    /// # Errors
    /// Where the file cannot be opened, or its threads cannot be started.
    pub(crate) fn open(config: &AuditConfig) -> Result<Self, StartError> {
        let file = config
            .file
            .as_ref()
            .map(|path| LogFile::open(path, config.file_max_bytes, config.file_keep));
        let file = file.transpose().map_err(|error| StartError::Storage(Box::new(error)))?;
        // Ids never go back, neither at a restart nor where the clock was set back.
        let last_id = file.as_ref().map_or(0, LogFile::last_id);
        let file = file.map(|file| Box::new(file) as Box<dyn Append>);
        Self::with_file(config, file, last_id)
    }

    fn with_file(config: &AuditConfig, file: Option<Box<dyn Append>>, last_id: u64) -> Result<Self, StartError> {
        let start_error = |error: std::io::Error| StartError::Internal(Box::new(error));
        Ok(Self {
            tiers: config.tiers.clone(),
            rings: Mutex::new(Rings::new(
                config.max_entries,
                config.max_bytes,
                last_id.max(entry::first_id(wall_clock_ms())),
            )),
            file: file.map(FileQueue::start).transpose().map_err(start_error)?,
            callback: config.on_entry.clone().map(Callback::start).transpose().map_err(start_error)?,
        })
    }

    /// Whether, and why, a request is recorded.
    pub(crate) fn select(&self, request: &Request<'_>) -> Option<Selection> {
        Selection::of(request, &self.tiers)
    }

    /// Whether what must not go unrecorded would go unrecorded at present.
    pub(crate) fn is_failing(&self) -> bool {
        self.file.as_ref().is_some_and(FileQueue::is_failing)
    }

    /// Takes an entry. Gives what its answer has to wait for.
    fn record(&self, entry: Entry) -> Option<Durable> {
        let must_be_durable = entry.must_be_durable;
        let mut rings = self.rings.lock();
        let entry = match rings.add(entry) {
            Added::New(entry) => {
                if let Some(callback) = &self.callback {
                    callback.offer(&entry);
                }
                entry
            }
            Added::Repeated(Some(entry)) => entry,
            Added::Repeated(None) => return None,
        };
        // Under the lock, so that the file has them in the order of their ids.
        let file = self.file.as_ref()?;
        if rings.may_be_written(&entry) {
            return file.append(entry, must_be_durable);
        }
        file.miss();
        None
    }

    /// The number of entries in memory.
    pub(crate) fn len(&self) -> usize {
        self.rings.lock().len()
    }

    /// The entries that match, newest first, as far as they fit.
    pub(crate) fn query(&self, query: &Query, max_bytes: usize) -> Answer {
        query.run(max_bytes, |before, filter| self.rings.lock().look(before, filter))
    }

    /// Writes what is to be written, and ends. Returns when it is on disk.
    pub(crate) async fn close(&self) {
        if let Some(file) = &self.file {
            file.close().await;
        }
    }
}
