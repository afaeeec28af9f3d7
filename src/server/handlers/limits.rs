//! How large what a request holds may be, beyond what its fields say.

use serde_json::{Map, Value};

use super::failure::Failure;
use super::invalid;
use crate::protocol::Issue;
use crate::server::config::ConnectionLimits;
use crate::store::query::Filter;
use crate::store::state::QueryKind;

/// What the parts of one request may hold.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    filter_conditions_max: usize,
    transaction_operations_max: usize,
    name_bytes_max: usize,
}

impl From<&ConnectionLimits> for RequestLimits {
    fn from(limits: &ConnectionLimits) -> Self {
        Self {
            filter_conditions_max: limits.max_filter_conditions,
            transaction_operations_max: limits.max_transaction_operations,
            name_bytes_max: limits.max_name_bytes,
        }
    }
}

impl RequestLimits {
    /// Reads a filter.
    pub(super) fn filter(&self, filter: &Map<String, Value>) -> Result<Filter, Failure> {
        self.check_filter(filter)?;
        Filter::parse(filter).map_err(|issues| invalid("filter", issues))
    }

    /// The size of a filter, before anything is made of it.
    pub(super) fn check_filter(&self, filter: &Map<String, Value>) -> Result<(), Failure> {
        let max = self.filter_conditions_max;
        if conditions(filter) <= max {
            return Ok(());
        }
        let message = format!("A filter may hold at most {max} conditions, elements of lists included");
        Err(invalid("filter", vec![Issue::new("filter", "size", message)]))
    }

    /// The size of the lists that parameters put into the filter of a query.
    pub(super) fn check_params(&self, query: &QueryKind, params: &Value) -> Result<(), Failure> {
        match query {
            // What a function of the embedding program does with them is its own affair.
            QueryKind::Programmatic(_) => return Ok(()),
            QueryKind::Declarative(_) => {}
        }
        let lists = params.as_object().into_iter().flat_map(Map::values).filter_map(Value::as_array);
        let (elements, max) = (lists.map(Vec::len).sum::<usize>(), self.filter_conditions_max);
        check(elements, max, || format!("Invalid \"params\": {elements} elements of lists"))
    }

    /// The number of operations of a transaction.
    pub(super) fn check_operations(&self, count: usize) -> Result<(), Failure> {
        check(count, self.transaction_operations_max, || {
            format!("Invalid \"operations\": {count} operations")
        })
    }

    /// The length of the name of something that is to be defined.
    pub(super) fn check_name(&self, name: &str) -> Result<(), Failure> {
        let bytes = name.len();
        check(bytes, self.name_bytes_max, || format!("Invalid \"name\": {bytes} bytes"))
    }
}

fn check(count: usize, max: usize, found: impl FnOnce() -> String) -> Result<(), Failure> {
    if count > max {
        return Err(Failure::validation(format!("{}, at most {max} are allowed", found())));
    }
    Ok(())
}

/// The conditions of a filter, well formed or not: each operator of a field, each element of its list, each branch.
/// Messages are nested no deeper than they may be, and so is this.
fn conditions(filter: &Map<String, Value>) -> usize {
    let members = filter.iter().map(|(name, value)| match value {
        Value::Array(branches) if name.starts_with('$') => branches.iter().filter_map(Value::as_object).map(conditions).sum::<usize>() + 1,
        Value::Object(operators) => operators.values().map(elements).sum::<usize>().max(1),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => 1,
    });
    members.sum()
}

fn elements(operand: &Value) -> usize {
    operand.as_array().map_or(1, |list| list.len().max(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_operator_element_and_branch_is_a_condition() {
        let check = |filter: Value, expected| assert_eq!(conditions(filter.as_object().unwrap()), expected, "{filter}");
        check(json!({}), 0);
        check(json!({ "a": 1, "b": null }), 2);
        check(json!({ "a": {} }), 1);
        check(json!({ "a": { "$gt": 1, "$lt": 2 } }), 2);
        check(json!({ "a": { "$in": [1, 2, 3] }, "b": 1 }), 4);
        check(json!({ "a": { "$in": [] } }), 1);
        check(
            json!({ "$and": [{ "a": 1 }, { "$or": [{ "b": 1 }, { "c": { "$nin": [1, 2] } }] }] }),
            6,
        );
        check(json!({ "$or": [1, []], "a": [1, 2] }), 2);
    }
}
