//! Query definitions: checked whole when they are defined, bound to parameters when they are run.

use std::sync::Arc;

use indexmap::IndexSet;
use serde_json::{Map, Value};

use super::ISSUES_MAX;
use super::aggregate::Aggregate;
use super::filter::Filter;
use super::parse::{Parameters, Parser, Place};
use super::projection::Projection;
use super::sort::Sort;
use crate::protocol::{BucketName, FieldName, Issue, Number, json};
use crate::store::StoreError;

/// How many levels of objects and lists a part of a definition may be. A message has fewer; what is deeper could not be
/// read from the disk again, since there JSON may have 127 levels.
const LEVELS_MAX: usize = 100;

const PROPERTIES: [&str; 7] = ["bucket", "filter", "sort", "offset", "limit", "fields", "aggregate"];

/// A query as it was defined. Texts such as `{{ params.x }}` stand for operands of its filter.
#[derive(Clone, Debug)]
pub struct QueryDefinition {
    config: Arc<Map<String, Value>>,
    parameters: Vec<String>,
    /// The query for which no parameter is left open: its filter holds only where there are no parameters.
    query: ResolvedQuery,
    /// Which incarnation of its name it is to become; none where any will do.
    pub(in crate::store) wanted_incarnation: Option<u64>,
}

/// A query with all of its operands, ready to run.
#[derive(Clone, Debug)]
pub struct ResolvedQuery {
    /// The bucket it reads.
    pub bucket: BucketName,
    /// Which records.
    pub filter: Filter,
    /// In which order.
    pub sort: Sort,
    /// How many of the first to leave out.
    pub offset: usize,
    /// How many at most.
    pub limit: Option<usize>,
    /// Which of their fields, where not all.
    pub projection: Option<Projection>,
    /// A number made of the records instead of the records: sort, offset, limit and projection do not matter then.
    pub aggregate: Option<Aggregate>,
}

impl ResolvedQuery {
    /// How many records from the start of the sorted result it takes to answer.
    #[must_use]
    pub fn wanted(&self) -> Option<usize> {
        self.limit.map(|limit| limit.saturating_add(self.offset))
    }

    /// A field that the query names in any of its parts, whether or not it makes a difference, and of which something
    /// holds.
    pub fn find_field(&self, wanted: impl Fn(&FieldName) -> bool) -> Option<&FieldName> {
        let sorted = self.sort.fields().iter().map(|(field, _)| field);
        let projected = self.projection.iter().flat_map(|projection| projection.fields());
        let aggregated = self.aggregate.iter().flat_map(Aggregate::fields);
        let found = self.filter.find_field(&wanted);
        found.or_else(|| sorted.chain(projected).chain(aggregated).find(|field| wanted(field)))
    }
}

impl QueryDefinition {
    /// Reads a query definition from a JSON value, such as `json!` makes.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] with all that is wrong with it.
    pub fn from_value(value: &Value) -> Result<Self, StoreError> {
        StoreError::or_invalid("query definition", value, Self::parse)
    }

    /// Checks a definition as a caller sends it.
    ///
    /// # Errors
    /// All faults of the definition, each with its place.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, Vec<Issue>> {
        if let Some((name, _)) = config.iter().find(|(_, part)| json::is_deeper(part, LEVELS_MAX)) {
            let message = format!("Nested more than {LEVELS_MAX} levels deep");
            return Err(vec![Issue::new(name, "depth", message)]);
        }
        Self::stored(&Arc::new(config.clone()))
    }

    /// Reads a definition that was taken before.
    ///
    /// # Errors
    /// All that makes no sense in it.
    pub(in crate::store) fn stored(config: &Arc<Map<String, Value>>) -> Result<Self, Vec<Issue>> {
        let mut check = Check {
            config,
            issues: Vec::new(),
        };
        check.unknown_properties();
        let bucket = check.bucket();
        let (filter, parameters) = check.filter();
        let sort = check.property("sort", Sort::parse).unwrap_or_default();
        let offset = check.property("offset", whole_number).unwrap_or(0);
        let limit = check.property("limit", whole_number);
        let projection = check.property("fields", Projection::parse).flatten();
        let aggregate = check.property("aggregate", Aggregate::parse);
        if !check.issues.is_empty() {
            check.issues.truncate(ISSUES_MAX);
            return Err(check.issues);
        }
        let query = ResolvedQuery {
            bucket,
            filter,
            sort,
            offset,
            limit,
            projection,
            aggregate,
        };
        Ok(Self {
            config: Arc::clone(config),
            parameters,
            query,
            wanted_incarnation: None,
        })
    }

    /// The definition as it was given.
    #[must_use]
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The same, to be kept.
    pub(in crate::store) fn shared_config(&self) -> &Arc<Map<String, Value>> {
        &self.config
    }

    /// The bucket that the query reads.
    #[must_use]
    pub fn bucket(&self) -> &BucketName {
        &self.query.bucket
    }

    /// A field that the query names in any of its parts, and of which something holds.
    pub fn find_field(&self, wanted: impl Fn(&FieldName) -> bool) -> Option<&FieldName> {
        self.query.find_field(wanted)
    }

    /// The names of the parameters in use, in order of first use.
    #[must_use]
    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }

    /// The query with its parameters in place. A parameter is a value to compare with, never a piece of filter;
    /// those that the query does not use are passed over.
    ///
    /// # Errors
    /// The parameters that are missing, and those whose value does not fit the operator.
    pub fn resolve(&self, params: &Map<String, Value>) -> Result<ResolvedQuery, Vec<Issue>> {
        let mut query = self.query.clone();
        if let (false, Some(Value::Object(filter))) = (self.parameters.is_empty(), self.config.get("filter")) {
            let mut parser = Parser::new(Parameters::Given(params));
            let node = parser.filter(filter, Place::Root("filter"));
            let named = parser.fields_named();
            parser.finish()?;
            query.filter = Filter::read(node, named, filter);
        }
        Ok(query)
    }
}

/// The faults of a definition, in the making.
struct Check<'a> {
    config: &'a Map<String, Value>,
    issues: Vec<Issue>,
}

impl Check<'_> {
    fn unknown_properties(&mut self) {
        let unknown = self.config.keys().filter(|name| !PROPERTIES.contains(&name.as_str()));
        self.issues
            .extend(unknown.map(|name| Issue::new(name, "unknown", format!("Unknown property \"{name}\""))));
    }

    fn bucket(&mut self) -> BucketName {
        match self.config.get("bucket") {
            Some(Value::String(name)) if !name.is_empty() => return name.as_str().into(),
            None | Some(Value::Null) => self.issues.push(Issue::new("bucket", "required", "Field is required")),
            Some(_) => self.issues.push(Issue::new("bucket", "type", "Expected the name of a bucket")),
        }
        "".into()
    }

    /// The filter, and the parameters that it needs. Null is no filter.
    fn filter(&mut self) -> (Filter, Vec<String>) {
        match self.config.get("filter") {
            None | Some(Value::Null) => {}
            Some(Value::Object(filter)) => {
                let mut parser = Parser::new(Parameters::Declared(IndexSet::new()));
                let node = parser.filter(filter, Place::Root("filter"));
                let named = parser.fields_named();
                let (mut issues, parameters) = parser.into_parts();
                self.issues.append(&mut issues);
                return (Filter::read(node, named, filter), parameters);
            }
            Some(_) => self.issues.push(Issue::new("filter", "type", "Expected a filter object")),
        }
        (Filter::everything(), Vec::new())
    }

    fn property<T>(&mut self, name: &str, parse: impl FnOnce(&Value, &str) -> Result<T, Vec<Issue>>) -> Option<T> {
        parse(self.config.get(name)?, name)
            .map_err(|mut found| self.issues.append(&mut found))
            .ok()
    }
}

/// A whole number of at least zero; what is beyond all records is all of them.
fn whole_number(value: &Value, place: &str) -> Result<usize, Vec<Issue>> {
    let issue = |code, message: &str| vec![Issue::new(place, code, message)];
    let Value::Number(number) = value else {
        return Err(issue("type", "Expected a whole number"));
    };
    match Number::from(number) {
        Number::Int(int) if int < 0 => Err(issue("min", "Minimum value is 0")),
        Number::Float(float) if float < 0.0 => Err(issue("min", "Minimum value is 0")),
        Number::Float(float) if float.fract() != 0.0 => Err(issue("type", "Expected a whole number")),
        number @ (Number::Int(_) | Number::Uint(_) | Number::Float(_)) => {
            Ok(number.as_u64().and_then(|whole| usize::try_from(whole).ok()).unwrap_or(usize::MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::{issues_of, object, record};
    use super::*;

    fn define(config: &str) -> QueryDefinition {
        QueryDefinition::parse(&object(config)).unwrap()
    }

    #[test]
    fn a_definition_is_read_whole_and_given_back_as_it_was() {
        let config =
            r#"{"bucket":"t","filter":{"x":"{{ params.x }}","y":{"$in":[1]}},"sort":{"id":"desc"},"offset":1.0,"limit":3,"fields":["id"]}"#;
        let definition = define(config);
        assert_eq!(Value::Object(definition.config().clone()).to_string(), config);
        assert_eq!(definition.bucket().as_str(), "t");
        let query = definition.resolve(&object(r#"{"x":1}"#)).unwrap();
        assert_eq!((query.offset, query.limit, query.wanted()), (1, Some(3), Some(4)));
        assert_eq!(query.sort.fields().len(), 1);
        assert_eq!(query.projection.unwrap().fields().len(), 1);
        assert!(query.filter.matches(&record(r#"{"x":1,"y":1}"#)));
        assert!(!query.filter.matches(&record(r#"{"x":"{{ params.x }}","y":1}"#)));
    }

    #[test]
    fn limits_may_be_beyond_all_numbers_of_records() {
        for (limit, expected) in [("0", 0), ("18446744073709551615", usize::MAX), ("1e200", usize::MAX), ("3.0", 3)] {
            let query = define(&format!(r#"{{"bucket":"t","offset":7,"limit":{limit}}}"#))
                .resolve(&Map::new())
                .unwrap();
            assert_eq!(query.limit, Some(expected));
            assert_eq!(query.wanted(), Some(expected.saturating_add(7)));
        }
    }

    #[test]
    fn a_malformed_definition_is_refused_with_all_faults() {
        let table = [
            ("{}", vec!["bucket"]),
            (r#"{"bucket":5}"#, vec!["bucket"]),
            (r#"{"bucket":"t","limit":-1}"#, vec!["limit"]),
            (r#"{"bucket":"t","limit":1.5}"#, vec!["limit"]),
            (r#"{"bucket":"t","limit":"{{ params.n }}"}"#, vec!["limit"]),
            (r#"{"bucket":"t","offset":-1e30}"#, vec!["offset"]),
            (r#"{"bucket":"t","sort":["id"]}"#, vec!["sort"]),
            (r#"{"bucket":"t","sort":{"id":"down"}}"#, vec!["sort.id"]),
            (r#"{"bucket":"t","filter":"all"}"#, vec!["filter"]),
            (r#"{"bucket":"t","filter":{"v":{"$ne":"{{ params.v }}"}}}"#, vec!["filter.v"]),
            (r#"{"bucket":"t","filter":{"$or":"{{ params.v }}"}}"#, vec!["filter.$or"]),
            (r#"{"bucket":"t","filter":{"$and":["{{ params.v }}"]}}"#, vec!["filter.$and[0]"]),
            (r#"{"bucket":"t","fields":"id"}"#, vec!["fields"]),
            (
                r#"{"bucket":"t","aggregate":{"function":"median","field":"v"}}"#,
                vec!["aggregate.function"],
            ),
            (
                r#"{"limit":-1,"colour":1,"filter":{"a":{"$x":1}},"sort":1}"#,
                vec!["colour", "bucket", "filter.a", "sort", "limit"],
            ),
        ];
        for (config, fields) in table {
            let issues = issues_of(QueryDefinition::parse(&object(config)));
            assert_eq!(
                issues.iter().map(|issue| issue.field.as_str()).collect::<Vec<_>>(),
                fields,
                "{config}"
            );
        }
    }

    #[test]
    fn parameters_are_named_once_in_order_of_first_use_wherever_an_operand_may_stand() {
        let definition = define(
            r#"{"bucket":"t","filter":{"a":"{{params.z}}","$or":[{"b":{"$in":["{{ params.a_1 }}",1]}},{"c":{"$between":["{{\u00a0\tparams.z }}","{{params.Q}}"]}}],
            "d":"x{{ params.no }}","e":"{{ params.a.b }}","f":"{{ params. }}","g":"{{ param.x }}"}}"#,
        );
        assert_eq!(definition.parameters(), ["z", "a_1", "Q"]);
    }

    #[test]
    fn a_parameter_keeps_its_type() {
        let definition = define(r#"{"bucket":"t","filter":{"v":"{{params.v}}"}}"#);
        let records = [r#"{"v":1}"#, r#"{"v":"1"}"#, r#"{"v":null}"#, "{}", r#"{"v":true}"#].map(record);
        for (params, expected) in [
            (r#"{"v":1}"#, 0),
            (r#"{"v":"1"}"#, 1),
            (r#"{"v":null}"#, 2),
            (r#"{"v":true,"unused":[1]}"#, 4),
        ] {
            let filter = definition.resolve(&object(params)).unwrap().filter;
            assert_eq!(records.iter().position(|record| filter.matches(record)), Some(expected), "{params}");
            assert_eq!(records.iter().filter(|record| filter.matches(record)).count(), 1, "{params}");
        }
    }

    #[test]
    fn a_missing_parameter_is_refused_by_name_once() {
        let definition = define(
            r#"{"bucket":"t","filter":{"n":{"$gte":"{{ params.min }}","$lt":"{{ params.min }}"},"m":{"$in":["{{ params.who }}"]}}}"#,
        );
        let issues = issues_of(definition.resolve(&object(r#"{"max":1}"#)));
        assert_eq!(
            issues.iter().map(|issue| (issue.field.as_str(), issue.code)).collect::<Vec<_>>(),
            [("params.min", "required"), ("params.who", "required")]
        );
    }

    #[test]
    fn a_parameter_is_a_value_and_not_a_piece_of_filter() {
        let definition = define(r#"{"bucket":"t","filter":{"owner":"{{ params.who }}"}}"#);
        for who in [
            r#"{"$exists":true}"#,
            r#"{"$neq":"ann"}"#,
            r#"{"$ne":1}"#,
            "{}",
            r#"["ann"]"#,
            r#""{{ params.who }}""#,
        ] {
            let filter = definition.resolve(&object(&format!(r#"{{"who":{who}}}"#))).unwrap().filter;
            assert!(
                !filter.matches(&record(r#"{"owner":"ann"}"#)) && !filter.matches(&record("{}")),
                "{who}"
            );
        }
        let list = define(r#"{"bucket":"t","filter":{"v":{"$in":"{{ params.list }}"}}}"#);
        let filter = list.resolve(&object(r#"{"list":["{{ params.list }}",2]}"#)).unwrap().filter;
        assert!(filter.matches(&record(r#"{"v":2}"#)) && filter.matches(&record(r#"{"v":"{{ params.list }}"}"#)));
    }

    #[test]
    fn a_parameter_must_fit_its_operator() {
        let table = [
            ("$in", "5"),
            ("$nin", r#""x""#),
            ("$gte", "null"),
            ("$gt", "{}"),
            ("$contains", "5"),
            ("$exists", "null"),
            ("$between", "[1]"),
        ];
        for (operator, value) in table {
            let definition = define(&format!(
                r#"{{"bucket":"t","filter":{{"n":{{"{operator}":"{{{{ params.v }}}}"}}}}}}"#
            ));
            let issues = issues_of(definition.resolve(&object(&format!(r#"{{"v":{value}}}"#))));
            assert_eq!(
                (issues[0].field.as_str(), issues[0].code),
                ("filter.n", "type"),
                "{operator} {value}"
            );
        }
    }
}
