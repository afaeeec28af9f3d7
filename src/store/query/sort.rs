//! The order of a result.

use std::cmp::{Ordering, Reverse};

use serde_json::Value;
use smallvec::SmallVec;

use super::{FIELDS_MAX, too_many_fields};
use crate::protocol::{Datum, FieldName, Issue, Record};
use crate::store::state::RowId;

/// Which way a field is sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Smallest first.
    Ascending,
    /// Largest first.
    Descending,
}

/// Fields with their directions, the most significant first. Without any, a result is in order of insertion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sort(Vec<(FieldName, Direction)>);

/// The place of a record under a [`Sort`]: `(SortKey, RowId)` puts a result into its one order.
///
/// What is null or missing comes last in both directions, and all of that is equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SortKey(SmallVec<[SortValue; 1]>);

/// The order of the variants puts what has no value last. Two keys of one sort never differ in direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SortValue {
    Ascending(Datum),
    Descending(Reverse<Datum>),
    Absent,
}

impl Sort {
    /// A sort by these fields.
    pub fn new(fields: impl IntoIterator<Item = (FieldName, Direction)>) -> Self {
        Self(fields.into_iter().collect())
    }

    /// Checks a sort as a caller sends it: an object from field to `asc` or `desc`.
    ///
    /// # Errors
    /// All faults, under the given place.
    pub fn parse(sort: &Value, place: &str) -> Result<Self, Vec<Issue>> {
        let Value::Object(fields) = sort else {
            return Err(vec![Issue::new(
                place,
                "type",
                "Expected an object from field to \"asc\" or \"desc\"",
            )]);
        };
        if fields.len() > FIELDS_MAX {
            return Err(vec![too_many_fields(place)]);
        }
        let mut parsed = Vec::with_capacity(fields.len());
        let mut issues = Vec::new();
        for (field, direction) in fields {
            match direction.as_str() {
                Some("asc") => parsed.push((FieldName::new(field), Direction::Ascending)),
                Some("desc") => parsed.push((FieldName::new(field), Direction::Descending)),
                Some(_) | None => issues.push(Issue::new(format!("{place}.{field}"), "enum", "Value must be one of: asc, desc")),
            }
        }
        if issues.is_empty() { Ok(Self(parsed)) } else { Err(issues) }
    }

    /// Whether the result is in order of insertion.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields with their directions, the most significant first.
    #[must_use]
    pub fn fields(&self) -> &[(FieldName, Direction)] {
        &self.0
    }

    /// The place of a record.
    #[must_use]
    pub fn key_of(&self, record: &Record) -> SortKey {
        let values = self.0.iter().map(|(field, direction)| {
            let datum = record.datum(field);
            match direction {
                _ if !datum.is_present() => SortValue::Absent,
                Direction::Ascending => SortValue::Ascending(datum),
                Direction::Descending => SortValue::Descending(Reverse(datum)),
            }
        });
        SortKey(values.collect())
    }
}

/// A record in its place in a sorted result.
pub(super) struct Placed<'a> {
    place: (SortKey, RowId),
    record: &'a Record,
}

impl<'a> Placed<'a> {
    pub(super) fn new(sort: &Sort, row: RowId, record: &'a Record) -> Self {
        Self {
            place: (sort.key_of(record), row),
            record,
        }
    }

    pub(super) fn into_row(self) -> (RowId, &'a Record) {
        (self.place.1, self.record)
    }
}

impl Ord for Placed<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place.cmp(&other.place)
    }
}

impl PartialOrd for Placed<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Placed<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Placed<'_> {}

/// The first `count` items in ascending order, without sorting the others.
pub(super) fn smallest<T: Ord>(mut items: Vec<T>, count: usize) -> Vec<T> {
    if count == 0 {
        return Vec::new();
    }
    if count < items.len() {
        items.select_nth_unstable(count - 1);
        items.truncate(count);
    }
    items.sort_unstable();
    items
}

#[cfg(test)]
mod tests {
    use super::super::support::{issues_of, record};
    use super::*;

    fn order(sort: &Sort, records: &[&str]) -> Vec<usize> {
        let mut keys: Vec<_> = records
            .iter()
            .enumerate()
            .map(|(row, json)| (sort.key_of(&record(json)), RowId(row as u64), row))
            .collect();
        keys.sort();
        keys.into_iter().map(|(_, _, at)| at).collect()
    }

    fn sort(text: &str) -> Sort {
        Sort::parse(&serde_json::from_str(text).unwrap(), "sort").unwrap()
    }

    #[test]
    fn what_has_no_value_comes_last_in_both_directions_in_the_order_of_insertion() {
        let records = [r#"{"n":2}"#, r#"{"n":null}"#, r#"{"n":1}"#, "{}", r#"{"n":3}"#, r#"{"n":1}"#];
        assert_eq!(order(&sort(r#"{"n":"desc"}"#), &records), [4, 0, 2, 5, 1, 3]);
        assert_eq!(order(&sort(r#"{"n":"asc"}"#), &records), [2, 5, 0, 4, 1, 3]);
        assert_eq!(order(&sort("{}"), &records), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_later_field_decides_among_equals() {
        let records = [
            r#"{"g":"x","n":1}"#,
            r#"{"g":"y","n":5}"#,
            r#"{"g":"x","n":9}"#,
            r#"{"n":7}"#,
            r#"{"g":null,"n":6}"#,
        ];
        assert_eq!(order(&sort(r#"{"g":"desc","n":"asc"}"#), &records), [1, 0, 2, 4, 3]);
        assert_eq!(order(&sort(r#"{"g":"asc","n":"desc"}"#), &records), [2, 0, 1, 3, 4]);
    }

    #[test]
    fn types_sort_one_after_the_other() {
        let records = [r#"{"v":[1]}"#, r#"{"v":true}"#, r#"{"v":"a"}"#, r#"{"v":9}"#];
        assert_eq!(order(&sort(r#"{"v":"asc"}"#), &records), [3, 2, 1, 0]);
        assert_eq!(order(&sort(r#"{"v":"desc"}"#), &records), [0, 1, 2, 3]);
    }

    #[test]
    fn a_malformed_sort_is_refused() {
        for (text, field) in [
            (r#"["id"]"#, "sort"),
            (r#""id""#, "sort"),
            (r#"{"a":"asc","id":"up"}"#, "sort.id"),
            (r#"{"id":1}"#, "sort.id"),
        ] {
            assert_eq!(issues_of(Sort::parse(&serde_json::from_str(text).unwrap(), "sort"))[0].field, field);
        }
    }

    #[test]
    fn the_smallest_are_taken_in_order() {
        for count in [0, 1, 3, 5, 99, usize::MAX] {
            let mut expected = vec![1, 2, 3, 5, 9];
            expected.truncate(count);
            assert_eq!(smallest(vec![5, 1, 9, 3, 2], count), expected);
        }
    }
}
