//! Patterns: ECMAScript regular expressions, matched in linear time.
//!
//! A pattern is translated once into the syntax of the `regex` crate. What that engine lacks (look-around,
//! back-references) is refused with the reason. Two differences to ECMAScript without flags remain: a pattern sees
//! whole characters where ECMAScript sees UTF-16 units, and `\p{…}` and `\u{…}` mean what they mean under ECMAScript's
//! `u` flag, not a literal `p` or `u`.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::ecmascript::translate;
use super::limits::Limits;

/// The memory that the search for one pattern may take beside its program; with too little it is slower.
const CACHE_BYTES: usize = 1 << 20;

/// A compiled pattern. Cloning shares the program.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    source: Arc<str>,
    regex: Regex,
}

impl Pattern {
    /// Compiles a pattern, or says why it cannot be.
    pub fn compile(source: &str, limits: &Limits) -> Result<Self, String> {
        if source.len() > limits.pattern_bytes {
            return Err(format!("longer than {} bytes", limits.pattern_bytes));
        }
        let translated = translate(source)?;
        let compiled = RegexBuilder::new(&translated)
            .size_limit(limits.program_bytes)
            .dfa_size_limit(CACHE_BYTES)
            .build();
        Ok(Self {
            source: source.into(),
            regex: compiled.map_err(|error| reason(&error))?,
        })
    }

    /// The pattern as it was given.
    pub fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// Whether the pattern is found anywhere in a text.
    pub fn is_found_in(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

/// What the engine says, without its drawing of the translated pattern.
fn reason(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(limit) => format!("its program would be larger than {limit} bytes"),
        regex::Error::Syntax(text) => text.rsplit("error: ").next().unwrap_or(text).trim().to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, found: &[&str], not_found: &[&str]) {
        let compiled = Pattern::compile(pattern, &Limits::GIVEN).unwrap_or_else(|reason| panic!("{pattern}: {reason}"));
        for text in found {
            assert!(compiled.is_found_in(text), "{pattern} should be found in {text:?}");
        }
        for text in not_found {
            assert!(!compiled.is_found_in(text), "{pattern} should not be found in {text:?}");
        }
    }

    fn check_refused(pattern: &str, reason: &str) {
        let given = Pattern::compile(pattern, &Limits::GIVEN).err();
        assert!(
            given.as_ref().is_some_and(|given| given.contains(reason)),
            "{pattern}: {given:?} instead of {reason}"
        );
    }

    #[test]
    fn a_pattern_is_found_anywhere_unless_it_is_anchored() {
        check("b", &["abc"], &["ac"]);
        check("^[A-Z]+$", &["ABC"], &["", "aBC", "ABC\n", "A\nB"]);
        check("^(a+)+b$", &["aab"], &[&"a".repeat(5000)]);
        check("", &["", "x"], &[]);
    }

    #[test]
    fn the_short_classes_are_those_of_ecmascript() {
        check(r"^\d$", &["7"], &["٧", "a"]);
        check(r"^\D$", &["٧", "a"], &["7"]);
        check(r"^\w$", &["a", "_", "0"], &["é", "-"]);
        check(r"^\W$", &["é", "-"], &["a"]);
        check(
            r"^\s$",
            &[" ", "\t", "\u{B}", "\u{A0}", "\u{FEFF}", "\u{2028}", "\u{3000}"],
            &["\u{85}", "\u{200B}", "x"],
        );
        check(r"^\S$", &["\u{85}", "x"], &[" ", "\u{FEFF}"]);
        check(r"^.$", &["x", "\u{85}", "é"], &["\n", "\r", "\u{2028}", "\u{2029}", ""]);
        check(r"\bé", &["aé"], &["é", " é"]);
        check(r"\Bb", &["ab"], &["b", "éb"]);
        check(r"\B", &["é", "", "ab"], &["a"]);
    }

    #[test]
    fn escapes_mean_what_they_mean_in_ecmascript() {
        check(r"^\/\-\@\$\.$", &["/-@$."], &[]);
        check(r"^\a\A\z\e$", &["aAze"], &["\u{7}"]);
        check(r"^\cA\cj\0$", &["\u{1}\n\u{0}"], &[]);
        check(r"^\x41\u0042\u{43}\uD83D\uDE00$", &["ABC😀"], &[]);
        check(r"^\xg\ug$", &["xgug"], &[]);
        check(r"^\p{Lu}\P{L}$", &["É1"], &["é1", "Éa"]);
        check(r"^\t\n\v\f\r$", &["\t\n\u{B}\u{C}\r"], &[]);
        check(r"^[\b\101\d-x]+$", &["\u{8}A0-x"], &["b", "5a"]);
    }

    #[test]
    fn what_is_special_only_to_the_engine_stands_for_itself() {
        check("^a{,3}$", &["a{,3}"], &["aa"]);
        check("^{}]$", &["{}]"], &[]);
        check("^[a&&b]$", &["a", "&", "b"], &[]);
        check("^[!--b~~[]+$", &["[!-b~,"], &[]);
    }

    #[test]
    fn classes_follow_ecmascript() {
        check("^[^]$", &["\n", "x", "😀"], &["", "xx"]);
        check("[]", &[], &["", "x", "]"]);
        check("^[^a-c\\d]$", &["d", "-", "٧"], &["a", "b", "7"]);
        check("^[a\\-z]$", &["a", "-", "z"], &["b"]);
        check("^[-a]$", &["-", "a"], &["b"]);
        check("^[a-]$", &["-", "a"], &["b"]);
        check("^[\\W_]$", &["-", "_"], &["a"]);
        check(r"^[\uD83D\uDE00-\uD83D\uDE4F]$", &["😀", "🙏"], &["🚀"]);
        check("^[.^$|(]+$", &[".^$|("], &["a"]);
    }

    #[test]
    fn groups_and_quantifiers_follow_ecmascript() {
        check("^(?<year>\\d{4})-(?:\\d{2}){1,2}$", &["2024-01", "2024-0102"], &["24-01"]);
        check("^(a|)b??c*?$", &["", "a", "ab", "bcc"], &["aab"]);
        check("^a{2}$|^b{2,}$|^c{1,2}$", &["aa", "bbb", "c"], &["a", "b", "ccc"]);
        check("^😀{2}$", &["😀😀"], &["😀"]);
    }

    #[test]
    fn what_the_engine_lacks_is_refused_with_the_reason() {
        for pattern in ["(?=a)", "(?!a)", "a(?=b)c"] {
            check_refused(pattern, "look-ahead");
        }
        for pattern in ["(?<=a)b", "(?<!a)b"] {
            check_refused(pattern, "look-behind");
        }
        for pattern in [r"(a)\1", r"(?<x>a)\k<x>"] {
            check_refused(pattern, "back-references");
        }
        check_refused(r"[\uD800-\uDBFF]", "surrogate");
        check_refused("(?i)a", "unknown kind of group");
    }

    #[test]
    fn a_malformed_pattern_is_refused_with_the_reason() {
        let cases = [
            ("(", "unclosed group"),
            (")", "unmatched"),
            ("a)", "unmatched"),
            ("[a", "unclosed character class"),
            ("[a-", "unclosed character class"),
            ("[z-a]", "out of order"),
            ("a{3,2}", "out of order"),
            ("*", "nothing to repeat"),
            ("a**", "nothing to repeat"),
            ("a{2}{3}", "nothing to repeat"),
            ("^*", "nothing to repeat"),
            (r"\b+", "nothing to repeat"),
            ("(|*)", "nothing to repeat"),
            ("\\", "backslash"),
            (r"\c1", "letter"),
            ("(?<1a>x)", "group name"),
            (r"\u{110000}", "code point"),
            (r"\p{Nonsense}", "property"),
            ("a{99999999999}", "too large"),
        ];
        for (pattern, reason) in cases {
            check_refused(pattern, reason);
        }
    }

    #[test]
    fn a_pattern_cannot_take_all_memory() {
        check_refused("((a{1,100}){1,100}){1,100}", "larger than");
        check_refused(r"\p{L}{1000}", "larger than");
        check_refused(&"a".repeat(Limits::GIVEN.pattern_bytes + 1), "longer than");
        check_refused(&format!("{}a{}", "(".repeat(4000), ")".repeat(4000)), "nest");
    }
}
