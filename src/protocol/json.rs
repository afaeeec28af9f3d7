//! JSON text in the one form in which the server keeps and sends it.

use serde_json::{Map, Value};

use super::number::Number;

/// Appends a value in normal form: no white space, numbers as ECMAScript writes them.
pub fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => Number::from(number).write(out),
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            out.push(b'[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                write_value(out, item);
            }
            out.push(b']');
        }
        Value::Object(members) => write_object(out, members),
    }
}

/// Appends an object in normal form.
pub fn write_object(out: &mut Vec<u8>, members: &Map<String, Value>) {
    out.push(b'{');
    for (at, (name, member)) in members.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_text(out, name);
        out.push(b':');
        write_value(out, member);
    }
    out.push(b'}');
}

/// Appends a text in quotes, escaped.
pub fn write_text(out: &mut Vec<u8>, text: &str) {
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.reserve(text.len() + 2);
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a text is serialisable and a Vec takes all that is written to it");
    }
}

/// Whether a value is nested more than so many levels deep. An object and a list are one level each.
#[must_use]
pub fn is_deeper(value: &Value, levels: usize) -> bool {
    let mut parts: Box<dyn Iterator<Item = &Value>> = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return false,
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(members) => Box::new(members.values()),
    };
    levels.checked_sub(1).is_none_or(|levels| parts.any(|part| is_deeper(part, levels)))
}

/// The normal form of a value.
#[must_use]
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write_value(&mut out, value);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_written_in_normal_form() {
        let value: Value = serde_json::from_str(r#" { "a" : [ 1.0 , -0.0, 2.50e1, "x\u0041\n" ], "b\"": { } } "#).unwrap();
        assert_eq!(String::from_utf8(to_vec(&value)).unwrap(), r#"{"a":[1,0,25,"xA\n"],"b\"":{}}"#);
    }
}
