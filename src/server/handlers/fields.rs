//! The fields of a request as values, each with the complaint that clients know.

use std::borrow::Cow;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::failure::Failure;
use crate::protocol::{Cursor, Datum, Fields, Number, Record, decode_text};

/// Why the JSON text of a field is not the value that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is absent or of another kind.
    Kind,
    /// It is of the right kind and cannot be read: a lone surrogate, a number beyond all doubles.
    Unreadable,
}

impl Misfit {
    /// The failure to answer with; `message` is for a value of the wrong kind.
    pub fn failure(self, message: impl FnOnce() -> String) -> Failure {
        match self {
            Self::Kind => Failure::validation(message()),
            Self::Unreadable => Failure::unreadable(),
        }
    }
}

/// A text that is not empty.
pub fn read_text(json: Option<&str>) -> Result<Cow<'_, str>, Misfit> {
    let json = json.filter(|json| json.starts_with('"')).ok_or(Misfit::Kind)?;
    let text = decode_text(json).ok_or(Misfit::Unreadable)?;
    if text.is_empty() { Err(Misfit::Kind) } else { Ok(text) }
}

/// An object.
pub fn read_object(json: Option<&str>) -> Result<Map<String, Value>, Misfit> {
    let json = json.filter(|json| json.starts_with('{')).ok_or(Misfit::Kind)?;
    serde_json::from_str(json).map_err(|_| Misfit::Unreadable)
}

/// An object, where there is anything but null.
pub fn read_optional_object(json: Option<&str>) -> Result<Option<Map<String, Value>>, Misfit> {
    present(json).map(|json| read_object(Some(json))).transpose()
}

/// An object as a record in normal form.
pub fn read_record(json: Option<&str>) -> Result<Record, Misfit> {
    Ok(Record::from_object(&read_object(json)?))
}

/// A list, item by item as JSON text.
pub fn read_list(json: Option<&str>) -> Result<Vec<&str>, Misfit> {
    let json = json.filter(|json| json.starts_with('[')).ok_or(Misfit::Kind)?;
    let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| Misfit::Unreadable)?;
    Ok(items.into_iter().map(RawValue::get).collect())
}

/// Any value but null, as far as keys go.
pub fn read_key(json: Option<&str>) -> Result<Datum, Misfit> {
    let json = present(json).ok_or(Misfit::Kind)?;
    match json.as_bytes().first() {
        Some(b'"') => decode_text(json).map(|text| Datum::text(&text)).ok_or(Misfit::Unreadable),
        Some(b'-' | b'0'..=b'9') => Number::parse(json.as_bytes()).map(Datum::Number).ok_or(Misfit::Unreadable),
        _ => {
            let value: Value = serde_json::from_str(json).map_err(|_| Misfit::Unreadable)?;
            Ok(Datum::from(&value))
        }
    }
}

/// A whole number of at least `lowest`. What is beyond 64 bits counts as the greatest number of 64 bits.
pub fn read_whole(json: Option<&str>, lowest: u64) -> Result<u64, Misfit> {
    let json = json.filter(|json| json.starts_with(|first: char| first == '-' || first.is_ascii_digit()));
    let number = Number::parse(json.ok_or(Misfit::Kind)?.as_bytes()).ok_or(Misfit::Unreadable)?;
    let whole = match number {
        Number::Int(_) | Number::Uint(_) => number.as_u64(),
        // In normal form a whole number is a double only beyond 64 bits.
        Number::Float(float) => (float.fract() == 0.0 && float > 0.0).then_some(u64::MAX),
    };
    whole.filter(|whole| *whole >= lowest).ok_or(Misfit::Kind)
}

/// A whole number of at least `lowest`, where there is anything but null.
pub fn read_optional_whole(json: Option<&str>, lowest: u64) -> Result<Option<u64>, Misfit> {
    present(json).map(|json| read_whole(Some(json), lowest)).transpose()
}

/// The JSON text, unless it is null.
pub fn present(json: Option<&str>) -> Option<&str> {
    json.filter(|json| *json != "null")
}

fn expected(name: &str, kind: &str) -> String {
    format!("Missing or invalid \"{name}\": expected {kind}")
}

/// The lowest version that `expectVersion` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LowestVersion {
    /// The record must be there.
    One,
    /// 0 says that there must be no record.
    Zero,
}

impl LowestVersion {
    const fn number(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Zero => 0,
        }
    }

    /// What is expected, in messages.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::One => "positive integer",
            Self::Zero => "non-negative integer",
        }
    }

    /// The version that the fields name, if any.
    pub fn read(self, fields: &Fields<'_>) -> Result<Option<u64>, Misfit> {
        read_optional_whole(fields.get("expectVersion"), self.number())
    }
}

/// A text that is not empty.
pub fn text<'a>(fields: &Fields<'a>, name: &str) -> Result<Cow<'a, str>, Failure> {
    read_text(fields.get(name)).map_err(|misfit| misfit.failure(|| expected(name, "non-empty string")))
}

/// An object.
pub fn object(fields: &Fields<'_>, name: &str) -> Result<Map<String, Value>, Failure> {
    read_object(fields.get(name)).map_err(|misfit| misfit.failure(|| expected(name, "object")))
}

/// An object as a record in normal form.
pub fn record(fields: &Fields<'_>, name: &str) -> Result<Record, Failure> {
    read_record(fields.get(name)).map_err(|misfit| misfit.failure(|| expected(name, "object")))
}

/// An object, where there is anything but null.
pub fn optional_object(fields: &Fields<'_>, name: &str) -> Result<Option<Map<String, Value>>, Failure> {
    read_optional_object(fields.get(name)).map_err(|misfit| misfit.failure(|| format!("Invalid \"{name}\": expected object")))
}

/// A whole number of at least 1.
pub fn positive(fields: &Fields<'_>, name: &str) -> Result<usize, Failure> {
    let number = read_whole(fields.get(name), 1).map_err(|misfit| misfit.failure(|| expected(name, "positive integer")))?;
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

/// A whole number of at least 1, where there is anything but null.
pub fn optional_positive(fields: &Fields<'_>, name: &str) -> Result<Option<usize>, Failure> {
    present(fields.get(name)).map(|_| positive(fields, name)).transpose()
}

/// The key of a record: any value but null. Lists and objects are no record's key.
pub fn key(fields: &Fields<'_>) -> Result<Datum, Failure> {
    read_key(fields.get("key")).map_err(|misfit| misfit.failure(|| "Missing \"key\": expected non-null value".into()))
}

/// The key after which a page begins, where there is anything but null.
pub fn cursor(fields: &Fields<'_>) -> Result<Option<Datum>, Failure> {
    present(fields.get("after"))
        .map(|json| read_key(Some(json)).map_err(|_| Failure::unreadable()))
        .transpose()
}

/// How far the client says that it is, where it says anything. A text that is no cursor of ours is as good as one of
/// another server.
pub fn position(fields: &Fields<'_>, name: &str) -> Result<Option<Cursor>, Failure> {
    let Some(json) = present(fields.get(name)) else { return Ok(None) };
    if !json.starts_with('"') {
        return Err(Failure::validation(format!("Invalid \"{name}\": expected text")));
    }
    let text = decode_text(json).ok_or_else(Failure::unreadable)?;
    Ok(Some(text.parse().unwrap_or(Cursor::NOWHERE)))
}

/// Any value; null where there is none.
pub fn value(fields: &Fields<'_>, name: &str) -> Result<Value, Failure> {
    fields.get(name).map_or(Ok(Value::Null), |json| {
        serde_json::from_str(json).map_err(|_| Failure::unreadable())
    })
}

/// A list of objects as records, at most `max` of them.
pub fn records(fields: &Fields<'_>, name: &str, max: usize) -> Result<Vec<Record>, Failure> {
    let items = read_list(fields.get(name)).map_err(|misfit| misfit.failure(|| expected(name, "array")))?;
    if items.len() > max {
        return Err(Failure::validation(format!(
            "Invalid \"{name}\": {} records, at most {max} are allowed",
            items.len()
        )));
    }
    let read =
        |(at, item)| read_record(Some(item)).map_err(|misfit| misfit.failure(|| format!("Invalid \"{name}[{at}]\": expected object")));
    items.into_iter().enumerate().map(read).collect()
}

/// A text that is not empty, or a list of at least one of them.
pub fn texts(fields: &Fields<'_>, name: &str) -> Result<Vec<String>, Failure> {
    let complain = |misfit: Misfit| misfit.failure(|| expected(name, "non-empty string or array of non-empty strings"));
    let json = fields.get(name);
    if json.is_some_and(|json| json.starts_with('[')) {
        let items = read_list(json).map_err(complain)?;
        if items.is_empty() {
            return Err(complain(Misfit::Kind));
        }
        items
            .into_iter()
            .map(|item| read_text(Some(item)).map(Cow::into_owned).map_err(complain))
            .collect()
    } else {
        read_text(json).map(|text| vec![text.into_owned()]).map_err(complain)
    }
}

/// The version that the record must have, where the request names one.
pub fn expected_version(fields: &Fields<'_>, lowest: LowestVersion) -> Result<Option<u64>, Failure> {
    let complain = |misfit: Misfit| misfit.failure(|| format!("Invalid \"expectVersion\": expected {}", lowest.kind()));
    lowest.read(fields).map_err(complain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::protocol::ErrorCode;

    fn field(value: &str) -> String {
        format!("{{\"f\":{value}}}")
    }

    fn check<T: std::fmt::Debug + PartialEq>(
        read: impl Fn(&Fields<'_>) -> Result<T, Failure>,
        message: &'static str,
        good: &[(&str, T)],
        bad: &[&str],
    ) {
        for (json, expected) in good {
            assert_eq!(read(&Fields::parse(&field(json)).unwrap()).as_ref(), Ok(expected), "{json}");
        }
        for json in bad {
            let refusal = read(&Fields::parse(&field(json)).unwrap());
            assert_eq!(refusal, Err(Failure::validation(message)), "{json}");
        }
    }

    #[test]
    fn names_are_texts_that_are_not_empty() {
        check(
            |fields| text(fields, "f").map(Cow::into_owned),
            "Missing or invalid \"f\": expected non-empty string",
            &[
                ("\"a\"", "a".to_owned()),
                ("\" \"", " ".to_owned()),
                ("\"\\u00e9\\n\"", "é\n".to_owned()),
            ],
            &["\"\"", "null", "5", "true", "[\"a\"]", "{}"],
        );
        assert!(text(&Fields::default(), "f").is_err());
    }

    #[test]
    fn objects_are_neither_lists_nor_null() {
        let object_of = |value: Value| value.as_object().cloned().unwrap();
        check(
            |fields| object(fields, "f"),
            "Missing or invalid \"f\": expected object",
            &[("{}", Map::new()), ("{\"a\":[1]}", object_of(json!({ "a": [1] })))],
            &["null", "[]", "\"{}\"", "1"],
        );
        check(
            |fields| optional_object(fields, "f"),
            "Invalid \"f\": expected object",
            &[("null", None), ("{}", Some(Map::new()))],
            &["[]", "\"x\"", "1", "false"],
        );
        assert_eq!(optional_object(&Fields::default(), "f"), Ok(None));
    }

    #[test]
    fn positive_integers_may_be_written_in_any_way_and_be_as_large_as_they_like() {
        check(
            |fields| positive(fields, "f"),
            "Missing or invalid \"f\": expected positive integer",
            &[
                ("1", 1),
                ("2.0", 2),
                ("2e0", 2),
                ("4294967295", 4_294_967_295),
                ("18446744073709551615", usize::MAX),
                ("1e200", usize::MAX),
            ],
            &["0", "-1", "1.5", "-1e200", "\"2\"", "null", "true", "[]", "{}"],
        );
        assert!(positive(&Fields::default(), "f").is_err());
    }

    #[test]
    fn every_value_but_null_is_a_key() {
        let keys = [
            ("\"k\"", Datum::from("k")),
            ("\"\"", Datum::from("")),
            ("\"\\u0000\"", Datum::from("\0")),
            ("0", Datum::from(0)),
            ("50e-1", Datum::from(5)),
            ("false", Datum::from(false)),
            ("[1]", Datum::Composite),
            ("{\"a\":1}", Datum::Composite),
        ];
        for (json, expected) in keys {
            let text = format!("{{\"key\":{json},\"after\":{json}}}");
            let fields = Fields::parse(&text).unwrap();
            assert_eq!(key(&fields), Ok(expected.clone()), "{json}");
            assert_eq!(cursor(&fields), Ok(Some(expected)), "{json}");
        }
        let refusal = Err(Failure::validation("Missing \"key\": expected non-null value"));
        assert_eq!(key(&Fields::default()), refusal);
        assert_eq!(key(&Fields::parse("{\"key\":null}").unwrap()), refusal);
        assert_eq!(cursor(&Fields::parse("{\"after\":null}").unwrap()), Ok(None));
    }

    #[test]
    fn what_cannot_be_read_is_a_parse_error() {
        for json in [
            "\"\\ud800\"",
            "{\"a\":\"\\udc00x\"}",
            "{\"a\":1e999}",
            "[1e999]",
            "1e999",
            "[\"\\ud800\"]",
        ] {
            let text = format!("{{\"f\":{json},\"key\":{json},\"after\":{json}}}");
            let fields = Fields::parse(&text).unwrap();
            let codes = [
                super::text(&fields, "f").err(),
                object(&fields, "f").err(),
                optional_object(&fields, "f").err(),
                positive(&fields, "f").err(),
                records(&fields, "f", 9).err(),
                texts(&fields, "f").err(),
                expected_version(&fields, LowestVersion::Zero).err(),
            ];
            let codes: Vec<_> = codes.iter().flatten().map(Failure::code).collect();
            assert!(
                codes
                    .iter()
                    .all(|code| matches!(code, ErrorCode::ParseError | ErrorCode::ValidationError)),
                "{json}"
            );
            assert!(codes.contains(&ErrorCode::ParseError) || json.starts_with('['), "{json}");
            assert_eq!(key(&fields), Err(Failure::unreadable()), "{json}");
            assert_eq!(cursor(&fields), Err(Failure::unreadable()), "{json}");
            assert_eq!(value(&fields, "f"), Err(Failure::unreadable()), "{json}");
        }
    }

    #[test]
    fn bulk_records_are_counted_and_named_by_index() {
        check(
            |fields| records(fields, "f", 2).map(|records| records.len()),
            "Missing or invalid \"f\": expected array",
            &[("[]", 0), ("[{},{\"a\":1}]", 2)],
            &["{}", "null", "\"[]\""],
        );
        check(
            |fields| records(fields, "f", 2).map(|records| records.len()),
            "Invalid \"f\": 3 records, at most 2 are allowed",
            &[],
            &["[{},{},{}]", "[1,2,3]"],
        );
        check(
            |fields| records(fields, "f", 2).map(|records| records.len()),
            "Invalid \"f[1]\": expected object",
            &[],
            &["[{},1]", "[{},null]", "[{},[]]"],
        );
    }

    #[test]
    fn fields_to_group_by_are_one_text_or_several() {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        check(
            |fields| texts(fields, "f"),
            "Missing or invalid \"f\": expected non-empty string or array of non-empty strings",
            &[("\"a\"", owned(&["a"])), ("[\"a\",\"b\"]", owned(&["a", "b"]))],
            &["[]", "[\"\"]", "\"\"", "[1]", "{}", "null", "7"],
        );
    }

    #[test]
    fn an_expected_version_is_optional_and_0_only_where_absence_makes_sense() {
        let read = |json: &str, lowest| {
            let text = format!("{{\"expectVersion\":{json}}}");
            expected_version(&Fields::parse(&text).unwrap(), lowest)
        };
        assert_eq!(read("3", LowestVersion::One), Ok(Some(3)));
        assert_eq!(read("3.0", LowestVersion::Zero), Ok(Some(3)));
        assert_eq!(read("null", LowestVersion::One), Ok(None));
        assert_eq!(read("0", LowestVersion::Zero), Ok(Some(0)));
        let one = Err(Failure::validation("Invalid \"expectVersion\": expected positive integer"));
        let zero = Err(Failure::validation("Invalid \"expectVersion\": expected non-negative integer"));
        for json in ["0", "-1", "1.5", "\"1\"", "{}"] {
            assert_eq!(read(json, LowestVersion::One), one, "{json}");
        }
        assert_eq!(read("-1", LowestVersion::Zero), zero);
        assert_eq!(expected_version(&Fields::default(), LowestVersion::One), Ok(None));
    }

    proptest! {
        #[test]
        fn no_field_makes_a_validator_panic(json in "[\\[\\]{}:,\"\\\\0-9eE+.a-z -]{0,40}") {
            let text = format!("{{\"f\":{json},\"key\":{json},\"after\":{json},\"expectVersion\":{json}}}");
            if let Ok(fields) = Fields::parse(&text) {
                let _ = super::text(&fields, "f");
                let _ = optional_object(&fields, "f");
                let _ = record(&fields, "f");
                let _ = optional_positive(&fields, "f");
                let _ = records(&fields, "f", 3);
                let _ = texts(&fields, "f");
                let _ = (key(&fields), cursor(&fields), value(&fields, "f"), expected_version(&fields, LowestVersion::Zero));
            }
        }

        #[test]
        fn records_come_out_as_they_went_in(members in prop::collection::hash_map(".{0,6}", any::<i64>(), 0..6)) {
            let text = json!({ "f": members }).to_string();
            let record = record(&Fields::parse(&text).unwrap(), "f").unwrap();
            prop_assert_eq!(record.to_value(), json!(members));
        }
    }
}
