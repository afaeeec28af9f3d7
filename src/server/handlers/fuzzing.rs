//! A way in for fuzzing, built only for that: what the readers of single fields make of a JSON text.

use serde_json::{Map, Value};

use super::fields;
use crate::protocol::{Datum, Record};

/// What each reader makes of one JSON text; nothing where it refuses it.
#[derive(Debug)]
pub struct Readings {
    /// As a text that is not empty.
    pub text: Option<String>,
    /// As an object.
    pub object: Option<Map<String, Value>>,
    /// As a record.
    pub record: Option<Record>,
    /// As a list: its items.
    pub list: Option<Vec<String>>,
    /// As a key.
    pub key: Option<Datum>,
    /// As a whole number.
    pub whole: Option<u64>,
}

impl Readings {
    /// Reads a text in every way there is.
    #[must_use]
    pub fn of(json: &str) -> Self {
        let json = Some(json);
        Self {
            text: fields::read_text(json).ok().map(Into::into),
            object: fields::read_object(json).ok(),
            record: fields::read_record(json).ok(),
            list: fields::read_list(json)
                .ok()
                .map(|items| items.into_iter().map(str::to_owned).collect()),
            key: fields::read_key(json).ok(),
            whole: fields::read_whole(json, 0).ok(),
        }
    }
}
