//! Which records of a bucket somebody may see and change, and which of their fields.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::query::Filter;
use crate::protocol::{FieldName, Issue, Record, json};

/// What bounds somebody's dealings with a bucket: a filter that every record has to pass, and the fields that are there
/// for them. Equal guards share live views.
///
/// The key of a record and its metadata (`_version`, `_createdAt` and the like) are always there.
pub struct Guard {
    filter: Filter,
    /// None for all fields.
    fields: Option<Vec<FieldName>>,
    /// The JSON of both: what equal guards have in common.
    key: Vec<u8>,
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
            fields: fields.map(|fields| fields.iter().map(|name| FieldName::new(name)).collect()),
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
        self.fields.as_deref()
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
