//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use super::open_error::OpenError;

const FILE: &str = "noex.lock";

/// The right to work on a data directory. The operating system takes it back when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Takes the directory, or fails at once where another process has it.
    pub fn acquire(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join(FILE);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(OpenError::io(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => Err(OpenError::io(&path)(error)),
        }
    }
}
