//! The configuration as written: every source, before any of it is believed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::check::{disagreements, shown};
use super::fault::{ConfigError, Fault, Place};
use super::keys::{Draft, KEYS, Key, LATER, REPLACED};
use super::names::{VARIABLE_PREFIX, nearest, variable_of};
use super::{Config, LogConfig};

const NOT_AVAILABLE: &str = "is not available in this version";

/// Where a configuration comes from: a file, the environment and flags, each winning over the ones before it.
///
/// ```
/// use noex_server::server::config::Sources;
///
/// let sources = Sources::new().variables([("NOEX_PORT", "4000")]).flag("--port", "port", "5000");
/// assert_eq!(sources.resolve()?.config.port, 5000);
/// # Ok::<(), noex_server::server::config::ConfigError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Sources {
    file: Option<(PathBuf, Map<String, Value>)>,
    variables: BTreeMap<String, OsString>,
    flags: Vec<WrittenFlag>,
    apply: bool,
    file_faults: Vec<Fault>,
    flag_faults: Vec<Fault>,
}

#[derive(Clone, Debug)]
struct WrittenFlag {
    flag: String,
    key: String,
    text: String,
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
            Ok(members) => {
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

    /// Takes the environment's variables; those that do not begin with `NOEX_` are left alone.
    #[must_use]
    pub fn variables<N: Into<OsString>, T: Into<OsString>>(mut self, variables: impl IntoIterator<Item = (N, T)>) -> Self {
        let named = variables
            .into_iter()
            .filter_map(|(name, text)| Some((name.into().into_string().ok()?, text.into())));
        self.variables.extend(named.filter(|(name, _)| name.starts_with(VARIABLE_PREFIX)));
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
        let mut resolution = Resolution::default();
        resolution.draft.config.apply = self.apply;
        resolution.faults.extend(self.file_faults);
        if let Some((file, members)) = &self.file {
            resolution.file = Some(file.clone());
            resolution.take_members(file, "", members);
        }
        for (name, text) in &self.variables {
            resolution.take_variable(name, text);
        }
        for written in &self.flags {
            resolution.take_flag(written);
        }
        resolution.faults.extend(self.flag_faults);
        resolution.finish()
    }
}

/// A configuration half put together.
#[derive(Default)]
struct Resolution {
    /// The file, for faults that show only when all is put together.
    file: Option<PathBuf>,
    draft: Draft,
    faults: Vec<Fault>,
    warnings: Vec<String>,
}

impl Resolution {
    fn take_members(&mut self, file: &Path, section: &str, members: &Map<String, Value>) {
        for (name, value) in members {
            let path = if section.is_empty() {
                name.clone()
            } else {
                format!("{section}.{name}")
            };
            let place = Place::File {
                file: file.to_owned(),
                key: path.clone(),
            };
            if name.contains('.') {
                self.faults
                    .push(Fault::new(place, "unknown key; a dot does not lead into an object here"));
            } else if let Some(key) = KEYS.iter().find(|key| key.name == path) {
                self.apply(key, place, value);
            } else if !is_section(&path) {
                self.faults.push(Fault::new(place, unknown_key(&path)));
            } else if let Value::Object(inner) = value {
                self.draft.begin_section(&path);
                self.take_members(file, &path, inner);
            } else {
                self.faults
                    .push(Fault::new(place, format!("expected an object, found {}", shown(value))));
            }
        }
    }

    fn take_variable(&mut self, name: &str, text: &OsString) {
        let place = Place::Variable(name.to_owned());
        let Some(key) = KEYS.iter().find(|key| variable_of(key.name) == name) else {
            return self.take_unknown_variable(name);
        };
        match text.to_str() {
            _ if !key.has_variable() => self
                .faults
                .push(Fault::new(place, format!("{:?} can only be set in the file", key.name))),
            None => self.faults.push(Fault::new(place, "expected UTF-8 text")),
            Some(text) => self.apply(key, place, &key.kind.value_of_text(text)),
        }
    }

    /// What is close to a variable of ours is taken for a slip and refused. Anything else may be there for others: a
    /// service of the name "noex" gives all its neighbours a `NOEX_SERVICE_HOST`, secrets will have names of their own.
    fn take_unknown_variable(&mut self, name: &str) {
        let place = Place::Variable(name.to_owned());
        if let Some(later) = LATER.iter().find(|later| variable_of(later) == name) {
            return self.faults.push(Fault::new(place, format!("{later:?} {NOT_AVAILABLE}")));
        }
        let bare = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name);
        match nearest(bare, KEYS.iter().filter(|key| key.has_variable()).map(|key| key.name)) {
            Some(meant) => self
                .faults
                .push(Fault::new(place, format!("unknown variable; did you mean {}?", variable_of(meant)))),
            None => self
                .warnings
                .push(format!("the environment variable {name} means nothing to this server")),
        }
    }

    fn take_flag(&mut self, written: &WrittenFlag) {
        let place = Place::Flag(written.flag.clone());
        match KEYS.iter().find(|key| key.name == written.key) {
            Some(key) => self.apply(key, place, &key.kind.value_of_text(&written.text)),
            None => self.faults.push(Fault::new(place, unknown_key(&written.key))),
        }
    }

    fn apply(&mut self, key: &Key, place: Place, value: &Value) {
        if let Err(refusals) = key.kind.apply(&mut self.draft, value) {
            self.faults.extend(
                refusals
                    .into_iter()
                    .map(|refusal| Fault::new(place.part(&refusal.part), refusal.message)),
            );
        }
    }

    fn finish(mut self) -> Result<Resolved, ConfigError> {
        let (config, log) = self.draft.finish();
        self.faults.extend(disagreements(&config).into_iter().map(|(key, message)| {
            let place = match &self.file {
                Some(file) => Place::File { file: file.clone(), key },
                None => Place::Program(key),
            };
            Fault::new(place, message)
        }));
        ConfigError::unless_empty(self.faults)?;
        if config.listens_openly() {
            let host = &config.host;
            self.warnings.push(format!(
                "listening on {host} without authentication: whoever can reach it can read and change everything"
            ));
            if config.rate_limit.is_none() {
                let warning = "rate limiting is disabled. Consider enabling it for production use.";
                self.warnings.push(warning.to_owned());
            }
        }
        Ok(Resolved {
            config,
            log,
            warnings: self.warnings,
        })
    }
}

fn is_section(path: &str) -> bool {
    KEYS.iter()
        .any(|key| key.name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.')))
}

/// What to say of a key that this version does not have.
fn unknown_key(path: &str) -> String {
    if LATER.contains(&path) {
        return format!("{path:?} {NOT_AVAILABLE}");
    }
    if let Some((_, instead)) = REPLACED.iter().find(|(name, _)| *name == path) {
        return format!("unknown key; {instead}");
    }
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let beside = KEYS.iter().filter_map(|key| {
        let rest = if section.is_empty() {
            key.name
        } else {
            key.name.strip_prefix(section)?.strip_prefix('.')?
        };
        rest.split('.').next()
    });
    // A key of the right name may stand in the wrong section.
    let elsewhere = || KEYS.iter().find(|key| last_segment(key.name) == name).map(|key| key.name);
    match nearest(name, beside).or_else(elsewhere) {
        Some(meant) => format!("unknown key; did you mean {meant:?}?"),
        None => "unknown key".to_owned(),
    }
}

fn last_segment(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// The members of a file, or what is wrong with it as a whole.
fn parsed(path: &Path, text: &str) -> Result<Map<String, Value>, String> {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    match ending.as_deref() {
        Some("json") => match serde_json::from_str(text) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(other) => Err(format!("expected an object, found {}", shown(&other))),
            Err(error) => Err(format!("no valid JSON: {error}")),
        },
        Some("toml") => toml::from_str(text).map(with_dates_as_text).map_err(|error| {
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
