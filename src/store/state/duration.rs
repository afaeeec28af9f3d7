//! Lifetimes as definitions give them: milliseconds, or a text such as `30s`, `1.5h`, `7 d`.

use serde_json::Value;

use super::format::is_ecmascript_space;
use crate::protocol::{Number, json};

/// The milliseconds of a lifetime; above zero and finite, possibly a fraction.
///
/// # Errors
/// What is wrong with it, where it is no number and no such text, or not above zero.
pub(super) fn parse_ttl(value: &Value) -> Result<f64, String> {
    match value {
        Value::Number(number) => {
            let number = Number::from(number);
            if number.as_f64() > 0.0 {
                Ok(number.as_f64())
            } else {
                Err(format!("TTL must be a positive finite number, got {number}"))
            }
        }
        Value::String(text) => {
            let ms = parse_text(text).ok_or_else(|| malformed(text))?;
            if ms > 0.0 && ms.is_finite() {
                Ok(ms)
            } else {
                Err(format!("TTL value must be positive, got \"{text}\""))
            }
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(malformed(&String::from_utf8_lossy(&json::to_vec(value)))),
    }
}

fn malformed(text: &str) -> String {
    format!("Invalid TTL format \"{text}\". Expected a number (ms) or string like \"30s\", \"5m\", \"1h\", \"7d\".")
}

/// Digits, optionally a dot and digits, optionally white space, a unit. Nothing before, between or after.
fn parse_text(text: &str) -> Option<f64> {
    let number_end = text.find(|char: char| !char.is_ascii_digit() && char != '.')?;
    let (number, rest) = text.split_at(number_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let unit_ms = match rest.trim_start_matches(is_ecmascript_space) {
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit_ms)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lifetime_is_a_positive_number_or_digits_with_a_unit() {
        let cases = [
            (json!(5000), 5000.0),
            (json!(0.5), 0.5),
            (json!("30s"), 30_000.0),
            (json!("5m"), 300_000.0),
            (json!("1.5h"), 5_400_000.0),
            (json!("30 m"), 1_800_000.0),
            (json!("30 \u{A0}\tm"), 1_800_000.0),
            (json!("0.5d"), 43_200_000.0),
            (json!("007s"), 7_000.0),
        ];
        for (value, ms) in cases {
            assert_eq!(parse_ttl(&value), Ok(ms), "{value}");
        }
    }

    #[test]
    fn nothing_like_a_lifetime_is_taken_for_one() {
        let texts = [
            "", "1000", "10w", "5M", ".5s", "5.s", "1.2.3s", "1e3s", "-5m", "+5m", " 5m", "5m ", "5ms", "5m\n", "s", "٥s", "0s", "0.0h",
        ];
        for value in
            texts
                .map(Value::from)
                .into_iter()
                .chain([json!(0), json!(-1), json!(true), Value::Null, json!([]), json!({ "ms": 5 })])
        {
            assert!(parse_ttl(&value).is_err(), "{value}");
        }
        assert!(
            parse_ttl(&Value::from(format!("{}d", "9".repeat(400)))).is_err(),
            "beyond what a double holds"
        );
        assert!(
            parse_ttl(&Value::from(format!("0.{}1s", "0".repeat(400)))).is_err(),
            "too small for a double"
        );
    }

    #[test]
    fn the_reasons_are_those_that_clients_know() {
        let reason = |value| parse_ttl(&value).unwrap_err();
        assert_eq!(reason(json!(-1)), "TTL must be a positive finite number, got -1");
        assert_eq!(reason(json!("0s")), "TTL value must be positive, got \"0s\"");
        assert_eq!(
            reason(json!("5M")),
            "Invalid TTL format \"5M\". Expected a number (ms) or string like \"30s\", \"5m\", \"1h\", \"7d\"."
        );
        assert!(reason(json!(true)).starts_with("Invalid TTL format \"true\"."));
    }
}
