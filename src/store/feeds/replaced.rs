//! What is different about a bucket that was replaced as a whole.

use super::change_set::Versions;
use crate::protocol::Record;
use crate::store::state::{Bucket, RowId, Timestamp};

/// The records that are seen to be other ones, from how they were to how they are: what is gone, then what is new or
/// changed.
pub(super) fn differences<'b>(old: &'b Bucket, before: Timestamp, new: &'b Bucket, after: Timestamp) -> Vec<Versions<'b>> {
    let same = old.id() == new.id();
    let now_in = |row: RowId| seen(new, row, after).filter(|_| same);
    let then_in = |row: RowId| seen(old, row, before).filter(|_| same);
    let gone = old
        .all_rows()
        .filter(|(row, record)| !old.is_expired(record, before) && now_in(*row).is_none())
        .map(|(_, record)| (Some(record), None));
    let came = new
        .all_rows()
        .filter(|(_, record)| !new.is_expired(record, after))
        .map(|(row, record)| (then_in(row), Some(record)))
        .filter(|(then, now)| then != now);
    gone.chain(came).collect()
}

fn seen(bucket: &Bucket, row: RowId, now: Timestamp) -> Option<&Record> {
    bucket.row(row).filter(|record| !bucket.is_expired(record, now))
}
