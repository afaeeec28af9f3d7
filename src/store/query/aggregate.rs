//! Numbers made of records: counts, sums, averages, extremes, for all of them or by group.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use super::{FIELDS_MAX, ISSUES_MAX, too_many_fields};
use crate::protocol::{FieldName, FieldValue, Issue, Number, Record};

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateFunction {
    /// How many records.
    Count,
    /// The sum of the numbers.
    Sum,
    /// The mean of the numbers.
    Avg,
    /// The least number.
    Min,
    /// The greatest number.
    Max,
}

impl AggregateFunction {
    /// The function of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "count" => Self::Count,
            "sum" => Self::Sum,
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            _ => return None,
        })
    }
}

/// A number, or one for each group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// What is computed.
    pub function: AggregateFunction,
    /// The field whose numbers count; values that are no numbers are passed over. Counting needs none.
    pub field: Option<FieldName>,
    /// The fields by which records are grouped; empty for one number over all.
    pub group_by: Vec<FieldName>,
}

/// What the records of one group have in common: equal keys, one group. Null and missing are one value.
///
/// It is the JSON text of the list of values. In normal form, equal values of one type have one text, and no text
/// stands for values of two types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(Box<[u8]>);

/// One group of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The fields grouped by, with the JSON texts of the values in the group's first record; nothing for a missing one.
    pub key: Vec<(FieldName, Option<Box<[u8]>>)>,
    /// What was computed; nothing where it is no number.
    pub value: Option<Number>,
}

impl Group {
    /// Appends the group as clients see it: `{"key":{"region":"eu"},"value":12}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"key\":{");
        let mut first = true;
        for (field, value) in &self.key {
            let Some(value) = value else { continue };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            out.extend_from_slice(field.token());
            out.push(b':');
            out.extend_from_slice(value);
        }
        out.extend_from_slice(b"},\"value\":");
        match self.value {
            Some(number) => number.write(out),
            None => out.extend_from_slice(b"null"),
        }
        out.push(b'}');
    }
}

impl Aggregate {
    /// Checks an aggregate as a query's definition has it: `function`, `field`, `groupBy`.
    ///
    /// # Errors
    /// All faults, under the given place.
    pub fn parse(aggregate: &Value, place: &str) -> Result<Self, Vec<Issue>> {
        let Value::Object(config) = aggregate else {
            return Err(vec![Issue::new(place, "type", "Expected an object with a \"function\"")]);
        };
        let mut issues = Vec::new();
        for name in config
            .keys()
            .filter(|name| !matches!(name.as_str(), "function" | "field" | "groupBy"))
        {
            issues.push(Issue::new(
                format!("{place}.{name}"),
                "unknown",
                format!("Unknown property \"{name}\""),
            ));
        }
        let function = parse_function(config, place).map_err(|issue| issues.push(issue)).ok();
        let field = parse_field(config, function, place)
            .map_err(|issue| issues.push(issue))
            .ok()
            .flatten();
        let group_by = config
            .get("groupBy")
            .map_or(Ok(Vec::new()), |fields| parse_group_by(fields, &format!("{place}.groupBy")));
        let group_by = group_by.map_err(|mut found| issues.append(&mut found)).unwrap_or_default();
        match function {
            Some(function) if issues.is_empty() => Ok(Self { function, field, group_by }),
            Some(_) | None => {
                issues.truncate(ISSUES_MAX);
                Err(issues)
            }
        }
    }

    /// The same by groups, from a field name or a list of names as a caller sends it.
    ///
    /// # Errors
    /// All faults, under the given place.
    pub fn grouped_by(self, fields: &Value, place: &str) -> Result<Self, Vec<Issue>> {
        Ok(Self {
            group_by: parse_group_by(fields, place)?,
            ..self
        })
    }

    /// The fields that it looks at.
    pub fn fields(&self) -> impl Iterator<Item = &FieldName> {
        self.field.iter().chain(&self.group_by)
    }

    /// The number that a record contributes.
    #[must_use]
    pub fn operand(&self, record: &Record) -> Option<Number> {
        match record.value(self.field.as_ref()?) {
            FieldValue::Number(number) => Some(number),
            FieldValue::Missing
            | FieldValue::Null
            | FieldValue::Bool(_)
            | FieldValue::Text(_)
            | FieldValue::Array(_)
            | FieldValue::Object(_) => None,
        }
    }

    /// The number over all of the records. Sums add up in the order of the records.
    pub fn over<'r>(&self, records: impl Iterator<Item = &'r Record>) -> Option<Number> {
        let mut accumulator = Accumulator::new(self.function);
        records.for_each(|record| accumulator.add(self.operand(record)));
        accumulator.finish()
    }

    /// The number for each group, in order of first appearance.
    pub fn group<'r>(&self, records: impl Iterator<Item = &'r Record>) -> Vec<Group> {
        let mut groups: IndexMap<GroupKey, (&'r Record, Accumulator)> = IndexMap::new();
        for record in records {
            let (_, accumulator) = groups
                .entry(self.group_key_of(record))
                .or_insert_with(|| (record, Accumulator::new(self.function)));
            accumulator.add(self.operand(record));
        }
        groups
            .into_values()
            .map(|(first, accumulator)| self.group_of(first, accumulator.finish()))
            .collect()
    }

    /// Which group a record is in.
    #[must_use]
    pub fn group_key_of(&self, record: &Record) -> GroupKey {
        let mut key = Vec::with_capacity(16 * self.group_by.len());
        for field in &self.group_by {
            key.push(if key.is_empty() { b'[' } else { b',' });
            key.extend_from_slice(record.token(field).unwrap_or(b"null"));
        }
        GroupKey(key.into_boxed_slice())
    }

    /// A group as the result shows it, from its first record and its number.
    #[must_use]
    pub fn group_of(&self, first: &Record, value: Option<Number>) -> Group {
        Group {
            key: self
                .group_by
                .iter()
                .map(|field| (field.clone(), first.token(field).map(Box::from)))
                .collect(),
            value,
        }
    }
}

fn parse_function(config: &Map<String, Value>, place: &str) -> Result<AggregateFunction, Issue> {
    let place = format!("{place}.function");
    match config.get("function") {
        None => Err(Issue::new(place, "required", "Field is required")),
        Some(name) => name
            .as_str()
            .and_then(AggregateFunction::parse)
            .ok_or_else(|| Issue::new(place, "enum", "Value must be one of: count, sum, avg, min, max")),
    }
}

fn parse_field(config: &Map<String, Value>, function: Option<AggregateFunction>, place: &str) -> Result<Option<FieldName>, Issue> {
    let place = format!("{place}.field");
    match (config.get("field"), function) {
        (Some(Value::String(name)), _) => Ok(Some(FieldName::new(name))),
        (Some(_), _) => Err(Issue::new(place, "type", "Expected a field name")),
        (None, Some(AggregateFunction::Count) | None) => Ok(None),
        (None, Some(AggregateFunction::Sum | AggregateFunction::Avg | AggregateFunction::Min | AggregateFunction::Max)) => {
            Err(Issue::new(place, "required", "Field is required"))
        }
    }
}

fn parse_group_by(fields: &Value, place: &str) -> Result<Vec<FieldName>, Vec<Issue>> {
    let issue = |at: String| vec![Issue::new(at, "type", "Expected a field name or an array of field names")];
    match fields {
        Value::String(name) => Ok(vec![FieldName::new(name)]),
        Value::Array(names) if names.len() > FIELDS_MAX => Err(vec![too_many_fields(place)]),
        Value::Array(names) if !names.is_empty() => {
            let mut parsed: Vec<FieldName> = Vec::with_capacity(names.len());
            for (at, name) in names.iter().enumerate() {
                let name = FieldName::new(name.as_str().ok_or_else(|| issue(format!("{place}[{at}]")))?);
                if !parsed.contains(&name) {
                    parsed.push(name);
                }
            }
            Ok(parsed)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => Err(issue(place.to_owned())),
    }
}

/// A number in the making.
#[derive(Clone, Debug)]
pub struct Accumulator {
    function: AggregateFunction,
    records: usize,
    numbers: usize,
    sum: f64,
    extreme: Option<Number>,
}

impl Accumulator {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new(function: AggregateFunction) -> Self {
        Self {
            function,
            records: 0,
            numbers: 0,
            sum: 0.0,
            extreme: None,
        }
    }

    /// Takes a record with the number that it contributes, if any.
    pub fn add(&mut self, operand: Option<Number>) {
        self.records += 1;
        let Some(number) = operand else { return };
        self.numbers += 1;
        match self.function {
            AggregateFunction::Count => {}
            AggregateFunction::Sum | AggregateFunction::Avg => self.sum += number.as_f64(),
            AggregateFunction::Min => self.extreme = Some(self.extreme.map_or(number, |least| least.min(number))),
            AggregateFunction::Max => self.extreme = Some(self.extreme.map_or(number, |greatest| greatest.max(number))),
        }
    }

    /// The number. The sum and the mean of nothing are 0; nothing has no extremes, and a sum beyond all doubles is
    /// no number.
    #[must_use]
    pub fn finish(&self) -> Option<Number> {
        match self.function {
            AggregateFunction::Count => Some(Number::from(self.records as u64)),
            AggregateFunction::Sum => Number::from_f64(self.sum),
            AggregateFunction::Avg if self.numbers == 0 => Some(Number::Int(0)),
            AggregateFunction::Avg => Number::from_f64(self.sum / self.numbers as f64),
            AggregateFunction::Min | AggregateFunction::Max => self.extreme,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::support::{issues_of, record};
    use super::*;

    fn aggregate(config: Value) -> Aggregate {
        Aggregate::parse(&config, "aggregate").unwrap()
    }

    fn over(function: &str, records: &[&str]) -> Option<f64> {
        let records: Vec<_> = records.iter().map(|json| record(json)).collect();
        aggregate(json!({ "function": function, "field": "v" }))
            .over(records.iter())
            .map(Number::as_f64)
    }

    #[test]
    fn numbers_count_and_nothing_else() {
        let records = [
            r#"{"v":10}"#,
            r#"{"v":"20"}"#,
            r#"{"v":null}"#,
            "{}",
            r#"{"v":true}"#,
            r#"{"v":-4.5}"#,
            r#"{"v":[3]}"#,
        ];
        for (function, expected) in [("count", 7.0), ("sum", 5.5), ("avg", 2.75), ("min", -4.5), ("max", 10.0)] {
            assert_eq!(over(function, &records), Some(expected), "{function}");
        }
    }

    #[test]
    fn of_nothing_the_sum_and_the_mean_are_zero_and_there_are_no_extremes() {
        for (function, expected) in [
            ("count", Some(1.0)),
            ("sum", Some(0.0)),
            ("avg", Some(0.0)),
            ("min", None),
            ("max", None),
        ] {
            assert_eq!(over(function, &[r#"{"v":"text"}"#]), expected, "{function}");
        }
        assert_eq!(over("count", &[]), Some(0.0));
    }

    #[test]
    fn sums_add_up_from_left_to_right_and_may_overflow() {
        assert_eq!(over("sum", &[r#"{"v":0.1}"#, r#"{"v":0.2}"#]), Some(0.300_000_000_000_000_04));
        assert_eq!(over("sum", &[r#"{"v":1e16}"#, r#"{"v":1}"#, r#"{"v":-1e16}"#]), Some(0.0));
        assert_eq!(over("sum", &[r#"{"v":1e308}"#, r#"{"v":1e308}"#]), None);
    }

    #[test]
    fn groups_are_told_apart_by_type_and_appear_in_order_of_first_sight() {
        let texts = [
            r#"{"c":"x","v":1}"#,
            r#"{"c":null,"v":2}"#,
            r#"{"v":3}"#,
            r#"{"c":"null","v":4}"#,
            r#"{"c":1,"v":5}"#,
            r#"{"c":"1","v":6}"#,
            r#"{"c":1.0,"v":7}"#,
            r#"{"c":[1],"v":8}"#,
            r#"{"c":"[1]","v":9}"#,
        ];
        let records: Vec<_> = texts.iter().map(|json| record(json)).collect();
        let mut json = Vec::new();
        for group in aggregate(json!({"function":"sum","field":"v","groupBy":"c"})).group(records.iter()) {
            group.write_json(&mut json);
        }
        let expected = r#"{"key":{"c":"x"},"value":1}{"key":{"c":null},"value":5}{"key":{"c":"null"},"value":4}{"key":{"c":1},"value":12}{"key":{"c":"1"},"value":6}{"key":{"c":[1]},"value":8}{"key":{"c":"[1]"},"value":9}"#;
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }

    #[test]
    fn a_group_shows_the_values_of_its_first_record_and_null_where_there_is_no_number() {
        let records = [record(r#"{"b":"x"}"#), record(r#"{"a":null,"b":"x","v":1}"#)];
        let groups = aggregate(json!({"function":"min","field":"w","groupBy":["a","b"]})).group(records.iter());
        assert_eq!(groups.len(), 1);
        let mut json = Vec::new();
        groups[0].write_json(&mut json);
        assert_eq!(json, br#"{"key":{"b":"x"},"value":null}"#);
    }

    #[test]
    fn values_with_commas_do_not_run_together_in_a_group_key() {
        let aggregate = aggregate(json!({"function":"count","groupBy":["a","b"]}));
        assert_ne!(
            aggregate.group_key_of(&record(r#"{"a":"x\",\"y","b":"z"}"#)),
            aggregate.group_key_of(&record(r#"{"a":"x","b":"y\",\"z"}"#))
        );
    }

    #[test]
    fn a_malformed_aggregate_is_refused_with_all_faults() {
        let table = [
            (json!([]), vec!["aggregate"]),
            (json!({}), vec!["aggregate.function"]),
            (json!({"function":"median","field":"v"}), vec!["aggregate.function"]),
            (json!({"function":"sum"}), vec!["aggregate.field"]),
            (json!({"function":"sum","field":1}), vec!["aggregate.field"]),
            (json!({"function":"count","groupBy":[]}), vec!["aggregate.groupBy"]),
            (json!({"function":"count","groupBy":["a",1]}), vec!["aggregate.groupBy[1]"]),
            (json!({"function":"count","by":"a"}), vec!["aggregate.by"]),
            (
                json!({"function":1,"field":2,"groupBy":3,"x":4}),
                vec!["aggregate.x", "aggregate.function", "aggregate.field", "aggregate.groupBy"],
            ),
        ];
        for (config, fields) in table {
            let issues = issues_of(Aggregate::parse(&config, "aggregate"));
            assert_eq!(
                issues.iter().map(|issue| issue.field.as_str()).collect::<Vec<_>>(),
                fields,
                "{config}"
            );
        }
    }
}
