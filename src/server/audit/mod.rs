//! The audit log: who did what, from where, and what came of it.
//!
//! What is recorded is decided by the operation ([`selection`]), what is said about it is read from the very fields that
//! its handler reads ([`subject`]), of changes of roles also from what they have done ([`role_change`]), and a [`Trace`]
//! goes along with the request until its outcome is known. Entries are kept in memory ([`rings`]), appended to a file
//! ([`queue`], [`file`]), as far as they may fill it ([`budget`]), and handed to the embedding program ([`callback`]).

mod budget;
#[cfg(test)]
mod budget_tests;
mod callback;
mod entry;
mod file;
#[cfg(test)]
mod file_tests;
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

use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;

use self::budget::Budget;
use self::callback::Callback;
pub(crate) use self::entry::Verdict;
use self::entry::{Entry, Line};
use self::file::LogFile;
pub(crate) use self::query::{Answer, Filter, Query};
use self::queue::{Append, FileQueue};
pub(crate) use self::queue::{Durable, NotRecorded};
use self::rings::{Added, Ring, Rings};
pub(crate) use self::role_change::role_change;
pub(crate) use self::selection::Selection;
pub(crate) use self::trace::{Event, Trace};
pub use self::verify::{Verified, VerifyError, verify};
use super::admission::Identity;
use super::config::AuditConfig;
use super::{StartError, wall_clock_ms};
use crate::protocol::{Request, Tier};

/// What the name of the file of data ends with, behind that of the other.
const DATA_ENDING: &str = ".data";

/// The audit log of a server.
pub(crate) struct AuditLog {
    tiers: Vec<Tier>,
    kept: Mutex<Kept>,
    file: Option<FileQueue>,
    /// Where data goes that was read or written: so much of it may come that it would push out everything else.
    data_file: Option<FileQueue>,
    callback: Option<Callback>,
}

/// What is kept in memory.
struct Kept {
    rings: Rings,
    budget: Budget,
}

impl AuditLog {
    /// Opens the log and its file, where there is one.
    ///
    /// # Errors
    /// Where the file cannot be opened, or its threads cannot be started.
    pub(crate) fn open(config: &AuditConfig) -> Result<Self, StartError> {
        let open = |path: &Path| {
            LogFile::open(path, config.file_max_bytes, config.file_keep).map_err(|error| StartError::Storage(Box::new(error)))
        };
        let records_data = config.tiers.iter().any(|tier| match tier {
            Tier::Read | Tier::Write => true,
            Tier::Admin => false,
        });
        let data_path = config.file.as_ref().filter(|_| records_data).map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(DATA_ENDING);
            name
        });
        let file = config.file.as_deref().map(open).transpose()?;
        let data_file = data_path.as_ref().map(|path| open(path.as_ref())).transpose()?;
        // Ids never go back, neither at a restart nor where the clock was set back.
        let last_id = [&file, &data_file].into_iter().flatten().map(LogFile::last_id).max();
        let boxed = |file| Box::new(file) as Box<dyn Append>;
        Self::with_files(config, file.map(boxed), data_file.map(boxed), last_id.unwrap_or(0))
    }

    fn with_files(
        config: &AuditConfig,
        file: Option<Box<dyn Append>>,
        data_file: Option<Box<dyn Append>>,
        last_id: u64,
    ) -> Result<Self, StartError> {
        let start_error = |error: std::io::Error| StartError::Internal(Box::new(error));
        Ok(Self {
            tiers: config.tiers.clone(),
            kept: Mutex::new(Kept {
                rings: Rings::new(config.max_entries, config.max_bytes, last_id.max(entry::first_id(wall_clock_ms()))),
                budget: Budget::new(config),
            }),
            data_file: data_file.map(FileQueue::start).transpose().map_err(start_error)?,
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
        let mut kept = self.kept.lock();
        let entry = match kept.rings.add(entry) {
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
        match entry.line {
            Line::Data => self.data_file.as_ref()?.append(entry, must_be_durable),
            Line::Sure => self.file.as_ref()?.append(entry, must_be_durable),
            Line::Limited => {
                let file = self.file.as_ref()?;
                let (ring, source, now) = (entry.ring, entry.source(), entry.last_timestamp());
                if kept.budget.take(ring, source, entry.line_bytes(), now).is_err() {
                    file.miss();
                    return None;
                }
                file.append(entry, must_be_durable)
            }
        }
    }

    /// Takes the room in the file for what somebody who is no administrator is about to change, so that it is neither
    /// done without a record nor pushes out the records of others. Gives what is to be given back, or to be had on record.
    ///
    /// # Errors
    /// Where there is no room: how long it takes until there is.
    fn take_room(&self, source: Identity, bytes: u64) -> Result<Option<Room>, Duration> {
        if self.file.is_none() {
            return Ok(None);
        }
        let taken = self.kept.lock().budget.take(Ring::Members, source, bytes, wall_clock_ms());
        taken.map(|()| Some(Room { source, bytes }))
    }

    /// Counts what a change takes beyond the room that was taken for it: what it has done can say more than the request.
    fn exceed(&self, room: Room, bytes: u64) {
        let more = bytes.saturating_sub(room.bytes);
        if more > 0 {
            self.kept.lock().budget.charge(Ring::Members, room.source, more, wall_clock_ms());
        }
    }

    /// Gives back room for a change that was not made.
    fn give_back(&self, room: Room) {
        let Room { source, bytes } = room;
        self.kept.lock().budget.give_back(Ring::Members, source, bytes, wall_clock_ms());
    }

    /// The number of entries in memory.
    pub(crate) fn len(&self) -> usize {
        self.kept.lock().rings.len()
    }

    /// The entries that match, newest first, as far as they fit.
    pub(crate) fn query(&self, query: &Query, max_bytes: usize) -> Answer {
        query.run(max_bytes, |before, filter| self.kept.lock().rings.look(before, filter))
    }

    /// Writes what is to be written, and ends. Returns when it is on disk.
    pub(crate) async fn close(&self) {
        for file in [&self.file, &self.data_file].into_iter().flatten() {
            file.close().await;
        }
    }
}

/// Room in the file that was taken for one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Room {
    source: Identity,
    bytes: u64,
}
