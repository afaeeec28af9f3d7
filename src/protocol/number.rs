//! JSON numbers as one domain: 64-bit integers exactly, everything else as a double, compared by value.

use std::cmp::Ordering;
use std::fmt;

use serde::Serialize;

/// A finite JSON number in its one normal form.
///
/// A number that is whole and fits 64 bits is always [`Number::Int`] or [`Number::Uint`], however it was
/// written, so `1`, `1.0` and `1e0` are the same value, the same key and the same index entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole number of the signed 64-bit range.
    Int(i64),
    /// A whole number above the signed 64-bit range.
    Uint(u64),
    /// Neither of the above: a fraction, or beyond 64 bits. Always finite.
    Float(f64),
}

/// 2^63 and 2^64 as doubles: both are exact.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

impl Number {
    /// The normal form of a double, or nothing where it is not finite.
    #[must_use]
    pub fn from_f64(value: f64) -> Option<Self> {
        if !value.is_finite() {
            return None;
        }
        if value.fract() != 0.0 {
            return Some(Self::Float(value));
        }
        // The casts are exact: the value is whole and within the range of the type.
        Some(if (-TWO_63..TWO_63).contains(&value) {
            Self::Int(value as i64)
        } else if (TWO_63..TWO_64).contains(&value) {
            Self::Uint(value as u64)
        } else {
            Self::Float(value)
        })
    }

    /// The number that a JSON token spells, or nothing where the token is no finite number.
    #[must_use]
    pub fn parse(token: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(token).ok()?;
        if let Ok(int) = text.parse::<i64>() {
            return Some(Self::Int(int));
        }
        if let Ok(uint) = text.parse::<u64>() {
            return Some(Self::Uint(uint));
        }
        Self::from_f64(text.parse::<f64>().ok()?)
    }

    /// The nearest double: what aggregates add up.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Uint(uint) => uint as f64,
            Self::Float(float) => float,
        }
    }

    /// The number as a whole number of at least zero, where it is one.
    #[must_use]
    pub fn as_u64(self) -> Option<u64> {
        match self {
            Self::Int(int) => u64::try_from(int).ok(),
            Self::Uint(uint) => Some(uint),
            Self::Float(_) => None,
        }
    }

    /// The number as a signed 64-bit integer, where it is one.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(int),
            Self::Uint(_) | Self::Float(_) => None,
        }
    }

    /// Appends the number as ECMAScript writes it: shortest, whole numbers without a fraction.
    pub fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Int(int) => out.extend_from_slice(itoa::Buffer::new().format(int).as_bytes()),
            Self::Uint(uint) => out.extend_from_slice(itoa::Buffer::new().format(uint).as_bytes()),
            Self::Float(float) => out.extend_from_slice(ryu_js::Buffer::new().format_finite(float).as_bytes()),
        }
    }
}

impl Eq for Number {}

impl std::hash::Hash for Number {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self {
            Self::Int(int) => int.hash(state),
            Self::Uint(uint) => uint.hash(state),
            Self::Float(float) => float.to_bits().hash(state),
        }
    }
}

/// A whole number against a double that is no whole number of 64 bits.
fn compare_whole(whole: i128, float: f64) -> Ordering {
    if float >= TWO_64 {
        return Ordering::Less;
    }
    if float < -TWO_63 {
        return Ordering::Greater;
    }
    // A double with a fraction is below 2^53: its floor is exact.
    if whole <= float.floor() as i128 {
        Ordering::Less
    } else {
        Ordering::Greater
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (*self, *other) {
            (Self::Int(a), Self::Int(b)) => a.cmp(&b),
            (Self::Uint(a), Self::Uint(b)) => a.cmp(&b),
            (Self::Int(_), Self::Uint(_)) => Ordering::Less,
            (Self::Uint(_), Self::Int(_)) => Ordering::Greater,
            (Self::Float(a), Self::Float(b)) => a.total_cmp(&b),
            (Self::Int(a), Self::Float(b)) => compare_whole(i128::from(a), b),
            (Self::Uint(a), Self::Float(b)) => compare_whole(i128::from(a), b),
            (Self::Float(a), Self::Int(b)) => compare_whole(i128::from(b), a).reverse(),
            (Self::Float(a), Self::Uint(b)) => compare_whole(i128::from(b), a).reverse(),
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Number {
    fn from(value: u64) -> Self {
        i64::try_from(value).map_or(Self::Uint(value), Self::Int)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(int) => int.fmt(f),
            Self::Uint(uint) => uint.fmt(f),
            Self::Float(float) => f.write_str(ryu_js::Buffer::new().format_finite(*float)),
        }
    }
}

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Int(int) => serializer.serialize_i64(int),
            Self::Uint(uint) => serializer.serialize_u64(uint),
            Self::Float(float) => serializer.serialize_f64(float),
        }
    }
}

/// The normal form of a number as serde_json holds it.
impl From<&serde_json::Number> for Number {
    fn from(number: &serde_json::Number) -> Self {
        if let Some(int) = number.as_i64() {
            Self::Int(int)
        } else if let Some(uint) = number.as_u64() {
            Self::Uint(uint)
        } else {
            // serde_json holds finite doubles only.
            number.as_f64().and_then(Self::from_f64).unwrap_or(Self::Int(0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_form() {
        for token in ["1", "1.0", "1e0", "10e-1"] {
            assert_eq!(Number::parse(token.as_bytes()), Some(Number::Int(1)), "{token}");
        }
        assert_eq!(Number::parse(b"-0.0"), Some(Number::Int(0)));
        assert_eq!(Number::parse(b"18446744073709551615"), Some(Number::Uint(u64::MAX)));
        assert_eq!(Number::parse(b"1e400"), None);
    }

    #[test]
    fn integers_and_doubles_compare_by_value_without_rounding() {
        let parse = |text: &str| Number::parse(text.as_bytes()).unwrap();
        let ascending = [
            "-1e300",
            "-9223372036854775808",
            "-1.5",
            "-1",
            "0",
            "0.5",
            "1",
            "9007199254740991",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "1e300",
        ];
        for pair in ascending.windows(2) {
            assert!(parse(pair[0]) < parse(pair[1]), "{} < {}", pair[0], pair[1]);
            assert!(parse(pair[1]) > parse(pair[0]), "{} > {}", pair[1], pair[0]);
        }
    }

    #[test]
    fn numbers_print_as_ecmascript_prints_them() {
        for (token, text) in [
            ("1.0", "1"),
            ("-0.0", "0"),
            ("1e3", "1000"),
            ("0.5", "0.5"),
            ("1e21", "1e+21"),
            ("1e20", "100000000000000000000"),
            ("1e-7", "1e-7"),
        ] {
            assert_eq!(Number::parse(token.as_bytes()).unwrap().to_string(), text);
        }
    }
}
