//! Cursors: how far a client has followed something, as a text that only the server reads.

use std::fmt;
use std::str::FromStr;

/// What the cursors of equal subscriptions have in common: the life of the store's history, and what is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CursorScope {
    /// Names the order of commits. A store that cannot vouch for what an earlier cursor saw has another epoch.
    pub epoch: u64,
    /// Names what is followed: a query with its definition and parameters, or a bucket with a filter.
    pub subject: u64,
}

impl CursorScope {
    /// The cursor behind the commit of this number.
    #[must_use]
    pub const fn at(self, seq: u64) -> Cursor {
        Cursor { scope: self, seq }
    }
}

/// A place in what is followed: behind the commit `seq`. On the wire three hexadecimal numbers with hyphens between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// What it is a place in.
    pub scope: CursorScope,
    /// The last commit that was seen.
    pub seq: u64,
}

impl Cursor {
    /// A place in nothing that any store knows: no epoch is 0.
    pub const NOWHERE: Self = CursorScope { epoch: 0, subject: 0 }.at(0);
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.scope.epoch, self.scope.subject, self.seq)
    }
}

/// A text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this server")]
pub struct NotACursor;

impl FromStr for Cursor {
    type Err = NotACursor;

    fn from_str(text: &str) -> Result<Self, NotACursor> {
        let mut parts = text.split('-').map(hexadecimal);
        let mut next = || parts.next().flatten().ok_or(NotACursor);
        let (epoch, subject, seq) = (next()?, next()?, next()?);
        match parts.next() {
            Some(_) => Err(NotACursor),
            None => Ok(CursorScope { epoch, subject }.at(seq)),
        }
    }
}

/// Only the form that is written: no sign, no capitals, no leading zeros.
fn hexadecimal(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let canonical = text == "0" || !text.starts_with('0');
    (digits && canonical).then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_was_written_is_read() {
        let cursor = CursorScope { epoch: 255, subject: 0 }.at(16);
        assert_eq!(cursor.to_string(), "ff-0-10");
        for other in [
            "",
            "-",
            "ff-0",
            "ff-0-10-1",
            "FF-0-10",
            "0ff-0-10",
            "+ff-0-10",
            "ff--10",
            "ff-0-10 ",
            "11111111111111111-0-0",
        ] {
            assert_eq!(other.parse::<Cursor>(), Err(NotACursor), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_as_it_was(epoch in any::<u64>(), subject in any::<u64>(), seq in any::<u64>()) {
            let cursor = CursorScope { epoch, subject }.at(seq);
            prop_assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }
}
