//! Reading the fields of a definition: strict, and with every fault named by its place.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::definition::OnDelete;
use super::faults::{Faults, Path};
use super::limits::Limits;
use super::pattern::Pattern;
use super::properties::{Properties, wrong_type};
use super::rule::{Constraints, Content, Kind, OneOf, Rule};
use super::schema::{Field, Generated};
use crate::protocol::{BucketName, json};

/// What the store itself keeps in every record.
const METADATA: [&str; 4] = ["_version", "_createdAt", "_updatedAt", "_expiresAt"];

/// What describes a value wherever it stands.
const VALUE_PROPERTIES: [&str; 11] = [
    "type",
    "required",
    "enum",
    "format",
    "min",
    "max",
    "minLength",
    "maxLength",
    "pattern",
    "properties",
    "items",
];
/// What describes only a field of the record itself.
const FIELD_PROPERTIES: [&str; 5] = ["default", "generated", "unique", "ref", "onDelete"];

/// Whether the store itself keeps a field of that name.
pub(super) fn is_metadata(name: &str) -> bool {
    METADATA.contains(&name)
}

/// Reads fields and counts what they take up.
pub(super) struct SchemaReader<'f> {
    faults: &'f mut Faults,
    limits: &'static Limits,
    fields: usize,
    has_said_full: bool,
    patterns: HashMap<Arc<str>, Pattern>,
    patterns_tried: usize,
}

impl<'f> SchemaReader<'f> {
    /// A reader for a new definition.
    pub fn new(limits: &'static Limits, faults: &'f mut Faults) -> Self {
        Self {
            faults,
            limits,
            fields: 0,
            has_said_full: false,
            patterns: HashMap::new(),
            patterns_tried: 0,
        }
    }

    /// A reader for further fields beside those that are there.
    pub fn beside(existing: &[Field], limits: &'static Limits, faults: &'f mut Faults) -> Self {
        let mut reader = Self::new(limits, faults);
        for field in existing {
            reader.count(&field.rule);
        }
        reader
    }

    /// Reads fields by their names. What is faulty is reported, and keeps its name at least: an index on it must not
    /// be said to lead nowhere.
    pub fn fields(&mut self, fields: &Map<String, Value>, path: &Path<'_>) -> Vec<Field> {
        let mut read = Vec::new();
        for (name, definition) in fields {
            if !self.has_room(path) {
                break;
            }
            read.push(self.field(name, definition, &Path::Member(path, name)));
        }
        read
    }

    fn field(&mut self, name: &str, definition: &Value, path: &Path<'_>) -> Field {
        let mut field = Field::new(name, Rule::of(Kind::String));
        if json::is_deeper(definition, self.limits.levels) {
            let levels = self.limits.levels;
            self.faults.add(path, "limit", format!("Nested more than {levels} levels deep"));
            return field;
        }
        let Some(properties) = self.definition(name, definition, path) else {
            return field;
        };
        let known: Vec<&str> = VALUE_PROPERTIES.into_iter().chain(FIELD_PROPERTIES).collect();
        properties.refuse_unknown(&known, self.faults);
        let rule = self.rule(&properties, 0);
        field.default = properties.get("default").cloned();
        field.generated = properties.word("generated", self.faults);
        field.unique = properties.flag("unique", self.faults);
        field.reference = self.reference(&properties);
        if is_metadata(name) {
            self.refuse(&properties, &["default", "generated", "ref"], |_| {
                format!("The store itself keeps \"{name}\"")
            });
        }
        if let Some(rule) = rule {
            field.rule = rule;
            self.check_combinations(&field, &properties);
        }
        field
    }

    /// What only makes sense together, or only apart.
    fn check_combinations(&mut self, field: &Field, properties: &Properties<'_>) {
        let kind = field.rule.kind;
        let fits = match field.generated {
            None => true,
            Some(Generated::Uuid | Generated::Cuid) => kind.has_texts(),
            Some(Generated::Autoincrement | Generated::Timestamp) => kind.has_numbers(),
        };
        if !fits {
            self.refuse(properties, &["generated"], |_| {
                format!("What is generated is never of type \"{}\"", kind.as_str())
            });
        }
        if field.generated.is_some() && matches!(field.reference, Some((_, OnDelete::SetNull))) {
            self.refuse(properties, &["onDelete"], |_| "What is generated cannot be set to null".to_owned());
        }
        if !kind.has_equality() {
            self.refuse(properties, &["unique", "ref"], |property| not_applicable(property, kind));
        }
        if field.rule.required && matches!(field.reference, Some((_, OnDelete::SetNull))) {
            let name = field.name.as_str();
            self.refuse(properties, &["onDelete"], |_| {
                format!("Field \"{name}\" has onDelete \"set_null\" but is required")
            });
        }
    }

    fn reference(&mut self, properties: &Properties<'_>) -> Option<(BucketName, OnDelete)> {
        let on_delete = properties.word("onDelete", self.faults);
        if !properties.has("ref") {
            self.refuse(properties, &["onDelete"], |_| "Needs \"ref\" beside it".to_owned());
            return None;
        }
        let target = properties.text("ref", self.faults)?;
        self.check_name(target, &properties.at("ref"));
        Some((target.into(), on_delete.unwrap_or(OnDelete::Restrict)))
    }

    /// The object that defines a field, with a usable name.
    fn definition<'a>(&mut self, name: &str, definition: &'a Value, path: &'a Path<'a>) -> Option<Properties<'a>> {
        self.check_name(name, path);
        let object = definition.as_object();
        if object.is_none() {
            self.faults.add(path, "type", wrong_type("object", definition));
        }
        object.map(|object| Properties::new(object, path))
    }

    fn check_name(&mut self, name: &str, path: &Path<'_>) {
        let most = self.limits.name_bytes;
        if name.is_empty() || name.len() > most {
            self.faults.add(path, "limit", format!("A name has 1 to {most} bytes"));
        }
    }

    fn rule(&mut self, properties: &Properties<'_>, depth: usize) -> Option<Rule> {
        properties.require("type", self.faults);
        let kind = properties.word("type", self.faults);
        let required = properties.flag("required", self.faults);
        let constraints = self.constraints(properties);
        let content = self.content(properties, depth);
        let kind: Kind = kind?;
        if !kind.has_texts() {
            self.refuse(properties, &["minLength", "maxLength", "pattern", "format"], |property| {
                not_applicable(property, kind)
            });
        }
        if !kind.has_numbers() {
            self.refuse(properties, &["min", "max"], |property| not_applicable(property, kind));
        }
        if kind != Kind::Object {
            self.refuse(properties, &["properties"], |property| not_applicable(property, kind));
        }
        if kind != Kind::Array {
            self.refuse(properties, &["items"], |property| not_applicable(property, kind));
        }
        let constraints = (!constraints.is_empty()).then(|| Box::new(constraints));
        Some(Rule {
            kind,
            required,
            constraints,
            content,
        })
    }

    fn constraints(&mut self, properties: &Properties<'_>) -> Constraints {
        let constraints = Constraints {
            one_of: self.one_of(properties),
            min_length: properties.count("minLength", 0, self.faults),
            max_length: properties.count("maxLength", 0, self.faults),
            pattern: self.pattern(properties),
            format: properties.word("format", self.faults),
            min: properties.number("min", self.faults),
            max: properties.number("max", self.faults),
        };
        if constraints
            .max_length
            .is_some_and(|max| constraints.min_length.is_some_and(|min| min > max))
        {
            self.faults.add(&properties.at("maxLength"), "range", "Less than \"minLength\"");
        }
        if constraints.max.is_some_and(|max| constraints.min.is_some_and(|min| min > max)) {
            self.faults.add(&properties.at("max"), "range", "Less than \"min\"");
        }
        constraints
    }

    fn one_of(&mut self, properties: &Properties<'_>) -> Option<OneOf> {
        let members = properties.list("enum", self.faults)?;
        let Limits {
            enum_members, enum_bytes, ..
        } = self.limits;
        if members.is_empty() || members.len() > *enum_members {
            self.faults.add(
                &properties.at("enum"),
                "limit",
                format!("A list of values has 1 to {enum_members} members"),
            );
            return None;
        }
        let one_of = OneOf::new(members);
        if one_of.text().len() > *enum_bytes {
            self.faults.add(
                &properties.at("enum"),
                "limit",
                format!("The values take more than {enum_bytes} bytes"),
            );
        }
        Some(one_of)
    }

    fn pattern(&mut self, properties: &Properties<'_>) -> Option<Pattern> {
        let source = properties.text("pattern", self.faults)?;
        if let Some(pattern) = self.patterns.get(source) {
            return Some(pattern.clone());
        }
        // Also those that are refused count: each takes its time to be looked at.
        self.patterns_tried += 1;
        let most = self.limits.patterns;
        if self.patterns_tried > most {
            self.faults.add(
                &properties.at("pattern"),
                "limit",
                format!("A definition has at most {most} different patterns"),
            );
            return None;
        }
        match Pattern::compile(source, self.limits) {
            Ok(pattern) => {
                self.patterns.insert(pattern.source().clone(), pattern.clone());
                Some(pattern)
            }
            Err(reason) => {
                self.faults
                    .add(&properties.at("pattern"), "pattern", format!("Invalid pattern: {reason}"));
                None
            }
        }
    }

    fn content(&mut self, properties: &Properties<'_>, depth: usize) -> Content {
        if let Some(members) = properties.object("properties", self.faults) {
            let path = properties.at("properties");
            let mut rules = Vec::new();
            for (name, definition) in members {
                if !self.has_room(&path) {
                    break;
                }
                let rule = self.inner_rule(name, definition, &Path::Member(&path, name), depth + 1);
                rules.extend(rule.map(|rule| (name.clone(), rule)));
            }
            return Content::Properties(rules);
        }
        let path = properties.at("items");
        match properties.object("items", self.faults) {
            Some(_) if !self.has_room(&path) => Content::Free,
            Some(items) => {
                let rule = self.inner(&Properties::new(items, &path), depth + 1);
                rule.map_or(Content::Free, |rule| Content::Items(Box::new(rule)))
            }
            None => Content::Free,
        }
    }

    fn inner_rule(&mut self, name: &str, definition: &Value, path: &Path<'_>, depth: usize) -> Option<Rule> {
        let properties = self.definition(name, definition, path)?;
        self.inner(&properties, depth)
    }

    /// A rule inside an object or a list.
    fn inner(&mut self, properties: &Properties<'_>, depth: usize) -> Option<Rule> {
        let most = self.limits.depth;
        if depth > most {
            self.faults.add(
                &properties.at("type"),
                "limit",
                format!("More than {most} levels of \"properties\" and \"items\""),
            );
            return None;
        }
        let known: Vec<&str> = VALUE_PROPERTIES.into_iter().chain(FIELD_PROPERTIES).collect();
        properties.refuse_unknown(&known, self.faults);
        self.refuse(properties, &FIELD_PROPERTIES, |_| {
            "Has a meaning only for a field of the record itself".to_owned()
        });
        self.rule(properties, depth)
    }

    /// Reports those of the named properties that are given.
    fn refuse(&mut self, properties: &Properties<'_>, names: &[&str], message: impl Fn(&str) -> String) {
        for name in names.iter().filter(|name| properties.has(name)) {
            self.faults.add(&properties.at(name), "conflict", message(name));
        }
    }

    /// Counts one more field; false, and reported once, where there are too many.
    fn has_room(&mut self, path: &Path<'_>) -> bool {
        self.fields += 1;
        let most = self.limits.fields;
        let has_room = self.fields <= most;
        if !has_room && !self.has_said_full {
            self.has_said_full = true;
            self.faults.add(
                path,
                "limit",
                format!("A definition has at most {most} fields, those inside of others included"),
            );
        }
        has_room
    }

    /// Counts what a rule that is there already takes up.
    fn count(&mut self, rule: &Rule) {
        self.fields += 1;
        if let Some(pattern) = rule.constraints.as_ref().and_then(|constraints| constraints.pattern.as_ref()) {
            let is_another = self.patterns.insert(pattern.source().clone(), pattern.clone()).is_none();
            self.patterns_tried += usize::from(is_another);
        }
        match &rule.content {
            Content::Free => {}
            Content::Properties(rules) => rules.iter().for_each(|(_, rule)| self.count(rule)),
            Content::Items(rule) => self.count(rule),
        }
    }
}

fn not_applicable(property: &str, kind: Kind) -> String {
    format!("\"{property}\" does not apply to type \"{}\"", kind.as_str())
}
