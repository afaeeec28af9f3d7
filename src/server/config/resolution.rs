//! A configuration half put together: every source in turn is checked against the table of keys.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::check::{kind_of, shown};
use super::draft::Draft;
use super::fault::{ConfigError, Fault, Place};
use super::keys::{Key, Kind, LATER, REPLACED, Turn, is_section, key_of, keys};
use super::names::{VARIABLE_PREFIX, nearest, variable_of};
use super::raw::{Resolved, WrittenFlag};
use super::secrets::{ADMIN_SECRET, JWT_SECRET, Search, SecretNames, SecretSources, others_may_read};
use super::together::{disagreements, doubts};
use super::{JwtAlgorithm, Secret};

const NOT_AVAILABLE: &str = "is not available in this version";

/// A configuration half put together.
#[derive(Default)]
pub(super) struct Resolution {
    /// The file, for faults that show only when all is put together.
    file: Option<PathBuf>,
    draft: Draft,
    faults: Vec<Fault>,
    warnings: Vec<String>,
    /// Something is wrong with who may log in, so that nothing can be said of how its parts go together.
    auth_is_faulty: bool,
}

impl Resolution {
    pub(super) fn new(apply: bool, faults: Vec<Fault>) -> Self {
        let mut draft = Draft::default();
        draft.config.apply = apply;
        Self {
            draft,
            faults,
            ..Self::default()
        }
    }

    pub(super) fn take_file(&mut self, file: &Path, members: &Map<String, Value>) {
        self.file = Some(file.to_owned());
        self.take_members(file, "", members);
    }

    pub(super) fn take_faults(&mut self, faults: Vec<Fault>) {
        self.faults.extend(faults);
    }

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
            } else {
                self.take_member(file, &path, place, value);
            }
        }
    }

    fn take_member(&mut self, file: &Path, path: &str, place: Place, value: &Value) {
        match (key_of(path), value) {
            (
                Some(Key {
                    kind: Kind::Part { turn }, ..
                }),
                Value::Object(inner),
            ) => {
                turn(&mut self.draft, Turn::Described);
                self.take_members(file, path, inner);
            }
            (Some(key), _) => self.apply(key, place, value),
            (None, _) if !is_section(path) => self.faults.push(Fault::new(place, unknown_key(path))),
            (None, Value::Object(inner)) => self.take_members(file, path, inner),
            (None, _) => {
                // What stands in the place of these may be a secret.
                let found = if path.starts_with("auth.") {
                    kind_of(value).to_owned()
                } else {
                    shown(value)
                };
                self.faults.push(Fault::new(place, format!("expected an object, found {found}")));
            }
        }
    }

    pub(super) fn take_variable(&mut self, name: &str, text: &OsString) {
        let place = Place::Variable(name.to_owned());
        if self.holds_a_secret(name) {
            return;
        }
        let Some(key) = keys().find(|key| variable_of(key.name) == name) else {
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

    /// Whether secrets are looked for in a variable.
    fn holds_a_secret(&self, name: &str) -> bool {
        let (jwt, admin) = (&self.draft.jwt_secret, &self.draft.admin_secret);
        [JWT_SECRET.variable, ADMIN_SECRET.variable].contains(&name)
            || [jwt.variable(&JWT_SECRET), admin.variable(&ADMIN_SECRET)].contains(&name)
    }

    /// What is close to a variable of ours is taken for a slip and refused. Anything else may be there for others: a
    /// service of the name "noex" gives all its neighbours a `NOEX_SERVICE_HOST`, secrets will have names of their own.
    fn take_unknown_variable(&mut self, name: &str) {
        let place = Place::Variable(name.to_owned());
        if let Some(later) = LATER.iter().find(|later| variable_of(later) == name) {
            return self.faults.push(Fault::new(place, format!("{later:?} {NOT_AVAILABLE}")));
        }
        let bare = name.strip_prefix(VARIABLE_PREFIX).unwrap_or(name);
        match nearest(bare, keys().filter(|key| key.has_variable()).map(|key| key.name)) {
            Some(meant) => self
                .faults
                .push(Fault::new(place, format!("unknown variable; did you mean {}?", variable_of(meant)))),
            None => self
                .warnings
                .push(format!("the environment variable {name} means nothing to this server")),
        }
    }

    pub(super) fn take_flag(&mut self, written: &WrittenFlag) {
        let place = Place::Flag(written.flag.clone());
        match key_of(&written.key) {
            Some(key) => self.apply(key, place, &key.kind.value_of_text(&written.text)),
            None => self.faults.push(Fault::new(place, unknown_key(&written.key))),
        }
    }

    fn apply(&mut self, key: &Key, place: Place, value: &Value) {
        if let Err(refusals) = key.kind.apply(&mut self.draft, &place, value) {
            self.faults.extend(
                refusals
                    .into_iter()
                    .map(|refusal| Fault::new(place.part(&refusal.part), refusal.message)),
            );
        }
    }

    /// Puts secrets where they belong, and says of those that are used for nothing.
    pub(super) fn find_secrets(&mut self, variables: &BTreeMap<String, OsString>) {
        let about_auth = |fault: &Fault| {
            fault
                .place
                .key()
                .is_some_and(|key| key == "auth" || key.starts_with("auth.") || key == "adminSecret")
        };
        self.auth_is_faulty = self.faults.iter().any(about_auth);
        let before = self.faults.len();
        let auth = self.draft.config.auth.as_ref();
        let jwt = auth.and_then(|auth| auth.jwt.as_ref());
        let (takes_jwt, has_built_in) = (
            jwt.is_some_and(|jwt| jwt.algorithms.contains(&JwtAlgorithm::Hs256)),
            auth.is_some_and(|auth| auth.built_in.is_some()),
        );
        let sources = std::mem::take(&mut self.draft.jwt_secret);
        if let Some(secret) = self.find_secret(sources, &JWT_SECRET, takes_jwt, variables) {
            self.draft.jwt().secret = Some(secret);
        }
        let sources = std::mem::take(&mut self.draft.admin_secret);
        if let Some(secret) = self.find_secret(sources, &ADMIN_SECRET, has_built_in, variables) {
            self.draft.built_in().admin_secret = Some(secret);
        }
        self.auth_is_faulty |= self.faults.len() > before;
    }

    fn find_secret(
        &mut self,
        sources: SecretSources,
        names: &SecretNames,
        is_used: bool,
        variables: &BTreeMap<String, OsString>,
    ) -> Option<Secret> {
        if is_used {
            let mut search = Search {
                config_file: self.file.as_deref(),
                variables,
                faults: &mut self.faults,
                warnings: &mut self.warnings,
            };
            return sources.find(names, &mut search);
        }
        let variable = sources.variable(names);
        if variables.contains_key(variable) {
            self.warnings.push(format!(
                "the environment variable {variable} is not used: no such logins are configured"
            ));
        }
        // Whoever writes down a secret believes that it protects something.
        if let Some((_, place)) = sources.written {
            self.faults.push(Fault::new(place, names.unused));
        }
        None
    }

    pub(super) fn finish(mut self) -> Result<Resolved, ConfigError> {
        let asks_for_rules = self.draft.asks_for_rules;
        let (config, log) = self.draft.finish();
        let file = self.file.as_deref();
        let is_worth_saying = |(key, _): &(String, String)| !(self.auth_is_faulty && key.starts_with("auth"));
        let together = disagreements(&config).into_iter().filter(is_worth_saying);
        self.faults
            .extend(together.map(|(key, message)| Fault::new(Place::of_key(file, key), message)));
        ConfigError::unless_empty(self.faults)?;
        self.warnings.extend(doubts(&config));
        if asks_for_rules {
            self.warnings
                .push("rules.enabled: this version has no rule engine; operations of rules are refused".to_owned());
        }
        if let Some(file) = file.filter(|file| config.auth.as_ref().is_some_and(|auth| !auth.tokens.is_empty()) && others_may_read(file)) {
            let file = file.display();
            self.warnings.push(format!(
                "{file} holds tokens, and every user of this machine can read it; take the right away from them"
            ));
        }
        Ok(Resolved {
            config,
            log,
            warnings: self.warnings,
        })
    }
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
    let beside = keys().filter_map(|key| {
        let rest = if section.is_empty() {
            key.name
        } else {
            key.name.strip_prefix(section)?.strip_prefix('.')?
        };
        rest.split('.').next()
    });
    // A key of the right name may stand in the wrong section.
    let elsewhere = || keys().find(|key| last_segment(key.name) == name).map(|key| key.name);
    match nearest(name, beside).or_else(elsewhere) {
        Some(meant) => format!("unknown key; did you mean {meant:?}?"),
        None => "unknown key".to_owned(),
    }
}

fn last_segment(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}
