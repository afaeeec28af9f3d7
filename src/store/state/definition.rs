//! Bucket definitions: checked whole before anything is registered.

use std::sync::Arc;
use serde_json::{Map, Value};
use super::schema::Schema;
use crate::protocol::{BucketName, FieldName, Issue};

#[derive(Clone, Debug)]
pub struct IndexDefinition { pub fields: Arc<[FieldName]>, pub unique: bool }

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete { Restrict, Cascade, SetNull }

#[derive(Clone, Debug)]
pub struct Reference { pub field: FieldName, pub target: BucketName, pub on_delete: OnDelete }

#[derive(Clone, Debug)]
pub struct BucketDefinition {
    config: Map<String, Value>,
    key: FieldName,
    schema: Schema,
    indexes: Vec<IndexDefinition>,
    references: Vec<Reference>,
    ttl_ms: Option<f64>,
    max_size: Option<usize>,
    ordered: bool,
    persistent: bool,
}

impl BucketDefinition {
    pub fn parse(config: &Map<String, Value>) -> Result<Self, Vec<Issue>> {
        let key = FieldName::new(config.get("key").and_then(Value::as_str).unwrap_or("id"));
        let schema = Schema::parse(config.get("schema").and_then(Value::as_object).unwrap_or(&Map::new()))?;
        let mut indexes: Vec<IndexDefinition> = Vec::new();
        for name in config.get("indexes").and_then(Value::as_array).into_iter().flatten() {
            let names: Vec<FieldName> = match name { Value::Array(a) => a.iter().filter_map(Value::as_str).map(FieldName::new).collect(), v => vec![FieldName::new(v.as_str().unwrap_or(""))] };
            let unique = names.len() == 1 && schema.is_unique(&names[0]);
            indexes.push(IndexDefinition { fields: names.into(), unique });
        }
        for field in schema.unique_fields() {
            if !indexes.iter().any(|i| i.fields.len() == 1 && i.fields[0] == *field) { indexes.push(IndexDefinition { fields: Arc::new([field.clone()]), unique: true }); }
        }
        let references = schema.references();
        for r in &references {
            if !indexes.iter().any(|i| i.fields.len() == 1 && i.fields[0] == r.field) { indexes.push(IndexDefinition { fields: Arc::new([r.field.clone()]), unique: false }); }
        }
        Ok(Self { config: config.clone(), key, schema, indexes, references, ttl_ms: config.get("ttl").and_then(Value::as_f64), max_size: config.get("maxSize").and_then(Value::as_u64).map(|n| n as usize), ordered: config.get("etsType").and_then(Value::as_str) == Some("ordered_set"), persistent: config.get("persistent") != Some(&Value::Bool(false)) })
    }
    pub fn updated(&self, updates: &Map<String, Value>) -> Result<Self, Vec<Issue>> { let _ = updates; Ok(self.clone()) }
    pub fn config(&self) -> &Map<String, Value> { &self.config }
    pub fn key(&self) -> &FieldName { &self.key }
    pub fn schema(&self) -> &Schema { &self.schema }
    pub fn indexes(&self) -> &[IndexDefinition] { &self.indexes }
    pub fn references(&self) -> &[Reference] { &self.references }
    pub fn ttl_ms(&self) -> Option<f64> { self.ttl_ms }
    pub fn max_size(&self) -> Option<usize> { self.max_size }
    pub fn is_ordered(&self) -> bool { self.ordered }
    pub fn is_persistent(&self) -> bool { self.persistent }
    /// explicit and unique indexes: what statistics count
    pub fn index_count(&self) -> usize { self.indexes.len() }
}
