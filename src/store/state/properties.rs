//! Reading the properties of a definition, each with the type it must have.

use serde_json::{Map, Value};

use super::faults::{Faults, Path};
use crate::protocol::Number;

/// A property whose value is one of a few words.
pub(super) trait Word: Copy + 'static {
    /// The words with what they mean, in the order in which messages list them.
    const WORDS: &'static [(&'static str, Self)];
}

/// One JSON object of a definition and the place where it stands.
#[derive(Clone, Copy)]
pub(super) struct Properties<'a> {
    object: &'a Map<String, Value>,
    path: &'a Path<'a>,
}

impl<'a> Properties<'a> {
    pub fn new(object: &'a Map<String, Value>, path: &'a Path<'a>) -> Self {
        Self { object, path }
    }

    /// The place of a property.
    pub fn at<'n>(&self, name: &'n str) -> Path<'n>
    where
        'a: 'n,
    {
        Path::Member(self.path, name)
    }

    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name)
    }

    pub fn has(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    pub fn text(&self, name: &str, faults: &mut Faults) -> Option<&'a str> {
        self.typed(name, "string", faults, Value::as_str)
    }

    /// A boolean that is false where it is not given.
    pub fn flag(&self, name: &str, faults: &mut Faults) -> bool {
        self.typed(name, "boolean", faults, Value::as_bool).unwrap_or(false)
    }

    pub fn number(&self, name: &str, faults: &mut Faults) -> Option<Number> {
        self.typed(name, "number", faults, as_number)
    }

    /// A whole number of at least `least`.
    pub fn count(&self, name: &str, least: u64, faults: &mut Faults) -> Option<u64> {
        let number = self.number(name, faults)?;
        let count = number.as_u64().filter(|count| *count >= least);
        if count.is_none() {
            faults.add(
                &self.at(name),
                "min",
                format!("Must be a whole number of at least {least}, got {number}"),
            );
        }
        count
    }

    pub fn object(&self, name: &str, faults: &mut Faults) -> Option<&'a Map<String, Value>> {
        self.typed(name, "object", faults, Value::as_object)
    }

    pub fn list(&self, name: &str, faults: &mut Faults) -> Option<&'a [Value]> {
        self.typed(name, "array", faults, |value| value.as_array().map(Vec::as_slice))
    }

    /// One of the words of a type.
    pub fn word<W: Word>(&self, name: &str, faults: &mut Faults) -> Option<W> {
        let text = self.text(name, faults)?;
        if let Some((_, meaning)) = W::WORDS.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let words: Vec<&str> = W::WORDS.iter().map(|(word, _)| *word).collect();
        faults.add(
            &self.at(name),
            "enum",
            format!("Value must be one of: {}{}", words.join(", "), hint(text, &words)),
        );
        None
    }

    /// Reports a property that must be given and is not.
    pub fn require(&self, name: &str, faults: &mut Faults) {
        if !self.has(name) {
            faults.add(&self.at(name), "required", "Field is required");
        }
    }

    /// Reports each property that is none of the known ones.
    pub fn refuse_unknown(&self, known: &[&str], faults: &mut Faults) {
        for name in self.object.keys().filter(|name| !known.contains(&name.as_str())) {
            let message = match name.as_str() {
                "validate" => "A validator is a function: it can be given by a Rust program only".to_owned(),
                name => format!("Unknown property{}", hint(name, known)),
            };
            faults.add(&self.at(name), "unknown", message);
        }
    }

    fn typed<T>(&self, name: &str, expected: &str, faults: &mut Faults, read: impl FnOnce(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.get(name)?;
        let read = read(value);
        if read.is_none() {
            faults.add(&self.at(name), "type", wrong_type(expected, value));
        }
        read
    }
}

/// The message about a value of the wrong type.
pub(super) fn wrong_type(expected: &str, value: &Value) -> String {
    format!("Expected type \"{expected}\", got {}", type_name(value))
}

/// The name of a JSON value's type, as messages say it.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn as_number(value: &Value) -> Option<Number> {
    match value {
        Value::Number(number) => Some(Number::from(number)),
        Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `; did you mean "minLength"?` where a known name is near enough to be what was meant, else nothing.
fn hint(name: &str, known: &[&str]) -> String {
    const LONGEST_NAME: usize = 32;
    if name.len() > LONGEST_NAME {
        return String::new();
    }
    let plain = |name: &str| name.to_lowercase().replace(['_', '-'], "");
    let name = plain(name);
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&name, &plain(known)), known))
        .min_by_key(|(distance, _)| *distance);
    match nearest {
        Some((distance, known)) if distance <= 2.min(known.len() / 2) => format!("; did you mean \"{known}\"?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest_known_one() {
        let known = ["minLength", "maxLength", "ref", "onDelete"];
        assert_eq!(hint("min_length", &known), "; did you mean \"minLength\"?");
        assert_eq!(hint("ondelte", &known), "; did you mean \"onDelete\"?");
        assert_eq!(hint("color", &known), "");
        assert_eq!(hint(&"r".repeat(1000), &known), "");
    }
}
