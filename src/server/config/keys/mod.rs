//! The one table of keys: how each is spelt, what it may hold and which field it fills in.

use super::draft::Draft;
use super::forms::Form;
use super::secrets::SecretSources;
use super::{Config, Secret};

/// One key of the configuration.
pub(super) struct Key {
    /// The path in the file, such as `heartbeat.intervalMs`.
    pub(super) name: &'static str,
    /// What it may hold.
    pub(super) kind: Kind,
}

impl Key {
    /// Whether it has an environment variable: the single values at the top of the file have. Secrets are read from the
    /// variables that the file names.
    pub(super) fn has_variable(&self) -> bool {
        let is_single = match self.kind {
            Kind::Whole { .. }
            | Kind::Fraction { .. }
            | Kind::Switch { .. }
            | Kind::Text { .. }
            | Kind::Texts { .. }
            | Kind::Choice { .. }
            | Kind::Choices { .. } => true,
            Kind::Part { .. }
            | Kind::Secret { .. }
            | Kind::Weights
            | Kind::Buckets
            | Kind::Queries
            | Kind::Tokens
            | Kind::Permissions
            | Kind::Rules => false,
        };
        is_single && !self.name.contains('.')
    }
}

/// What a key may hold, and how it gets into a configuration and, where it can be out of bounds, out of it again.
pub(super) enum Kind {
    /// A whole number of something between bounds, both included.
    Whole {
        of: &'static str,
        min: u64,
        max: u64,
        get: fn(&Config) -> Option<u64>,
        set: fn(&mut Draft, u64),
    },
    /// A number above 0, at most 1.
    Fraction { get: fn(&Config) -> f64, set: fn(&mut Draft, f64) },
    /// True or false.
    Switch { set: fn(&mut Draft, bool) },
    /// An object with keys of its own, whose mere presence turns something on; `true` is the object with all defaults.
    Part { turn: fn(&mut Draft, Turn) },
    /// A text of a form.
    Text {
        form: &'static Form,
        get: fn(&Config) -> Option<&str>,
        set: fn(&mut Draft, &str),
    },
    /// Texts of a form.
    Texts {
        form: &'static Form,
        get: fn(&Config) -> Option<&[String]>,
        set: fn(&mut Draft, Vec<String>),
    },
    /// A secret, which may be written in several places.
    Secret {
        get: fn(&Config) -> Option<&Secret>,
        sources: fn(&mut Draft) -> &mut SecretSources,
    },
    /// One of some words.
    Choice {
        words: &'static [&'static str],
        set: fn(&mut Draft, &str),
    },
    /// Some of some words.
    Choices {
        words: &'static [&'static str],
        set: fn(&mut Draft, &[&str]),
    },
    /// Whole numbers by the names of operations.
    Weights,
    /// Definitions of buckets by name.
    Buckets,
    /// Definitions of queries by name.
    Queries,
    /// What static tokens stand for, by token.
    Tokens,
    /// Permission rules.
    Permissions,
    /// Rules of the rule engine, of which there can be none as yet.
    Rules,
}

/// What is said of a part by its presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// `false`.
    Off,
    /// `true`.
    On,
    /// An object, whose members follow.
    Described,
}

/// A whole number that has a place only where the part is there that it belongs to.
macro_rules! whole {
    ($name:literal, $of:literal, $min:literal..=$max:expr, |$config:ident| $get:expr, |$draft:ident, $number:ident| $set:expr) => {
        Key {
            name: $name,
            kind: Kind::Whole {
                of: $of,
                min: $min,
                max: $max,
                get: |$config| $get,
                set: |$draft, $number| $set,
            },
        }
    };
}

/// A number of things or bytes that is one field.
macro_rules! size {
    ($name:literal, $of:literal, $min:literal..=$max:expr, $($field:ident).+) => {
        Key {
            name: $name,
            kind: Kind::Whole {
                of: $of,
                min: $min,
                max: $max,
                get: |config| Some(config.$($field).+ as u64),
                set: |draft, number| draft.config.$($field).+ = size_of(number),
            },
        }
    };
}

/// A time in milliseconds that is one field.
macro_rules! time {
    ($name:literal, $min:literal..=$max:expr, $($field:ident).+) => {
        Key {
            name: $name,
            kind: Kind::Whole {
                of: "milliseconds",
                min: $min,
                max: $max,
                get: |config| Some(millis(config.$($field).+)),
                set: |draft, number| draft.config.$($field).+ = Duration::from_millis(number),
            },
        }
    };
}

/// A text that is one field.
macro_rules! text {
    ($name:literal, $form:ident, $field:ident) => {
        Key {
            name: $name,
            kind: Kind::Text {
                form: &$form,
                get: |config| Some(&config.$field),
                set: |draft, text| draft.config.$field = text.into(),
            },
        }
    };
}

/// A text that has a place only where the part is there that it belongs to.
macro_rules! text_of {
    ($name:literal, $form:ident, |$config:ident| $get:expr, |$draft:ident, $text:ident| $set:expr) => {
        Key {
            name: $name,
            kind: Kind::Text {
                form: &$form,
                get: |$config| $get,
                set: |$draft, $text| $set,
            },
        }
    };
}

mod access;
mod table;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
/// 4 GiB, and 49 days: more means "never" or "whatever it takes", and still fits a size on every machine.
const U32_MAX: u64 = u32::MAX as u64;

/// Every key that this version has.
pub(super) fn keys() -> impl Iterator<Item = &'static Key> {
    table::KEYS.iter().chain(access::KEYS)
}

/// The key of a name.
pub(super) fn key_of(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

/// Whether a name is that of an object that has keys in it.
pub(super) fn is_section(name: &str) -> bool {
    keys().any(|key| key.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
}

/// Keys of capabilities that this version does not have.
pub(super) const LATER: &[&str] = &["procedures", "tls", "adminPort"];

/// Keys of other servers of the protocol, with what to use here.
pub(super) const REPLACED: &[(&str, &str)] = &[
    ("persistence", "use \"durability\": sync, interval or memory"),
    ("db", "use \"dataDir\", the directory where data is kept"),
];

/// A number within its bounds as a size; every bound fits 32 bits.
pub(super) fn size_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
