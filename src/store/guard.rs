//! Which records of a bucket somebody may see and change, and which of their fields.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::StoreError;
use super::query::{Filter, Projection, ResolvedQuery, holds};
use crate::protocol::{FieldName, FieldValue, Issue, Record, json};

/// The metadata of a record, which is always there to be seen.
const METADATA: [&str; 4] = ["_version", "_createdAt", "_updatedAt", "_expiresAt"];

/// Metadata that a write may name since it makes no difference there: the store sets it itself. The end of life is not
/// among them.
const PASSED_OVER: [&[u8]; 3] = [b"\"_version\"", b"\"_createdAt\"", b"\"_updatedAt\""];

/// What bounds somebody's dealings with a bucket: a filter that every record has to pass, and the fields that are there
/// for them. Equal guards share live views.
///
/// The key of a record and its metadata (`_version`, `_createdAt` and the like) are always there.
pub struct Guard {
    filter: Filter,
    /// None for all fields.
    fields: Option<Fields>,
    /// The JSON of both: what equal guards have in common.
    key: Vec<u8>,
}

/// The fields that are there besides the key, each list sorted by token.
struct Fields {
    listed: Vec<FieldName>,
    /// The same with the metadata.
    shown: Arc<[FieldName]>,
}

impl Fields {
    fn new(names: &[String]) -> Self {
        let named = |names: &mut dyn Iterator<Item = &str>| {
            let mut fields: Vec<_> = names.map(FieldName::new).collect();
            fields.sort_unstable_by(|a, b| a.token().cmp(b.token()));
            fields.dedup();
            fields
        };
        Self {
            listed: named(&mut names.iter().map(String::as_str)),
            shown: named(&mut names.iter().map(String::as_str).chain(METADATA)).into(),
        }
    }
}

impl Guard {
    /// A guard of a filter, as clients write filters, and of the names of fields, where not all are there.
    ///
    /// # Errors
    /// All faults of the filter.
    pub fn new(filter: &Map<String, Value>, fields: Option<Vec<String>>) -> Result<Arc<Self>, Vec<Issue>> {
        let parsed = Filter::parse(filter)?;
        let mut fields = fields;
        if let Some(fields) = &mut fields {
            fields.sort_unstable();
            fields.dedup();
        }
        let key = json::to_vec(&Value::Array(vec![
            Value::Object(filter.clone()),
            fields.clone().map_or(Value::Null, Value::from),
        ]));
        Ok(Arc::new(Self {
            filter: parsed,
            fields: fields.map(|fields| Fields::new(&fields)),
            key,
        }))
    }

    /// The filter that every record has to pass.
    #[must_use]
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The fields that are there besides the key and the metadata; none where all are.
    #[must_use]
    pub fn fields(&self) -> Option<&[FieldName]> {
        self.fields.as_ref().map(|fields| fields.listed.as_slice())
    }

    /// Whether a record is there for whoever is bound by this.
    #[must_use]
    pub fn admits(&self, record: &Record) -> bool {
        self.filter.matches(record)
    }

    /// What equal guards have in common.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether a field of a bucket with this key field is there.
    #[must_use]
    pub fn shows(&self, field: &FieldName, key: &FieldName) -> bool {
        let listed = |fields: &Fields| holds(&fields.shown, field.token());
        field == key || self.fields.as_ref().is_none_or(listed)
    }

    /// What leaves the fields that are there of a record in a bucket with this key field; none where all are.
    #[must_use]
    pub fn projection(&self, key: &FieldName) -> Option<Projection> {
        self.fields.as_ref().map(|fields| Projection::leaving(key, &fields.shown))
    }

    /// A record as it is to be seen by whoever is bound by this, in a bucket with this key field.
    #[must_use]
    pub fn shown(&self, record: &Record, key: &FieldName) -> Record {
        self.projection(key)
            .map_or_else(|| record.clone(), |projection| projection.apply(record))
    }

    /// Checks that fields may be named in a read.
    ///
    /// # Errors
    /// [`StoreError::NoAccessToField`] for the first one that is not there.
    pub fn check_fields<'f>(&self, fields: impl IntoIterator<Item = &'f FieldName>, key: &FieldName) -> Result<(), StoreError> {
        refuse(fields.into_iter().find(|field| !self.shows(field, key)))
    }

    /// A filter together with that of the guard.
    ///
    /// # Errors
    /// [`StoreError::NoAccessToField`] where it names a field that is not there.
    pub fn narrow(&self, filter: &Filter, key: &FieldName) -> Result<Filter, StoreError> {
        refuse(filter.find_field(|field| !self.shows(field, key)))?;
        // The guard's first: of several conditions that serve equally well, the routing of live views takes that.
        Ok(self.filter.and(filter))
    }

    /// A query that finds what is there, and shows what is there of it.
    ///
    /// # Errors
    /// [`StoreError::NoAccessToField`] where any part of it names a field that is not there.
    pub fn bind(&self, query: ResolvedQuery, key: &FieldName) -> Result<ResolvedQuery, StoreError> {
        refuse(query.find_field(|field| !self.shows(field, key)))?;
        Ok(ResolvedQuery {
            filter: self.filter.and(&query.filter),
            // The fields that a query lists are there, as was checked: no more of them can be seen.
            projection: query.projection.or_else(|| self.projection(key)),
            ..query
        })
    }

    /// Checks that the fields of a record that somebody wants to write are theirs to write: the end of life is only
    /// where it is listed.
    ///
    /// # Errors
    /// [`StoreError::NoAccessToField`] for the first one that is not.
    pub fn check_written(&self, record: &Record, key: &FieldName) -> Result<(), StoreError> {
        let Some(fields) = &self.fields else { return Ok(()) };
        let is_theirs = |name: &[u8]| name == key.token() || holds(&fields.listed, name) || PASSED_OVER.contains(&name);
        match record.fields().find(|(name, _)| !is_theirs(name)) {
            None => Ok(()),
            Some((name, _)) => Err(StoreError::NoAccessToField(name_of(name))),
        }
    }
}

fn refuse(hidden: Option<&FieldName>) -> Result<(), StoreError> {
    hidden.map_or(Ok(()), |field| Err(StoreError::NoAccessToField(field.as_str().to_owned())))
}

/// The name that a token stands for.
fn name_of(token: &[u8]) -> String {
    match FieldValue::decode(token) {
        FieldValue::Text(name) => name.into_owned(),
        FieldValue::Missing
        | FieldValue::Null
        | FieldValue::Bool(_)
        | FieldValue::Number(_)
        | FieldValue::Array(_)
        | FieldValue::Object(_) => String::new(),
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.key))
    }
}

impl PartialEq for Guard {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}
