//! Patterns of operations and topics: `*`, `prefix.*`, or a name as it stands.

/// Whether a pattern stands for a name.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.strip_suffix('*') {
        Some(prefix) if prefix.ends_with('.') => name.starts_with(prefix),
        Some(_) | None => pattern == name,
    }
}

/// Whether a star in it, if there is one, stands where it means something.
pub(crate) fn is_sound(pattern: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some("") => true,
        Some(prefix) => prefix.len() > 1 && prefix.ends_with('.') && !prefix.contains('*'),
        None => !pattern.contains('*'),
    }
}

/// Whether a pattern stands for all names that another one stands for.
pub(crate) fn covers(wider: &str, narrower: &str) -> bool {
    // Behind its dot a pattern's star is as good as a name.
    wider == "*" || wider == narrower || (narrower != "*" && matches(wider, narrower))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_those_that_stand_for_less() {
        let table = [
            ("*", "*", true),
            ("*", "store.*", true),
            ("store.*", "store.*", true),
            ("store.*", "store.get", true),
            ("store.*", "store.a.*", true),
            ("store.a.*", "store.*", false),
            ("store.get", "store.*", false),
            ("store.*", "*", false),
            ("store.*", "rules.*", false),
            ("store.get", "store.get", true),
        ];
        for (wider, narrower, expected) in table {
            assert_eq!(covers(wider, narrower), expected, "{wider} {narrower}");
        }
    }

    #[test]
    fn a_star_has_no_place_but_alone_or_behind_the_last_dot() {
        for sound in ["*", "store.*", "store.a.*", "store.get", "", "."] {
            assert!(is_sound(sound), "{sound}");
        }
        for unsound in [
            "store*",
            "store.g*",
            "*.get",
            "store.*.a",
            "**",
            "store.**",
            "*.*",
            ".*",
            "st*re.get",
        ] {
            assert!(!is_sound(unsound), "{unsound}");
        }
    }

    #[test]
    fn a_star_stands_for_anything_alone_or_behind_a_dot_and_nowhere_else() {
        let table = [
            ("*", "store.get", true),
            ("store.*", "store.get", true),
            ("store.*", "store.a.b", true),
            ("store.*", "store", false),
            ("store.*", "stores.get", false),
            ("store.get", "store.get", true),
            ("store.get", "store.getAll", false),
            ("store.g*", "store.get", false),
            ("store.g*", "store.g*", true),
            ("*.get", "store.get", false),
            ("Store.get", "store.get", false),
            (".*", ".x", true),
            ("", "", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }
}
