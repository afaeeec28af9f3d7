//! Names of users: what they may be, and when two of them are the same.

use crate::protocol::{ErrorCode, utf16_length};
use crate::server::handlers::Failure;

/// The id and the name of whoever logs in with the secret of the configuration: a superadmin without a record.
pub(crate) const VIRTUAL_SUPERADMIN: &str = "__superadmin__";
/// The role that may do everything.
pub(crate) const SUPERADMIN: &str = "superadmin";
/// The role that only a superadmin gives and takes.
pub(crate) const ADMIN: &str = "admin";

const USER_NAME_MIN: usize = 3;
const USER_NAME_MAX: usize = 64;

/// A name without regard to case, so that two names that a reader takes for the same are the same.
pub(crate) fn folded(name: &str) -> String {
    // By way of upper case, where several letters of one lower case meet: "ſ" and "s", "ς" and "σ".
    name.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Whether a new user may have this name.
///
/// # Errors
/// What the client is told.
pub(crate) fn check_user_name(name: &str) -> Result<(), Failure> {
    if !(USER_NAME_MIN..=USER_NAME_MAX).contains(&utf16_length(name)) {
        return Err(Failure::validation(format!(
            "Username must be between {USER_NAME_MIN} and {USER_NAME_MAX} characters"
        )));
    }
    if name.starts_with("__") {
        return Err(Failure::validation("Usernames that begin with \"__\" are reserved"));
    }
    if name.trim() != name || name.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err(Failure::validation(
            "Username must neither begin or end with a space nor hold control or invisible characters",
        ));
    }
    Ok(())
}

/// Whether a character is not seen, or turns those around it: with it a name looks like another one.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// A user that somebody asks for and that is not there.
pub(crate) fn no_such_user() -> Failure {
    Failure::new(ErrorCode::NotFound, "User not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_differ_in_case_alone_are_the_same() {
        for (one, other) in [
            ("Mira", "mIRA"),
            ("ſam", "Sam"),
            ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
            ("\u{212a}urt", "kurt"),
            ("Ǆin", "ǆin"),
        ] {
            assert_eq!(folded(one), folded(other), "{one} {other}");
        }
        assert_ne!(folded("mira"), folded("mirá"));
    }

    #[test]
    fn names_are_3_to_64_long_and_hold_nothing_that_hides() {
        for good in ["abc", "Mira Kovač", "a-b_c.d@e", &"u".repeat(64), "_x_"] {
            assert_eq!(check_user_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "ab",
            &"u".repeat(65),
            "__superadmin__",
            "__x",
            " abc",
            "abc\t",
            "a\u{0}bc",
            "a\u{85}bc",
            "ad\u{200b}min",
            "\u{202e}nimda",
            "ad\u{ad}min",
            "\u{feff}admin",
            "admin\u{e0041}",
            "\u{2800}\u{3164}\u{2800}",
            &"😀".repeat(33),
        ] {
            assert!(check_user_name(bad).is_err(), "{bad:?}");
        }
    }
}
