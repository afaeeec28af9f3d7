//! What the tests of this module build their cases from.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Filter;
use crate::protocol::{Issue, Record};
use crate::store::state::{Bucket, BucketDefinition, BucketId};

pub(super) fn object(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).unwrap()
}

pub(super) fn record(json: &str) -> Record {
    Record::from_object(&object(json))
}

pub(super) fn filter(json: &str) -> Filter {
    Filter::parse(&object(json)).unwrap()
}

pub(super) fn issues_of<T: std::fmt::Debug>(result: Result<T, Vec<Issue>>) -> Vec<Issue> {
    result.unwrap_err()
}

/// A bucket keyed by `id`, with the records in this order. `options` goes into its definition.
pub(super) fn bucket(options: Value, records: impl IntoIterator<Item = Record>) -> Bucket {
    let mut config = json!({ "key": "id", "schema": {
        "id": { "type": "string" }, "a": { "type": "string" }, "b": { "type": "string" }, "c": { "type": "string" }, "n": { "type": "number" }
    } });
    for (name, value) in options.as_object().unwrap() {
        config[name] = value.clone();
    }
    let definition = BucketDefinition::parse(config.as_object().unwrap()).unwrap();
    Bucket::filled(BucketId(1), Arc::new(definition), records)
}
