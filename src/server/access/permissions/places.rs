//! What is wanted where something stands in a filter: what a reference to the session may become there.

use serde_json::{Map, Value};

/// What is wanted in a place of a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A value to be equal to.
    Equal,
    /// A number or a text to lie before or behind.
    Bound,
    /// All values of `$in` and `$nin`.
    Values,
    /// Both bounds of `$between`.
    Bounds,
    /// A part of a text.
    Part,
    /// True or false.
    Flag,
    /// Filters, which nothing of a session can stand for.
    Filters,
}

impl Wanted {
    /// What an operator wants. Operators that there are not are refused elsewhere.
    fn by(operator: &str) -> Self {
        match operator {
            "$gt" | "$gte" | "$lt" | "$lte" => Self::Bound,
            "$in" | "$nin" => Self::Values,
            "$between" => Self::Bounds,
            "$contains" | "$startsWith" | "$endsWith" => Self::Part,
            "$exists" => Self::Flag,
            _ => Self::Equal,
        }
    }

    /// What is wanted of the elements of a list in this place.
    const fn of_element(self) -> Self {
        match self {
            Self::Values => Self::Equal,
            Self::Bounds => Self::Bound,
            Self::Equal | Self::Bound | Self::Part | Self::Flag | Self::Filters => self,
        }
    }
}

/// The filter with something else in the places of its texts; none where there is nothing to put into one of them.
pub(super) fn replaced(filter: &Map<String, Value>, put: &impl Fn(&str, Wanted) -> Option<Value>) -> Option<Map<String, Value>> {
    members(filter, |name, value| match (name, value) {
        ("$and" | "$or", Value::Array(filters)) => {
            let branch = |filter: &Value| match filter.as_object() {
                Some(branch) => replaced(branch, put).map(Value::Object),
                None => operand(filter, Wanted::Filters, put),
            };
            filters.iter().map(branch).collect()
        }
        ("$and" | "$or", other) => operand(other, Wanted::Filters, put),
        (_, Value::Object(operators)) => members(operators, |operator, value| operand(value, Wanted::by(operator), put)).map(Value::Object),
        (_, value) => operand(value, Wanted::Equal, put),
    })
}

fn operand(value: &Value, wanted: Wanted, put: &impl Fn(&str, Wanted) -> Option<Value>) -> Option<Value> {
    match value {
        Value::String(text) => put(text, wanted),
        Value::Array(items) => items.iter().map(|item| operand(item, wanted.of_element(), put)).collect(),
        // No object is compared with, so that it does not matter what stands in it.
        Value::Object(inner) => members(inner, |_, value| operand(value, wanted, put)).map(Value::Object),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.clone()),
    }
}

fn members(object: &Map<String, Value>, change: impl Fn(&str, &Value) -> Option<Value>) -> Option<Map<String, Value>> {
    object
        .iter()
        .map(|(name, value)| Some((name.clone(), change(name, value)?)))
        .collect()
}

/// The fields that a filter asks to differ from a list or an object. Nothing equals these, so that the condition would let
/// everything through.
pub(super) fn idle_exclusions(filter: &Map<String, Value>) -> Vec<String> {
    let mut idle = Vec::new();
    for (name, value) in filter {
        match value {
            Value::Array(branches) if name.starts_with('$') => {
                idle.extend(branches.iter().filter_map(Value::as_object).flat_map(idle_exclusions));
            }
            Value::Object(operators) => {
                let is_idle = |value: &Value| value.is_array() || value.is_object();
                let differs = operators.get("$neq").is_some_and(is_idle);
                let excluded = operators.get("$nin").and_then(Value::as_array);
                if differs || excluded.is_some_and(|values| values.iter().any(is_idle)) {
                    idle.push(name.clone());
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {}
        }
    }
    idle
}
