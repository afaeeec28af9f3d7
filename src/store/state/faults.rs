//! What is wrong with a definition or a record: collected with its place, and bounded.

use std::fmt;

use crate::protocol::Issue;

/// How many faults are listed. One more is added that says so where there are others: a reply may not grow with
/// the number of faults that a client puts into one request.
pub(super) const FAULTS_MAX: usize = 100;

/// Where a value stands in a definition or a record: `address.zip`, `tags[2]`. Built on the way down without an
/// allocation, printed only where there is a fault.
#[derive(Clone, Copy)]
pub(super) enum Path<'a> {
    /// The whole.
    Root,
    /// A member of an object.
    Member(&'a Path<'a>, &'a str),
    /// An element of a list.
    Item(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Member(Self::Root, name) => f.write_str(name),
            Self::Member(parent, name) => write!(f, "{parent}.{name}"),
            Self::Item(parent, at) => write!(f, "{parent}[{at}]"),
        }
    }
}

/// The faults found so far, in the order in which they were found.
#[derive(Default)]
pub(super) struct Faults(Vec<Issue>);

impl Faults {
    /// Adds a fault, or, once the list is full, the note that there are more.
    pub fn add(&mut self, path: &Path<'_>, code: &'static str, message: impl Into<String>) {
        match self.0.len() {
            count if count < FAULTS_MAX => self.0.push(Issue::new(path.to_string(), code, message)),
            FAULTS_MAX => self.0.push(Issue::new(
                path.to_string(),
                "limit",
                format!("More faults than the {FAULTS_MAX} listed"),
            )),
            _ => {}
        }
    }

    /// Nothing that is added now would be listed: there is no use in looking further.
    pub fn is_full(&self) -> bool {
        self.0.len() > FAULTS_MAX
    }

    /// Gives the result of a reading that went well, or all that is wrong.
    pub fn or_else<T>(self, result: Option<T>) -> Result<T, Vec<Issue>> {
        match result {
            Some(result) if self.0.is_empty() => Ok(result),
            _ => Err(self.0),
        }
    }

    /// All that was found.
    pub fn into_issues(self) -> Vec<Issue> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_one_would_write_it() {
        let lines = Path::Member(&Path::Root, "lines");
        let line = Path::Item(&lines, 0);
        assert_eq!(Path::Member(&line, "sku").to_string(), "lines[0].sku");
        assert_eq!(Path::Item(&line, 3).to_string(), "lines[0][3]");
    }

    #[test]
    fn the_list_of_faults_ends_with_a_note_that_there_are_more() {
        let mut faults = Faults::default();
        for _ in 0..FAULTS_MAX * 3 {
            faults.add(&Path::Root, "type", "wrong");
        }
        let issues = faults.into_issues();
        assert_eq!(issues.len(), FAULTS_MAX + 1);
        assert_eq!(issues.last().map(|issue| issue.code), Some("limit"));
    }
}
