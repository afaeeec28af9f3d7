//! Where secrets come from: a flag, the environment, a file of their own, or the configuration file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::Secret;
use super::fault::{Fault, Place};

/// The least length of a secret, in bytes.
pub(super) const SECRET_MIN: usize = 32;
/// The largest file that a secret is read from.
const FILE_MAX: u64 = 65_536;

/// What is expected of a secret. What was found is not said.
pub(super) const EXPECTED: &str = "expected a secret of 32 bytes or more; what was found is not shown";

/// The names under which a secret goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct SecretNames {
    /// The key that holds the secret itself.
    pub(super) key: &'static str,
    /// The key that names a file.
    pub(super) file_key: &'static str,
    /// The key that names a variable.
    pub(super) variable_key: &'static str,
    /// The variable that is read unless another is named.
    pub(super) variable: &'static str,
    /// What is said of a secret that nothing is done with.
    pub(super) unused: &'static str,
}

pub(super) const JWT_SECRET: SecretNames = SecretNames {
    key: "auth.jwt.secret",
    file_key: "auth.jwt.secretFile",
    variable_key: "auth.jwt.secretEnv",
    variable: "NOEX_JWT_SECRET",
    unused: "is used by HS256 alone, which \"auth.jwt.algorithms\" does not name",
};

pub(super) const ADMIN_SECRET: SecretNames = SecretNames {
    key: "auth.builtIn.adminSecret",
    file_key: "auth.builtIn.adminSecretFile",
    variable_key: "auth.builtIn.adminSecretEnv",
    variable: "NOEX_ADMIN_SECRET",
    unused: "protects nothing without \"auth.builtIn\" or --auth",
};

/// Everything that was said of where one secret is.
#[derive(Default)]
pub(super) struct SecretSources {
    /// The secret itself, and where it was written.
    pub(super) written: Option<(Secret, Place)>,
    /// A variable that holds it.
    pub(super) variable: Option<String>,
    /// A file that holds it.
    pub(super) file: Option<PathBuf>,
}

/// What is there to find secrets in, and what is to be said of them.
pub(super) struct Search<'a> {
    pub(super) config_file: Option<&'a Path>,
    pub(super) variables: &'a BTreeMap<String, OsString>,
    pub(super) faults: &'a mut Vec<Fault>,
    pub(super) warnings: &'a mut Vec<String>,
}

impl SecretSources {
    /// The variable that is looked into.
    pub(super) fn variable<'a>(&'a self, names: &'a SecretNames) -> &'a str {
        self.variable.as_deref().unwrap_or(names.variable)
    }

    /// The secret: that of a flag, else of the environment, else of its file, else of the configuration file.
    pub(super) fn find(self, names: &SecretNames, search: &mut Search<'_>) -> Option<Secret> {
        if let Some((secret, Place::Flag(flag))) = self.written {
            search.warnings.push(format!(
                "{flag}: every user of this machine can read it in the list of processes; use the environment variable {}",
                names.variable
            ));
            return Some(secret);
        }
        let variable = self.variable(names).to_owned();
        if let Some(text) = search.variables.get(&variable) {
            return search.taken_from_variable(variable, text);
        }
        match (self.file, self.written) {
            (Some(_), Some(_)) => {
                let message = format!("expected either this or {:?}, found both", names.key);
                search.fault(names.file_key, message);
                None
            }
            (Some(file), None) => search.read(&file, names),
            (None, Some((secret, _))) => {
                search.warnings.push(format!(
                    "{}: the secret stands in the configuration file; use the environment variable {} or {:?}",
                    names.key, names.variable, names.file_key
                ));
                Some(secret)
            }
            (None, None) => {
                if self.variable.is_some() {
                    search.fault(names.variable_key, format!("the environment variable {variable} is not set"));
                }
                None
            }
        }
    }
}

impl Search<'_> {
    fn taken_from_variable(&mut self, variable: String, text: &OsString) -> Option<Secret> {
        match text.to_str() {
            Some(text) if text.len() >= SECRET_MIN => Some(Secret::from(text)),
            Some(_) | None => {
                self.faults.push(Fault::new(Place::Variable(variable), EXPECTED));
                None
            }
        }
    }

    fn read(&mut self, file: &Path, names: &SecretNames) -> Option<Secret> {
        if others_may_read(file) {
            self.warnings.push(format!(
                "{}: every user of this machine can read {}; take the right away from them",
                names.file_key,
                file.display()
            ));
        }
        match read_secret(file) {
            Ok(secret) if secret.expose().len() >= SECRET_MIN => Some(secret),
            Ok(_) => {
                self.fault(names.file_key, format!("{}: {EXPECTED}", file.display()));
                None
            }
            Err(error) => {
                self.fault(names.file_key, format!("{} cannot be read: {error}", file.display()));
                None
            }
        }
    }

    fn fault(&mut self, key: &str, message: String) {
        self.faults.push(Fault::new(Place::of_key(self.config_file, key), message));
    }
}

/// The text of a file, without the line end that editors put behind it.
fn read_secret(file: &Path) -> std::io::Result<Secret> {
    if std::fs::metadata(file)?.len() > FILE_MAX {
        return Err(std::io::Error::other("it is larger than 64 KiB"));
    }
    let text = Zeroizing::new(std::fs::read_to_string(file)?);
    let bare = text.strip_suffix('\n').unwrap_or(&text);
    Ok(Secret::from(bare.strip_suffix('\r').unwrap_or(bare)))
}

/// Whether users of the machine who are neither the owner nor of the group may read a file.
#[cfg(unix)]
pub(super) fn others_may_read(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// Nothing is known of who may read what.
#[cfg(not(unix))]
pub(super) fn others_may_read(_: &Path) -> bool {
    false
}

impl fmt::Debug for SecretSources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSources").finish_non_exhaustive()
    }
}
