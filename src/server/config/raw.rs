//! The configuration as written: every source, before any of it is believed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::check::shown;
use super::fault::{ConfigError, Fault, Place};
use super::json;
use super::names::VARIABLE_PREFIX;
use super::resolution::Resolution;
use super::{Config, LogConfig};

/// Where a configuration comes from: a file, the environment and flags, each winning over the ones before it.
///
/// ```
/// use noex_server::server::config::Sources;
///
/// let sources = Sources::new().variables([("NOEX_PORT", "4000")]).flag("--port", "port", "5000");
/// assert_eq!(sources.resolve()?.config.port, 5000);
/// # Ok::<(), noex_server::server::config::ConfigError>(())
/// ```
#[derive(Clone, Default)]
pub struct Sources {
    file: Option<(PathBuf, Map<String, Value>)>,
    variables: BTreeMap<String, OsString>,
    flags: Vec<WrittenFlag>,
    apply: bool,
    file_faults: Vec<Fault>,
    flag_faults: Vec<Fault>,
}

#[derive(Clone)]
pub(super) struct WrittenFlag {
    pub(super) flag: String,
    pub(super) key: String,
    pub(super) text: String,
}

/// A configuration in which every value has been checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// What the server runs with.
    pub config: Config,
    /// How the program logs.
    pub log: LogConfig,
    /// What works and is probably not meant, for the log.
    pub warnings: Vec<String>,
}

impl Sources {
    /// No source: everything at its default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a file, JSON or TOML by its ending. What goes wrong is kept for [`Self::resolve`] to list.
    #[must_use]
    pub fn file(self, path: &Path) -> Self {
        match std::fs::read_to_string(path) {
            Ok(text) => self.file_text(path, &text),
            Err(error) => self.without_file(path, format!("cannot be read: {error}")),
        }
    }

    /// Takes the text of a file, JSON or TOML by the ending of its path.
    #[must_use]
    pub fn file_text(mut self, path: &Path, text: &str) -> Self {
        match parsed(path, text.strip_prefix('\u{feff}').unwrap_or(text)) {
            Ok((members, repeated)) => {
                let places = repeated.into_iter().map(|key| Place::of_key(Some(path), key));
                self.file_faults
                    .extend(places.map(|place| Fault::new(place, "this key is there already")));
                self.file = Some((path.to_owned(), members));
                self
            }
            Err(message) => self.without_file(path, message),
        }
    }

    fn without_file(mut self, path: &Path, message: String) -> Self {
        self.file_faults.push(Fault::new(
            Place::File {
                file: path.to_owned(),
                key: String::new(),
            },
            message,
        ));
        self
    }

    /// Takes the environment's variables. Those that do not begin with `NOEX_` are left alone, unless the file names one
    /// for a secret.
    #[must_use]
    pub fn variables<N: Into<OsString>, T: Into<OsString>>(mut self, variables: impl IntoIterator<Item = (N, T)>) -> Self {
        let named = variables
            .into_iter()
            .filter_map(|(name, text)| Some((name.into().into_string().ok()?, text.into())));
        self.variables.extend(named);
        self
    }

    /// Takes the text of a flag for a key.
    #[must_use]
    pub fn flag(mut self, flag: &str, key: &str, text: &str) -> Self {
        self.flags.push(WrittenFlag {
            flag: flag.to_owned(),
            key: key.to_owned(),
            text: text.to_owned(),
        });
        self
    }

    /// Takes a flag that cannot be used, with what to do instead.
    #[must_use]
    pub fn refused_flag(mut self, flag: &str, message: &str) -> Self {
        self.flag_faults.push(Fault::new(Place::Flag(flag.to_owned()), message));
        self
    }

    /// Whether stored definitions that differ from the file's are updated.
    #[must_use]
    pub fn apply(mut self, apply: bool) -> Self {
        self.apply = apply;
        self
    }

    /// Puts the configuration together.
    ///
    /// # Errors
    /// Everything that is wrong in any source, also where another source wins over it.
    pub fn resolve(self) -> Result<Resolved, ConfigError> {
        let mut resolution = Resolution::new(self.apply, self.file_faults);
        if let Some((file, members)) = &self.file {
            resolution.take_file(file, members);
        }
        for (name, text) in own_variables(&self.variables) {
            resolution.take_variable(name, text);
        }
        for written in &self.flags {
            resolution.take_flag(written);
        }
        resolution.take_faults(self.flag_faults);
        resolution.find_secrets(&self.variables);
        resolution.finish()
    }
}

impl fmt::Debug for Sources {
    /// Values are left out: some of them are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file.as_ref().map(|(path, _)| path))
            .field(
                "variables",
                &own_variables(&self.variables).map(|(name, _)| name).collect::<Vec<_>>(),
            )
            .field("flags", &self.flags.iter().map(|written| &written.flag).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// The variables that are the server's by their names.
fn own_variables(variables: &BTreeMap<String, OsString>) -> impl Iterator<Item = (&String, &OsString)> {
    variables.iter().filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
}

/// The members of a file and the places of keys that stand there twice, or what is wrong with it as a whole.
fn parsed(path: &Path, text: &str) -> Result<(Map<String, Value>, Vec<String>), String> {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    match ending.as_deref() {
        Some("json") => match json::parsed(text) {
            Ok((Value::Object(members), repeated)) => Ok((members, repeated)),
            Ok((other, _)) => Err(format!("expected an object, found {}", shown(&other))),
            Err(error) => Err(format!("no valid JSON: {error}")),
        },
        Some("toml") => toml::from_str(text)
            .map(|members| (with_dates_as_text(members), Vec::new()))
            .map_err(|error| {
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                format!("no valid TOML: {} at line {}", error.message(), before.matches('\n').count() + 1)
            }),
        _ => Err("expected a name that ends in .json or .toml".to_owned()),
    }
}

/// TOML has dates, JSON has none: a date becomes the text it was written as.
fn with_dates_as_text(members: Map<String, Value>) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (name, date_as_text(value))).collect()
}

fn date_as_text(value: Value) -> Value {
    match value {
        Value::Object(mut members) => match members.remove("$__toml_private_datetime") {
            Some(date) => date,
            None => Value::Object(with_dates_as_text(members)),
        },
        Value::Array(items) => items.into_iter().map(date_as_text).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value,
    }
}
