//! Writes to single records: what a new record is made of, what an update changes.

use std::collections::HashMap;
use std::sync::Arc;

use rand_chacha::rand_core::Rng;
use serde_json::Value;

use super::bucket::{Bucket, BucketId, RowId};
use super::definition::BucketDefinition;
use super::draft::Draft;
use super::guarded::{admits, check_stored, shown};
use super::schema::Generated;
use crate::protocol::{BucketName, Datum, FieldName, Number, Record, RecordBuilder};
use crate::store::StoreError;
use crate::store::guard::Guard;

const VERSION: &[u8] = b"\"_version\"";
const CREATED_AT: &[u8] = b"\"_createdAt\"";
const UPDATED_AT: &[u8] = b"\"_updatedAt\"";
const EXPIRES_AT: &[u8] = b"\"_expiresAt\"";

/// The greatest whole number that every client can tell from its neighbours: 2^53 - 1.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// More changed fields than this are looked up by hash.
const LINEAR_FIELDS_MAX: usize = 16;

/// What to say of a key that is taken: a conflict inside a transaction, a plain clash outside.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    Single,
    Transaction,
}

impl Draft<'_> {
    /// Stores a new record: generated fields, defaults and metadata are added, the schema is checked. Gives what of it
    /// is to be seen.
    pub(super) fn insert(&mut self, name: &BucketName, given: &Record, scope: Scope, guard: Option<&Guard>) -> Result<Record, StoreError> {
        let bucket = self.bucket(name)?;
        let (id, definition) = (bucket.id(), Arc::clone(bucket.definition()));
        check_named(guard, given, &definition)?;
        let record = self.complete(id, &definition, given);
        check_stored(guard, &definition, name, &record)?;
        self.charge_write(&record)?;
        let key = record.datum(definition.key());
        if !key.is_key() {
            return Err(missing_key(name, definition.key()));
        }
        self.free_key(name, id, &key, scope)?;
        let row = self.next_row(id);
        self.put(id, row, None, Some(record.clone()));
        Ok(shown(guard, record, definition.key()))
    }

    /// Makes sure that no live record has the key. One whose time is up makes way.
    fn free_key(&mut self, name: &BucketName, id: BucketId, key: &Datum, scope: Scope) -> Result<(), StoreError> {
        let bucket = self.bucket(name)?;
        let Some((row, old)) = bucket.row_of(key).and_then(|row| Some((row, bucket.row(row)?.clone()))) else {
            return Ok(());
        };
        if bucket.is_expired(&old, self.now) {
            self.put(id, row, Some(old), None);
            return Ok(());
        }
        Err(match scope {
            Scope::Single => StoreError::RecordAlreadyExists {
                bucket: name.clone(),
                key: key.clone(),
            },
            Scope::Transaction => StoreError::TransactionConflict {
                bucket: name.clone(),
                key: key.clone(),
                reason: format!("Record with key \"{key}\" already exists"),
            },
        })
    }

    /// The record as it will be stored: what was given, then what is generated, then defaults, then metadata.
    fn complete(&mut self, id: BucketId, definition: &BucketDefinition, given: &Record) -> Record {
        let mut builder = RecordBuilder::with_capacity(given.field_count() + 6, given.json().len() + 160);
        for (name, value) in given.fields() {
            if name != VERSION && name != CREATED_AT && name != UPDATED_AT {
                builder.push_token(name, value);
            }
        }
        self.generate(id, definition, given, &mut builder);
        for field in definition.schema().fields() {
            let Some(default) = &field.default else { continue };
            if field.generated.is_none() && given.token(&field.name).is_none() {
                builder.push_value(field.name.as_str(), default);
            }
        }
        let now = Number::from(self.now);
        builder.push_token(VERSION, b"1");
        builder.push_number_token(CREATED_AT, now);
        builder.push_number_token(UPDATED_AT, now);
        if let Some(ttl_ms) = definition.ttl_ms() {
            let supplied = given.fields().any(|(name, _)| name == EXPIRES_AT);
            if let (false, Some(end)) = (supplied, Number::from_f64(self.now as f64 + ttl_ms)) {
                builder.push_number_token(EXPIRES_AT, end);
            }
        }
        builder.finish()
    }

    fn generate(&mut self, id: BucketId, definition: &BucketDefinition, given: &Record, builder: &mut RecordBuilder) {
        // All autoincrement fields of one record get the same number.
        let mut number = None;
        for field in definition.schema().fields() {
            let Some(kind) = field.generated else { continue };
            if given.token(&field.name).is_some() {
                if let (Generated::Autoincrement, Datum::Number(given)) = (kind, given.datum(&field.name)) {
                    // Numbers that clients cannot count with would end generation for good.
                    self.skip_number(id, given.as_u64().filter(|number| *number <= NUMBER_MAX).unwrap_or(0));
                }
                continue;
            }
            match kind {
                Generated::Uuid => {
                    let uuid = uuid::Builder::from_random_bytes(self.random_bytes()).into_uuid();
                    builder.push_value(field.name.as_str(), &Value::from(uuid.to_string()));
                }
                Generated::Cuid => {
                    let cuid = format!("c{:032x}", u128::from_be_bytes(self.random_bytes()));
                    builder.push_value(field.name.as_str(), &Value::from(cuid));
                }
                Generated::Autoincrement => {
                    let number = *number.get_or_insert_with(|| self.next_number(id));
                    builder.push_number(&field.name, Number::from(number));
                }
                Generated::Timestamp => builder.push_number(&field.name, Number::from(self.now)),
            }
        }
    }

    fn random_bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.ids.fill_bytes(&mut bytes);
        bytes
    }

    /// Changes a record. Gives what of it is to be seen.
    pub(super) fn update(
        &mut self,
        name: &BucketName,
        key: &Datum,
        changes: &Record,
        expect_version: Option<u64>,
        guard: Option<&Guard>,
    ) -> Result<Record, StoreError> {
        let bucket = self.bucket(name)?;
        let definition = Arc::clone(bucket.definition());
        check_named(guard, changes, &definition)?;
        let live = visible_row(bucket, key, self.now, guard);
        check_version(name, key, live.map(|(_, record)| record), expect_version)?;
        let Some((row, old)) = live else {
            return Err(StoreError::RecordNotFound {
                bucket: name.clone(),
                key: key.clone(),
            });
        };
        let old = old.clone();
        let new = self.update_row(name, row, &old, changes, guard)?;
        Ok(shown(guard, new, definition.key()))
    }

    /// Changes the record in a row. Gives all of it.
    pub(super) fn update_row(
        &mut self,
        name: &BucketName,
        row: RowId,
        old: &Record,
        changes: &Record,
        guard: Option<&Guard>,
    ) -> Result<Record, StoreError> {
        let bucket = self.bucket(name)?;
        let (id, definition) = (bucket.id(), Arc::clone(bucket.definition()));
        let new = merge(&definition, old, changes, Number::from(self.now));
        check_stored(guard, &definition, name, &new)?;
        self.charge_write(&new)?;
        self.put(id, row, Some(old.clone()), Some(new.clone()));
        Ok(new)
    }

    /// Updates the record of the key that is given, or inserts. A record that is not to be seen is found by the insert.
    pub(super) fn upsert(
        &mut self,
        name: &BucketName,
        given: &Record,
        expect_version: Option<u64>,
        guard: Option<&Guard>,
    ) -> Result<Record, StoreError> {
        let bucket = self.bucket(name)?;
        let key = given.datum(bucket.key_field());
        let exists = key.is_key() && visible_row(bucket, &key, self.now, guard).is_some();
        if exists {
            return self.update(name, &key, given, expect_version, guard);
        }
        check_named(guard, given, bucket.definition())?;
        check_version(name, &key, None, expect_version)?;
        self.insert(name, given, Scope::Single, guard)
    }

    /// Removes a record; false where there is none.
    pub(super) fn delete(
        &mut self,
        name: &BucketName,
        key: &Datum,
        expect_version: Option<u64>,
        guard: Option<&Guard>,
    ) -> Result<bool, StoreError> {
        let bucket = self.bucket(name)?;
        let id = bucket.id();
        let live = visible_row(bucket, key, self.now, guard).map(|(row, record)| (row, record.clone()));
        check_version(name, key, live.as_ref().map(|(_, record)| record), expect_version)?;
        let Some((row, old)) = live else { return Ok(false) };
        self.put(id, row, Some(old), None);
        Ok(true)
    }
}

fn missing_key(bucket: &BucketName, key: &FieldName) -> StoreError {
    let issue = crate::protocol::Issue::new(key.as_str(), "required", "Field is required");
    StoreError::InvalidRecord {
        bucket: bucket.clone(),
        issues: vec![issue],
    }
}

/// The row and record of a key, where its time is not up.
pub(super) fn live_row<'b>(bucket: &'b Bucket, key: &Datum, now: u64) -> Option<(RowId, &'b Record)> {
    let row = bucket.row_of(key)?;
    bucket
        .row(row)
        .filter(|record| !bucket.is_expired(record, now))
        .map(|record| (row, record))
}

/// The same, where it is there for whoever is bound by a guard.
fn visible_row<'b>(bucket: &'b Bucket, key: &Datum, now: u64, guard: Option<&Guard>) -> Option<(RowId, &'b Record)> {
    live_row(bucket, key, now).filter(|(_, record)| admits(guard, record))
}

/// Checks that the fields that are to be written are there for whoever is bound by a guard.
pub(super) fn check_named(guard: Option<&Guard>, given: &Record, definition: &BucketDefinition) -> Result<(), StoreError> {
    guard.map_or(Ok(()), |guard| guard.check_written(given, definition.key()))
}

/// Whether the record has the version that the caller expects; 0 stands for no record.
pub(super) fn check_version(
    bucket: &BucketName,
    key: &Datum,
    record: Option<&Record>,
    expect_version: Option<u64>,
) -> Result<(), StoreError> {
    let Some(expected) = expect_version else { return Ok(()) };
    let actual = record.map_or(0, Record::version);
    if expected == actual {
        return Ok(());
    }
    Err(StoreError::VersionConflict {
        bucket: bucket.clone(),
        key: key.clone(),
        expected,
        actual,
    })
}

/// The record after an update: whole fields are replaced, new ones go to the end; the key, generated fields and
/// metadata stay; the version and the time of change move.
fn merge(definition: &BucketDefinition, old: &Record, changes: &Record, now: Number) -> Record {
    let mut builder = RecordBuilder::with_capacity(old.field_count() + changes.field_count(), old.json().len() + changes.json().len());
    let changed = Fields::of(changes);
    for (name, value) in old.fields() {
        if name == VERSION {
            builder.push_number_token(VERSION, Number::from(old.version() + 1));
        } else if name == UPDATED_AT {
            builder.push_number_token(UPDATED_AT, now);
        } else {
            let replaced = changed.get(name).filter(|_| !is_protected(definition, name));
            builder.push_token(name, replaced.unwrap_or(value));
        }
    }
    let known = Fields::of(old);
    for (name, value) in changes.fields() {
        if known.get(name).is_none() && !is_protected(definition, name) {
            builder.push_token(name, value);
        }
    }
    builder.finish()
}

/// What an update leaves alone: metadata but for the end of life, the key, and what was generated.
fn is_protected(definition: &BucketDefinition, name: &[u8]) -> bool {
    let metadata = name == VERSION || name == CREATED_AT || name == UPDATED_AT;
    let generated = || {
        definition
            .schema()
            .fields()
            .iter()
            .any(|field| field.generated.is_some() && field.name.token() == name)
    };
    metadata || name == definition.key().token() || generated()
}

/// A record's fields for repeated look-ups: by hash where there are many, so that no input costs quadratic time.
enum Fields<'r> {
    Few(&'r Record),
    Many(HashMap<&'r [u8], &'r [u8]>),
}

impl<'r> Fields<'r> {
    fn of(record: &'r Record) -> Self {
        if record.field_count() <= LINEAR_FIELDS_MAX {
            Self::Few(record)
        } else {
            Self::Many(record.fields().collect())
        }
    }

    fn get(&self, name: &[u8]) -> Option<&'r [u8]> {
        match self {
            Self::Few(record) => record.fields().find_map(|(other, value)| (other == name).then_some(value)),
            Self::Many(fields) => fields.get(name).copied(),
        }
    }
}
