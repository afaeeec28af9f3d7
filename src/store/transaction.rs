//! Transactions of the embedding program: steps put together, then done at once.

use serde::Serialize;
use serde_json::{Map, Value};

use super::StoreError;
use super::command::{Action, Operation, Step};
use super::handle::to_record;
use super::query::Filter;
use crate::protocol::{BucketName, Datum, Issue};

/// Steps that happen all or not at all, each seeing what the ones before it did.
///
/// ```
/// # use noex_server::store::{BucketDefinition, FieldSpec, Store, Transaction};
/// # use serde_json::json;
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Store::builder().in_memory().open().await?;
/// # let definition = || BucketDefinition::builder("id").field("id", FieldSpec::string()).build();
/// # store.define_bucket("accounts", definition()?).await?;
/// # let accounts = store.bucket("accounts");
/// # accounts.insert(&json!({ "id": "a", "balance": 10 })).await?;
/// # accounts.insert(&json!({ "id": "b", "balance": 0 })).await?;
/// let a = accounts.get("a")?.ok_or("no such account")?;
/// let transfer = Transaction::new()
///     .update_version("accounts", "a", a.version(), &json!({ "balance": 5 }))?
///     .update("accounts", "b", &json!({ "balance": 5 }))?;
/// store.transact(transfer).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    steps: Vec<Step>,
}

impl Transaction {
    /// A transaction without steps.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a record.
    #[must_use]
    pub fn get(self, bucket: impl Into<BucketName>, key: impl Into<Datum>) -> Self {
        self.with(
            bucket,
            Action::Get {
                key: key.into(),
                expect_version: None,
            },
        )
    }

    /// Reads a record that must have this version; 0 stands for no record.
    #[must_use]
    pub fn get_version(self, bucket: impl Into<BucketName>, key: impl Into<Datum>, version: u64) -> Self {
        self.with(
            bucket,
            Action::Get {
                key: key.into(),
                expect_version: Some(version),
            },
        )
    }

    /// Stores a new record.
    ///
    /// # Errors
    /// Where the record is no JSON object.
    pub fn insert(self, bucket: impl Into<BucketName>, record: &impl Serialize) -> Result<Self, StoreError> {
        let record = to_record(record)?;
        Ok(self.with(bucket, Action::Insert { record }))
    }

    /// Replaces fields of a record.
    ///
    /// # Errors
    /// Where the changes are no JSON object.
    pub fn update(self, bucket: impl Into<BucketName>, key: impl Into<Datum>, changes: &impl Serialize) -> Result<Self, StoreError> {
        let changes = to_record(changes)?;
        Ok(self.with(
            bucket,
            Action::Update {
                key: key.into(),
                changes,
                expect_version: None,
            },
        ))
    }

    /// Replaces fields of a record that must have this version.
    ///
    /// # Errors
    /// Where the changes are no JSON object.
    pub fn update_version(
        self,
        bucket: impl Into<BucketName>,
        key: impl Into<Datum>,
        version: u64,
        changes: &impl Serialize,
    ) -> Result<Self, StoreError> {
        let changes = to_record(changes)?;
        Ok(self.with(
            bucket,
            Action::Update {
                key: key.into(),
                changes,
                expect_version: Some(version),
            },
        ))
    }

    /// Removes a record.
    #[must_use]
    pub fn delete(self, bucket: impl Into<BucketName>, key: impl Into<Datum>) -> Self {
        self.with(
            bucket,
            Action::Delete {
                key: key.into(),
                expect_version: None,
            },
        )
    }

    /// Removes a record that must have this version.
    #[must_use]
    pub fn delete_version(self, bucket: impl Into<BucketName>, key: impl Into<Datum>, version: u64) -> Self {
        self.with(
            bucket,
            Action::Delete {
                key: key.into(),
                expect_version: Some(version),
            },
        )
    }

    /// Reads the records that match.
    #[must_use]
    pub fn select(self, bucket: impl Into<BucketName>, filter: Filter) -> Self {
        self.with(bucket, Action::Where { filter })
    }

    /// Reads the first record that matches.
    #[must_use]
    pub fn find_one(self, bucket: impl Into<BucketName>, filter: Filter) -> Self {
        self.with(bucket, Action::FindOne { filter })
    }

    /// Counts the records that match.
    #[must_use]
    pub fn count(self, bucket: impl Into<BucketName>, filter: Filter) -> Self {
        self.with(bucket, Action::Count { filter })
    }

    fn with(mut self, bucket: impl Into<BucketName>, action: Action) -> Self {
        self.steps.push(Step {
            bucket: bucket.into(),
            action,
            guard: None,
        });
        self
    }
}

impl From<Transaction> for Operation {
    fn from(transaction: Transaction) -> Self {
        Self::Transaction { steps: transaction.steps }
    }
}

/// An object from any serialisable thing.
pub(super) fn to_object(value: &impl Serialize) -> Result<Map<String, Value>, StoreError> {
    let refuse = |message: String| StoreError::invalid("record", Issue::new("", "type", message));
    match serde_json::to_value(value) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(refuse("Expected an object".to_owned())),
        Err(error) => Err(refuse(error.to_string())),
    }
}
