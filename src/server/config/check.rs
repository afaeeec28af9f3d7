//! Checks of single values: what was expected and what was found.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::Config;
use super::fault::{Fault, Place};
use super::forms::Form;
use super::keys::{Draft, KEYS, Kind};
use super::names::nearest;
use crate::protocol::{BucketName, Issue, Operation, QueryName};
use crate::store::query::QueryDefinition;
use crate::store::state::BucketDefinition;

/// The longest part of a value that a message shows, in characters.
const SHOWN_MAX: usize = 60;

/// The most that a request may count for, whatever the quota.
const WEIGHT_MAX: usize = 1_000_000;

/// What is wrong with a value or a part of it.
pub(super) struct Refusal {
    /// The path from the key to the part, such as `[2]` or `.users.schema`; empty for the value itself.
    pub(super) part: String,
    pub(super) message: String,
}

impl Refusal {
    fn expected(part: impl Into<String>, expected: &str, found: &Value) -> Self {
        Self {
            part: part.into(),
            message: format!("expected {expected}, found {}", shown(found)),
        }
    }
}

impl Kind {
    /// The value that a text of the command line or the environment stands for. A text that does not fit is kept as
    /// it is, for the check to refuse.
    pub(super) fn value_of_text(&self, text: &str) -> Value {
        match self {
            Self::Whole { .. } => text
                .trim()
                .parse::<i128>()
                .ok()
                .and_then(whole_value)
                .unwrap_or_else(|| json!(text)),
            Self::Fraction { .. } => text.trim().parse::<f64>().map_or_else(|_| json!(text), |number| json!(number)),
            Self::Switch { .. } => text.trim().parse::<bool>().map_or_else(|_| json!(text), |yes| json!(yes)),
            Self::Texts { .. } => text.split(',').map(str::trim).collect(),
            Self::Text { .. } | Self::Choice { .. } | Self::Weights | Self::Buckets | Self::Queries => json!(text),
        }
    }

    /// Puts a value into the draft, if nothing is wrong with it.
    pub(super) fn apply(&self, draft: &mut Draft, value: &Value) -> Result<(), Vec<Refusal>> {
        match self {
            Self::Whole { of, min, max, set, .. } => set(draft, checked_whole(value, of, *min, *max)?),
            Self::Fraction { set, .. } => set(draft, checked_fraction(value)?),
            Self::Switch { set } => set(
                draft,
                value.as_bool().ok_or_else(|| vec![Refusal::expected("", "true or false", value)])?,
            ),
            Self::Text { form, set, .. } => set(draft, checked_text(value, form)?),
            Self::Texts { form, set, .. } => set(draft, checked_texts(value, form)?),
            Self::Choice { words, set } => set(draft, checked_word(value, words)?),
            Self::Weights => draft.rate_limit().weights = checked_weights(value)?,
            Self::Buckets => draft.config.buckets = checked_definitions(value, "buckets", check_bucket)?,
            Self::Queries => draft.config.queries = checked_definitions(value, "queries", check_query)?,
        }
        Ok(())
    }

    /// What is wrong with the value that a configuration holds.
    fn refusals(&self, config: &Config) -> Vec<Refusal> {
        let checked = match self {
            Self::Whole { of, min, max, get, .. } => {
                get(config).map_or(Ok(()), |number| checked_whole(&json!(number), of, *min, *max).map(drop))
            }
            Self::Fraction { get, .. } => checked_fraction(&json!(get(config))).map(drop),
            Self::Text { form, get, .. } => get(config).map_or(Ok(()), |text| checked_text(&json!(text), form).map(drop)),
            Self::Texts { form, get, .. } => get(config).map_or(Ok(()), |texts| checked_texts(&json!(texts), form).map(drop)),
            // Their types hold nothing that could be wrong.
            Self::Switch { .. } | Self::Choice { .. } => Ok(()),
            Self::Weights => {
                all_of(weights_of(config).flat_map(|(operation, weight)| check_weight(operation.name(), &json!(weight)).err()))
            }
            Self::Buckets => all_of(
                config
                    .buckets
                    .iter()
                    .flat_map(|(name, definition)| check_bucket(name.as_str(), definition)),
            ),
            Self::Queries => all_of(
                config
                    .queries
                    .iter()
                    .flat_map(|(name, definition)| check_query(name.as_str(), definition)),
            ),
        };
        checked.err().unwrap_or_default()
    }
}

/// What is wrong with a configuration that a program has filled in.
pub(super) fn faults_of(config: &Config) -> Vec<Fault> {
    let faults_of_key = |key: &'static super::keys::Key| {
        let refusals = key.kind.refusals(config).into_iter();
        refusals.map(|refusal| Fault::new(Place::Program(key.name.to_owned()).part(&refusal.part), refusal.message))
    };
    let together = disagreements(config);
    let together = together.into_iter().map(|(key, message)| Fault::new(Place::Program(key), message));
    KEYS.iter().flat_map(faults_of_key).chain(together).collect()
}

/// What is wrong between the values of several keys, each with the key to change.
pub(super) fn disagreements(config: &Config) -> Vec<(String, String)> {
    let Some(limit) = &config.rate_limit else { return Vec::new() };
    let max = limit.max_requests;
    let beyond = weights_of(config).filter(|(_, weight)| *weight > max && *weight <= WEIGHT_MAX);
    beyond
        .map(|(operation, weight)| {
            let message = format!("expected at most {max}, which is \"rateLimit.maxRequests\", found {weight}: it would never be allowed");
            (format!("rateLimit.weights.{operation}"), message)
        })
        .collect()
}

fn weights_of(config: &Config) -> impl Iterator<Item = (Operation, usize)> {
    let weights = config.rate_limit.iter().flat_map(|limit| &limit.weights);
    weights.map(|(operation, weight)| (*operation, *weight))
}

/// What was found, for people.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::String(text) if text.chars().nth(SHOWN_MAX).is_some() => {
            format!("the text {:?}…", text.chars().take(SHOWN_MAX).collect::<String>())
        }
        Value::String(text) => format!("the text {text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

fn whole_value(number: i128) -> Option<Value> {
    u64::try_from(number)
        .map(Value::from)
        .or_else(|_| i64::try_from(number).map(Value::from))
        .ok()
}

fn checked_whole(value: &Value, of: &str, min: u64, max: u64) -> Result<u64, Vec<Refusal>> {
    let number = value.as_u64();
    if let Some(number) = number.filter(|number| (min..=max).contains(number)) {
        return Ok(number);
    }
    let of = if of.is_empty() { String::new() } else { format!(" of {of}") };
    let mut refusal = Refusal::expected("", &format!("a whole number{of} from {min} to {max}"), value);
    if number == Some(0) {
        refusal.message.push_str(" (0 does not mean \"no limit\" here)");
    }
    Err(vec![refusal])
}

fn checked_fraction(value: &Value) -> Result<f64, Vec<Refusal>> {
    let fits = |number: &f64| *number > 0.0 && *number <= 1.0;
    value
        .as_f64()
        .filter(fits)
        .ok_or_else(|| vec![Refusal::expected("", "a number above 0, at most 1", value)])
}

fn checked_text<'a>(value: &'a Value, form: &Form) -> Result<&'a str, Vec<Refusal>> {
    value
        .as_str()
        .filter(|text| (form.fits)(text))
        .ok_or_else(|| vec![Refusal::expected("", form.name, value)])
}

fn checked_texts(value: &Value, form: &Form) -> Result<Vec<String>, Vec<Refusal>> {
    let items = value
        .as_array()
        .ok_or_else(|| vec![Refusal::expected("", &format!("a list, each item {}", form.name), value)])?;
    let refusals = items.iter().enumerate().filter(|(_, item)| checked_text(item, form).is_err());
    all_of(refusals.map(|(at, item)| Refusal::expected(format!("[{at}]"), form.name, item)))?;
    Ok(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}

fn checked_word<'a>(value: &'a Value, words: &[&str]) -> Result<&'a str, Vec<Refusal>> {
    let quoted = || words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>();
    let expected = || {
        quoted()
            .split_last()
            .map(|(last, others)| format!("{} or {last}", others.join(", ")))
            .unwrap_or_default()
    };
    value
        .as_str()
        .filter(|word| words.contains(word))
        .ok_or_else(|| vec![Refusal::expected("", &expected(), value)])
}

fn checked_definitions<N>(
    value: &Value,
    what: &str,
    check: fn(&str, &Map<String, Value>) -> Vec<Refusal>,
) -> Result<IndexMap<N, Map<String, Value>>, Vec<Refusal>>
where
    N: for<'a> From<&'a str> + std::hash::Hash + Eq,
{
    let definitions = value
        .as_object()
        .ok_or_else(|| vec![Refusal::expected("", &format!("an object of {what} by name"), value)])?;
    all_of(definitions.iter().flat_map(|(name, definition)| match definition.as_object() {
        Some(members) => check(name, members),
        None => vec![Refusal::expected(format!(".{name}"), "an object", definition)],
    }))?;
    Ok(definitions
        .iter()
        .filter_map(|(name, definition)| Some((N::from(name), definition.as_object()?.clone())))
        .collect())
}

fn checked_weights(value: &Value) -> Result<IndexMap<Operation, usize>, Vec<Refusal>> {
    let weights = value
        .as_object()
        .ok_or_else(|| vec![Refusal::expected("", "an object of whole numbers by operation", value)])?;
    let (mut checked, mut refusals) = (IndexMap::new(), Vec::new());
    for (name, weight) in weights {
        match check_weight(name, weight) {
            Ok((operation, weight)) => {
                checked.insert(operation, weight);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() { Ok(checked) } else { Err(refusals) }
}

fn check_weight(name: &str, weight: &Value) -> Result<(Operation, usize), Refusal> {
    let part = format!(".{name}");
    let Some(operation) = Operation::parse(name) else {
        let meant = nearest(name, Operation::ALL.iter().map(|operation| operation.name()));
        let message = match meant {
            Some(meant) => format!("unknown operation; did you mean {meant:?}?"),
            None => "unknown operation".to_owned(),
        };
        return Err(Refusal { part, message });
    };
    let whole = weight.as_u64().and_then(|weight| usize::try_from(weight).ok());
    match whole.filter(|weight| (1..=WEIGHT_MAX).contains(weight)) {
        Some(weight) => Ok((operation, weight)),
        None => Err(Refusal::expected(part, &format!("a whole number from 1 to {WEIGHT_MAX}"), weight)),
    }
}

fn check_bucket(name: &str, definition: &Map<String, Value>) -> Vec<Refusal> {
    check_definition(
        name,
        BucketName::from(name).is_reserved(),
        BucketDefinition::parse(definition).err(),
    )
}

fn check_query(name: &str, definition: &Map<String, Value>) -> Vec<Refusal> {
    check_definition(name, QueryName::from(name).is_reserved(), QueryDefinition::parse(definition).err())
}

fn check_definition(name: &str, is_reserved: bool, issues: Option<Vec<Issue>>) -> Vec<Refusal> {
    let name_fault = match name {
        "" => Some("expected a name, found an empty text"),
        _ if is_reserved => Some("names with a leading underscore are the server's own"),
        _ => None,
    };
    let of_name = name_fault.map(|message| Refusal {
        part: format!(".{name}"),
        message: message.to_owned(),
    });
    let of_definition = issues.into_iter().flatten().map(|issue| Refusal {
        part: if issue.field.is_empty() {
            format!(".{name}")
        } else {
            format!(".{name}.{}", issue.field)
        },
        message: issue.message,
    });
    of_name.into_iter().chain(of_definition).collect()
}

fn all_of(refusals: impl Iterator<Item = Refusal>) -> Result<(), Vec<Refusal>> {
    let refusals: Vec<Refusal> = refusals.collect();
    if refusals.is_empty() { Ok(()) } else { Err(refusals) }
}
