//! One fault of a record, a filter or a definition: what `details` of a `VALIDATION_ERROR` lists.

use std::fmt;

use serde::Serialize;

/// Where a fault is, what it is, and its stable code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Issue {
    /// The path of the faulty value, such as `address.zip` or `tags[2]`.
    pub field: String,
    /// What is wrong, for people.
    pub message: String,
    /// What is wrong, for programs: `required`, `type`, `min` and so on.
    pub code: &'static str,
}

impl Issue {
    /// Names a fault.
    #[must_use]
    pub fn new(field: impl Into<String>, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
            code,
        }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Issues as one line: `name: Field is required; age: Minimum value is 18`.
#[must_use]
pub fn join_issues(issues: &[Issue]) -> String {
    issues.iter().map(Issue::to_string).collect::<Vec<_>>().join("; ")
}
