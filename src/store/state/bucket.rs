//! One bucket: records by row and by key, with their indexes and their ends of life.

use std::ops::Bound;
use std::sync::Arc;

use super::definition::BucketDefinition;
use super::index::{Index, IndexKey};
use super::persistent::{OrdMap, OrdSet};
use crate::protocol::{BucketName, Datum, FieldName, Number, Record};

/// Names a bucket in the log and on disk. Never reused, also not by a bucket of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BucketId(pub u32);

/// The place of a record in its bucket: rows count up with every insert and keep their place on updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u64);

/// A moment in milliseconds since 1970.
pub type Timestamp = u64;

/// The content of a bucket at one moment. Cloning shares it all.
#[derive(Clone, Debug)]
pub struct Bucket {
    id: BucketId,
    name: BucketName,
    definition: Arc<BucketDefinition>,
    incarnation: u64,
    rows: OrdMap<RowId, Record>,
    keys: OrdMap<Datum, RowId>,
    indexes: Vec<Index>,
    /// Rows by the moment at which they end. Counts for nothing without a ttl.
    expiry: OrdSet<(Number, RowId)>,
    /// The row of the next insert.
    pub(super) next_row: u64,
    /// The last number that `autoincrement` gave out, or that was given by hand.
    pub(super) counter: u64,
}

impl Bucket {
    /// An empty bucket.
    #[must_use]
    pub fn new(id: BucketId, name: BucketName, definition: Arc<BucketDefinition>, incarnation: u64) -> Self {
        let indexes = definition
            .indexes()
            .iter()
            .map(|index| Index::new(index.fields.iter().cloned(), index.unique))
            .collect();
        Self {
            id,
            name,
            definition,
            incarnation,
            rows: OrdMap::default(),
            keys: OrdMap::default(),
            indexes,
            expiry: OrdSet::default(),
            next_row: 0,
            counter: 0,
        }
    }

    /// A bucket with these records in this order, taken as they are.
    #[cfg(test)]
    pub(crate) fn filled(id: BucketId, definition: Arc<BucketDefinition>, records: impl IntoIterator<Item = Record>) -> Self {
        let mut bucket = Self::new(id, BucketName::from("filled"), definition, 0);
        for record in records {
            bucket.load(RowId(bucket.next_row), &record);
        }
        bucket
    }

    /// The bucket's identity.
    #[must_use]
    pub fn id(&self) -> BucketId {
        self.id
    }

    /// The bucket's name.
    #[must_use]
    pub fn name(&self) -> &BucketName {
        &self.name
    }

    /// The definition in force.
    #[must_use]
    pub fn definition(&self) -> &Arc<BucketDefinition> {
        &self.definition
    }

    /// Which of all the buckets that have ever had the name this one is: the number of the commit that has defined it, unless
    /// whoever defined it wanted another one. Updates and `clear` leave it as it is. 0 for buckets from before there were
    /// such numbers.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// The primary-key field.
    #[must_use]
    pub fn key_field(&self) -> &FieldName {
        self.definition.key()
    }

    /// The secondary indexes: the listed ones, then those of unique and reference fields.
    #[must_use]
    pub fn indexes(&self) -> &[Index] {
        &self.indexes
    }

    /// The single-field index on a field, where there is one.
    #[must_use]
    pub fn index_on(&self, field: &FieldName) -> Option<&Index> {
        self.indexes.iter().find(|index| index.fields() == std::slice::from_ref(field))
    }

    /// The number of records, those whose time is up but which are still there included.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// The record in a row.
    #[must_use]
    pub fn row(&self, row: RowId) -> Option<&Record> {
        self.rows.get(&row)
    }

    /// The rows within the bounds in the order of insertion; the iterator can be reversed.
    pub fn rows(&self, bounds: (Bound<RowId>, Bound<RowId>)) -> impl DoubleEndedIterator<Item = (RowId, &Record)> {
        self.rows.range::<_, RowId>(bounds).map(|(row, record)| (*row, record))
    }

    /// All rows in the order of insertion.
    pub fn all_rows(&self) -> impl DoubleEndedIterator<Item = (RowId, &Record)> {
        self.rows((Bound::Unbounded, Bound::Unbounded))
    }

    /// The row of a key.
    #[must_use]
    pub fn row_of(&self, key: &Datum) -> Option<RowId> {
        self.keys.get(key).copied()
    }

    /// The keys within the bounds with their rows, in the order of keys; the iterator can be reversed.
    /// The bounds must not be inverted.
    pub fn keys(&self, bounds: (Bound<Datum>, Bound<Datum>)) -> impl DoubleEndedIterator<Item = (&Datum, RowId)> {
        self.keys.range::<_, Datum>(bounds).map(|(key, row)| (key, *row))
    }

    /// The record of a key, where its time is not up.
    #[must_use]
    pub fn get(&self, key: &Datum, now: Timestamp) -> Option<&Record> {
        self.row_of(key)
            .and_then(|row| self.row(row))
            .filter(|record| !self.is_expired(record, now))
    }

    /// Whether a record's time is up. `_expiresAt` means nothing in a bucket without a ttl.
    #[must_use]
    pub fn is_expired(&self, record: &Record, now: Timestamp) -> bool {
        self.definition.ttl_ms().is_some() && record.expires_at().is_some_and(|end| end <= Number::from(now))
    }

    /// Whether any record that is still there has had its time: reads need to look at each one only then.
    #[must_use]
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.next_expiry().is_some_and(|end| end <= Number::from(now))
    }

    /// When the next record ends.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Number> {
        self.definition.ttl_ms()?;
        self.expiry.get_min().map(|(end, _)| *end)
    }

    /// The rows whose time came after one moment and not after another.
    pub(in crate::store) fn rows_ended_between(&self, after: Timestamp, until: Timestamp) -> Vec<RowId> {
        if self.definition.ttl_ms().is_none() || after >= until {
            return Vec::new();
        }
        let bounds = ((Number::from(after), RowId(u64::MAX)), (Number::from(until), RowId(u64::MAX)));
        self.expiry
            .range((Bound::Excluded(bounds.0), Bound::Included(bounds.1)))
            .map(|(_, row)| *row)
            .collect()
    }

    /// The rows whose time is up, in the order of the bucket.
    #[must_use]
    pub fn expired_rows(&self, now: Timestamp) -> Vec<RowId> {
        if !self.has_expired(now) {
            return Vec::new();
        }
        let now = Number::from(now);
        let mut rows: Vec<_> = self.expiry.iter().take_while(|(end, _)| *end <= now).map(|(_, row)| *row).collect();
        rows.sort_unstable();
        rows
    }

    /// How far the bucket's counters are: the row of the next insert, the last generated number.
    #[must_use]
    pub(in crate::store) fn progress(&self) -> (u64, u64) {
        (self.next_row, self.counter)
    }

    /// Takes the counters of a bucket that was stored. A row is never given out twice.
    pub(in crate::store) fn restore_progress(&mut self, next_row: u64, counter: u64) {
        self.next_row = self.next_row.max(next_row);
        self.counter = self.counter.max(counter);
    }

    /// Takes a stored record in.
    pub(in crate::store) fn load(&mut self, row: RowId, record: &Record) {
        self.next_row = self.next_row.max(row.0 + 1);
        self.put(row, None, Some(record), |_, _| {});
    }

    /// Moves a row from one version of its record to the next and every index with it. Calls `touched` with each
    /// unique index, by its position, and key that now needs a look. The key of a record never changes.
    pub(super) fn put(&mut self, row: RowId, old: Option<&Record>, new: Option<&Record>, mut touched: impl FnMut(usize, IndexKey)) {
        let key = self.definition.key();
        match (old, new) {
            (Some(old), None) => {
                self.rows.remove(&row);
                // Another row may hold the key by now: a transaction deletes and inserts.
                let key = old.datum(key);
                if self.keys.get(&key) == Some(&row) {
                    self.keys.remove(&key);
                }
            }
            (old, Some(new)) => {
                if old.is_none() {
                    self.keys.insert(new.datum(key), row);
                }
                self.rows.insert(row, new.clone());
            }
            (None, None) => return,
        }
        for (at, index) in self.indexes.iter_mut().enumerate() {
            if let Some(key) = index.put(row, old, new) {
                touched(at, key);
            }
        }
        let (old_end, new_end) = (old.and_then(Record::expires_at), new.and_then(Record::expires_at));
        if old_end != new_end {
            if let Some(end) = old_end {
                self.expiry.remove(&(end, row));
            }
            if let Some(end) = new_end {
                self.expiry.insert((end, row));
            }
        }
    }

    /// The same records under another definition: indexes that are new are built.
    #[must_use]
    pub(super) fn redefined(&self, definition: Arc<BucketDefinition>) -> Self {
        let mut bucket = self.clone();
        bucket.indexes = definition
            .indexes()
            .iter()
            .map(|wanted| {
                let kept = self
                    .indexes
                    .iter()
                    .find(|index| index.fields() == &*wanted.fields && index.is_unique() == wanted.unique);
                kept.cloned().unwrap_or_else(|| {
                    let mut index = Index::new(wanted.fields.iter().cloned(), wanted.unique);
                    for (row, record) in self.all_rows() {
                        index.put(row, None, Some(record));
                    }
                    index
                })
            })
            .collect();
        bucket.definition = definition;
        bucket
    }

    /// The keys that two live records share under a unique index: what forbids making a field unique.
    #[must_use]
    pub(super) fn first_duplicate(&self, now: Timestamp) -> Option<(&Index, &IndexKey)> {
        self.indexes.iter().filter(|index| index.is_unique()).find_map(|index| {
            let clash = index.range((Bound::Unbounded, Bound::Unbounded)).find(|(key, rows)| {
                key.is_exclusive()
                    && rows.len() > 1
                    && rows
                        .iter()
                        .filter_map(|row| self.row(row))
                        .filter(|record| !self.is_expired(record, now))
                        .count()
                        > 1
            });
            clash.map(|(key, _)| (index, key))
        })
    }
}
