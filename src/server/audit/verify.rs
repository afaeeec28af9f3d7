//! Looks whether the file of an audit log is as it was written.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use super::file::{Link, all_put_aside, prev_of, put_aside};

/// What an audit log was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The files, from the oldest that is left to the one that is written.
    pub files: Vec<PathBuf>,
    /// The number of lines.
    pub lines: u64,
    /// Whether it begins with the first line that there ever was, not with one behind files that were removed.
    pub is_whole: bool,
    /// Whether the last line is not complete. The server cuts it off when it starts.
    pub is_torn: bool,
    /// The digest of the last line, in hexadecimal digits. Kept elsewhere, it shows later whether the end was cut off.
    pub head: String,
}

/// Why an audit log is not as it was written.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A file cannot be read.
    #[error("cannot read \"{}\": {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line does not follow from the one before it: it, or that one, was changed, or there were others between them.
    #[error("\"{}\", line {line}: does not follow from the line before it", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: u64,
    },
    /// A line is no entry.
    #[error("\"{}\", line {line}: is no entry", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Its line, from 1.
        line: u64,
    },
}

/// Reads an audit log, with the files of it that were put aside, and follows the digests from line to line.
///
/// What it finds are changes by somebody who has not written all that follows anew; and what it cannot find is that lines
/// are missing at the end: for that, compare [`Verified::head`] with one that was kept elsewhere.
///
/// # Errors
/// Where a line is not as it was written, or cannot be read.
pub fn verify(path: &Path) -> Result<Verified, VerifyError> {
    let unreadable = |source| VerifyError::Unreadable {
        file: path.to_owned(),
        source,
    };
    let numbers = all_put_aside(path).map_err(unreadable)?;
    let mut files: Vec<PathBuf> = numbers.into_iter().map(|number| put_aside(path, number)).collect();
    files.push(path.to_owned());
    let mut chain = Chain::default();
    for file in &files {
        chain.follow(file)?;
    }
    Ok(Verified {
        files,
        lines: chain.lines,
        is_whole: chain.first.is_none_or(|first| first == Link::default().to_string()),
        is_torn: chain.is_torn,
        head: chain.last.unwrap_or_default().to_string(),
    })
}

/// What was followed so far.
#[derive(Default)]
struct Chain {
    lines: u64,
    /// What the first line says is before it.
    first: Option<String>,
    last: Option<Link>,
    is_torn: bool,
}

impl Chain {
    fn follow(&mut self, file: &Path) -> Result<(), VerifyError> {
        let unreadable = |source| VerifyError::Unreadable {
            file: file.to_owned(),
            source,
        };
        let mut reader = BufReader::new(File::open(file).map_err(unreadable)?);
        let mut bytes = Vec::new();
        for line in 1.. {
            bytes.clear();
            reader.read_until(b'\n', &mut bytes).map_err(unreadable)?;
            let broken = || VerifyError::Broken {
                file: file.to_owned(),
                line,
            };
            match bytes.split_last() {
                None => break,
                // Nothing may follow what is not complete.
                Some(_) if self.is_torn => return Err(broken()),
                Some((b'\n', text)) => {
                    let prev = prev_of(text).ok_or_else(|| VerifyError::Malformed {
                        file: file.to_owned(),
                        line,
                    })?;
                    if self.last.is_some_and(|last| last.to_string() != prev) {
                        return Err(broken());
                    }
                    self.first.get_or_insert(prev);
                    self.last = Some(Link::to(text));
                    self.lines += 1;
                }
                Some(_) => self.is_torn = true,
            }
        }
        Ok(())
    }
}
