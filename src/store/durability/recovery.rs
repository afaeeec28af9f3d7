//! Looks at a data directory before the engine opens it, and decides whether it may.
//!
//! The engine repairs in its own way: it cuts logs and deletes files that it cannot make sense of. That is right
//! after a crash and wrong after damage, and it cannot tell the two apart. So everything is read and checked here
//! first, by [`log`](super::log) and [`tables`](super::tables), against the [`mark`](super::mark) that says how far
//! commits were reported durable. Only what a crash can leave behind is repaired.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::layout::{ENGINE, FORMAT, FORMAT_FILE, FORMAT_WITHOUT_HISTORY, META_ID, RECORDS_ID};
use super::log::{self, End, Group, Scan};
use super::mark::{CommitMark, Marked};
use super::open_error::OpenError;
use super::tables;

/// The engine's own version file and lock.
const ENGINE_VERSION: &str = "version";
const ENGINE_LOCK: &str = "lock";
const KEYSPACES: &str = "keyspaces";
/// The log with which the engine begins.
const FIRST_LOG: u64 = 0;
/// The keyspaces of a directory: the engine's own, the records, the rest.
const ALL_KEYSPACES: [u64; 3] = [0, RECORDS_ID, META_ID];

/// What a data directory is.
#[derive(Debug)]
pub(super) enum Standing {
    /// Nothing was ever stored in it.
    Fresh,
    /// Data, fit to be opened by the engine.
    Data(Box<Findings>),
}

/// What the logs and the mark say.
#[derive(Debug)]
pub(super) struct Findings {
    /// Whether it is of the format of this version; otherwise of the one before.
    pub current: bool,
    /// How far commits were reported durable.
    pub marked: Marked,
    /// The first whole group in the logs; nothing where the tables hold it all.
    pub first: Option<Group>,
    /// The last one.
    pub last: Option<Group>,
    /// The newest log.
    pub newest: PathBuf,
    /// Its length in bytes.
    length: u64,
    /// What was cut off the logs.
    pub cut: Option<Cut>,
}

/// A torn end that was cut off a log.
#[derive(Debug)]
pub(super) struct Cut {
    /// The log.
    pub log: PathBuf,
    /// What was wrong with its end.
    pub reason: String,
    /// The log as it was, where the end could hold commits that were reported as stored.
    pub copy: Option<PathBuf>,
}

impl Findings {
    /// Puts the logs back as they were before the engine opened them, except for an end that nobody was told of.
    pub fn undo(&self) -> Result<(), OpenError> {
        match &self.cut {
            Some(Cut { log, copy: Some(copy), .. }) => fs::rename(copy, log).map_err(OpenError::io(copy)),
            Some(Cut { copy: None, .. }) => Ok(()),
            None => {
                // The engine gives back the space that was set aside. It held zeros: only the length is to be restored.
                let file = OpenOptions::new().write(true).open(&self.newest);
                file.and_then(|file| file.set_len(self.length)).map_err(OpenError::io(&self.newest))
            }
        }
    }
}

impl Cut {
    /// Forgets what was cut off: nobody was ever told that it is stored.
    pub fn forget(&self) -> Result<(), OpenError> {
        self.copy
            .as_ref()
            .map_or(Ok(()), |copy| fs::remove_file(copy).map_err(OpenError::io(copy)))
    }
}

/// Looks at a data directory that is locked for this process.
pub(super) fn examine(dir: &Path) -> Result<Standing, OpenError> {
    let engine = dir.join(ENGINE);
    let Some(format) = read_format(dir)? else {
        clear_unfinished(dir, &engine)?;
        return Ok(Standing::Fresh);
    };
    check_version(&engine)?;
    for keyspace in ALL_KEYSPACES {
        tables::verify(&keyspace_folder(&engine, keyspace))?;
    }
    let logs = read_logs(&engine)?;
    let mark_path = CommitMark::path(dir);
    let marked = CommitMark::read(dir).map_err(OpenError::io(&mark_path))?;
    let verdict = judge(&logs, marked, &mark_path)?;
    restore_lock_file(&engine)?;
    let Log { path, .. } = &logs[logs.len() - 1];
    let length = fs::metadata(path).map_err(OpenError::io(path))?.len();
    let unreported = matches!((marked, verdict.last), (Marked::UpTo(_), Some(_)) | (Marked::UpTo(0), None));
    let cut = verdict.torn.map(|(log, reason)| cut(log, reason, unreported)).transpose()?;
    let first = logs.iter().find_map(|log| log.scan.first);
    Ok(Standing::Data(Box::new(Findings {
        current: format == FORMAT,
        marked,
        first,
        last: verdict.last,
        newest: path.clone(),
        length,
        cut,
    })))
}

/// Seals a directory that was just created, or brought to this format: from here on it holds data of it.
pub(super) fn write_format(dir: &Path) -> Result<(), OpenError> {
    let (path, draft) = (dir.join(FORMAT_FILE), dir.join("format.new"));
    let write = || {
        let mut file = File::create(&draft)?;
        writeln!(file, "{FORMAT}")?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        sync_folder(dir)
    };
    write().map_err(OpenError::io(&path))
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(dir: &Path) -> std::io::Result<()> {
    // Only Unix lets a folder be opened and synced.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// The format of the directory, one that this version reads; nothing where it names none.
fn read_format(dir: &Path) -> Result<Option<&'static str>, OpenError> {
    let path = dir.join(FORMAT_FILE);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(&path)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    if let Some(format) = [FORMAT, FORMAT_WITHOUT_HISTORY]
        .into_iter()
        .find(|format| text.trim_end() == *format)
    {
        return Ok(Some(format));
    }
    let found = text.trim_end().chars().take(64).collect();
    Err(OpenError::Format {
        file: path,
        found,
        expected: FORMAT.to_owned(),
    })
}

/// Without a format, an engine's folder is what an interrupted first start left behind, and goes; unless anything was
/// ever stored in it.
fn clear_unfinished(dir: &Path, engine: &Path) -> Result<(), OpenError> {
    let lost = || OpenError::damaged(&dir.join(FORMAT_FILE), "it is missing, although there is data");
    let mark_path = CommitMark::path(dir);
    match CommitMark::read(dir).map_err(OpenError::io(&mark_path))? {
        Marked::Nothing | Marked::UpTo(0) => {}
        Marked::Unreadable | Marked::UpTo(_) => return Err(lost()),
    }
    if !engine.try_exists().map_err(OpenError::io(engine))? {
        return Ok(());
    }
    for keyspace in [RECORDS_ID, META_ID] {
        if !tables::is_empty(&keyspace_folder(engine, keyspace))? {
            return Err(lost());
        }
    }
    for (_, path) in list_logs(engine)? {
        let scan = log::scan(&path, None).map_err(OpenError::io(&path))?;
        // The epoch is written before the first commit.
        if scan.last.is_some_and(|group| group.stamp.seq > 0) || scan.end != End::Clean {
            return Err(lost());
        }
    }
    fs::remove_dir_all(engine).map_err(OpenError::io(engine))
}

fn keyspace_folder(engine: &Path, keyspace: u64) -> PathBuf {
    engine.join(KEYSPACES).join(keyspace.to_string())
}

/// Without its version file the engine would start anew in the midst of the old files.
fn check_version(engine: &Path) -> Result<(), OpenError> {
    let path = engine.join(ENGINE_VERSION);
    if path.try_exists().map_err(OpenError::io(&path))? {
        Ok(())
    } else {
        Err(OpenError::damaged(&path, "it is missing"))
    }
}

/// The engine's lock file holds nothing, but the engine does not open without it.
fn restore_lock_file(engine: &Path) -> Result<(), OpenError> {
    let path = engine.join(ENGINE_LOCK);
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map(drop)
        .map_err(OpenError::io(&path))
}

/// A log and what it holds.
#[derive(Debug)]
struct Log {
    id: u64,
    path: PathBuf,
    scan: Scan,
}

/// At least one log: the engine always has one open.
fn read_logs(engine: &Path) -> Result<Vec<Log>, OpenError> {
    let found = list_logs(engine)?;
    if found.is_empty() {
        return Err(OpenError::damaged(engine, "the log (a file with the ending .jnl) is missing"));
    }
    let mut logs = Vec::with_capacity(found.len());
    let mut before = None;
    let mut expected = found[0].0;
    for (id, path) in found {
        if id != expected {
            return Err(OpenError::damaged(&engine.join(format!("{expected}.jnl")), "it is missing"));
        }
        expected = id + 1;
        let scan = log::scan(&path, before).map_err(OpenError::io(&path))?;
        before = scan.last.or(before);
        logs.push(Log { id, path, scan });
    }
    Ok(logs)
}

/// The engine's logs, oldest first.
fn list_logs(engine: &Path) -> Result<Vec<(u64, PathBuf)>, OpenError> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(engine).map_err(OpenError::io(engine))? {
        let path = entry.map_err(OpenError::io(engine))?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jnl")) {
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let Some(id) = id.filter(|_| path.is_file()) else {
                return Err(OpenError::damaged(&path, "it is no log, but is named like one"));
            };
            logs.push((id, path));
        }
    }
    logs.sort_unstable();
    Ok(logs)
}

/// What is to be done.
#[derive(Debug)]
struct Verdict<'a> {
    last: Option<Group>,
    torn: Option<(&'a Log, &'a str)>,
}

/// Tells what a crash leaves behind from damage.
fn judge<'a>(logs: &'a [Log], marked: Marked, mark_path: &Path) -> Result<Verdict<'a>, OpenError> {
    let torn = logs.iter().enumerate().find_map(|(at, log)| match &log.scan.end {
        End::Clean => None,
        End::Torn(reason) => Some((at, log, reason.as_str())),
    });
    let whole = torn.map_or(logs, |(at, ..)| &logs[..=at]);
    let last = whole.iter().rev().find_map(|log| log.scan.last);
    if let Some((at, log, reason)) = torn {
        // A new log is begun only when the one before it is on disk as a whole, so no crash tears that one. All that
        // can follow a torn log is one that was never written to.
        if logs[at + 1..]
            .iter()
            .any(|later| later.scan.whole > 0 || later.scan.end != End::Clean)
        {
            let reason = format!("at byte {}, {reason}, and commits follow it in newer logs", log.scan.whole);
            return Err(OpenError::damaged(&log.path, reason));
        }
    }
    let readable = last.map(|group| group.stamp.seq);
    match (marked, readable) {
        (Marked::Unreadable, _) => Err(OpenError::damaged_with(
            mark_path,
            "its checksum does not fit",
            unreadable_mark(readable),
        )),
        (Marked::UpTo(marked), Some(readable)) if readable < marked => {
            let log = torn.map_or(&logs[logs.len() - 1], |(_, log, _)| log);
            Err(OpenError::damaged_end(
                &log.path,
                missing_commits(log, torn.map(|(_, _, reason)| reason), readable, marked),
                mark_path,
            ))
        }
        // The engine never empties a log, and the first one begins with the first commit: this need not be compared
        // with the tables, which hold some of the commits at best.
        (Marked::UpTo(marked), None) if marked > 0 && logs[0].id == FIRST_LOG => {
            let (log, reason) = torn.map_or((&logs[0], None), |(_, log, reason)| (log, Some(reason)));
            let reason = format!(
                "{}: none of {marked} commits, which were reported as stored, can be read from it",
                place(log, reason)
            );
            Err(OpenError::damaged_end(&log.path, reason, mark_path))
        }
        (Marked::Nothing | Marked::UpTo(_), _) => Ok(Verdict {
            last,
            torn: torn.map(|(_, log, reason)| (log, reason)),
        }),
    }
}

fn unreadable_mark(readable: Option<u64>) -> String {
    let readable = readable.map_or_else(
        || "the log is empty".to_owned(),
        |seq| format!("the log reads well up to commit {seq}"),
    );
    format!("Without it the server cannot tell whether commits are missing at the end; {readable}. To go on with that, remove the file")
        + " and start again."
}

fn missing_commits(log: &Log, torn: Option<&str>, readable: u64, marked: u64) -> String {
    let (missing, place) = (marked - readable, place(log, torn));
    format!("{place}: the last {missing} of {marked} commits, which were reported as stored, cannot be read")
}

fn place(log: &Log, torn: Option<&str>) -> String {
    match torn {
        Some(reason) => format!("at byte {}, {reason}", log.scan.whole),
        None => format!("it ends at byte {}", log.scan.whole),
    }
}

/// Cuts the torn end off a log; a copy is put aside first unless it is certain that nobody was told of the end.
fn cut(log: &Log, reason: &str, unreported: bool) -> Result<Cut, OpenError> {
    let copy = (!unreported).then(|| free_name(&log.path));
    let work = || {
        if let Some(copy) = &copy {
            fs::copy(&log.path, copy)?;
            File::open(copy)?.sync_all()?;
        }
        let file = OpenOptions::new().write(true).open(&log.path)?;
        file.set_len(log.scan.whole)?;
        file.sync_all()
    };
    work().map_err(OpenError::io(&log.path))?;
    let reason = format!("at byte {}, {reason}", log.scan.whole);
    Ok(Cut {
        log: log.path.clone(),
        reason,
        copy,
    })
}

fn free_name(log: &Path) -> PathBuf {
    let name = |number: u32| log.with_extension(format!("jnl.damaged-{number}"));
    (1..).map(name).find(|path| !path.exists()).unwrap_or_else(|| name(0))
}
