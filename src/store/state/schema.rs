//! Schemas: what a record of a bucket must look like, checked on every write.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::definition::{OnDelete, Reference};
use super::faults::{Faults, Path};
use super::limits::Limits;
use super::properties::Word;
use super::rule::Rule;
use super::schema_reader::SchemaReader;
use crate::protocol::{BucketName, FieldName, FieldValue, Issue, Record};

/// What fills a field that an insert does not give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// A random UUID of version 4, as text.
    Uuid,
    /// The letter `c` and 32 hexadecimal digits from 16 random bytes.
    Cuid,
    /// The next number of the bucket, from 1.
    Autoincrement,
    /// The time of the insert in milliseconds since 1970.
    Timestamp,
}

impl Generated {
    /// The name in definitions.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Cuid => "cuid",
            Self::Autoincrement => "autoincrement",
            Self::Timestamp => "timestamp",
        }
    }
}

impl Word for Generated {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("uuid", Self::Uuid),
        ("cuid", Self::Cuid),
        ("autoincrement", Self::Autoincrement),
        ("timestamp", Self::Timestamp),
    ];
}

/// A check of one field that a Rust program brings along: it gets the value and the whole record, and says what is
/// wrong. It is asked only about values that are there and of the declared type.
///
/// It must depend on its arguments alone: the same record must always get the same answer.
pub type FieldCheck = Arc<dyn Fn(&FieldValue<'_>, &Record) -> Option<String> + Send + Sync>;

/// A check of a whole record that a Rust program brings along: it says all that is wrong. The same holds as for
/// [`FieldCheck`].
pub type RecordCheck = Arc<dyn Fn(&Record) -> Vec<String> + Send + Sync>;

/// A closure in a structure that can be printed.
#[derive(Clone)]
struct Closure<F>(F);

impl<F> fmt::Debug for Closure<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<closure>")
    }
}

/// The declared fields of a bucket with all that their values must satisfy.
#[derive(Clone, Debug)]
pub struct Schema {
    fields: Vec<Field>,
    check: Option<Closure<RecordCheck>>,
}

/// One declared field.
#[derive(Clone, Debug)]
pub struct Field {
    /// Its name.
    pub name: FieldName,
    /// What fills it on insert, where it is missing.
    pub generated: Option<Generated>,
    /// What it holds after an insert that neither gives nor generates it.
    pub default: Option<Value>,
    pub(super) unique: bool,
    pub(super) reference: Option<(BucketName, OnDelete)>,
    pub(super) rule: Rule,
    check: Option<Closure<FieldCheck>>,
}

impl Field {
    pub(super) fn new(name: &str, rule: Rule) -> Self {
        Self {
            name: FieldName::new(name),
            generated: None,
            default: None,
            unique: false,
            reference: None,
            rule,
            check: None,
        }
    }

    fn validate(&self, token: Option<&[u8]>, record: &Record, faults: &mut Faults) {
        let path = Path::Member(&Path::Root, self.name.as_str());
        let Some(token) = token.filter(|token| *token != b"null") else {
            if self.rule.required {
                faults.add(&path, "required", "Field is required");
            }
            return;
        };
        if !self.rule.kind.accepts_token(token) {
            faults.add(&path, "type", self.rule.kind.expected(FieldValue::decode(token).type_name()));
            return;
        }
        if self.check.is_none() && self.rule.is_type_only() {
            return;
        }
        let value = FieldValue::decode(token);
        self.rule.check_field(&value, &path, faults);
        if let Some(message) = self.check.as_ref().and_then(|check| (check.0)(&value, record)) {
            faults.add(&path, "custom", message);
        }
        self.rule.check_content(token, &path, faults);
    }
}

impl Schema {
    /// Reads the `schema` of a definition.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn parse(schema: &Map<String, Value>) -> Result<Self, Vec<Issue>> {
        let mut faults = Faults::default();
        let fields = SchemaReader::new(&Limits::GIVEN, &mut faults).fields(schema, &Path::Member(&Path::Root, "schema"));
        faults.or_else(Some(Self::new(fields)))
    }

    pub(super) fn new(fields: Vec<Field>) -> Self {
        Self { fields, check: None }
    }

    /// The declared fields in the order of the definition.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The declared field of that name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.name.as_str() == name)
    }

    /// Whether no two records may share a value of that field.
    #[must_use]
    pub fn is_unique(&self, field: &FieldName) -> bool {
        self.field(field.as_str()).is_some_and(|field| field.unique)
    }

    /// The unique fields in the order of the definition.
    pub fn unique_fields(&self) -> impl Iterator<Item = &FieldName> {
        self.fields.iter().filter(|field| field.unique).map(|field| &field.name)
    }

    /// The fields that refer to records of other buckets, in the order of the definition.
    #[must_use]
    pub fn references(&self) -> Vec<Reference> {
        let reference = |field: &Field| {
            let (target, on_delete) = field.reference.clone()?;
            Some(Reference {
                field: field.name.clone(),
                target,
                on_delete,
            })
        };
        self.fields.iter().filter_map(reference).collect()
    }

    /// Every fault of a whole record, in the order of the schema; then what the record's own check says.
    #[must_use]
    pub fn validate(&self, record: &Record) -> Vec<Issue> {
        let mut faults = Faults::default();
        let mut members = Members::of(record);
        for field in &self.fields {
            field.validate(members.find(field.name.token()), record, &mut faults);
        }
        if let Some(check) = &self.check {
            for message in (check.0)(record) {
                faults.add(&Path::Member(&Path::Root, "_record"), "custom", message);
            }
        }
        faults.into_issues()
    }

    /// A record without its key could not be found again: the key is required, whether the definition says so or not.
    pub(super) fn require_key(&mut self, key: &str) {
        if let Some(field) = self.fields.iter_mut().find(|field| field.name.as_str() == key) {
            field.rule.required = true;
        }
    }

    /// The same fields with the checks that another version of the schema has.
    pub(super) fn with_checks_of(mut self, other: &Self) -> Self {
        for field in &mut self.fields {
            field.check = other.field(field.name.as_str()).and_then(|field| field.check.clone());
        }
        self.check.clone_from(&other.check);
        self
    }

    /// The same schema with further fields.
    pub(super) fn extended(&self, added: Vec<Field>) -> Self {
        let mut schema = self.clone();
        schema.fields.extend(added);
        schema
    }

    pub(super) fn set_check(&mut self, check: RecordCheck) {
        self.check = Some(Closure(check));
    }

    /// Gives a field its own check; false where there is no such field.
    pub(super) fn set_field_check(&mut self, name: &str, check: FieldCheck) -> bool {
        let field = self.fields.iter_mut().find(|field| field.name.as_str() == name);
        field.map(|field| field.check = Some(Closure(check))).is_some()
    }
}

/// The members of a record, found by name in any order, fastest in the order in which they lie.
#[expect(
    clippy::large_enum_variant,
    reason = "the large variant is the common one, and lives on the stack for one validation"
)]
enum Members<'a> {
    Few {
        members: SmallVec<[(&'a [u8], &'a [u8]); 16]>,
        next: usize,
    },
    Many(HashMap<&'a [u8], &'a [u8]>),
}

impl<'a> Members<'a> {
    /// Above this, looking a name up in a table beats comparing it with each.
    const FEW: usize = 64;

    fn of(record: &'a Record) -> Self {
        if record.field_count() <= Self::FEW {
            Self::Few {
                members: record.fields().collect(),
                next: 0,
            }
        } else {
            Self::Many(record.fields().collect())
        }
    }

    fn find(&mut self, name: &[u8]) -> Option<&'a [u8]> {
        match self {
            Self::Many(members) => members.get(name).copied(),
            Self::Few { members, next } => {
                // Records mostly have their fields in the order of the schema: the search begins behind the last find.
                let (before, after) = members.split_at(*next);
                let at = match after.iter().position(|(member, _)| *member == name) {
                    Some(at) => *next + at,
                    None => before.iter().position(|(member, _)| *member == name)?,
                };
                *next = at + 1;
                members.get(at).map(|(_, value)| *value)
            }
        }
    }
}
