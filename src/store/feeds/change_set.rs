//! What happened in one commit, encoded.

use bytes::Bytes;

use crate::protocol::{FieldName, Record};
use crate::store::query::{Filter, Projection};

/// What happened to the records that a feed follows in one commit. Encoded once, shared by all who follow the same.
#[derive(Debug)]
pub struct ChangeSet {
    seq: u64,
    count: usize,
    data: Bytes,
}

impl ChangeSet {
    /// So many changes of the commit `seq`, as a JSON list.
    #[must_use]
    pub fn new(seq: u64, count: usize, data: Bytes) -> Self {
        Self { seq, count, data }
    }

    /// The number of the commit.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// How many changes these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The changes as a JSON list.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }
}

/// One record from one version to the next; none where there is none.
pub(super) type Versions<'r> = (Option<&'r Record>, Option<&'r Record>);

/// What the followers of a feed see.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    /// Which records.
    pub(super) filter: Filter,
    /// Which of their fields, where not all.
    pub(super) projection: Option<Projection>,
}

/// What a change is to those who see only what matches a filter.
enum Step<'r> {
    Inserted(&'r Record),
    Updated(&'r Record),
    Deleted(&'r Record),
}

impl<'r> Step<'r> {
    fn of((old, new): Versions<'r>, filter: &Filter) -> Option<Self> {
        let matching = |record: Option<&'r Record>| record.filter(|record| filter.matches(record));
        match (matching(old), matching(new)) {
            (None, Some(new)) => Some(Self::Inserted(new)),
            (Some(_), Some(new)) => Some(Self::Updated(new)),
            (Some(old), None) => Some(Self::Deleted(old)),
            (None, None) => None,
        }
    }

    fn write(&self, key: &FieldName, projection: Option<&Projection>, out: &mut Vec<u8>) {
        let (op, record, is_there) = match self {
            Self::Inserted(record) => ("inserted", record, true),
            Self::Updated(record) => ("updated", record, true),
            Self::Deleted(record) => ("deleted", record, false),
        };
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(op.as_bytes());
        out.extend_from_slice(b"\",\"key\":");
        out.extend_from_slice(record.token(key).unwrap_or(b"null"));
        if is_there {
            out.extend_from_slice(b",\"record\":");
            match projection {
                None => out.extend_from_slice(record.json()),
                Some(projection) => out.extend_from_slice(projection.apply(record).json()),
            }
        }
        out.push(b'}');
    }
}

/// How many of the changes can be seen through a filter.
pub(super) fn count<'r>(changes: impl Iterator<Item = Versions<'r>>, filter: &Filter) -> usize {
    changes.filter(|change| Step::of(*change, filter).is_some()).count()
}

/// The changes of one commit as they are seen; none where nothing of them is.
pub(super) fn encode<'r>(seq: u64, changes: impl Iterator<Item = Versions<'r>>, sight: &Sight, key: &FieldName) -> Option<ChangeSet> {
    let mut out = vec![b'['];
    let mut count = 0;
    for step in changes.filter_map(|change| Step::of(change, &sight.filter)) {
        if count > 0 {
            out.push(b',');
        }
        step.write(key, sight.projection.as_ref(), &mut out);
        count += 1;
    }
    out.push(b']');
    (count > 0).then(|| ChangeSet::new(seq, count, out.into()))
}
