//! The file of the log: JSON lines, each with the digest of the one before it.
//!
//! Every line holds in `prev` the SHA-256 of the line before it, also across files that were put aside. So a line that
//! was changed, taken out or put in shows, unless all that follow were changed too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::entry::{Entry, misleads};
use super::queue::Append;
use crate::server::wall_clock_ms;

/// Nobody but the server's own user may read it.
#[cfg(unix)]
const MODE: u32 = 0o600;

/// How much is read at a time when the end of the file is looked for.
const CHUNK_BYTES: u64 = 64 * 1024;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log \"{}\": {source}", path.display())]
pub(super) struct FileError {
    path: PathBuf,
    source: io::Error,
}

/// What is said of a file that something else has written.
const FOREIGN: &str = "it is not empty and no audit log";

/// The lowest number of a file that was put aside. They are milliseconds since 1970, so that none is taken for one that
/// another program numbers from 1, or by the date.
const NUMBER_MIN: u64 = 1_000_000_000_000;

/// How the line of an entry begins, with digits before the end of it; and one about those that are missing.
const ID: &[u8] = b"{\"id\":";
const BEHIND_ID: &[u8] = b",\"timestamp\":";
const TIMESTAMP: &[u8] = b"{\"timestamp\":";

/// The digest of a line, as the next one says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link([u8; 32]);

impl Link {
    pub(super) fn to(line: &[u8]) -> Self {
        Self(Sha256::digest(line).into())
    }
}

impl std::fmt::Display for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A line.
#[derive(Serialize)]
struct Line<'a, T> {
    #[serde(flatten)]
    what: &'a T,
    prev: &'a str,
}

/// Says that entries are missing.
#[derive(Serialize)]
struct Missing {
    timestamp: u64,
    operation: &'static str,
    result: &'static str,
    count: u64,
}

/// The file that is written, and those that were put aside.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// How long it is, as far as it is sound.
    bytes: u64,
    /// Whether something may stand behind that.
    is_torn: bool,
    /// The last line.
    last: Link,
    last_id: u64,
    max_bytes: u64,
    keep: usize,
}

impl LogFile {
    /// Opens the file, or makes it. A line at its end that is not complete, since the machine or the server went down
    /// while it was written, is cut off: nobody was told that it is there.
    ///
    /// # Errors
    /// Where it cannot be opened, another process writes it, or it is no audit log.
    pub(super) fn open(path: &Path, max_bytes: u64, keep: usize) -> Result<Self, FileError> {
        Self::try_open(path, max_bytes, keep).map_err(|source| FileError {
            path: path.to_owned(),
            source,
        })
    }

    fn try_open(path: &Path, max_bytes: u64, keep: usize) -> io::Result<Self> {
        let mut file = open(path)?;
        let bytes = sound_bytes(&mut file)?;
        let end = end(&mut file, bytes)?;
        let is_ours = match &end {
            Some(end) => prev_of(&end.line).is_some(),
            None => is_beginning_of_line(&mut file)?,
        };
        if !is_ours {
            return Err(io::Error::other(FOREIGN));
        }
        claim(&file, path)?;
        if bytes < file.metadata()?.len() {
            tracing::warn!(path = %path.display(), "the last line of the audit log was not complete and is cut off");
            file.set_len(bytes)?;
            file.sync_all()?;
        }
        let end = match end {
            Some(end) => Some(end),
            None => end_put_aside(path)?,
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            is_torn: false,
            last: end.as_ref().map(|end| Link::to(&end.line)).unwrap_or_default(),
            last_id: end.map_or(0, |end| end.last_id),
            max_bytes,
            keep,
        })
    }

    /// The id of the last entry; 0 where there is none.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Has something behind the sound lines, as a write that has failed half-way leaves it.
    #[cfg(test)]
    pub(super) fn tear(&mut self) {
        self.is_torn = true;
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.file.set_len(self.bytes)?;
        }
        self.is_torn = true;
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        self.is_torn = false;
        Ok(())
    }

    /// Puts the file aside and begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        // Behind those that are there, also where the clock was set back: by their numbers they are in order, and go.
        let last = all_put_aside(&self.path)?.pop();
        let number = last.map_or(NUMBER_MIN, |last| last.saturating_add(1)).max(wall_clock_ms());
        // It is not there where it was put aside before and no new one could be begun.
        if self.path.exists() {
            fs::rename(&self.path, put_aside(&self.path, number))?;
        }
        self.file = open(&self.path)?;
        claim(&self.file, &self.path)?;
        self.bytes = 0;
        let old = all_put_aside(&self.path)?;
        for number in &old[..old.len().saturating_sub(self.keep)] {
            remove(&put_aside(&self.path, *number))?;
        }
        sync_folder(&self.path)
    }
}

impl Append for LogFile {
    fn append(&mut self, entries: &[Arc<Entry>], missed: u64) -> io::Result<usize> {
        // A file that could not be put aside goes on by pieces of the size that it should have.
        let room = self.max_bytes - self.bytes % self.max_bytes;
        let mut lines = Vec::new();
        let mut last = self.last;
        if missed > 0 {
            let missing = Missing {
                timestamp: wall_clock_ms(),
                operation: "audit.missed",
                result: "error",
                count: missed,
            };
            last = add_line(&mut lines, &missing, last)?;
        }
        let mut count = 0;
        for entry in entries {
            last = add_line(&mut lines, &**entry, last)?;
            count += 1;
            if lines.len() as u64 >= room {
                break;
            }
        }
        self.write(&lines)?;
        self.last = last;
        self.bytes += lines.len() as u64;
        if self.bytes >= self.max_bytes
            && let Err(error) = self.rotate()
        {
            // What is written is written; it is tried again after the next lines.
            tracing::error!(%error, "the audit log cannot be put aside and goes on growing");
        }
        Ok(count)
    }
}

/// Adds a line behind the one that `last` leads to. Gives what leads to it.
fn add_line(lines: &mut Vec<u8>, what: &impl Serialize, last: Link) -> io::Result<Link> {
    let start = lines.len();
    let prev = last.to_string();
    write_as_one_line(lines, &serde_json::to_string(&Line { what, prev: &prev })?);
    let link = Link::to(&lines[start..]);
    lines.push(b'\n');
    Ok(link)
}

/// Writes JSON so that it is one line for every reader: there are those that take other characters than JSON does for the
/// end of a line, and terminals that obey what they show. Such characters can only stand in texts, where they may be
/// escaped.
fn write_as_one_line(out: &mut Vec<u8>, json: &str) {
    let mut rest = json;
    while let Some(at) = rest.find(misleads) {
        let (plain, behind) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut others = behind.chars();
        if let Some(character) = others.next() {
            out.extend_from_slice(format!("\\u{:04x}", u32::from(character)).as_bytes());
        }
        rest = others.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, MODE);
    let file = options.open(path)?;
    file.try_lock().map_err(|error| match error {
        fs::TryLockError::WouldBlock => io::Error::other("another process writes it"),
        fs::TryLockError::Error(error) => error,
    })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file that can be put aside"));
    }
    Ok(file)
}

/// Makes a file the log's own.
fn claim(file: &File, path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(MODE))?;
    sync_folder(path)
}

/// Makes it durable that a file is there, or is called something else.
fn sync_folder(path: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder(path))?.sync_all() } else { Ok(()) }
}

fn folder(path: &Path) -> &Path {
    path.parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// How many bytes of a file are complete lines.
fn sound_bytes(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    Ok(last_line_end_before(file, length)?.unwrap_or(0))
}

/// The place behind the last end of a line that lies before `end`.
fn last_line_end_before(file: &mut File, end: u64) -> io::Result<Option<u64>> {
    let mut end = end;
    while end > 0 {
        let start = end.saturating_sub(CHUNK_BYTES);
        let chunk = read(file, start, end)?;
        if let Some(place) = chunk.iter().rposition(|byte| *byte == b'\n') {
            return Ok(Some(start + place as u64 + 1));
        }
        end = start;
    }
    Ok(None)
}

/// The last line of a file that is sound up to `bytes`, without its end.
fn last_line(file: &mut File, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(end) = bytes.checked_sub(1) else { return Ok(None) };
    let start = last_line_end_before(file, end)?.unwrap_or(0);
    read(file, start, end).map(Some)
}

fn read(file: &mut File, start: u64, end: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(start))?;
    file.take(end - start).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How a file ends.
struct End {
    line: Vec<u8>,
    /// The id of its last entry; 0 where there is none.
    last_id: u64,
}

/// How a file ends that is sound up to `bytes`; none where it is empty.
fn end(file: &mut File, bytes: u64) -> io::Result<Option<End>> {
    let Some(line) = last_line(file, bytes)? else { return Ok(None) };
    let mut last_id = id_of(&line);
    let mut before = bytes - line.len() as u64 - 1;
    // Lines about entries that are missing have no id.
    while last_id.is_none()
        && let Some(line) = last_line(file, before)?
    {
        last_id = id_of(&line);
        before -= line.len() as u64 + 1;
    }
    Ok(Some(End {
        line,
        last_id: last_id.unwrap_or(0),
    }))
}

fn id_of(line: &[u8]) -> Option<u64> {
    let entry: Value = serde_json::from_slice(line).ok()?;
    entry.get("id")?.as_u64()
}

/// How the file ends that was put aside last.
fn end_put_aside(path: &Path) -> io::Result<Option<End>> {
    let Some(number) = all_put_aside(path)?.pop() else {
        return Ok(None);
    };
    let mut file = File::open(put_aside(path, number))?;
    let bytes = sound_bytes(&mut file)?;
    end(&mut file, bytes)
}

/// Whether a file that holds no complete line is empty, or begins as a line does that was torn.
fn is_beginning_of_line(file: &mut File) -> io::Result<bool> {
    let beginning = read(file, 0, 64)?;
    // Where the machine went down, a file may have got longer and not have got what was written.
    let written = beginning.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let written = &beginning[..written];
    let fits = |form: &[u8]| written.iter().zip(form).all(|(byte, expected)| byte == expected);
    let Some(id) = written.strip_prefix(ID) else {
        return Ok(fits(ID) || fits(TIMESTAMP));
    };
    let digits = id.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let behind = &id[digits..];
    Ok(behind.iter().zip(BEHIND_ID).all(|(byte, expected)| byte == expected))
}

/// What a line says is before it; none where it is no line of an audit log.
pub(super) fn prev_of(line: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let is_link = |text: &str| text.len() == 2 * size_of::<Link>() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let prev = value.get("prev")?.as_str().filter(|text| is_link(text))?;
    value.get("operation")?.as_str()?;
    Some(prev.to_owned())
}

/// Removes a file that was put aside, if it is what it is called.
fn remove(path: &Path) -> io::Result<()> {
    let mut line = Vec::new();
    BufReader::new(File::open(path)?).take(CHUNK_BYTES).read_until(b'\n', &mut line)?;
    if prev_of(&line).is_some() {
        return fs::remove_file(path);
    }
    tracing::warn!(path = %path.display(), "a file is called as if the audit log had put it aside, and is none of its own");
    Ok(())
}

/// What a file is called that was put aside: by the time, so that names are in the order of their contents.
pub(super) fn put_aside(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The number that digits are, where they are written as we write them.
fn number_of(digits: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok()?;
    let number: u64 = digits.parse().ok()?;
    (number >= NUMBER_MIN && number.to_string() == digits).then_some(number)
}

/// The numbers of all files that were put aside, in their order.
pub(super) fn all_put_aside(path: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let Some(name) = path.file_name() else { return Ok(numbers) };
    for entry in fs::read_dir(folder(path))? {
        let found = entry?.file_name();
        let ending = found.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
        let number = ending.and_then(|rest| number_of(rest.strip_prefix(b".")?));
        numbers.extend(number.filter(|number| put_aside(path, *number).is_file()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
