//! What is handed over comes back, whatever happens in between.

mod damage;
mod history;
mod keeping;
mod model;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::{
    Batch, Catalog, Durability, Embedded, HistoryUpdate, OpenError, Progress, RecordChange, Recovered, StoredBucket, StoredCommit,
    StoredGroup, StoredHistory, SyncLevel,
};
use crate::protocol::Record;
use crate::store::Outcome;
use crate::store::state::{Answer, BucketId, Remembered, RequestChange, RequestKey, Requests, RowId};

/// The records of a directory, by bucket and row.
type Records = BTreeMap<(u32, u64), Record>;

fn record(text: &str) -> Record {
    Record::from_object(json!({ "id": text, "n": text.len() }).as_object().unwrap())
}

fn put(bucket: u32, row: u64, text: &str) -> RecordChange {
    RecordChange {
        bucket: BucketId(bucket),
        row: RowId(row),
        record: Some(record(text)),
    }
}

fn gone(bucket: u32, row: u64) -> RecordChange {
    RecordChange {
        bucket: BucketId(bucket),
        row: RowId(row),
        record: None,
    }
}

fn catalog(buckets: &[u32]) -> Catalog {
    let stored = |id: &u32| StoredBucket {
        id: *id,
        name: format!("b{id}"),
        config: Arc::default(),
        incarnation: u64::from(*id),
    };
    Catalog {
        next_bucket: 100,
        buckets: buckets.iter().map(stored).collect(),
        queries: Vec::new(),
    }
}

/// A request that stored a record with this text.
fn answered(number: u64, text: &str) -> RequestChange {
    let answer = Answer::of(&Ok(Outcome::Record(Some(record(text)))));
    let remembered = Remembered::new(&RequestKey::new(format!("r{number}"), 7).unwrap(), 1000 + number, answer);
    RequestChange {
        number,
        remembered: Some(Arc::new(remembered)),
    }
}

fn forgotten(number: u64) -> RequestChange {
    RequestChange { number, remembered: None }
}

/// What is remembered after all of these changes.
fn requests_after<'c>(changes: impl IntoIterator<Item = &'c RequestChange>) -> Requests {
    let mut last = BTreeMap::new();
    for change in changes {
        last.insert(change.number, change.remembered.clone());
    }
    let mut requests = Requests::default();
    for (number, remembered) in last {
        assert!(remembered.is_none_or(|remembered| requests.insert(number, remembered)));
    }
    requests
}

/// A group that defines the buckets.
fn defining(seq: u64, buckets: &[u32]) -> Batch {
    Batch {
        seq,
        now: 1000 + seq,
        catalog: Some(catalog(buckets)),
        ..Batch::default()
    }
}

fn group(seq: u64, records: Vec<RecordChange>) -> Batch {
    Batch {
        seq,
        now: 1000 + seq,
        records,
        ..Batch::default()
    }
}

fn open(dir: &Path) -> (Embedded, Recovered) {
    Embedded::open(dir, SyncLevel::EveryGroup).unwrap()
}

fn load(embedded: &mut Embedded) -> Records {
    let mut records = Vec::new();
    let count = embedded
        .load(|bucket, row, record| records.push(((bucket.0, row.0), record)))
        .unwrap();
    assert_eq!(count, records.len() as u64);
    assert!(records.is_sorted_by_key(|(place, _)| *place));
    records.into_iter().collect()
}

/// Opens a directory, loads all of it, and closes it.
fn read_back(dir: &Path) -> Result<(Recovered, Records), OpenError> {
    let (mut embedded, recovered) = Embedded::open(dir, SyncLevel::EveryGroup)?;
    let records = load(&mut embedded);
    Box::new(embedded).close().unwrap();
    Ok((recovered, records))
}

fn texts(records: &Records) -> Vec<(u32, u64, String)> {
    let id = |record: &Record| record.to_value()["id"].as_str().unwrap().to_owned();
    records.iter().map(|((bucket, row), record)| (*bucket, *row, id(record))).collect()
}

/// What a killed process leaves behind: a copy of the directory as it is at this moment.
fn killed(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(dir, copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_folder(&entry.path(), &target);
        } else {
            copy_file(&entry.path(), &target);
        }
    }
}

/// Logs set 64 MiB of zeros aside: the copy has the same length, but reads and writes only the start of it.
fn copy_file(from: &Path, to: &Path) {
    let file = File::open(from).unwrap();
    let length = file.metadata().unwrap().len();
    let mut bytes = Vec::new();
    file.take(1 << 20).read_to_end(&mut bytes).unwrap();
    std::fs::write(to, bytes).unwrap();
    File::options().write(true).open(to).unwrap().set_len(length).unwrap();
}

fn engine_files(dir: &Path, folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("engine").join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// The newest log.
fn newest_log(dir: &Path) -> PathBuf {
    engine_files(dir, "")
        .into_iter()
        .rfind(|path| path.extension().is_some_and(|ending| ending == "jnl"))
        .unwrap()
}

/// A log without the space that is set aside behind its content.
fn content(log: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::open(log).unwrap().take(1 << 20).read_to_end(&mut bytes).unwrap();
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    bytes
}
