//! Filters: which records of a bucket.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::constraint::Constraints;
use super::parse::{Parameters, Parser, Place};
use crate::protocol::{FieldName, FieldValue, Issue, Number, Record, Text, compare_utf16};
use crate::store::StoreError;

/// A checked filter. Cloning shares it.
#[derive(Clone)]
pub struct Filter(Arc<Checked>);

struct Checked {
    node: Node,
    constraints: Constraints,
    /// Fields that were named where it made no difference: they are in no node.
    unused: Vec<FieldName>,
}

impl Filter {
    /// Reads a filter from a JSON value, such as `json!` makes.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with all that is wrong with it.
    pub fn from_value(value: &Value) -> Result<Self, StoreError> {
        StoreError::or_invalid("filter", value, Self::parse)
    }

    /// The filter that lets every record through.
    #[must_use]
    pub fn everything() -> Self {
        Self::new(Node::everything(), Vec::new())
    }

    /// Checks a filter as a caller sends it. Texts such as `{{ params.x }}` have no meaning here.
    ///
    /// # Errors
    /// All faults of the filter, each with its place.
    pub fn parse(filter: &Map<String, Value>) -> Result<Self, Vec<Issue>> {
        let mut parser = Parser::new(Parameters::None);
        let node = parser.filter(filter, Place::Root(""));
        let named = parser.fields_named();
        parser.finish().map(|()| Self::read(node, named, filter))
    }

    /// The filter that a tree stands for which was read from `source`, where so many fields are named.
    pub(super) fn read(node: Node, named: usize, source: &Map<String, Value>) -> Self {
        // Hardly any filter names a field for nothing, and counting costs next to nothing.
        let unused = if node.field_count() == named {
            Vec::new()
        } else {
            names_in(source)
        };
        Self::new(node, unused)
    }

    fn new(node: Node, unused: Vec<FieldName>) -> Self {
        let constraints = Constraints::of(&node);
        Self(Arc::new(Checked { node, constraints, unused }))
    }

    /// The filter that lets through what both let through.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        let names_nothing = |filter: &Self| filter.is_everything() && filter.0.unused.is_empty();
        if names_nothing(self) {
            return other.clone();
        }
        if names_nothing(other) {
            return self.clone();
        }
        let node = Node::all([self.0.node.clone(), other.0.node.clone()]);
        Self::new(node, [self.0.unused.as_slice(), &other.0.unused].concat())
    }

    /// A field that the filter names, whether or not it makes a difference, and of which something holds.
    pub fn find_field(&self, wanted: impl Fn(&FieldName) -> bool) -> Option<&FieldName> {
        self.0
            .unused
            .iter()
            .find(|name| wanted(name))
            .or_else(|| self.0.node.find_field(&wanted))
    }

    /// Whether the filter lets a record through.
    #[must_use]
    pub fn matches(&self, record: &Record) -> bool {
        self.0.node.matches(record)
    }

    /// Whether the filter lets every record through, whatever it holds.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        matches!(&self.0.node, Node::All(nodes) if nodes.is_empty())
    }

    /// What the filter says about single fields.
    #[must_use]
    pub fn constraints(&self) -> &Constraints {
        &self.0.constraints
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self::everything()
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.node.fmt(f)
    }
}

/// A filter as a tree. All-of-nothing is the filter that matches everything, any-of-nothing the one that matches
/// nothing; [`Node::all`] and [`Node::any`] leave no other place for these two.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Each of them must match.
    All(Vec<Node>),
    /// One of them must match.
    Any(Vec<Node>),
    /// A field's value must pass each of the tests.
    Field(FieldName, Vec<Test>),
}

impl Node {
    pub(super) const fn everything() -> Self {
        Self::All(Vec::new())
    }

    pub(super) const fn nothing() -> Self {
        Self::Any(Vec::new())
    }

    /// The conjunction, with what is nested or constant taken out.
    pub(super) fn all(nodes: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for node in nodes {
            match node {
                Self::All(inner) => flat.extend(inner),
                Self::Any(inner) if inner.is_empty() => return Self::nothing(),
                other @ (Self::Any(_) | Self::Field(..)) => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.remove(0) } else { Self::All(flat) }
    }

    /// The disjunction, with what is nested or constant taken out.
    pub(super) fn any(nodes: impl IntoIterator<Item = Self>) -> Self {
        let mut flat = Vec::new();
        for node in nodes {
            match node {
                Self::Any(inner) => flat.extend(inner),
                Self::All(inner) if inner.is_empty() => return Self::everything(),
                other @ (Self::All(_) | Self::Field(..)) => flat.push(other),
            }
        }
        if flat.len() == 1 { flat.remove(0) } else { Self::Any(flat) }
    }

    /// The condition on one field.
    pub(super) fn field(name: &str, mut tests: Vec<Test>) -> Self {
        if tests.iter().any(|test| matches!(test, Test::OneOf(values) if values.is_empty())) {
            return Self::nothing();
        }
        tests.retain(|test| !matches!(test, Test::NoneOf(values) if values.is_empty()));
        if tests.is_empty() {
            Self::everything()
        } else {
            Self::Field(FieldName::new(name), tests)
        }
    }

    fn field_count(&self) -> usize {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().map(Self::field_count).sum(),
            Self::Field(..) => 1,
        }
    }

    fn find_field(&self, wanted: &dyn Fn(&FieldName) -> bool) -> Option<&FieldName> {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().find_map(|node| node.find_field(wanted)),
            Self::Field(name, _) => Some(name).filter(|name| wanted(name)),
        }
    }

    fn matches(&self, record: &Record) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(record)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(record)),
            Self::Field(field, tests) => {
                let token = record.token(field);
                tests.iter().all(|test| test.passes(token))
            }
        }
    }
}

/// The fields that a sound filter names as it was written.
fn names_in(filter: &Map<String, Value>) -> Vec<FieldName> {
    let mut names = Vec::new();
    for (name, value) in filter {
        match value {
            Value::Array(branches) if name.starts_with('$') => {
                names.extend(branches.iter().filter_map(Value::as_object).flat_map(names_in));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                names.push(FieldName::new(name));
            }
        }
    }
    names
}

/// What a field's value must be.
///
/// Equality works on the JSON text of values: in normal form, equal values of one type have one text, and no text
/// stands for values of two types. Lists and objects never get into the sets, so they equal nothing.
#[derive(Clone, Debug)]
pub(super) enum Test {
    /// One of these values, as sorted JSON texts.
    OneOf(Vec<Box<[u8]>>),
    /// None of these values, as sorted JSON texts; a missing field passes.
    NoneOf(Vec<Box<[u8]>>),
    /// A number within the bounds.
    Numbers(Bound<Number>, Bound<Number>),
    /// A text within the bounds.
    Texts(Bound<Text>, Bound<Text>),
    /// A text with this lower-case text somewhere in its lower-case form.
    Contains(String),
    /// A text with this beginning.
    StartsWith(String),
    /// A text with this end.
    EndsWith(String),
    /// Neither missing nor null.
    Present,
    /// Missing or null.
    Absent,
}

impl Test {
    fn passes(&self, token: Option<&[u8]>) -> bool {
        match self {
            Self::OneOf(values) => token.is_some_and(|token| holds(values, token)),
            Self::NoneOf(values) => !token.is_some_and(|token| holds(values, token)),
            Self::Present => !is_absent(token),
            Self::Absent => is_absent(token),
            Self::Numbers(low, high) => match token.map(FieldValue::decode) {
                Some(FieldValue::Number(number)) => within(low, high, |bound| number.cmp(bound)),
                Some(_) | None => false,
            },
            Self::Texts(low, high) => text_of(token).is_some_and(|text| within(low, high, |bound| compare_utf16(&text, bound.as_str()))),
            // Lower-casing by the Unicode mapping, as clients do it: no locale takes part.
            Self::Contains(part) => text_of(token).is_some_and(|text| text.to_lowercase().contains(part.as_str())),
            Self::StartsWith(part) => text_of(token).is_some_and(|text| text.starts_with(part.as_str())),
            Self::EndsWith(part) => text_of(token).is_some_and(|text| text.ends_with(part.as_str())),
        }
    }
}

fn holds(values: &[Box<[u8]>], token: &[u8]) -> bool {
    match values {
        [only] => **only == *token,
        values => values.binary_search_by(|value| (**value).cmp(token)).is_ok(),
    }
}

fn is_absent(token: Option<&[u8]>) -> bool {
    token.is_none_or(|token| token == b"null")
}

fn text_of(token: Option<&[u8]>) -> Option<Cow<'_, str>> {
    match FieldValue::decode(token?) {
        FieldValue::Text(text) => Some(text),
        FieldValue::Missing
        | FieldValue::Null
        | FieldValue::Bool(_)
        | FieldValue::Number(_)
        | FieldValue::Array(_)
        | FieldValue::Object(_) => None,
    }
}

/// Whether a value lies within bounds, given how it compares with a bound.
fn within<T>(low: &Bound<T>, high: &Bound<T>, compare: impl Fn(&T) -> Ordering) -> bool {
    let above = match low {
        Bound::Included(low) => compare(low).is_ge(),
        Bound::Excluded(low) => compare(low).is_gt(),
        Bound::Unbounded => true,
    };
    above
        && match high {
            Bound::Included(high) => compare(high).is_le(),
            Bound::Excluded(high) => compare(high).is_lt(),
            Bound::Unbounded => true,
        }
}

#[cfg(test)]
mod tests {
    use super::super::support::{filter, issues_of, object, record};
    use super::*;

    #[test]
    fn conditions_match_as_the_protocol_says() {
        let record = record(r#"{"id":"r","n":5,"s":"Hello","z":null,"t":["a"],"o":{"k":1},"b":true,"w":1.5}"#);
        let table = [
            (r#"{}"#, true),
            (r#"{"n":5}"#, true),
            (r#"{"n":5.0}"#, true),
            (r#"{"w":15e-1}"#, true),
            (r#"{"n":"5"}"#, false),
            (r#"{"n":{"$gt":"4"}}"#, false),
            (r#"{"s":{"$gt":1}}"#, false),
            (r#"{"b":{"$gte":1}}"#, false),
            (r#"{"b":{"$gte":true}}"#, false),
            (r#"{"b":true}"#, true),
            (r#"{"z":null}"#, true),
            (r#"{"m":null}"#, false),
            (r#"{"m":{"$exists":false}}"#, true),
            (r#"{"z":{"$exists":false}}"#, true),
            (r#"{"z":{"$exists":true}}"#, false),
            (r#"{"o":{"$exists":true}}"#, true),
            (r#"{"m":{"$neq":1}}"#, true),
            (r#"{"m":{"$neq":null}}"#, true),
            (r#"{"z":{"$neq":null}}"#, false),
            (r#"{"m":{"$nin":[1]}}"#, true),
            (r#"{"n":{"$nin":[]}}"#, true),
            (r#"{"n":{"$in":[]}}"#, false),
            (r#"{"m":{"$in":[null]}}"#, false),
            (r#"{"z":{"$in":[null]}}"#, true),
            (r#"{"z":{"$lte":0}}"#, false),
            (r#"{"t":["a"]}"#, false),
            (r#"{"t":"a"}"#, false),
            (r#"{"t":{"$eq":["a"]}}"#, false),
            (r#"{"t":{"$in":[["a"]]}}"#, false),
            (r#"{"t":{"$nin":[["a"]]}}"#, true),
            (r#"{"t":{"$neq":["a"]}}"#, true),
            (r#"{"t":{"$contains":"a"}}"#, false),
            (r#"{"o":{"k":1}}"#, false),
            (r#"{"o":{}}"#, false),
            (r#"{"o.k":1}"#, false),
            (r#"{"s":{"$contains":"hELL"}}"#, true),
            (r#"{"s":{"$contains":""}}"#, true),
            (r#"{"s":{"$startsWith":"he"}}"#, false),
            (r#"{"s":{"$startsWith":"He"}}"#, true),
            (r#"{"s":{"$endsWith":"lo"}}"#, true),
            (r#"{"s":{"$endsWith":"LO"}}"#, false),
            (r#"{"n":{"$between":[5,5]}}"#, true),
            (r#"{"n":{"$between":[9,1]}}"#, false),
            (r#"{"n":{"$between":[1,"z"]}}"#, false),
            (r#"{"n":{"$between":[false,true]}}"#, false),
            (r#"{"n":{"$gt":1,"$lt":5}}"#, false),
            (r#"{"n":{"$gt":1,"$lt":5.5,"$neq":4}}"#, true),
            (r#"{"n":{}}"#, false),
            (r#"{"$or":[]}"#, false),
            (r#"{"$and":[]}"#, true),
            (r#"{"$or":[{"n":1},{"s":"Hello"}],"b":true}"#, true),
            (r#"{"$or":[{"$and":[]},{"$or":[]}]}"#, true),
            (r#"{"$or":[{}],"n":4}"#, false),
            (r#"{"$and":[{"n":5},{"n":6}]}"#, false),
        ];
        for (text, expected) in table {
            assert_eq!(filter(text).matches(&record), expected, "{text}");
        }
    }

    #[test]
    fn texts_compare_by_utf16_unit_and_contains_folds_case_without_a_locale() {
        let emoji = record(r#"{"s":"😀"}"#);
        assert!(filter(r#"{"s":{"$lt":"～","$gt":"b"}}"#).matches(&emoji));
        assert!(!filter(r#"{"s":{"$gt":"～"}}"#).matches(&emoji));
        assert!(filter(r#"{"s":{"$contains":"ärg"}}"#).matches(&record(r#"{"s":"ÄRGER"}"#)));
        assert!(filter(r#"{"s":{"$contains":"I"}}"#).matches(&record(r#"{"s":"Title"}"#)));
    }

    #[test]
    fn a_value_with_an_escape_equals_itself() {
        let line = record(r#"{"s":"a\nb\u0001\"c\\"}"#);
        assert!(filter(r#"{"s":"a\u000ab\u0001\"c\\"}"#).matches(&line));
        assert!(filter(r#"{"s":{"$startsWith":"a\n"}}"#).matches(&line));
    }

    #[test]
    fn a_malformed_filter_is_refused_with_its_place() {
        let table = [
            (r#"{"n":{"$ne":5}}"#, "n", "operator", "$ne"),
            (r#"{"n":{"$gt":1,"$foo":9}}"#, "n", "operator", "$foo"),
            (r#"{"n":{"$GT":1}}"#, "n", "operator", "$GT"),
            (r#"{"n":{"$gt":1,"lt":9}}"#, "n", "operator", "lt"),
            (r#"{"n":{"$and":[{"$gt":1}]}}"#, "n", "operator", "$and"),
            (r#"{"$not":{"n":1}}"#, "$not", "operator", "$not"),
            (r#"{"$nor":[]}"#, "$nor", "operator", "$nor"),
            (r#"{"$or":[{"n":{"$like":1}},{"n":5}]}"#, "$or[0].n", "operator", "$like"),
            (r#"{"$and":[{"$or":[{},{"$x":1}]}]}"#, "$and[0].$or[1].$x", "operator", "$x"),
            (r#"{"n":{"$gte":null}}"#, "n", "type", "$gte"),
            (r#"{"n":{"$lt":[1]}}"#, "n", "type", "$lt"),
            (r#"{"n":{"$in":"345"}}"#, "n", "type", "$in"),
            (r#"{"n":{"$nin":5}}"#, "n", "type", "$nin"),
            (r#"{"n":{"$in":null}}"#, "n", "type", "$in"),
            (r#"{"n":{"$contains":5}}"#, "n", "type", "$contains"),
            (r#"{"n":{"$startsWith":null}}"#, "n", "type", "$startsWith"),
            (r#"{"n":{"$endsWith":["a"]}}"#, "n", "type", "$endsWith"),
            (r#"{"n":{"$exists":1}}"#, "n", "type", "$exists"),
            (r#"{"n":{"$between":[1]}}"#, "n", "type", "$between"),
            (r#"{"n":{"$between":[1,2,3]}}"#, "n", "type", "$between"),
            (r#"{"n":{"$between":[1,null]}}"#, "n", "type", "$between"),
            (r#"{"n":{"$between":"ab"}}"#, "n", "type", "$between"),
            (r#"{"$or":{"n":5}}"#, "$or", "type", "$or"),
            (r#"{"$and":null}"#, "$and", "type", "$and"),
            (r#"{"$and":[null]}"#, "$and[0]", "type", "object"),
        ];
        for (text, field, code, part) in table {
            let issues = issues_of(Filter::parse(&object(text)));
            assert_eq!((issues[0].field.as_str(), issues[0].code), (field, code), "{text}");
            assert!(issues[0].message.contains(part), "{text}: {}", issues[0].message);
            assert_eq!(issues.len(), 1, "{text}");
        }
    }

    #[test]
    fn all_faults_are_listed_at_once() {
        let issues = issues_of(Filter::parse(&object(r#"{"a":{"$ne":1,"$in":2},"$nor":[],"b":1}"#)));
        assert_eq!(
            issues.iter().map(|issue| issue.field.as_str()).collect::<Vec<_>>(),
            ["a", "a", "$nor"]
        );
    }

    #[test]
    fn depth_size_and_the_list_of_faults_are_bounded() {
        let nest = |depth: usize| {
            let mut value = serde_json::json!({"n": 1});
            for _ in 0..depth {
                value = serde_json::json!({"$and": [value]});
            }
            Filter::parse(value.as_object().unwrap())
        };
        assert!(nest(64).is_ok());
        assert_eq!(issues_of(nest(65))[0].code, "depth");

        let many = |count: usize, operator: &str| {
            let conditions: Vec<Value> = (0..count).map(|n| serde_json::json!({ "n": { operator: n } })).collect();
            Filter::parse(serde_json::json!({ "$or": conditions }).as_object().unwrap())
        };
        assert!(many(9_999, "$gt").is_ok());
        assert_eq!(
            issues_of(many(10_000, "$gt")).iter().map(|issue| issue.code).collect::<Vec<_>>(),
            ["size"]
        );
        assert_eq!(issues_of(many(9_999, "$ne")).len(), 100);
    }

    #[test]
    fn a_placeholder_in_a_plain_filter_is_a_text() {
        assert!(filter(r#"{"s":"{{ params.x }}"}"#).matches(&record(r#"{"s":"{{ params.x }}"}"#)));
    }

    #[test]
    fn every_field_that_is_named_is_known_whether_or_not_it_makes_a_difference() {
        for text in [
            r#"{"x":1}"#,
            r#"{"a":1,"$or":[{"b":1},{"$and":[{"x":{"$gt":1}}]}]}"#,
            r#"{"x":{"$nin":[]}}"#,
            r#"{"x":{"$in":[]}}"#,
            r#"{"$or":[{},{"x":1}]}"#,
            r#"{"$or":[{"x":1}],"a":{"$in":[]}}"#,
            r#"{"a":1,"$and":[{"$or":[]},{"x":[]}]}"#,
        ] {
            assert!(filter(text).find_field(|name| name.as_str() == "x").is_some(), "{text}");
            let both = filter(r#"{"b":2}"#).and(&filter(text));
            assert!(both.find_field(|name| name.as_str() == "x").is_some(), "{text}");
        }
        for text in ["{}", r#"{"$and":[],"y":"x"}"#, r#"{"y":{"$eq":"x"},"z":{"x":1}}"#] {
            assert!(filter(text).find_field(|name| name.as_str() == "x").is_none(), "{text}");
        }
    }

    #[test]
    fn a_conjunction_lets_through_what_both_let_through_and_says_what_both_say() {
        let texts = [
            r#"{}"#,
            r#"{"a":1}"#,
            r#"{"b":{"$gt":2}}"#,
            r#"{"$or":[{"a":1},{"b":1}]}"#,
            r#"{"a":{"$in":[]}}"#,
        ];
        for (one, other) in texts.iter().flat_map(|one| texts.iter().map(move |other| (one, other))) {
            let (one, other) = (filter(one), filter(other));
            let both = one.and(&other);
            for json in [r#"{"a":1,"b":3}"#, r#"{"a":1,"b":1}"#, r#"{"a":2,"b":3}"#, "{}"] {
                let record = record(json);
                assert_eq!(
                    both.matches(&record),
                    one.matches(&record) && other.matches(&record),
                    "{both:?} {json}"
                );
            }
        }
        let both = filter(r#"{"a":1}"#).and(&filter(r#"{"b":{"$in":[1,2]}}"#));
        let (field, values) = both.constraints().fewest_values().unwrap();
        assert_eq!((field.as_str(), values.len()), ("a", 1));
    }

    #[test]
    fn filters_that_say_nothing_are_known_to() {
        for text in [
            r#"{}"#,
            r#"{"$and":[]}"#,
            r#"{"$or":[{"a":1},{}]}"#,
            r#"{"a":{"$nin":[]}}"#,
            r#"{"a":{"$neq":{}}}"#,
        ] {
            assert!(filter(text).is_everything(), "{text}");
        }
        for text in [r#"{"$or":[]}"#, r#"{"a":1}"#, r#"{"a":[]}"#] {
            assert!(!filter(text).is_everything(), "{text}");
        }
    }
}
