//! From JSON to filters: every fault found before any record is looked at.

use std::collections::HashSet;
use std::fmt;
use std::ops::Bound;

use indexmap::IndexSet;
use serde_json::{Map, Value};

use super::ISSUES_MAX;
use super::filter::{Node, Test};
use crate::protocol::{Issue, Number, Text, json};

/// How deep `$and` and `$or` may nest.
const DEPTH_MAX: usize = 64;
/// How many conditions and branches a filter may hold.
const CONDITIONS_MAX: usize = 10_000;

/// What a text such as `{{ params.x }}` means where an operand is wanted.
pub(super) enum Parameters<'a> {
    /// Nothing: it is a text like others.
    None,
    /// A value that is not known yet; the names are collected in order of first use.
    Declared(IndexSet<String>),
    /// The value of that name.
    Given(&'a Map<String, Value>),
}

/// Where in a filter something stands; written out only where there is something to say about it.
#[derive(Clone, Copy)]
pub(super) enum Place<'p> {
    /// The filter itself, under its name in what surrounds it.
    Root(&'p str),
    /// A property.
    Property(&'p Place<'p>, &'p str),
    /// An element of a list.
    Element(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(name) => f.write_str(name),
            Self::Property(Place::Root(""), name) => f.write_str(name),
            Self::Property(parent, name) => write!(f, "{parent}.{name}"),
            Self::Element(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// What stands where an operand is wanted.
#[derive(Clone, Copy)]
enum Operand<'a> {
    /// A value of the filter: its elements may be parameters.
    Written(&'a Value),
    /// The value of a parameter, which is never looked into for further ones.
    Given(&'a Value),
    /// A parameter whose value is not known, or is missing.
    Open,
}

#[derive(Clone, Copy)]
enum Operator {
    Eq,
    Neq,
    Is(Relation),
    In,
    Nin,
    Contains,
    StartsWith,
    EndsWith,
    Exists,
    Between,
}

#[derive(Clone, Copy)]
enum Relation {
    Above,
    AtLeast,
    Below,
    AtMost,
}

impl Relation {
    /// What stands in this relation to a value.
    fn bounds<T>(self, value: T) -> (Bound<T>, Bound<T>) {
        match self {
            Self::Above => (Bound::Excluded(value), Bound::Unbounded),
            Self::AtLeast => (Bound::Included(value), Bound::Unbounded),
            Self::Below => (Bound::Unbounded, Bound::Excluded(value)),
            Self::AtMost => (Bound::Unbounded, Bound::Included(value)),
        }
    }

    fn test(self, value: &Value) -> Option<Test> {
        match value {
            Value::Number(number) => {
                let (low, high) = self.bounds(Number::from(number));
                Some(Test::Numbers(low, high))
            }
            Value::String(text) => {
                let (low, high) = self.bounds(Text::new(text));
                Some(Test::Texts(low, high))
            }
            // Booleans are neither greater nor less than anything, and null has no order at all.
            Value::Bool(_) => Some(Test::OneOf(Vec::new())),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }
}

impl Operator {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "$eq" => Self::Eq,
            "$neq" => Self::Neq,
            "$gt" => Self::Is(Relation::Above),
            "$gte" => Self::Is(Relation::AtLeast),
            "$lt" => Self::Is(Relation::Below),
            "$lte" => Self::Is(Relation::AtMost),
            "$in" => Self::In,
            "$nin" => Self::Nin,
            "$contains" => Self::Contains,
            "$startsWith" => Self::StartsWith,
            "$endsWith" => Self::EndsWith,
            "$exists" => Self::Exists,
            "$between" => Self::Between,
            _ => return None,
        })
    }

    /// What the operator wants, as messages say it.
    const fn expects(self) -> &'static str {
        match self {
            Self::Eq | Self::Neq => "a value",
            Self::Is(_) => "a number or a string",
            Self::In | Self::Nin => "an array",
            Self::Contains | Self::StartsWith | Self::EndsWith => "a string",
            Self::Exists => "a boolean",
            Self::Between => "an array of two numbers or two strings",
        }
    }
}

/// Reads one filter.
pub(super) struct Parser<'a> {
    parameters: Parameters<'a>,
    issues: Vec<Issue>,
    missing: HashSet<&'a str>,
    conditions: usize,
    fields: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(parameters: Parameters<'a>) -> Self {
        Self {
            parameters,
            issues: Vec::new(),
            missing: HashSet::new(),
            conditions: 0,
            fields: 0,
            depth: 0,
        }
    }

    /// How many conditions on fields were read.
    pub(super) fn fields_named(&self) -> usize {
        self.fields
    }

    /// The faults found, if any.
    pub(super) fn finish(self) -> Result<(), Vec<Issue>> {
        if self.issues.is_empty() { Ok(()) } else { Err(self.issues) }
    }

    /// The faults found, and the names of the parameters where they were to be collected.
    pub(super) fn into_parts(self) -> (Vec<Issue>, Vec<String>) {
        let names = match self.parameters {
            Parameters::Declared(names) => names.into_iter().collect(),
            Parameters::None | Parameters::Given(_) => Vec::new(),
        };
        (self.issues, names)
    }

    /// Reads a filter. What it gives back is meaningful only where no fault was found.
    pub(super) fn filter(&mut self, filter: &'a Map<String, Value>, place: Place<'_>) -> Node {
        let mut nodes = Vec::with_capacity(filter.len());
        for (name, value) in filter {
            if !self.takes_another(place) {
                break;
            }
            let here = Place::Property(&place, name);
            nodes.push(match name.as_str() {
                "$and" => Node::all(self.branches(name, value, here)),
                "$or" => Node::any(self.branches(name, value, here)),
                unknown if unknown.starts_with('$') => {
                    self.refuse(here, "operator", format!("Unknown operator \"{unknown}\""));
                    Node::nothing()
                }
                field => {
                    self.fields += 1;
                    self.condition(field, value, here)
                }
            });
        }
        Node::all(nodes)
    }

    fn branches(&mut self, name: &str, value: &'a Value, place: Place<'_>) -> Vec<Node> {
        let Value::Array(filters) = value else {
            self.refuse(
                place,
                "type",
                format!("\"{name}\" expects an array of filters, got {}", kind(value)),
            );
            return Vec::new();
        };
        if self.depth == DEPTH_MAX {
            self.refuse(place, "depth", format!("Filters may nest at most {DEPTH_MAX} deep"));
            return Vec::new();
        }
        self.depth += 1;
        let mut nodes = Vec::with_capacity(filters.len());
        for (at, filter) in filters.iter().enumerate() {
            let here = Place::Element(&place, at);
            match filter.as_object() {
                Some(filter) => nodes.push(self.filter(filter, here)),
                None => self.refuse(here, "type", format!("Expected a filter object, got {}", kind(filter))),
            }
            if self.conditions > CONDITIONS_MAX {
                break;
            }
        }
        self.depth -= 1;
        nodes
    }

    fn condition(&mut self, field: &str, value: &'a Value, place: Place<'_>) -> Node {
        match self.operand(value) {
            Operand::Written(Value::Object(operators)) if operators.keys().any(|name| name.starts_with('$')) => {
                if let Some(plain) = operators.keys().find(|name| !name.starts_with('$')) {
                    self.refuse(
                        place,
                        "operator",
                        format!("Operators and plain names must not be mixed: \"{plain}\" is no operator"),
                    );
                    return Node::nothing();
                }
                let tests = operators
                    .iter()
                    .filter_map(|(name, operand)| self.test(name, operand, place))
                    .collect();
                Node::field(field, tests)
            }
            Operand::Written(value) | Operand::Given(value) => Node::field(field, vec![Test::OneOf(values([value]))]),
            Operand::Open => Node::nothing(),
        }
    }

    fn test(&mut self, name: &str, value: &'a Value, place: Place<'_>) -> Option<Test> {
        let Some(operator) = Operator::parse(name) else {
            self.refuse(place, "operator", format!("Unknown operator \"{name}\""));
            return None;
        };
        let operand = match self.operand(value) {
            operand @ (Operand::Written(_) | Operand::Given(_)) => operand,
            Operand::Open => return None,
        };
        let test = self.apply(operator, operand);
        if test.is_none() {
            let got = match operand {
                Operand::Written(value) | Operand::Given(value) => kind(value),
                Operand::Open => "nothing",
            };
            self.refuse(
                place,
                "type",
                format!("Operator \"{name}\" expects {}, got {got}", operator.expects()),
            );
        }
        test
    }

    /// The test that an operator makes of an operand, where the operand fits it.
    fn apply(&mut self, operator: Operator, operand: Operand<'a>) -> Option<Test> {
        let value = match operand {
            Operand::Written(value) | Operand::Given(value) => value,
            Operand::Open => return None,
        };
        match operator {
            Operator::Eq => Some(Test::OneOf(values([value]))),
            Operator::Neq => Some(Test::NoneOf(values([value]))),
            Operator::Is(relation) => relation.test(value),
            Operator::In => self.elements(operand).map(|elements| Test::OneOf(known_values(&elements))),
            Operator::Nin => self.elements(operand).map(|elements| Test::NoneOf(known_values(&elements))),
            Operator::Contains => value.as_str().map(|text| Test::Contains(text.to_lowercase())),
            Operator::StartsWith => value.as_str().map(|text| Test::StartsWith(text.to_owned())),
            Operator::EndsWith => value.as_str().map(|text| Test::EndsWith(text.to_owned())),
            Operator::Exists => value.as_bool().map(|exists| if exists { Test::Present } else { Test::Absent }),
            Operator::Between => match self.elements(operand)?.as_slice() {
                [low, high] => between(*low, *high),
                _ => None,
            },
        }
    }

    fn elements(&mut self, operand: Operand<'a>) -> Option<Vec<Operand<'a>>> {
        match operand {
            Operand::Written(Value::Array(elements)) => Some(elements.iter().map(|element| self.operand(element)).collect()),
            Operand::Given(Value::Array(elements)) => Some(elements.iter().map(Operand::Given).collect()),
            Operand::Written(_) | Operand::Given(_) | Operand::Open => None,
        }
    }

    fn operand(&mut self, value: &'a Value) -> Operand<'a> {
        let Some(name) = value.as_str().and_then(placeholder) else {
            return Operand::Written(value);
        };
        match &mut self.parameters {
            Parameters::None => Operand::Written(value),
            Parameters::Declared(names) => {
                if !names.contains(name) {
                    names.insert(name.to_owned());
                }
                Operand::Open
            }
            Parameters::Given(params) => match params.get(name) {
                Some(value) => Operand::Given(value),
                None => {
                    if self.missing.insert(name) {
                        self.refuse(
                            Place::Root(&format!("params.{name}")),
                            "required",
                            "Parameter is required".to_owned(),
                        );
                    }
                    Operand::Open
                }
            },
        }
    }

    /// Counts a condition; false, with a fault, where there are too many.
    fn takes_another(&mut self, place: Place<'_>) -> bool {
        self.conditions += 1;
        if self.conditions == CONDITIONS_MAX + 1 {
            self.refuse(place, "size", format!("A filter may hold at most {CONDITIONS_MAX} conditions"));
        }
        self.conditions <= CONDITIONS_MAX
    }

    fn refuse(&mut self, place: Place<'_>, code: &'static str, message: String) {
        if self.issues.len() < ISSUES_MAX {
            self.issues.push(Issue::new(place.to_string(), code, message));
        }
    }
}

/// The name in a text that is wholly `{{ params.name }}`.
fn placeholder(text: &str) -> Option<&str> {
    // What clients' regular expressions take for white space.
    let space = |char: char| char.is_whitespace() || char == '\u{FEFF}';
    let name = text
        .strip_prefix("{{")?
        .strip_suffix("}}")?
        .trim_matches(space)
        .strip_prefix("params.")?;
    (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')).then_some(name)
}

/// The JSON texts of the values that can equal something, sorted and each once.
fn values<'v>(values: impl IntoIterator<Item = &'v Value>) -> Vec<Box<[u8]>> {
    let comparable = values.into_iter().filter(|value| !value.is_array() && !value.is_object());
    let mut tokens: Vec<_> = comparable.map(|value| json::to_vec(value).into_boxed_slice()).collect();
    tokens.sort_unstable();
    tokens.dedup();
    tokens
}

fn known_values(operands: &[Operand<'_>]) -> Vec<Box<[u8]>> {
    values(operands.iter().filter_map(|operand| match operand {
        Operand::Written(value) | Operand::Given(value) => Some(*value),
        Operand::Open => None,
    }))
}

fn between(low: Operand<'_>, high: Operand<'_>) -> Option<Test> {
    let ordered = |operand| match operand {
        Operand::Written(value) | Operand::Given(value) => {
            Some(value).filter(|value: &&Value| value.is_number() || value.is_string() || value.is_boolean())
        }
        Operand::Open => Some(&Value::Bool(false)),
    };
    Some(match (ordered(low)?, ordered(high)?) {
        (Value::Number(low), Value::Number(high)) => Test::Numbers(Bound::Included(low.into()), Bound::Included(high.into())),
        (Value::String(low), Value::String(high)) => Test::Texts(Bound::Included(Text::new(low)), Bound::Included(Text::new(high))),
        // Nothing lies between values of two types.
        _ => Test::OneOf(Vec::new()),
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
