//! Bucket definitions written in Rust: they become the JSON that clients would send, and are checked like it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::definition::{BucketDefinition, OnDelete};
use super::format::Format;
use super::schema::{FieldCheck, Generated, RecordCheck};
use crate::protocol::{FieldValue, Issue, Number, Record};
use crate::store::StoreError;

/// Puts a [`BucketDefinition`] together.
///
/// ```
/// use std::time::Duration;
///
/// use noex_server::store::state::{BucketDefinition, FieldSpec, Format, Generated, OnDelete};
///
/// let definition = BucketDefinition::builder("id")
///     .field("id", FieldSpec::string().generated(Generated::Uuid))
///     .field("mail", FieldSpec::string().required().format(Format::Email).unique())
///     .field("team", FieldSpec::string().references("teams", OnDelete::SetNull))
///     .field("age", FieldSpec::number().min(18).max(120))
///     .field("tags", FieldSpec::array().items(FieldSpec::string().max_length(20)))
///     .index("age")
///     .compound_index(["team", "age"])
///     .ttl(Duration::from_secs(3600))
///     .max_size(10_000)
///     .build()
///     .unwrap();
/// assert_eq!(definition.config()["schema"]["age"]["min"], 18);
/// assert_eq!(definition.ttl_ms(), Some(3_600_000.0));
/// ```
#[must_use]
pub struct BucketBuilder {
    config: Map<String, Value>,
    schema: Map<String, Value>,
    indexes: Vec<Value>,
    faults: Vec<Issue>,
    field_checks: Vec<(String, FieldCheck)>,
    check: Option<RecordCheck>,
}

impl BucketBuilder {
    pub(super) fn new(key: &str) -> Self {
        let mut config = Map::new();
        config.insert("key".to_owned(), key.into());
        config.insert("schema".to_owned(), Value::Null);
        Self {
            config,
            schema: Map::new(),
            indexes: Vec::new(),
            faults: Vec::new(),
            field_checks: Vec::new(),
            check: None,
        }
    }

    /// Declares a field.
    pub fn field(mut self, name: &str, field: FieldSpec) -> Self {
        if let Some(check) = field.check {
            self.field_checks.push((name.to_owned(), check));
        }
        if self.schema.insert(name.to_owned(), Value::Object(field.definition)).is_some() {
            self.faults.push(Issue::new(
                format!("schema.{name}"),
                "exists",
                format!("Field \"{name}\" already exists"),
            ));
        }
        self
    }

    /// Lists an index on one field.
    pub fn index(mut self, field: &str) -> Self {
        self.indexes.push(field.into());
        self
    }

    /// Lists an index on several fields, the most significant first.
    pub fn compound_index<'a>(mut self, fields: impl IntoIterator<Item = &'a str>) -> Self {
        self.indexes.push(fields.into_iter().collect());
        self
    }

    /// Lists an index on several fields whose values no two records may share.
    pub fn unique_index<'a>(mut self, fields: impl IntoIterator<Item = &'a str>) -> Self {
        let fields: Value = fields.into_iter().collect();
        self.indexes.push(json!({ "fields": fields, "unique": true }));
        self
    }

    /// Lets records end so long after their insertion.
    pub fn ttl(self, ttl: Duration) -> Self {
        let ms = Number::from_f64(ttl.as_secs_f64() * 1000.0).map_or(Value::Null, Number::to_value);
        self.with("ttl", ms)
    }

    /// Keeps at most so many records: the oldest go.
    pub fn max_size(self, records: usize) -> Self {
        self.with("maxSize", records.into())
    }

    /// Orders the records by key, not by insertion.
    pub fn ordered(self) -> Self {
        self.with("etsType", "ordered_set".into())
    }

    /// Keeps the records in memory only: a restart finds the bucket empty.
    pub fn in_memory(self) -> Self {
        self.with("persistent", false.into())
    }

    /// Checks whole records: see [`BucketDefinition::with_validator`].
    pub fn validator(mut self, check: impl Fn(&Record) -> Vec<String> + Send + Sync + 'static) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    /// The finished definition.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with all that is wrong with it.
    pub fn build(self) -> Result<BucketDefinition, StoreError> {
        self.check().map_err(|issues| StoreError::Invalid {
            what: "bucket definition".to_owned(),
            issues,
        })
    }

    fn check(mut self) -> Result<BucketDefinition, Vec<Issue>> {
        self.config.insert("schema".to_owned(), Value::Object(self.schema));
        if !self.indexes.is_empty() {
            self.config.insert("indexes".to_owned(), Value::Array(self.indexes));
        }
        let parsed = BucketDefinition::parse(&self.config);
        if !self.faults.is_empty() {
            return Err(self.faults.into_iter().chain(parsed.err().unwrap_or_default()).collect());
        }
        let mut definition = parsed?;
        for (field, check) in self.field_checks {
            definition = definition.with_field_validator(&field, check)?;
        }
        Ok(match self.check {
            Some(check) => definition.with_validator(check),
            None => definition,
        })
    }

    fn with(mut self, property: &str, value: Value) -> Self {
        self.config.insert(property.to_owned(), value);
        self
    }
}

/// Describes one field of a bucket, or a value inside of one.
#[must_use]
pub struct FieldSpec {
    definition: Map<String, Value>,
    check: Option<FieldCheck>,
}

impl FieldSpec {
    /// A text.
    pub fn string() -> Self {
        Self::of("string")
    }

    /// A number.
    pub fn number() -> Self {
        Self::of("number")
    }

    /// True or false.
    pub fn boolean() -> Self {
        Self::of("boolean")
    }

    /// An object of any content.
    pub fn object() -> Self {
        Self::of("object")
    }

    /// A list of any content.
    pub fn array() -> Self {
        Self::of("array")
    }

    /// A number or any text; [`Format::IsoDate`] makes it a date.
    pub fn date() -> Self {
        Self::of("date")
    }

    fn of(kind: &str) -> Self {
        Self {
            definition: Map::new(),
            check: None,
        }
        .with("type", kind.into())
    }

    /// Neither null nor missing.
    pub fn required(self) -> Self {
        self.with("required", true.into())
    }

    /// What an insert without the field stores.
    pub fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value.into())
    }

    /// Fills the field of an insert that does not give it.
    pub fn generated(self, kind: Generated) -> Self {
        self.with("generated", kind.as_str().into())
    }

    /// One of these values and no other.
    pub fn one_of<V: Into<Value>>(self, values: impl IntoIterator<Item = V>) -> Self {
        self.with("enum", values.into_iter().map(Into::into).collect())
    }

    /// A text of a known form.
    pub fn format(self, format: Format) -> Self {
        self.with("format", format.as_str().into())
    }

    /// The least number.
    pub fn min(self, min: impl Into<Value>) -> Self {
        self.with("min", min.into())
    }

    /// The greatest number.
    pub fn max(self, max: impl Into<Value>) -> Self {
        self.with("max", max.into())
    }

    /// The least length of a text in UTF-16 units.
    pub fn min_length(self, length: u64) -> Self {
        self.with("minLength", length.into())
    }

    /// The greatest length of a text in UTF-16 units.
    pub fn max_length(self, length: u64) -> Self {
        self.with("maxLength", length.into())
    }

    /// A regular expression in ECMAScript's syntax that must be found in a text.
    pub fn pattern(self, pattern: &str) -> Self {
        self.with("pattern", pattern.into())
    }

    /// No two records may share a value.
    pub fn unique(self) -> Self {
        self.with("unique", true.into())
    }

    /// The key of a record of another bucket.
    pub fn references(self, bucket: &str, on_delete: OnDelete) -> Self {
        self.with("ref", bucket.into()).with("onDelete", on_delete.as_str().into())
    }

    /// Describes members of an object.
    pub fn properties<'a>(self, properties: impl IntoIterator<Item = (&'a str, Self)>) -> Self {
        let members = properties
            .into_iter()
            .map(|(name, field)| (name.to_owned(), Value::Object(field.definition)));
        self.with("properties", Value::Object(members.collect()))
    }

    /// Describes every element of a list.
    pub fn items(self, items: Self) -> Self {
        self.with("items", Value::Object(items.definition))
    }

    /// Checks a value that is there and of the right type, and says what is wrong with it. It has an effect on
    /// fields of the record itself, and must depend on its arguments alone.
    ///
    /// ```
    /// use noex_server::protocol::{FieldValue, Number, Record};
    /// use noex_server::store::state::{BucketDefinition, FieldSpec};
    /// use serde_json::json;
    ///
    /// let even = FieldSpec::number().validator(|value, _| match value {
    ///     FieldValue::Number(Number::Int(int)) if int % 2 == 0 => None,
    ///     _ => Some("must be even".to_owned()),
    /// });
    /// let definition = BucketDefinition::builder("n").field("n", even).build().unwrap();
    /// let record = Record::from_object(json!({ "n": 3 }).as_object().unwrap());
    /// assert_eq!(definition.schema().validate(&record)[0].to_string(), "n: must be even");
    /// ```
    pub fn validator(mut self, check: impl Fn(&FieldValue<'_>, &Record) -> Option<String> + Send + Sync + 'static) -> Self {
        self.check = Some(Arc::new(check));
        self
    }

    fn with(mut self, property: &str, value: Value) -> Self {
        self.definition.insert(property.to_owned(), value);
        self
    }
}
