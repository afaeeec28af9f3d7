//! Names and encodings on disk. A change here is a new format.
//!
//! ```text
//! <data directory>/
//!   noex.lock      held by the process that works on it
//!   format         "noex-server data 2"
//!   commit.mark    how far the log was reported durable
//!   engine/        the LSM tree: n.jnl its log, keyspaces/1 the records, keyspaces/2 the rest
//!
//! records: bucket (u32) row (u64)  → the record's bytes
//! meta:    "head"                  → stamp of the last group
//!          "catalog"               → definitions as JSON
//!          "p" bucket (u32)        → next row (u64) counter (u64)
//!          "epoch"                 → epoch (u64) 1 where every group of it was synced, else 0 (u8)
//!          "v" bucket (u32) 0 (u64)        → the commit from which on the bucket's history is known (u64)
//!          "v" bucket (u32) last seq (u64) → what a commit group did to the bucket: one commit after the other
//! commit:  seq (u64) count (u32), then for each change row (u64) length (u32) the record's bytes before;
//!          the length 4294967295 stands for no record
//!          "r" commit (u64)        → a remembered request
//! ```
//!
//! Numbers are big-endian, so that keys sort as their numbers do. Format 1 had no epoch and no history; it is read, and
//! becomes format 2 with the first start: a server that knows no history must not write behind its back.

use super::Progress;
use crate::store::state::{BucketId, RowId, Timestamp};

/// The file that names the format.
pub(super) const FORMAT_FILE: &str = "format";
/// What it says.
pub(super) const FORMAT: &str = "noex-server data 2";
/// What it says in a directory without epoch and history.
pub(super) const FORMAT_WITHOUT_HISTORY: &str = "noex-server data 1";
/// The engine's folder.
pub(super) const ENGINE: &str = "engine";
/// The keyspace of records.
pub(super) const RECORDS: &str = "records";
/// The engine's number for it.
pub(super) const RECORDS_ID: u64 = 1;
/// The keyspace of everything else.
pub(super) const META: &str = "meta";
/// The engine's number for it.
pub(super) const META_ID: u64 = 2;
/// The key of the stamp.
pub(super) const HEAD: &[u8] = b"head";
/// The key of the catalog.
pub(super) const CATALOG: &[u8] = b"catalog";
/// The key of the epoch.
pub(super) const EPOCH: &[u8] = b"epoch";
/// What keys of progress begin with.
pub(super) const PROGRESS: u8 = b'p';
/// What keys of remembered requests begin with.
pub(super) const REQUEST: u8 = b'r';

/// What every group writes beside its changes: its place in the order. The engine checks the content of a group,
/// but neither the number under which it files it nor that no group is missing between two others; the stamp does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp {
    /// The number of the last commit in the group.
    pub seq: u64,
    /// The last commit of the group before.
    pub previous: u64,
    /// The clock after the group.
    pub now: Timestamp,
    /// The least number under which the engine can have filed the group.
    pub floor: u64,
}

impl Stamp {
    pub fn encode(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (part, number) in bytes.chunks_exact_mut(8).zip([self.seq, self.previous, self.now, self.floor]) {
            part.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        let number = |at: usize| bytes[8 * at..].first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
        Some(Self {
            seq: number(0)?,
            previous: number(1)?,
            now: number(2)?,
            floor: number(3)?,
        })
    }
}

pub(super) fn record_key(bucket: BucketId, row: RowId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&bucket.0.to_be_bytes());
    key[4..].copy_from_slice(&row.0.to_be_bytes());
    key
}

pub(super) fn decode_record_key(key: &[u8]) -> Option<(BucketId, RowId)> {
    let key: &[u8; 12] = key.try_into().ok()?;
    let (bucket, row) = (key.first_chunk()?, key.last_chunk()?);
    Some((BucketId(u32::from_be_bytes(*bucket)), RowId(u64::from_be_bytes(*row))))
}

pub(super) fn progress_key(bucket: BucketId) -> [u8; 5] {
    let mut key = [PROGRESS; 5];
    key[1..].copy_from_slice(&bucket.0.to_be_bytes());
    key
}

pub(super) fn decode_progress_key(key: &[u8]) -> Option<BucketId> {
    let bucket = key.strip_prefix(&[PROGRESS])?.try_into().ok()?;
    Some(BucketId(u32::from_be_bytes(bucket)))
}

pub(super) fn request_key(number: u64) -> [u8; 9] {
    let mut key = [REQUEST; 9];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

pub(super) fn decode_request_key(key: &[u8]) -> Option<u64> {
    let number = key.strip_prefix(&[REQUEST])?.try_into().ok()?;
    Some(u64::from_be_bytes(number))
}

pub(super) fn encode_progress(progress: Progress) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&progress.next_row.to_be_bytes());
    bytes[8..].copy_from_slice(&progress.counter.to_be_bytes());
    bytes
}

pub(super) fn decode_progress(bytes: &[u8]) -> Option<Progress> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    Some(Progress {
        next_row: u64::from_be_bytes(*bytes.first_chunk()?),
        counter: u64::from_be_bytes(*bytes.last_chunk()?),
    })
}

/// Names the order of commits that cursors refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Epoch {
    pub id: u64,
    /// Whether every group was synced before anybody saw it: only then nothing that cursors saw can be gone.
    pub synced: bool,
}

impl Epoch {
    pub fn encode(self) -> [u8; 9] {
        let mut bytes = [u8::from(self.synced); 9];
        bytes[..8].copy_from_slice(&self.id.to_be_bytes());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let [id @ .., synced @ (0 | 1)] = bytes else { return None };
        Some(Self {
            id: u64::from_be_bytes(id.try_into().ok()?),
            synced: *synced == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let stamp = Stamp {
            seq: 1,
            previous: u64::MAX,
            now: 3,
            floor: 4,
        };
        assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
        let progress = Progress {
            next_row: 5,
            counter: u64::MAX,
        };
        assert_eq!(decode_progress(&encode_progress(progress)), Some(progress));
        for synced in [true, false] {
            let epoch = Epoch { id: u64::MAX - 7, synced };
            assert_eq!(Epoch::decode(&epoch.encode()), Some(epoch));
        }
        let place = (BucketId(u32::MAX - 1), RowId(7));
        assert_eq!(decode_record_key(&record_key(place.0, place.1)), Some(place));
        assert_eq!(decode_progress_key(&progress_key(place.0)), Some(place.0));
        assert_eq!(decode_request_key(&request_key(u64::MAX - 1)), Some(u64::MAX - 1));
    }

    #[test]
    fn keys_sort_as_their_numbers() {
        let keys = [(0, 255), (0, 256), (1, 0), (255, u64::MAX), (256, 0)].map(|(bucket, row)| record_key(BucketId(bucket), RowId(row)));
        assert!(keys.is_sorted());
    }

    #[test]
    fn bytes_of_another_length_are_refused() {
        assert_eq!(Stamp::decode(&[0; 31]), None);
        assert_eq!(decode_record_key(&[0; 13]), None);
        assert_eq!(decode_progress_key(b"pxy"), None);
        assert_eq!(decode_request_key(b"r1234567"), None);
        assert_eq!(decode_progress(&[0; 17]), None);
        assert_eq!(Epoch::decode(&[0; 8]), None);
        assert_eq!(Epoch::decode(&[2; 9]), None);
    }
}
