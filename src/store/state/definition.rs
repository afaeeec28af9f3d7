//! Bucket definitions: checked whole before anything is registered.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::builder::BucketBuilder;
use super::duration::parse_ttl;
use super::faults::{Faults, Path};
use super::index_definition::{IndexDefinition, IndexSet, merged};
use super::limits::Limits;
use super::properties::{Properties, Word};
use super::schema::{Field, FieldCheck, RecordCheck, Schema};
use super::schema_reader::{SchemaReader, is_metadata};
use crate::protocol::{BucketName, FieldName, Issue};
use crate::store::StoreError;

/// What happens to a record when the one that it refers to goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDelete {
    /// The other record may not go.
    Restrict,
    /// It goes too.
    Cascade,
    /// Its reference becomes null.
    SetNull,
}

impl OnDelete {
    /// The name in definitions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restrict => "restrict",
            Self::Cascade => "cascade",
            Self::SetNull => "set_null",
        }
    }
}

impl Word for OnDelete {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("restrict", Self::Restrict),
        ("cascade", Self::Cascade),
        ("set_null", Self::SetNull),
    ];
}

/// A field that holds the key of a record of another bucket, or of the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The field.
    pub field: FieldName,
    /// The bucket that it refers to. It need not exist when the reference is defined.
    pub target: BucketName,
    /// What happens when the record referred to goes.
    pub on_delete: OnDelete,
}

/// The order of a bucket's records. `bag` and `duplicate_bag` are old names of the first: keys are unique in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordOrder {
    Insertion,
    Key,
}

impl Word for RecordOrder {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("set", Self::Insertion),
        ("ordered_set", Self::Key),
        ("bag", Self::Insertion),
        ("duplicate_bag", Self::Insertion),
    ];
}

const PROPERTIES: [&str; 7] = ["key", "schema", "indexes", "etsType", "persistent", "ttl", "maxSize"];

/// All that is known of a bucket beside its records.
///
/// ```
/// use noex_server::store::state::BucketDefinition;
/// use serde_json::json;
///
/// let config = json!({
///     "key": "sku",
///     "schema": { "sku": { "type": "string" }, "shelf": { "type": "number" }, "slot": { "type": "number" } },
///     "indexes": ["shelf", { "fields": ["shelf", "slot"], "unique": true }],
///     "ttl": "12h",
/// });
/// let definition = BucketDefinition::parse(config.as_object().unwrap()).unwrap();
/// assert_eq!(definition.ttl_ms(), Some(43_200_000.0));
/// assert_eq!(definition.indexes().len(), 2);
///
/// let config = json!({ "key": "id", "schema": { "id": { "type": "text" } } });
/// let issues = BucketDefinition::parse(config.as_object().unwrap()).unwrap_err();
/// assert_eq!(issues[0].field, "schema.id.type");
/// ```
#[derive(Clone, Debug)]
pub struct BucketDefinition {
    config: Arc<Map<String, Value>>,
    key: FieldName,
    schema: Schema,
    indexes: IndexSet,
    references: Vec<Reference>,
    ttl_ms: Option<f64>,
    max_size: Option<usize>,
    order: RecordOrder,
    persistent: bool,
    /// Which incarnation of its name it is to become; none where any will do.
    pub(in crate::store) wanted_incarnation: Option<u64>,
}

impl BucketDefinition {
    /// Reads a bucket definition from a JSON value, such as `json!` makes.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with all that is wrong with it.
    pub fn from_value(value: &Value) -> Result<Self, StoreError> {
        StoreError::or_invalid("bucket definition", value, Self::parse)
    }

    /// Starts a definition in Rust, with the name of the key field.
    pub fn builder(key: &str) -> BucketBuilder {
        BucketBuilder::new(key)
    }

    /// Reads a definition as clients and configuration files give it.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, Vec<Issue>> {
        Self::read(Arc::new(config.clone()), &[], &Limits::GIVEN)
    }

    /// Reads a definition that was taken before: as [`BucketDefinition::parse`] does, but without a look at how large
    /// it is. A store must find its data again, whatever bounds hold by now for those who define something.
    ///
    /// # Errors
    /// All that makes no sense in it.
    pub(in crate::store) fn stored(config: &Arc<Map<String, Value>>) -> Result<Self, Vec<Issue>> {
        Self::read(Arc::clone(config), &[], &Limits::STORED)
    }

    /// Reads a definition. The patterns of `known` fields need not be compiled again.
    fn read(config: Arc<Map<String, Value>>, known: &[Field], limits: &'static Limits) -> Result<Self, Vec<Issue>> {
        let mut faults = Faults::default();
        let definition = Self::read_parts(&config, known, limits, &mut faults);
        faults.or_else(definition.map(|definition| Self { config, ..definition }))
    }

    fn read_parts(config: &Map<String, Value>, known: &[Field], limits: &'static Limits, faults: &mut Faults) -> Option<Self> {
        let properties = Properties::new(config, &Path::Root);
        properties.refuse_unknown(&PROPERTIES, faults);
        properties.require("key", faults);
        properties.require("schema", faults);
        let key = properties.text("key", faults);
        let fields = properties.object("schema", faults);
        let mut schema = Schema::new(
            fields
                .map(|fields| SchemaReader::beside(known, limits, faults).fields(fields, &properties.at("schema")))
                .unwrap_or_default(),
        );
        if let (Some(key), Some(fields)) = (key, fields) {
            schema.require_key(key);
            check_key(key, fields, &schema, faults);
        }
        let list = properties.list("indexes", faults).unwrap_or_default();
        let (indexes, _) = IndexSet::default().extended(list, &properties.at("indexes"), &schema, limits, faults);
        let max_size = properties.count("maxSize", 1, faults);
        let order = properties.word("etsType", faults).unwrap_or(RecordOrder::Insertion);
        let persistent = properties.flag("persistent", faults) || !properties.has("persistent");
        let ttl_ms = properties.get("ttl").and_then(|ttl| read_ttl(ttl, &properties.at("ttl"), faults));
        Some(Self {
            config: Arc::default(),
            key: FieldName::new(key?),
            references: schema.references(),
            schema,
            indexes,
            ttl_ms,
            // A limit beyond the address space is none.
            max_size: max_size.and_then(|size| usize::try_from(size).ok()),
            order,
            persistent,
            wanted_incarnation: None,
        })
    }

    /// The definition with `addFields`, `addIndexes` and `ttl` (null removes it) applied; anything else is ignored.
    ///
    /// It is what the next start makes of its stored form: what could not be read again is not taken.
    ///
    /// # Errors
    /// All that is wrong with the updates; then none of them takes effect.
    pub fn updated(&self, updates: &Map<String, Value>) -> Result<Self, Vec<Issue>> {
        let mut faults = Faults::default();
        let properties = Properties::new(updates, &Path::Root);
        let mut updated = self.clone();
        if let Some(fields) = properties.object("addFields", &mut faults) {
            updated.add_fields(fields, &properties.at("addFields"), &mut faults);
        }
        let list = properties.list("addIndexes", &mut faults).unwrap_or_default();
        updated.add_indexes(list, &properties.at("addIndexes"), &mut faults);
        if let Some(ttl) = properties.get("ttl") {
            updated.set_ttl(ttl, &properties.at("ttl"), &mut faults);
        }
        faults.or_else(Some(()))?;
        let read = Self::read(updated.config, updated.schema.fields(), &Limits::STORED)?;
        Ok(Self {
            schema: read.schema.with_checks_of(&self.schema),
            ..read
        })
    }

    fn add_fields(&mut self, fields: &Map<String, Value>, path: &Path<'_>, faults: &mut Faults) {
        for name in fields.keys().filter(|name| self.schema.field(name).is_some()) {
            faults.add(&Path::Member(path, name), "exists", format!("Field \"{name}\" already exists"));
        }
        let added = SchemaReader::beside(self.schema.fields(), &Limits::GIVEN, faults).fields(fields, path);
        self.schema = self.schema.extended(added);
        if let Some(Value::Object(schema)) = Arc::make_mut(&mut self.config).get_mut("schema") {
            schema.extend(fields.iter().map(|(name, field)| (name.clone(), field.clone())));
        }
    }

    fn add_indexes(&mut self, list: &[Value], path: &Path<'_>, faults: &mut Faults) {
        let (_, added) = self.indexes.extended(list, path, &self.schema, &Limits::GIVEN, faults);
        let config = Arc::make_mut(&mut self.config);
        let listed = config.get("indexes").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        if !added.is_empty() {
            let listed = merged(listed.iter().chain(added));
            config.insert("indexes".to_owned(), Value::Array(listed));
        } else if listed.is_empty() {
            config.shift_remove("indexes");
        }
    }

    fn set_ttl(&mut self, ttl: &Value, path: &Path<'_>, faults: &mut Faults) {
        let config = Arc::make_mut(&mut self.config);
        if ttl.is_null() {
            config.shift_remove("ttl");
        } else if read_ttl(ttl, path, faults).is_some() {
            config.insert("ttl".to_owned(), ttl.clone());
        }
    }

    /// The same definition with a check of whole records: each message is an issue of the field `_record` with the
    /// code `custom`. It is no part of [`BucketDefinition::config`]; updates keep it.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use noex_server::protocol::{FieldName, Record};
    /// use noex_server::store::state::{BucketDefinition, FieldSpec};
    /// use serde_json::json;
    ///
    /// let (from, to) = (FieldName::new("from"), FieldName::new("to"));
    /// let definition = BucketDefinition::builder("id")
    ///     .field("id", FieldSpec::string())
    ///     .field("from", FieldSpec::number())
    ///     .field("to", FieldSpec::number())
    ///     .build()
    ///     .unwrap()
    ///     .with_validator(Arc::new(move |record: &Record| {
    ///         if record.datum(&from) > record.datum(&to) { vec!["ends before it begins".to_owned()] } else { Vec::new() }
    ///     }));
    /// let record = Record::from_object(json!({ "id": "a", "from": 5, "to": 3 }).as_object().unwrap());
    /// assert_eq!(definition.schema().validate(&record)[0].to_string(), "_record: ends before it begins");
    /// ```
    #[must_use = "the definition is returned, not changed"]
    pub fn with_validator(mut self, validator: RecordCheck) -> Self {
        self.schema.set_check(validator);
        self
    }

    /// The same definition with a check of one field: its message is an issue of that field with the code `custom`.
    ///
    /// # Errors
    /// Where the schema has no such field.
    pub fn with_field_validator(mut self, field: &str, validator: FieldCheck) -> Result<Self, Vec<Issue>> {
        if self.schema.set_field_check(field, validator) {
            Ok(self)
        } else {
            Err(vec![Issue::new(
                field,
                "notFound",
                format!("Field \"{field}\" does not exist in schema"),
            )])
        }
    }

    /// The definition as it was given, with its later updates.
    #[must_use]
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The same, to be kept.
    pub(in crate::store) fn shared_config(&self) -> &Arc<Map<String, Value>> {
        &self.config
    }

    /// The primary-key field.
    #[must_use]
    pub fn key(&self) -> &FieldName {
        &self.key
    }

    /// What records must look like.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// All indexes: the listed ones, then those of unique fields, then those that references need, each once.
    #[must_use]
    pub fn indexes(&self) -> &[IndexDefinition] {
        &self.indexes.all
    }

    /// The fields that refer to other records, in the order of the schema.
    #[must_use]
    pub fn references(&self) -> &[Reference] {
        &self.references
    }

    /// The lifetime of a record in milliseconds: above zero and finite.
    #[must_use]
    pub fn ttl_ms(&self) -> Option<f64> {
        self.ttl_ms
    }

    /// The most records; the oldest one goes to make room for the next.
    #[must_use]
    pub fn max_size(&self) -> Option<usize> {
        self.max_size
    }

    /// Whether the first, the last and the next records are those by key, not by insertion.
    #[must_use]
    pub fn is_ordered(&self) -> bool {
        self.order == RecordOrder::Key
    }

    /// Whether the records are kept on disk.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// The number of listed and unique indexes: what statistics show.
    #[must_use]
    pub fn index_count(&self) -> usize {
        self.indexes.counted
    }
}

fn read_ttl(ttl: &Value, path: &Path<'_>, faults: &mut Faults) -> Option<f64> {
    parse_ttl(ttl).map_err(|reason| faults.add(path, "ttl", reason)).ok()
}

fn check_key(key: &str, fields: &Map<String, Value>, schema: &Schema, faults: &mut Faults) {
    let path = Path::Member(&Path::Root, "key");
    if !fields.contains_key(key) {
        faults.add(&path, "notFound", format!("Key field \"{key}\" does not exist in schema"));
    }
    if is_metadata(key) {
        faults.add(&path, "conflict", format!("The store itself keeps \"{key}\": it cannot be the key"));
    }
    let Some(field) = schema.field(key) else { return };
    if !field.rule.kind.has_equality() {
        faults.add(
            &path,
            "conflict",
            format!("A field of type \"{}\" cannot be the key", field.rule.kind.as_str()),
        );
    }
    if matches!(field.reference, Some((_, OnDelete::SetNull))) {
        faults.add(
            &path,
            "conflict",
            format!("Key field \"{key}\" has onDelete \"set_null\": a key is never null"),
        );
    }
}
