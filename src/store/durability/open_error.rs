//! Why a data directory cannot be opened. The texts are for the operator: which file, what is wrong, what can be done.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory cannot be opened. What was reported as stored in it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process works on it.
    #[error("the data directory {} is in use by another process: stop that one, or choose another directory", dir.display())]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// A file does not hold what was written to it.
    #[error("{} is damaged: {reason}. {advice}", file.display())]
    Damaged {
        /// The file, or the folder where the file cannot be told.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the operator can do.
        advice: String,
    },
    /// It was written by another version of the server, or by something else.
    #[error("{} says \"{found}\", but this version of the server reads \"{expected}\": use the version that wrote it", file.display())]
    Format {
        /// The file that names the format.
        file: PathBuf,
        /// What it says.
        found: String,
        /// What this version reads.
        expected: String,
    },
    /// The operating system refused.
    #[error("{} cannot be used: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What holds of damage that was found before the storage engine was let in.
const UNTOUCHED: &str = "Nothing was changed.";
/// What holds of all other damage: the engine removes files that are not in force, and moves commits from logs to
/// tables.
const PUT_IN_ORDER: &str = "What was reported as stored is as it was, though the storage engine may have put its files in order.";
/// What helps against most damage.
const RESTORE: &str = "Restore the data directory from a backup";

impl OpenError {
    /// Damage against which only a backup helps.
    pub(super) fn damaged(file: &Path, reason: impl Into<String>) -> Self {
        Self::damaged_with(file, reason, format!("{UNTOUCHED} {RESTORE}."))
    }

    /// Damage that loses commits at the end of the log: the operator may decide to go on without them.
    pub(super) fn damaged_end(file: &Path, reason: impl Into<String>, mark: &Path) -> Self {
        Self::damaged_with(
            file,
            reason,
            format!(
                "{UNTOUCHED} {RESTORE}; or, to go on with what can be read and without the rest, remove {} and start again.",
                mark.display()
            ),
        )
    }

    /// Damage with advice of its own.
    pub(super) fn damaged_with(file: &Path, reason: impl Into<String>, advice: String) -> Self {
        Self::Damaged {
            file: file.to_owned(),
            reason: reason.into(),
            advice,
        }
    }

    /// The same for damage that was found when the storage engine had been let in.
    pub(super) fn behind_the_engine(self) -> Self {
        match self {
            Self::Damaged { file, reason, advice } => Self::Damaged {
                advice: advice.replacen(UNTOUCHED, PUT_IN_ORDER, 1),
                file,
                reason,
            },
            other @ (Self::Locked { .. } | Self::Format { .. } | Self::Io { .. }) => other,
        }
    }

    /// For `map_err`: names the file that the operating system refused.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}
