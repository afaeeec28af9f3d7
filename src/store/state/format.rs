//! The named formats of texts.

use super::properties::Word;

/// A form that a text must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One `@` with something before it and a dot inside what follows.
    Email,
    /// An absolute URL as the WHATWG standard reads it.
    Url,
    /// A day that exists, `2024-02-29`, or a moment of such a day, `2024-02-29T10:30:00Z`.
    IsoDate,
}

impl Word for Format {
    const WORDS: &'static [(&'static str, Self)] = &[("email", Self::Email), ("url", Self::Url), ("iso-date", Self::IsoDate)];
}

impl Format {
    /// The name in definitions and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Url => "url",
            Self::IsoDate => "iso-date",
        }
    }

    /// Whether a text has the format.
    #[must_use]
    pub fn accepts(self, text: &str) -> bool {
        match self {
            Self::Email => is_email(text),
            Self::Url => url::Url::parse(text).is_ok(),
            Self::IsoDate => is_iso_date(text),
        }
    }
}

/// White space as ECMAScript's `\s` sees it: without U+0085, and with the byte order mark.
pub(super) const fn is_ecmascript_space(char: char) -> bool {
    matches!(
        char,
        '\t'..='\r' | ' ' | '\u{A0}' | '\u{1680}' | '\u{2000}'..='\u{200A}' | '\u{2028}' | '\u{2029}' | '\u{202F}' | '\u{205F}' | '\u{3000}' | '\u{FEFF}'
    )
}

fn is_email(text: &str) -> bool {
    let Some((name, host)) = text.split_once('@') else { return false };
    let dot_inside = host
        .bytes()
        .enumerate()
        .any(|(at, byte)| byte == b'.' && at > 0 && at + 1 < host.len());
    !name.is_empty() && dot_inside && !host.contains('@') && !text.chars().any(is_ecmascript_space)
}

/// A date of the proleptic Gregorian calendar, years 0000 to 9999, with an optional time and offset.
///
/// The day is judged as it is written: an offset that moves the moment to another day of UTC does no harm.
fn is_iso_date(text: &str) -> bool {
    let Some((date, time)) = text.as_bytes().split_at_checked(10) else {
        return false;
    };
    is_date(date) && (time.is_empty() || is_time(time))
}

fn is_date(date: &[u8]) -> bool {
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else {
        return false;
    };
    let (Some(century), Some(year), Some(month), Some(day)) =
        (two_digits(y1, y2), two_digits(y3, y4), two_digits(m1, m2), two_digits(d1, d2))
    else {
        return false;
    };
    let year = u32::from(century) * 100 + u32::from(year);
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&day)
}

/// `T10:30:00`, with an optional fraction and offset.
fn is_time(time: &[u8]) -> bool {
    let [b'T', h1, h2, b':', m1, m2, b':', s1, s2, rest @ ..] = time else {
        return false;
    };
    let in_range = is_hours_and_minutes([*h1, *h2], [*m1, *m2]) && two_digits(*s1, *s2).is_some_and(|seconds| seconds < 60);
    let offset = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if digits == 0 {
                return false;
            }
            fraction.get(digits..).unwrap_or_default()
        }
        rest => rest,
    };
    in_range && is_offset(offset)
}

fn is_offset(offset: &[u8]) -> bool {
    match offset {
        [] | [b'Z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => is_hours_and_minutes([*h1, *h2], [*m1, *m2]),
        _ => false,
    }
}

fn is_hours_and_minutes([h1, h2]: [u8; 2], [m1, m2]: [u8; 2]) -> bool {
    two_digits(h1, h2).is_some_and(|hours| hours < 24) && two_digits(m1, m2).is_some_and(|minutes| minutes < 60)
}

fn two_digits(tens: u8, ones: u8) -> Option<u8> {
    (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| (tens - b'0') * 10 + (ones - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: Format, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(format.accepts(text), "{} should accept {text:?}", format.as_str());
        }
        for text in bad {
            assert!(!format.accepts(text), "{} should refuse {text:?}", format.as_str());
        }
    }

    #[test]
    fn an_email_has_one_at_and_a_dot_inside_what_follows() {
        check(
            Format::Email,
            &["a@b.c", "x+y@d.co.uk", "q@h..", "x@..y", "ü@ö.ä", "a@b\u{85}.c"],
            &[
                "",
                "a",
                "@b.c",
                "a@b",
                "a@.b",
                "a@b.",
                "a@@b.c",
                "a@b@c.d",
                "a b@c.d",
                "a\u{A0}b@c.d",
                "a@b.c\u{FEFF}",
                "a@b.c\n",
                "a@.",
            ],
        );
    }

    #[test]
    fn a_url_is_whatever_a_browser_can_open_without_a_base() {
        check(
            Format::Url,
            &[
                "https://e.com",
                "ftp://h/x",
                "localhost:3000",
                "mailto:x",
                "javascript:1",
                "http:e.com",
                " https://e.com ",
            ],
            &["", "e.com", "//e.com", "http://", "http://a b"],
        );
    }

    #[test]
    fn an_iso_date_is_a_day_that_exists() {
        check(
            Format::IsoDate,
            &["2024-02-29", "2000-02-29", "0000-02-29", "1000-01-01", "0999-01-01", "9999-12-31"],
            &[
                "",
                "2023-02-29",
                "1900-02-29",
                "2024-02-30",
                "2024-04-31",
                "2024-13-01",
                "2024-00-10",
                "2024-01-00",
                "2024-1-5",
                "2024",
                "2024-W01-1",
                "+2024-01-01",
                "2024-01-0é",
            ],
        );
    }

    #[test]
    fn an_iso_date_may_carry_a_time_and_any_offset() {
        check(
            Format::IsoDate,
            &[
                "2024-01-15T10:30:00",
                "2024-01-15T10:30:00Z",
                "2024-01-15T10:30:00.5Z",
                "2024-01-15T10:30:00.123456789",
                "2024-01-15T10:30:00+02:00",
                "2024-01-15T01:30:00+02:00",
                "2024-01-15T23:30:00-05:00",
            ],
            &[
                "2024-01-15T10:30",
                "2024-01-15t10:30:00z",
                "2024-01-15 10:30:00Z",
                "2024-01-15T24:00:00Z",
                "2024-01-15T10:60:00Z",
                "2024-01-15T10:30:60Z",
                "2024-01-15T10:30:00+0200",
                "2024-01-15T10:30:00+24:00",
                "2024-01-15T10:30:00.Z",
                "2024-01-15T10:30:00.5ZZ",
                "2024-01-15Z",
                "2024-01-15T",
                "2023-02-29T12:00:00+01:00",
            ],
        );
    }

    #[test]
    fn every_format_answers_to_its_name() {
        for (word, format) in Format::WORDS {
            assert_eq!(*word, format.as_str());
        }
    }
}
