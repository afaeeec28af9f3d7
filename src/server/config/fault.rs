//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file.
    File {
        /// The file as it was named.
        file: PathBuf,
        /// The path of the key, such as `heartbeat.intervalMs`; empty for the file as a whole.
        key: String,
    },
    /// On the command line, such as `--port`.
    Flag(String),
    /// In the environment, such as `NOEX_PORT`.
    Variable(String),
    /// In the program that embeds the server; the key is the one that a file would use.
    Program(String),
}

impl Place {
    /// The place of a key in the file, or in the program where there is no file.
    pub(super) fn of_key(file: Option<&Path>, key: impl Into<String>) -> Self {
        match file {
            Some(file) => Self::File {
                file: file.to_owned(),
                key: key.into(),
            },
            None => Self::Program(key.into()),
        }
    }

    /// The key, where the place is one.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::File { key, .. } | Self::Program(key) => Some(key),
            Self::Flag(_) | Self::Variable(_) => None,
        }
    }

    /// The place of a part of the value: `.name` or `[2]` added to the key of a file or a program; a flag or a
    /// variable is one place, whatever it lists.
    #[must_use]
    pub(super) fn part(&self, suffix: &str) -> Self {
        match self {
            Self::File { file, key } => Self::File {
                file: file.clone(),
                key: format!("{key}{suffix}"),
            },
            Self::Program(key) => Self::Program(format!("{key}{suffix}")),
            Self::Flag(_) | Self::Variable(_) => self.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, key } if key.is_empty() => write!(f, "{}", file.display()),
            Self::File { file, key } => write!(f, "{}: {key}", file.display()),
            Self::Flag(name) | Self::Variable(name) | Self::Program(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// What is wrong: what was expected and what was found, or the name that was probably meant.
    pub message: String,
}

impl Fault {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Self {
            place,
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Vec<Fault>);

impl ConfigError {
    pub(super) fn unless_empty(faults: Vec<Fault>) -> Result<(), Self> {
        if faults.is_empty() { Ok(()) } else { Err(Self(faults)) }
    }

    /// The faults, in the order file, environment, flags.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a fault:")?,
            count => write!(f, "the configuration has {count} faults:")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}

impl std::error::Error for ConfigError {}
