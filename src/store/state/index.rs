//! Ordered secondary indexes: from the values of one or several fields to the rows that hold them.

use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use super::bucket::RowId;
use super::persistent::{OrdMap, OrdSet};
use crate::protocol::{Datum, FieldName, Record};

/// The indexed values of one row. Compound keys compare field by field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IndexKey {
    /// The value of a single-field index.
    One(Datum),
    /// The values of a compound index; a bound may hold fewer.
    Many(Arc<[Datum]>),
}

impl IndexKey {
    /// A key, or a bound, from the values of the first fields of an index with `width` fields.
    #[must_use]
    pub fn new(width: usize, mut values: SmallVec<[Datum; 2]>) -> Self {
        match values.pop() {
            Some(only) if width == 1 && values.is_empty() => Self::One(only),
            Some(last) => Self::Many(values.into_iter().chain([last]).collect()),
            None => Self::Many(Arc::new([])),
        }
    }

    /// The values, first field first.
    #[must_use]
    pub fn values(&self) -> &[Datum] {
        match self {
            Self::One(datum) => std::slice::from_ref(datum),
            Self::Many(data) => data,
        }
    }

    /// Whether a unique index lets only one row hold this key: any number may lack a value, and lists and objects
    /// equal nothing.
    pub(super) fn is_exclusive(&self) -> bool {
        self.values().iter().all(Datum::is_key)
    }
}

/// The rows that hold one key, in the order of the bucket.
#[derive(Clone, Debug)]
pub enum RowSet {
    /// A single row, without an allocation.
    One(RowId),
    /// Two rows or more.
    Many(OrdSet<RowId>),
}

impl RowSet {
    /// The number of rows: at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a key without rows is not in the index")]
    pub fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(rows) => rows.len(),
        }
    }

    /// The rows in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = RowId> + '_ {
        let (one, many) = match self {
            Self::One(row) => (Some(*row), None),
            Self::Many(rows) => (None, Some(rows.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    fn insert(&mut self, row: RowId) {
        match self {
            Self::One(first) if *first == row => {}
            Self::One(first) => *self = Self::Many([*first, row].into_iter().collect()),
            Self::Many(rows) => {
                rows.insert(row);
            }
        }
    }

    /// Takes a row out; true where none is left.
    fn remove(&mut self, row: RowId) -> bool {
        match self {
            Self::One(only) => *only == row,
            Self::Many(rows) => {
                rows.remove(&row);
                let mut left = rows.iter().copied();
                match (left.next(), left.next()) {
                    (Some(only), None) => {
                        *self = Self::One(only);
                        false
                    }
                    (None, _) => true,
                    (Some(_), Some(_)) => false,
                }
            }
        }
    }
}

/// One index of a bucket. Every row is in it, also those that lack a value.
#[derive(Clone, Debug)]
pub struct Index {
    fields: Arc<[FieldName]>,
    unique: bool,
    entries: OrdMap<IndexKey, RowSet>,
}

impl Index {
    /// An empty index over the named fields.
    #[must_use]
    pub fn new(fields: impl IntoIterator<Item = FieldName>, unique: bool) -> Self {
        Self {
            fields: fields.into_iter().collect(),
            unique,
            entries: OrdMap::default(),
        }
    }

    /// The indexed fields, the most significant first.
    #[must_use]
    pub fn fields(&self) -> &[FieldName] {
        &self.fields
    }

    /// Whether two rows may not hold the same value.
    #[must_use]
    pub fn is_unique(&self) -> bool {
        self.unique
    }

    /// The number of distinct keys.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.entries.len()
    }

    /// The rows that hold exactly this key.
    #[must_use]
    pub fn rows(&self, key: &IndexKey) -> Option<&RowSet> {
        self.entries.get(key)
    }

    /// The keys within the bounds with their rows, ascending; the iterator can be reversed.
    pub fn range(&self, bounds: (Bound<IndexKey>, Bound<IndexKey>)) -> impl DoubleEndedIterator<Item = (&IndexKey, &RowSet)> {
        // A range whose start lies behind its end would panic: it is empty instead.
        let empty = match (&bounds.0, &bounds.1) {
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        };
        (!empty).then(|| self.entries.range::<_, IndexKey>(bounds)).into_iter().flatten()
    }

    /// The values of a record under this index.
    #[must_use]
    pub fn key_of(&self, record: &Record) -> IndexKey {
        match &*self.fields {
            [only] => IndexKey::One(record.datum(only)),
            fields => IndexKey::Many(fields.iter().map(|field| record.datum(field)).collect()),
        }
    }

    /// Follows a row from one version of its record to the next. Returns the key that now needs a look where the
    /// index is unique.
    pub(super) fn put(&mut self, row: RowId, old: Option<&Record>, new: Option<&Record>) -> Option<IndexKey> {
        let (old, new) = (old.map(|record| self.key_of(record)), new.map(|record| self.key_of(record)));
        if old == new {
            return None;
        }
        if let Some(key) = old
            && self.entries.get_mut(&key).is_some_and(|rows| rows.remove(row))
        {
            self.entries.remove(&key);
        }
        let key = new?;
        match self.entries.get_mut(&key) {
            Some(rows) => rows.insert(row),
            None => {
                self.entries.insert(key.clone(), RowSet::One(row));
            }
        }
        (self.unique && key.is_exclusive()).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record {
        Record::from_object(&serde_json::from_str(json).unwrap())
    }

    fn index(fields: &[&str]) -> Index {
        Index::new(fields.iter().map(|name| FieldName::new(name)), true)
    }

    #[test]
    fn a_row_moves_with_its_value_and_leaves_nothing_behind() {
        let mut index = index(&["g"]);
        let (x, y) = (record(r#"{"g":"x"}"#), record(r#"{"g":"y"}"#));
        assert_eq!(index.put(RowId(1), None, Some(&x)), Some(IndexKey::One("x".into())));
        index.put(RowId(2), None, Some(&x));
        index.put(RowId(1), Some(&x), Some(&y));
        assert_eq!(
            index.rows(&IndexKey::One("x".into())).unwrap().iter().collect::<Vec<_>>(),
            [RowId(2)]
        );
        index.put(RowId(2), Some(&x), None);
        index.put(RowId(1), Some(&y), None);
        assert_eq!(index.key_count(), 0);
    }

    #[test]
    fn a_missing_value_needs_no_uniqueness() {
        let mut index = index(&["g"]);
        assert_eq!(index.put(RowId(1), None, Some(&record("{}"))), None);
        assert_eq!(index.put(RowId(2), None, Some(&record(r#"{"g":null}"#))), None);
        assert_eq!(index.key_count(), 2);
    }

    #[test]
    fn a_compound_index_finds_by_its_first_fields() {
        let mut index = index(&["a", "b"]);
        for (row, json) in [r#"{"a":1,"b":"x"}"#, r#"{"a":1}"#, r#"{"a":2,"b":"x"}"#, r#"{"a":0,"b":"z"}"#]
            .iter()
            .enumerate()
        {
            index.put(RowId(row as u64), None, Some(&record(json)));
        }
        let low = IndexKey::new(2, [Datum::from(1)].into_iter().collect());
        let high = IndexKey::new(2, [Datum::from(1), Datum::Missing].into_iter().collect());
        let rows: Vec<_> = index
            .range((Bound::Included(low), Bound::Included(high)))
            .flat_map(|(_, rows)| rows.iter())
            .collect();
        assert_eq!(rows, [RowId(0), RowId(1)]);
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        let mut index = index(&["n"]);
        index.put(RowId(1), None, Some(&record(r#"{"n":1}"#)));
        let key = |n: i64| IndexKey::One(n.into());
        assert_eq!(index.range((Bound::Excluded(key(1)), Bound::Excluded(key(1)))).count(), 0);
        assert_eq!(index.range((Bound::Included(key(5)), Bound::Included(key(0)))).count(), 0);
        assert_eq!(index.range((Bound::Included(key(1)), Bound::Included(key(1)))).count(), 1);
    }
}
