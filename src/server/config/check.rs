//! Checks of single values: what was expected and what was found.

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::draft::Draft;
use super::fault::{Fault, Place};
use super::forms::Form;
use super::keys::{Kind, Turn, keys};
use super::names::nearest;
use super::secrets::{EXPECTED, SECRET_MIN};
use super::together::disagreements;
use super::tokens::{checked_permissions, checked_tokens, tokens_refusals};
use super::{Config, Secret};
use crate::protocol::{BucketName, Issue, Operation, QueryName};
use crate::store::query::QueryDefinition;
use crate::store::state::BucketDefinition;

/// The longest part of a value that a message shows, in characters.
const SHOWN_MAX: usize = 60;

/// The most that a request may count for, whatever the quota.
pub(super) const WEIGHT_MAX: usize = 1_000_000;

/// What is said of a name that nobody may use.
pub(super) const RESERVED: &str = "names with a leading underscore are the server's own";

/// What is wrong with a value or a part of it.
pub(super) struct Refusal {
    /// The path from the key to the part, such as `[2]` or `.users.schema`; empty for the value itself.
    pub(super) part: String,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn expected(part: impl Into<String>, expected: &str, found: &Value) -> Self {
        Self {
            part: part.into(),
            message: format!("expected {expected}, found {}", shown(found)),
        }
    }

    /// As `expected`, where what was found may be a secret.
    pub(super) fn hidden(part: impl Into<String>, expected: &str, found: &Value) -> Self {
        Self {
            part: part.into(),
            message: format!("expected {expected}, found {}", kind_of(found)),
        }
    }

    /// The refusal of a part as one of the whole.
    pub(super) fn under(self, path: &str) -> Self {
        Self {
            part: format!("{path}{}", self.part),
            ..self
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
            Self::Switch { .. } | Self::Part { .. } => text.trim().parse::<bool>().map_or_else(|_| json!(text), |yes| json!(yes)),
            Self::Texts { .. } | Self::Choices { .. } => text.split(',').map(str::trim).collect(),
            Self::Text { .. }
            | Self::Secret { .. }
            | Self::Choice { .. }
            | Self::Weights
            | Self::Buckets
            | Self::Queries
            | Self::Tokens
            | Self::Permissions
            | Self::Rules => json!(text),
        }
    }

    /// Puts a value that was written at a place into the draft, if nothing is wrong with it.
    pub(super) fn apply(&self, draft: &mut Draft, place: &Place, value: &Value) -> Result<(), Vec<Refusal>> {
        match self {
            Self::Whole { of, min, max, set, .. } => set(draft, checked_whole(value, of, *min, *max)?),
            Self::Fraction { set, .. } => set(draft, checked_fraction(value)?),
            Self::Switch { set } => set(
                draft,
                value.as_bool().ok_or_else(|| vec![Refusal::expected("", "true or false", value)])?,
            ),
            Self::Text { form, set, .. } => set(draft, checked_text(value, form)?),
            Self::Texts { form, set, .. } => set(draft, checked_texts(value, form)?),
            Self::Part { turn } => turn(draft, checked_turn(value)?),
            Self::Secret { sources, .. } => sources(draft).written = Some((checked_secret(value)?, place.clone())),
            Self::Choice { words, set } => set(draft, checked_word(value, words)?),
            Self::Choices { words, set } => set(draft, &checked_words(value, words)?),
            Self::Tokens => draft.auth().tokens = checked_tokens(value)?,
            Self::Permissions => draft.permissions().rules = Some(checked_permissions(value)?),
            Self::Rules => check_no_rules(value)?,
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
            Self::Switch { .. } | Self::Part { .. } | Self::Choice { .. } | Self::Choices { .. } | Self::Permissions | Self::Rules => {
                Ok(())
            }
            Self::Secret { get, .. } => get(config).map_or(Ok(()), check_length),
            Self::Tokens => all_of(tokens_refusals(config.auth.as_ref().map_or(&[], |auth| &auth.tokens)).into_iter()),
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
    keys().flat_map(faults_of_key).chain(together).collect()
}

pub(super) fn weights_of(config: &Config) -> impl Iterator<Item = (Operation, usize)> {
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

/// What was found, where it may be a secret.
pub(super) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
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

fn checked_turn(value: &Value) -> Result<Turn, Vec<Refusal>> {
    match value.as_bool() {
        Some(true) => Ok(Turn::On),
        Some(false) => Ok(Turn::Off),
        None => Err(vec![Refusal::hidden("", "an object, true or false", value)]),
    }
}

fn checked_secret(value: &Value) -> Result<Secret, Vec<Refusal>> {
    let secret = value.as_str().map(Secret::from);
    secret.filter(|secret| check_length(secret).is_ok()).ok_or_else(too_short)
}

fn check_length(secret: &Secret) -> Result<(), Vec<Refusal>> {
    if secret.expose().len() >= SECRET_MIN {
        Ok(())
    } else {
        Err(too_short())
    }
}

fn too_short() -> Vec<Refusal> {
    vec![Refusal {
        part: String::new(),
        message: EXPECTED.to_owned(),
    }]
}

fn checked_word<'a>(value: &'a Value, words: &[&str]) -> Result<&'a str, Vec<Refusal>> {
    value
        .as_str()
        .filter(|word| words.contains(word))
        .ok_or_else(|| vec![Refusal::expected("", &one_of(words), value)])
}

fn checked_words<'a>(value: &'a Value, words: &[&str]) -> Result<Vec<&'a str>, Vec<Refusal>> {
    let expected = one_of(words);
    let items = value
        .as_array()
        .ok_or_else(|| vec![Refusal::expected("", &format!("a list, each item {expected}"), value)])?;
    let is_word = |item: &Value| item.as_str().is_some_and(|word| words.contains(&word));
    let wrong = items.iter().enumerate().filter(|(_, item)| !is_word(item));
    all_of(wrong.map(|(at, item)| Refusal::expected(format!("[{at}]"), &expected, item)))?;
    Ok(items.iter().filter_map(Value::as_str).collect())
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    quoted
        .split_last()
        .map(|(last, others)| format!("{} or {last}", others.join(", ")))
        .unwrap_or_default()
}

/// An empty list is let through: files of other servers of the protocol have it.
fn check_no_rules(value: &Value) -> Result<(), Vec<Refusal>> {
    match value.as_array() {
        Some(rules) if rules.is_empty() => Ok(()),
        Some(_) | None => Err(vec![Refusal::expected(
            "",
            "an empty list, for this version has no rule engine",
            value,
        )]),
    }
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
    let fields = definition.get("schema").and_then(Value::as_object);
    let referring = fields
        .into_iter()
        .flatten()
        .filter_map(|(field, spec)| Some((field, spec.get("ref")?)));
    let of_references = referring.filter_map(|(field, target)| reserved(&format!(".{name}.schema.{field}.ref"), target));
    let is_reserved = BucketName::from(name).is_reserved();
    let of_definition = check_definition(name, is_reserved, BucketDefinition::parse(definition).err());
    of_definition.into_iter().chain(of_references).collect()
}

fn check_query(name: &str, definition: &Map<String, Value>) -> Vec<Refusal> {
    let of_bucket = definition
        .get("bucket")
        .and_then(|bucket| reserved(&format!(".{name}.bucket"), bucket));
    let is_reserved = QueryName::from(name).is_reserved();
    let of_definition = check_definition(name, is_reserved, QueryDefinition::parse(definition).err());
    of_definition.into_iter().chain(of_bucket).collect()
}

/// What is wrong with the name of a bucket that a definition touches, where it is one of the server's own: whoever may use
/// what is defined would reach it.
fn reserved(part: &str, bucket: &Value) -> Option<Refusal> {
    let is_reserved = bucket.as_str().is_some_and(|name| BucketName::from(name).is_reserved());
    is_reserved.then(|| Refusal {
        part: part.to_owned(),
        message: RESERVED.to_owned(),
    })
}

fn check_definition(name: &str, is_reserved: bool, issues: Option<Vec<Issue>>) -> Vec<Refusal> {
    let name_fault = match name {
        "" => Some("expected a name, found an empty text"),
        _ if is_reserved => Some(RESERVED),
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
