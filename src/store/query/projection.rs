//! A result's records reduced to some of their fields.

use std::sync::Arc;

use serde_json::Value;

use super::{FIELDS_MAX, too_many_fields};
use crate::protocol::{FieldName, Issue, Record, RecordBuilder};

/// The fields to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    fields: Arc<[FieldName]>,
    order: Order,
}

/// In which order they appear.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Order {
    /// In that of the list.
    OfList,
    /// In that of the record. The list is sorted by token; this field is kept besides it.
    OfRecord(FieldName),
}

impl Projection {
    /// Checks a projection as a caller sends it: a list of names. An empty list is no projection.
    ///
    /// # Errors
    /// All faults, under the given place.
    pub fn parse(fields: &Value, place: &str) -> Result<Option<Self>, Vec<Issue>> {
        let Value::Array(names) = fields else {
            return Err(vec![Issue::new(place, "type", "Expected an array of field names")]);
        };
        if names.len() > FIELDS_MAX {
            return Err(vec![too_many_fields(place)]);
        }
        let mut parsed: Vec<FieldName> = Vec::with_capacity(names.len());
        let mut issues = Vec::new();
        for (at, name) in names.iter().enumerate() {
            match name {
                // A name given twice would be a member given twice.
                Value::String(name) if parsed.iter().any(|known| known.as_str() == name) => {}
                Value::String(name) => parsed.push(FieldName::new(name)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                    issues.push(Issue::new(format!("{place}[{at}]"), "type", "Expected a field name"));
                }
            }
        }
        if issues.is_empty() {
            Ok((!parsed.is_empty()).then(|| Self {
                fields: parsed.into(),
                order: Order::OfList,
            }))
        } else {
            Err(issues)
        }
    }

    /// Records as they stand, without the fields that are neither `key` nor one of these, which are sorted by token.
    pub(in crate::store) fn leaving(key: &FieldName, sorted: &Arc<[FieldName]>) -> Self {
        Self {
            fields: Arc::clone(sorted),
            order: Order::OfRecord(key.clone()),
        }
    }

    /// The fields that were listed.
    #[must_use]
    pub fn fields(&self) -> &[FieldName] {
        &self.fields
    }

    /// Whether a field is kept.
    #[must_use]
    pub fn keeps(&self, field: &FieldName) -> bool {
        match &self.order {
            Order::OfList => self.fields.contains(field),
            Order::OfRecord(key) => field == key || holds(&self.fields, field.token()),
        }
    }

    /// The record with the fields to keep, as far as it has them.
    #[must_use]
    pub fn apply(&self, record: &Record) -> Record {
        match &self.order {
            Order::OfList => {
                let mut builder = RecordBuilder::with_capacity(self.fields.len(), 32 * self.fields.len());
                for field in &*self.fields {
                    if let Some(value) = record.token(field) {
                        builder.push_token(field.token(), value);
                    }
                }
                builder.finish()
            }
            Order::OfRecord(key) => {
                let mut builder = RecordBuilder::with_capacity(record.field_count(), record.json().len());
                for (name, value) in record.fields() {
                    if name == key.token() || holds(&self.fields, name) {
                        builder.push_token(name, value);
                    }
                }
                builder.finish()
            }
        }
    }
}

/// Whether one of the fields, which are sorted by token, has this one.
pub(in crate::store) fn holds(sorted: &[FieldName], token: &[u8]) -> bool {
    sorted.binary_search_by(|field| field.token().cmp(token)).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::support::{issues_of, record};
    use super::*;

    #[test]
    fn listed_fields_that_exist_appear_in_list_order() {
        let projection = Projection::parse(&json!(["y", "nowhere", "x", "y"]), "fields").unwrap().unwrap();
        let reduced = projection.apply(&record(r#"{"id":"a","x":{"k":[1]},"y":null}"#));
        assert_eq!(reduced.json(), br#"{"y":null,"x":{"k":[1]}}"#);
        assert_eq!(projection.apply(&record("{}")).json(), b"{}");
    }

    #[test]
    fn an_empty_list_is_no_projection_and_anything_else_a_fault() {
        assert_eq!(Projection::parse(&json!([]), "fields"), Ok(None));
        assert_eq!(issues_of(Projection::parse(&json!("id"), "fields"))[0].field, "fields");
        assert_eq!(issues_of(Projection::parse(&json!(["id", 1]), "fields"))[0].field, "fields[1]");
    }
}
