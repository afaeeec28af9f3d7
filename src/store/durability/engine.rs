//! Opens the engine, with the settings that fit how it is used here: written in groups by one thread, and read once,
//! from end to end, at start. What it finds is compared with what was read before it was let in.

use std::fs::DirBuilder;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use fjall::config::{BlockSizePolicy, FilterPolicy};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions};

use super::layout::{
    CATALOG, ENGINE, EPOCH, Epoch, HEAD, META, META_ID, PROGRESS, RECORDS, RECORDS_ID, REQUEST, Stamp, decode_progress,
    decode_progress_key, decode_request_key,
};
use super::log::Group;
use super::mark::{CommitMark, Marked};
use super::open_error::OpenError;
use super::recovery::{self, Cut, Findings, Standing};
use super::{Catalog, Recovered};
use crate::store::state::{Remembered, Requests};

/// Logs whose content is all in tables are removed; the engine presses for that beyond this size (its least).
const LOG_BYTES: u64 = 64 << 20;
/// The store reads every block once at start and never again: a cache would only take memory.
const CACHE_BYTES: u64 = 1 << 20;
/// Reads are long scans: large blocks, short indexes.
const BLOCK_BYTES: u32 = 32 << 10;
/// The rotation of write buffers is the caller's, so the engine's own threshold is never reached.
const NO_OWN_ROTATION: u64 = 1 << 40;

/// Makes the data directory where it is not there: for its owner alone, since everything is in it.
pub(super) fn create_folder(dir: &Path) -> Result<(), OpenError> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(OpenError::io(parent))?;
    }
    match private_folder().create(dir) {
        Ok(()) => {}
        Err(_) if dir.is_dir() => warn_of_readers(dir),
        Err(error) => return Err(OpenError::io(dir)(error)),
    }
    let dir = dir.canonicalize().map_err(OpenError::io(dir))?;
    dir.parent()
        .map_or(Ok(()), |parent| recovery::sync_folder(parent).map_err(OpenError::io(parent)))
}

fn private_folder() -> DirBuilder {
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only Unix knows modes"))]
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
}

/// Tells the operator that users of the machine other than the owner get at the data. Whether they may is the
/// operator's to decide: the mode of a directory that is there is not changed.
fn warn_of_readers(dir: &Path) {
    if others_may_enter(dir) {
        tracing::warn!(
            dir = %dir.display(),
            "other users of this machine may read the data directory, and password hashes and sessions with it: chmod 700 forbids it"
        );
    }
}

#[cfg(unix)]
fn others_may_enter(dir: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(dir).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// Nothing is known of who may read what.
#[cfg(not(unix))]
fn others_may_enter(_: &Path) -> bool {
    false
}

/// The engine and what it found.
pub(super) struct Opened {
    pub records: Keyspace,
    pub meta: Keyspace,
    pub db: Database,
    pub recovered: Recovered,
    /// The stamp of the last group.
    pub head: Stamp,
    /// The epoch, where there is one already.
    pub epoch: Option<Epoch>,
}

/// Opens the engine. Where it does not find what was read before, all is put back and refused.
pub(super) fn open(dir: &Path, standing: &Standing) -> Result<Opened, OpenError> {
    let opened = open_checked(dir, standing);
    if let Standing::Data(findings) = standing {
        match &opened {
            Ok(opened) => report_cut(findings, opened.head)?,
            Err(_) => findings.undo()?,
        }
    }
    opened.map_err(OpenError::behind_the_engine)
}

fn open_checked(dir: &Path, standing: &Standing) -> Result<Opened, OpenError> {
    let (db, records, meta) = open_engine(dir, standing)?;
    let (recovered, head, epoch) = read_meta(dir, &meta)?;
    if let Standing::Data(findings) = standing {
        check_recovered(dir, findings, head, &records, &meta)?;
    }
    Ok(Opened {
        records,
        meta,
        db,
        recovered,
        head,
        epoch,
    })
}

fn open_engine(dir: &Path, standing: &Standing) -> Result<(Database, Keyspace, Keyspace), OpenError> {
    let engine = dir.join(ENGINE);
    let open = || {
        // One worker: with more of them, one goes round in circles while another merges tables.
        let db = Database::builder(&engine)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(LOG_BYTES)
            .worker_threads(1)
            .open()?;
        let records = db.keyspace(RECORDS, record_options)?;
        let meta = db.keyspace(META, || KeyspaceCreateOptions::default().max_memtable_size(NO_OWN_ROTATION))?;
        Ok((db, records, meta))
    };
    let opened = catch_unwind(AssertUnwindSafe(open)).map_err(|panic| OpenError::damaged(&engine, panic_text(&*panic)))?;
    let (db, records, meta) = opened.map_err(|error| engine_refused(dir, &engine, standing, error))?;
    if (records.id(), meta.id()) != (RECORDS_ID, META_ID) {
        return Err(OpenError::damaged(&engine, "its keyspaces are not those that the server makes"));
    }
    Ok((db, records, meta))
}

/// No point reads, hence no filters. No compression: the disk is not the bottleneck, and the processor is.
fn record_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(NO_OWN_ROTATION)
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .filter_policy(FilterPolicy::disabled())
}

fn engine_refused(dir: &Path, engine: &Path, standing: &Standing, error: fjall::Error) -> OpenError {
    if matches!(error, fjall::Error::Locked) {
        return OpenError::Locked { dir: dir.to_owned() };
    }
    if let fjall::Error::Io(source) = error {
        return OpenError::Io {
            path: engine.to_owned(),
            source,
        };
    }
    // All logs were found whole; the newest is the one that anything can have happened to since.
    let file = match standing {
        Standing::Data(findings) if matches!(error, fjall::Error::JournalRecovery(_)) => &findings.newest,
        Standing::Data(_) | Standing::Fresh => engine,
    };
    OpenError::damaged(file, format!("the storage engine refuses it: {error:?}"))
}

fn read_meta(dir: &Path, meta: &Keyspace) -> Result<(Recovered, Stamp, Option<Epoch>), OpenError> {
    let engine = dir.join(ENGINE);
    let damaged = |reason: String| OpenError::damaged(&engine, reason);
    let get = |key: &[u8]| guarded(|| meta.get(key)).map_err(damaged);
    let head = match get(HEAD)? {
        Some(bytes) => Stamp::decode(&bytes).ok_or_else(|| damaged("its last commit has no number".to_owned()))?,
        None => Stamp::default(),
    };
    let catalog = match get(CATALOG)? {
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|error| damaged(format!("its definitions cannot be read: {error}")))?,
        None => Catalog::default(),
    };
    let epoch = match get(EPOCH)? {
        Some(bytes) => Some(Epoch::decode(&bytes).ok_or_else(|| damaged("its epoch cannot be read".to_owned()))?),
        None => None,
    };
    let mut progress = Vec::new();
    let mut entries = meta.prefix([PROGRESS]);
    while let Some((key, value)) = guarded(|| entries.next().map(fjall::Guard::into_inner).transpose()).map_err(damaged)? {
        let entry = decode_progress_key(&key).zip(decode_progress(&value));
        progress.push(entry.ok_or_else(|| damaged("its counters cannot be read".to_owned()))?);
    }
    let requests = read_requests(meta).map_err(damaged)?;
    Ok((
        Recovered {
            seq: head.seq,
            now: head.now,
            catalog,
            progress,
            requests,
        },
        head,
        epoch,
    ))
}

fn read_requests(meta: &Keyspace) -> Result<Requests, String> {
    let mut requests = Requests::default();
    let mut entries = meta.prefix([REQUEST]);
    while let Some((key, value)) = guarded(|| entries.next().map(fjall::Guard::into_inner).transpose())? {
        let entry = decode_request_key(&key).zip(Remembered::from_bytes(&value));
        let (number, remembered) = entry.ok_or("a remembered request cannot be read")?;
        if !requests.insert(number, Arc::new(remembered)) {
            return Err("a request is remembered twice".to_owned());
        }
    }
    Ok(requests)
}

/// What the engine made of the directory must be what was read from it before.
fn check_recovered(dir: &Path, findings: &Findings, head: Stamp, records: &Keyspace, meta: &Keyspace) -> Result<(), OpenError> {
    let in_tables = |keyspace: &Keyspace| keyspace.tree.get_highest_persisted_seqno();
    let consistent = in_tables(records) <= in_tables(meta).max(findings.last.map(|group| group.number));
    if !consistent {
        return Err(OpenError::damaged(
            &findings.newest,
            "the tables hold changes of commits that it should hold, and does not",
        ));
    }
    if let Some(first) = findings.first {
        check_start_of_log(dir, first, meta)?;
    }
    let expected = findings.last.map_or(0, |group| group.stamp.seq);
    match findings.marked {
        Marked::UpTo(marked) if head.seq < marked => {
            let reason = format!(
                "the last {} of {marked} commits, which were reported as stored, cannot be read",
                marked - head.seq
            );
            Err(OpenError::damaged_end(&findings.newest, reason, &CommitMark::path(dir)))
        }
        Marked::Nothing | Marked::Unreadable | Marked::UpTo(_) if head.seq < expected => Err(OpenError::damaged(
            &findings.newest,
            format!("it holds commits up to {expected}, but the engine read only {}", head.seq),
        )),
        Marked::Nothing | Marked::Unreadable | Marked::UpTo(_) => Ok(()),
    }
}

/// What came before the oldest log must be in the tables, or a log is missing.
fn check_start_of_log(dir: &Path, first: Group, meta: &Keyspace) -> Result<(), OpenError> {
    let tables_go_further = meta.tree.get_highest_persisted_seqno() >= Some(first.number);
    if first.stamp.previous == 0 || tables_go_further {
        return Ok(());
    }
    let engine = dir.join(ENGINE);
    let before = guarded(|| Ok(meta.tree.get(HEAD, first.number)?)).map_err(|reason| OpenError::damaged(&engine, reason))?;
    let before = before.and_then(|bytes| Stamp::decode(&bytes)).unwrap_or_default();
    if before.seq == first.stamp.previous {
        return Ok(());
    }
    let reason = format!(
        "the log with the commits from {} to {} is missing",
        before.seq + 1,
        first.stamp.previous
    );
    Err(OpenError::damaged(&engine, reason))
}

/// Tells the operator what was cut off, and forgets it where nobody else was told of it.
fn report_cut(findings: &Findings, head: Stamp) -> Result<(), OpenError> {
    let without_mark = findings.marked == Marked::Nothing;
    if without_mark {
        tracing::warn!(
            seq = head.seq,
            "no commit mark: the data is taken as it is, whether or not commits are missing at the end"
        );
    }
    let Some(cut) = &findings.cut else { return Ok(()) };
    let Cut { log, reason, copy } = cut;
    if without_mark {
        tracing::warn!(log = %log.display(), ?copy, reason, "the end of the log was cut off; the log as it was is kept");
        return Ok(());
    }
    tracing::warn!(log = %log.display(), reason, "the log ended in a commit group that a crash had torn and nobody was told of; it is removed");
    cut.forget()
}

/// Calls the engine so that neither its errors nor its panics go further than their text.
pub(super) fn guarded<T>(call: impl FnOnce() -> fjall::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error_text(&error)),
        Err(panic) => Err(panic_text(&*panic)),
    }
}

fn error_text(error: &fjall::Error) -> String {
    if let fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) = error {
        return error.to_string();
    }
    if matches!(error, fjall::Error::Poisoned) {
        return "the storage engine has stopped after an error in the background, which the log tells".to_owned();
    }
    format!("{error:?}")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the storage engine panicked: {}", text.unwrap_or("without a word"))
}
