//! The history of changes on disk: one entry for each bucket that a commit group changed, and for each bucket the
//! commit from which on its history is known.

use std::collections::HashSet;

use fjall::{Keyspace, OwnedWriteBatch};

use super::engine::guarded;
use super::{HistoryUpdate, StoredCommit, StoredGroup, StoredHistory};
use crate::protocol::Record;
use crate::store::state::{BucketId, RowId};

/// What keys of the history begin with: it holds earlier versions.
const HISTORY: u8 = b'v';
/// Stands in the place of a commit's number, none of which is 0.
const FLOOR: u64 = 0;
/// The length of a record that is not there.
const NO_RECORD: u32 = u32::MAX;

pub(super) fn history_key(bucket: BucketId, seq: u64) -> [u8; 13] {
    let mut key = [HISTORY; 13];
    key[1..5].copy_from_slice(&bucket.0.to_be_bytes());
    key[5..].copy_from_slice(&seq.to_be_bytes());
    key
}

fn decode_key(key: &[u8]) -> Option<(BucketId, u64)> {
    let key: &[u8; 12] = key.strip_prefix(&[HISTORY])?.try_into().ok()?;
    let (bucket, seq) = (key.first_chunk()?, key.last_chunk()?);
    Some((BucketId(u32::from_be_bytes(*bucket)), u64::from_be_bytes(*seq)))
}

fn encode_commits(commits: &[StoredCommit]) -> Result<Vec<u8>, String> {
    let too_long = |_| "a commit is too large for the history".to_owned();
    let mut out = Vec::new();
    for commit in commits {
        out.extend(commit.seq.to_be_bytes());
        out.extend(u32::try_from(commit.changes.len()).map_err(too_long)?.to_be_bytes());
        for (row, old) in &commit.changes {
            out.extend(row.0.to_be_bytes());
            let bytes = old.as_ref().map(Record::as_bytes);
            let length = bytes.map_or(Ok(NO_RECORD), |bytes| u32::try_from(bytes.len()).map_err(too_long))?;
            out.extend(length.to_be_bytes());
            out.extend_from_slice(bytes.unwrap_or_default());
        }
    }
    Ok(out)
}

fn decode_commits(mut bytes: &[u8]) -> Option<Vec<StoredCommit>> {
    let mut commits = Vec::new();
    while !bytes.is_empty() {
        let seq = u64::from_be_bytes(take(&mut bytes)?);
        let count = u32::from_be_bytes(take(&mut bytes)?);
        let changes = (0..count).map(|_| decode_change(&mut bytes)).collect::<Option<_>>()?;
        commits.push(StoredCommit { seq, changes });
    }
    (!commits.is_empty()).then_some(commits)
}

fn decode_change(bytes: &mut &[u8]) -> Option<(RowId, Option<Record>)> {
    let row = RowId(u64::from_be_bytes(take(bytes)?));
    let length = u32::from_be_bytes(take(bytes)?);
    if length == NO_RECORD {
        return Some((row, None));
    }
    let (record, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some((row, Some(Record::from_bytes(record)?)))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

/// Adds to a batch what becomes of the history.
pub(super) fn write(batch: &mut OwnedWriteBatch, meta: &Keyspace, update: &HistoryUpdate) -> Result<(), String> {
    for (bucket, floor) in &update.floors {
        batch.insert(meta, history_key(*bucket, FLOOR), floor.to_be_bytes());
    }
    for (bucket, seq) in &update.forgotten {
        batch.remove(meta, history_key(*bucket, *seq));
    }
    for StoredGroup { bucket, commits } in &update.groups {
        let Some(last) = commits.last() else { continue };
        batch.insert(meta, history_key(*bucket, last.seq), encode_commits(commits)?);
    }
    Ok(())
}

/// Reads the history of the known buckets; the other buckets of which there is some.
pub(super) fn load(meta: &Keyspace, known: &HashSet<BucketId>) -> Result<(Vec<StoredHistory>, Vec<BucketId>), String> {
    let mut stored: Vec<StoredHistory> = Vec::new();
    let mut orphans = Vec::new();
    let mut next = Some(vec![HISTORY]);
    while let Some(from) = next.take() {
        let mut entries = meta.range(from..vec![HISTORY + 1]);
        while let Some((key, value)) = guarded(|| entries.next().map(fjall::Guard::into_inner).transpose())? {
            let malformed = || "its history of changes cannot be read".to_owned();
            let (bucket, seq) = decode_key(&key).ok_or_else(malformed)?;
            if !known.contains(&bucket) {
                orphans.push(bucket);
                next = bucket.0.checked_add(1).map(|bucket| history_key(BucketId(bucket), 0).to_vec());
                break;
            }
            if seq == FLOOR {
                let floor = u64::from_be_bytes((*value).try_into().map_err(|_| malformed())?);
                stored.push(StoredHistory {
                    bucket,
                    floor,
                    groups: Vec::new(),
                });
                continue;
            }
            let commits = decode_commits(&value).filter(|commits| commits.last().is_some_and(|last| last.seq == seq));
            let commits = commits.ok_or_else(malformed)?;
            // Keys sort so that the floor comes before the groups.
            let history = stored.last_mut().filter(|history| history.bucket == bucket).ok_or_else(malformed)?;
            history.groups.push(StoredGroup { bucket, commits });
        }
    }
    Ok((stored, orphans))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn commits() -> Vec<StoredCommit> {
        let record = Record::from_object(json!({ "id": "a" }).as_object().unwrap());
        vec![
            StoredCommit {
                seq: 7,
                changes: vec![(RowId(1), Some(record.clone())), (RowId(u64::MAX), None)],
            },
            StoredCommit {
                seq: 9,
                changes: vec![(RowId(1), Some(record))],
            },
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(decode_commits(&encode_commits(&commits()).unwrap()), Some(commits()));
        let place = (BucketId(u32::MAX - 1), 7);
        assert_eq!(decode_key(&history_key(place.0, place.1)), Some(place));
    }

    #[test]
    fn an_entry_that_is_cut_anywhere_is_refused_or_lacks_commits() {
        let bytes = encode_commits(&commits()).unwrap();
        let first = encode_commits(&commits()[..1]).unwrap().len();
        for cut in 0..bytes.len() {
            let expected = (cut == first).then(|| commits()[..1].to_vec());
            assert_eq!(decode_commits(&bytes[..cut]), expected, "cut at {cut}");
        }
    }
}
