//! What somebody may do, as far as it is asked.

use std::sync::Arc;

use super::permissions::PermissionCheck;
use super::target::Target;
use crate::protocol::{Operation, Tier, tier_of_absent};
use crate::store::Guard;

/// How much of a bucket is meant where something is allowed.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) enum Scope {
    /// All of it.
    #[default]
    Everything,
    /// What the guard lets through.
    Guarded(Arc<Guard>),
}

impl Scope {
    pub(crate) fn guard(&self) -> Option<&Arc<Guard>> {
        match self {
            Self::Everything => None,
            Self::Guarded(guard) => Some(guard),
        }
    }
}

/// What is asked for: an operation, or the name of one that there is not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) name: &'a str,
    pub(crate) operation: Option<Operation>,
}

impl<'a> Asked<'a> {
    pub(crate) fn named(name: &'a str) -> Self {
        Self {
            name,
            operation: Operation::parse(name),
        }
    }

    /// What whoever asks must be allowed to do at least.
    pub(crate) fn tier(&self) -> Option<Tier> {
        match self.operation {
            Some(operation) => operation.tier(),
            None => tier_of_absent(self.name),
        }
    }
}

impl From<Operation> for Asked<'static> {
    fn from(operation: Operation) -> Self {
        Self {
            name: operation.name(),
            operation: Some(operation),
        }
    }
}

/// What somebody may do. Made for one login, and asked about every request.
pub(crate) trait Rights: Send + Sync {
    /// Whether something may be done with a target, and with how much of it.
    ///
    /// # Errors
    /// What to tell whoever may not; nothing about the target that they did not say themselves.
    fn judge(&self, asked: Asked<'_>, target: &Target<'_>) -> Result<Scope, String>;

    /// Whether the tier of an operation is reached, which nothing can make up for.
    ///
    /// # Errors
    /// What to tell whoever may not.
    fn judge_tier(&self, _asked: Asked<'_>) -> Result<(), String> {
        Ok(())
    }

    /// A function of the embedding program that is asked first.
    fn check(&self) -> Option<&PermissionCheck> {
        None
    }

    /// Whether an operation may be done with any bucket at all, for operations that show what the caller may see of
    /// all buckets. Which ones, `judge` tells for each.
    ///
    /// # Errors
    /// What to tell whoever may not.
    fn judge_visible(&self, asked: Asked<'_>) -> Result<(), String> {
        self.judge(asked, &Target::Server).map(drop)
    }

    /// Whether a transaction may be begun at all; its elements are judged one by one.
    ///
    /// # Errors
    /// What to tell whoever may not.
    fn judge_transaction(&self, reads_only: bool) -> Result<(), String>;

    /// Whether one element of a transaction, which does what `operation` does, may be carried out on a bucket.
    ///
    /// # Errors
    /// What to tell whoever may not.
    fn judge_step(&self, operation: Operation, bucket: &str) -> Result<Scope, String> {
        self.judge(operation.into(), &Target::Bucket(bucket))
    }
}
