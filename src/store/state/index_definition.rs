//! The indexes of a definition: the listed ones, and those that unique fields and references need.

use std::sync::Arc;

use serde_json::Value;

use super::faults::{Faults, Path};
use super::limits::Limits;
use super::properties::{Properties, type_name, wrong_type};
use super::schema::Schema;
use crate::protocol::FieldName;

/// One secondary index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexDefinition {
    /// The indexed fields, the most significant first.
    pub fields: Arc<[FieldName]>,
    /// Whether no two records may share the values of these fields.
    pub unique: bool,
}

impl IndexDefinition {
    fn on(field: FieldName, unique: bool) -> Self {
        Self {
            fields: Arc::new([field]),
            unique,
        }
    }

    fn is_on(&self, field: &FieldName) -> bool {
        self.fields.iter().eq([field])
    }
}

/// The indexes of a bucket in the order in which constraints are checked.
#[derive(Clone, Debug, Default)]
pub(super) struct IndexSet {
    /// The listed ones, then those of unique fields, then those of references.
    pub all: Vec<IndexDefinition>,
    /// How many of them are listed.
    listed: usize,
    /// How many are listed or enforce uniqueness: those of references serve the store alone.
    pub counted: usize,
}

impl IndexSet {
    /// Adds what `list` lists to the indexes listed so far, and completes them for the schema. Gives the elements
    /// that add anything beside it.
    ///
    /// An index that is listed twice is one index: the reference takes such lists, and they do no harm.
    pub fn extended<'a>(
        &self,
        list: &'a [Value],
        path: &Path<'_>,
        schema: &Schema,
        limits: &Limits,
        faults: &mut Faults,
    ) -> (Self, Vec<&'a Value>) {
        let most = limits.indexes;
        let mut set = Self {
            all: self.all.get(..self.listed).unwrap_or_default().to_vec(),
            listed: 0,
            counted: 0,
        };
        let mut news = Vec::new();
        if list.len() > most {
            faults.add(path, "limit", format!("A bucket has at most {most} indexes"));
            return (set, news);
        }
        for (at, element) in list.iter().enumerate() {
            let index = read_index(element, &Path::Item(path, at), schema, limits, faults);
            if index.is_some_and(|index| set.list(index)) {
                news.push(element);
            }
        }
        set.complete(schema);
        if set.all.len() > most.max(self.all.len()) {
            faults.add(
                path,
                "limit",
                format!("A bucket has at most {most} indexes, those of unique fields and references included"),
            );
        }
        (set, news)
    }

    /// Adds a listed index; false where it is listed already.
    fn list(&mut self, index: IndexDefinition) -> bool {
        match self.all.iter_mut().find(|listed| listed.fields == index.fields) {
            None => {
                self.all.push(index);
                true
            }
            Some(listed) => {
                let stricter = index.unique && !listed.unique;
                listed.unique |= index.unique;
                stricter
            }
        }
    }

    fn complete(&mut self, schema: &Schema) {
        self.listed = self.all.len();
        for field in schema.unique_fields() {
            match self.all.iter_mut().find(|index| index.is_on(field)) {
                Some(index) => index.unique = true,
                None => self.all.push(IndexDefinition::on(field.clone(), true)),
            }
        }
        self.counted = self.all.len();
        for reference in schema.references() {
            if !self.all.iter().any(|index| index.is_on(&reference.field)) {
                self.all.push(IndexDefinition::on(reference.field, false));
            }
        }
    }
}

/// The elements of a list of indexes with further ones, each index once and as strict as its strictest element.
pub(super) fn merged<'a>(elements: impl Iterator<Item = &'a Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for element in elements {
        match merged.iter_mut().find(|listed| names_of(listed) == names_of(element)) {
            None => merged.push(element.clone()),
            Some(listed) if is_unique(element) && !is_unique(listed) => listed.clone_from(element),
            Some(_) => {}
        }
    }
    merged
}

/// The names of the fields in an element that was read without a fault.
fn names_of(element: &Value) -> &[Value] {
    match element {
        Value::Object(object) => object.get("fields").map_or(&[], names_of),
        Value::Array(names) => names,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => std::slice::from_ref(element),
    }
}

fn is_unique(element: &Value) -> bool {
    element.get("unique") == Some(&Value::Bool(true))
}

/// One element: the name of a field, a list of names, or `{ "fields": …, "unique": … }`.
fn read_index(element: &Value, path: &Path<'_>, schema: &Schema, limits: &Limits, faults: &mut Faults) -> Option<IndexDefinition> {
    match element {
        Value::String(name) => Some(IndexDefinition::on(read_field(name, path, schema, faults)?, false)),
        Value::Array(names) => Some(IndexDefinition {
            fields: read_fields(names, path, schema, limits, faults)?,
            unique: false,
        }),
        Value::Object(object) => {
            let properties = Properties::new(object, path);
            properties.refuse_unknown(&["fields", "unique"], faults);
            properties.require("fields", faults);
            let unique = properties.flag("unique", faults);
            let names = properties.list("fields", faults)?;
            Some(IndexDefinition {
                fields: read_fields(names, &properties.at("fields"), schema, limits, faults)?,
                unique,
            })
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {
            let actual = type_name(element);
            faults.add(
                path,
                "type",
                format!("Expected a field name, a list of field names or an object, got {actual}"),
            );
            None
        }
    }
}

fn read_fields(names: &[Value], path: &Path<'_>, schema: &Schema, limits: &Limits, faults: &mut Faults) -> Option<Arc<[FieldName]>> {
    let most = limits.index_fields;
    if names.is_empty() || names.len() > most {
        faults.add(path, "limit", format!("An index has 1 to {most} fields"));
        return None;
    }
    let mut fields: Vec<Option<FieldName>> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let path = Path::Item(path, at);
        if !name.is_string() {
            faults.add(&path, "type", wrong_type("string", name));
        }
        let field = name.as_str().and_then(|name| read_field(name, &path, schema, faults));
        if field.is_some() && fields.contains(&field) {
            faults.add(&path, "duplicate", "The index has this field already");
        }
        fields.push(field);
    }
    fields.into_iter().collect()
}

fn read_field(name: &str, path: &Path<'_>, schema: &Schema, faults: &mut Faults) -> Option<FieldName> {
    let field = schema.field(name).map(|field| field.name.clone());
    if field.is_none() {
        faults.add(path, "notFound", format!("Index field \"{name}\" does not exist in schema"));
    }
    field
}
