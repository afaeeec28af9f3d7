//! References between buckets, held to on every path: what a deletion takes along, what forbids it, and whether
//! every reference leads to a record.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::bucket::{BucketId, RowId};
use super::catalog::Referrer;
use super::definition::OnDelete;
use super::draft::Draft;
use super::index::IndexKey;
use super::write::live_row;
use crate::protocol::{BucketName, Datum, Record};
use crate::store::StoreError;

/// A record that went.
struct Gone {
    bucket: BucketName,
    key: Datum,
}

impl Draft<'_> {
    /// Follows the references to everything that was deleted since `from`, and checks those that were made.
    /// What counts is the state at the end: the order of the steps within the command does not matter.
    pub(super) fn settle_references(&mut self, from: usize) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        let mut next = from;
        // Cascades and set_null append changes of their own: go on until nothing new comes.
        while let Some(change) = self.changes().get(next) {
            next += 1;
            let (None, Some(old), bucket) = (&change.new, &change.old, change.bucket) else {
                continue;
            };
            let Some(name) = self.state.name_of_referenced(bucket) else {
                continue;
            };
            let old = old.clone();
            let Some(key) = self.state.bucket_by_id(bucket).map(|content| old.datum(content.key_field())) else {
                continue;
            };
            if self.is_live(&name, &key) {
                continue;
            }
            self.follow(&name, &key)?;
            gone.push(Gone { bucket: name, key });
        }
        for gone in &gone {
            self.check_restricted(gone)?;
        }
        self.check_targets(from)
    }

    fn is_live(&self, bucket: &BucketName, key: &Datum) -> bool {
        self.bucket(bucket).is_ok_and(|content| live_row(content, key, self.now).is_some())
    }

    /// Deletes or changes what refers to a key that is gone.
    fn follow(&mut self, name: &BucketName, key: &Datum) -> Result<(), StoreError> {
        for referrer in self.state.referrers(name.as_str()).to_vec() {
            if referrer.on_delete == OnDelete::Restrict {
                continue;
            }
            let rows: Vec<_> = self.referring_rows(&referrer, key).collect();
            for row in rows {
                let Some(record) = self
                    .state
                    .bucket_by_id(referrer.source)
                    .and_then(|content| content.row(row))
                    .cloned()
                else {
                    continue;
                };
                if referrer.on_delete == OnDelete::Cascade {
                    self.put(referrer.source, row, Some(record), None);
                } else {
                    let nulled = Record::from_object(&Map::from_iter([(referrer.field.as_str().to_owned(), Value::Null)]));
                    self.update_row(&referrer.source_name, row, &record, &nulled, None)?;
                }
            }
        }
        Ok(())
    }

    fn referring_rows(&self, referrer: &Referrer, key: &Datum) -> impl Iterator<Item = RowId> + '_ {
        let content = self.state.bucket_by_id(referrer.source);
        let index = content.and_then(|content| content.index_on(&referrer.field));
        let rows = index.and_then(|index| index.rows(&IndexKey::One(key.clone())));
        let live =
            move |row: &RowId| content.is_some_and(|content| content.row(*row).is_some_and(|record| !content.is_expired(record, self.now)));
        rows.into_iter().flat_map(|rows| rows.iter()).filter(live)
    }

    fn check_restricted(&self, gone: &Gone) -> Result<(), StoreError> {
        for referrer in self.state.referrers(gone.bucket.as_str()) {
            if referrer.on_delete != OnDelete::Restrict {
                continue;
            }
            let Some(row) = self.referring_rows(referrer, &gone.key).next() else {
                continue;
            };
            let content = self.state.bucket_by_id(referrer.source);
            let source_key = content
                .and_then(|content| Some(content.row(row)?.datum(content.key_field())))
                .unwrap_or(Datum::Missing);
            return Err(StoreError::StillReferenced {
                source_bucket: referrer.source_name.clone(),
                source_key,
                source_field: referrer.field.as_str().to_owned(),
                target_bucket: gone.bucket.clone(),
                target_key: gone.key.clone(),
            });
        }
        Ok(())
    }

    /// Every reference that was made or changed since `from` and is still there leads to a live record.
    fn check_targets(&self, from: usize) -> Result<(), StoreError> {
        for change in self.changes().get(from..).unwrap_or_default() {
            if change.new.is_none() {
                continue;
            }
            let Some(content) = self.state.bucket_by_id(change.bucket) else {
                continue;
            };
            if content.definition().references().is_empty() {
                continue;
            }
            let Some(record) = content.row(change.row) else { continue };
            for reference in content.definition().references() {
                let target_key = record.datum(&reference.field);
                let kept = change.old.as_ref().is_some_and(|old| old.datum(&reference.field) == target_key);
                if !target_key.is_present() || kept {
                    continue;
                }
                let target = self.bucket(&reference.target)?;
                if !target_key.is_key() || live_row(target, &target_key, self.now).is_none() {
                    return Err(StoreError::MissingTarget {
                        source_bucket: self.state.name_of(change.bucket),
                        source_field: reference.field.as_str().to_owned(),
                        target_bucket: reference.target.clone(),
                        target_key,
                    });
                }
            }
        }
        Ok(())
    }

    /// Deletes a row with all that this takes along, or leaves everything as it was where a reference forbids it or
    /// one of the `kept` rows would be touched.
    pub(super) fn try_remove(&mut self, bucket: BucketId, row: RowId, kept: &HashSet<(BucketId, RowId)>) -> bool {
        let Some(record) = self.state.bucket_by_id(bucket).and_then(|content| content.row(row)).cloned() else {
            return false;
        };
        let savepoint = self.savepoint();
        let from = self.changes().len();
        self.put(bucket, row, Some(record), None);
        let settled = self.settle_references(from).is_ok();
        let touches_kept = self
            .changes()
            .iter()
            .skip(from + 1)
            .any(|change| kept.contains(&(change.bucket, change.row)));
        if !settled || touches_kept {
            self.rollback_to(&savepoint);
            return false;
        }
        true
    }
}
