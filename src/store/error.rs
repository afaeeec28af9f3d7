//! What can go wrong in the store, with the code that each carries on the wire.

use serde_json::{Map, Value, json};

use crate::protocol::{BucketName, Cursor, Datum, ErrorCode, Issue, QueryName, join_issues};

/// Why the store refused or failed. The texts are part of the contract with clients.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// The bucket is not there.
    #[error("Bucket \"{0}\" is not defined")]
    BucketNotDefined(BucketName),
    /// The bucket to drop or to describe is not there: clients know this wording.
    #[error("Bucket \"{0}\" does not exist")]
    BucketDoesNotExist(BucketName),
    /// A bucket of that name is there already.
    #[error("Bucket \"{0}\" already exists")]
    BucketAlreadyExists(BucketName),
    /// The query is not there.
    #[error("Query \"{0}\" is not defined")]
    QueryNotDefined(QueryName),
    /// A query of that name is there already.
    #[error("Query \"{0}\" is already defined")]
    QueryAlreadyDefined(QueryName),
    /// A record that the schema does not let in.
    #[error("Validation failed for bucket \"{bucket}\": {}", join_issues(issues))]
    InvalidRecord {
        /// The bucket.
        bucket: BucketName,
        /// What is wrong with the record.
        issues: Vec<Issue>,
    },
    /// A malformed definition, filter, parameter or the like.
    #[error("Invalid {what}: {}", join_issues(issues))]
    Invalid {
        /// What is malformed: `filter`, `definition of bucket "users"`.
        what: String,
        /// What is wrong with it.
        issues: Vec<Issue>,
    },
    /// No record has the key.
    #[error("Record with key \"{key}\" not found in bucket \"{bucket}\"")]
    RecordNotFound {
        /// The bucket.
        bucket: BucketName,
        /// The key.
        key: Datum,
    },
    /// A record has the key already.
    #[error("Record with key \"{key}\" already exists in bucket \"{bucket}\"")]
    RecordAlreadyExists {
        /// The bucket.
        bucket: BucketName,
        /// The key.
        key: Datum,
    },
    /// A record has the unique value already.
    #[error("Unique constraint violation in bucket \"{bucket}\": field \"{field}\" already has value \"{value}\"")]
    UniqueViolation {
        /// The bucket.
        bucket: BucketName,
        /// The unique field; the names of a compound index are joined by commas.
        field: String,
        /// The value that is taken.
        value: Datum,
    },
    /// A transaction that does not fit the state of the record.
    #[error("Transaction conflict in bucket \"{bucket}\" for key \"{key}\": {reason}")]
    TransactionConflict {
        /// The bucket.
        bucket: BucketName,
        /// The key.
        key: Datum,
        /// What collides.
        reason: String,
    },
    /// The record has another version than the caller expects.
    #[error("Version conflict in bucket \"{bucket}\" for key \"{key}\": expected version {expected}, got {actual}")]
    VersionConflict {
        /// The bucket.
        bucket: BucketName,
        /// The key.
        key: Datum,
        /// The version that the caller expects.
        expected: u64,
        /// The version that is there; 0 where there is no record.
        actual: u64,
    },
    /// A reference leads nowhere.
    #[error(
        "Foreign key violation in bucket \"{source_bucket}\": field \"{source_field}\" references bucket \"{target_bucket}\" with key \"{target_key}\", but no such record exists"
    )]
    MissingTarget {
        /// The bucket that refers.
        source_bucket: BucketName,
        /// The field that refers.
        source_field: String,
        /// The bucket referred to.
        target_bucket: BucketName,
        /// The key that is not there.
        target_key: Datum,
    },
    /// A record that others refer to may not go.
    #[error(
        "Cannot delete from bucket \"{target_bucket}\" (key \"{target_key}\"): referenced by bucket \"{source_bucket}\" (key \"{source_key}\") via field \"{source_field}\""
    )]
    StillReferenced {
        /// The bucket that refers.
        source_bucket: BucketName,
        /// The record that refers.
        source_key: Datum,
        /// The field that refers.
        source_field: String,
        /// The bucket referred to.
        target_bucket: BucketName,
        /// The record that would go.
        target_key: Datum,
    },
    /// A bucket at its `maxSize` in which every record is referred to.
    #[error("Bucket \"{bucket}\" is full, and every record in it is still referenced")]
    BucketFull {
        /// The bucket.
        bucket: BucketName,
    },
    /// A field that is named by somebody for whom it is not there.
    #[error("No access to field \"{0}\"")]
    NoAccessToField(String),
    /// A record that somebody would write who could not see it then.
    #[error("The record is outside of what you may write")]
    OutsideGuard,
    /// Something that concerns all records, from somebody for whom only some are there.
    #[error("This concerns all records of the bucket, and you have access to some of them")]
    NeedsAllRecords,
    /// A record has the unique value already, told to somebody for whom it may not be there.
    #[error("Unique constraint violation in bucket \"{bucket}\": field \"{field}\" already has this value")]
    ValueTaken {
        /// The bucket.
        bucket: BucketName,
        /// The unique field; the names of a compound index are joined by commas.
        field: String,
    },
    /// The same of a unique field that is not there for them.
    #[error("Unique constraint violation in bucket \"{0}\": a field that you have no access to would not be unique")]
    HiddenValueTaken(BucketName),
    /// Records refer to what would go, told to somebody for whom they may not be there.
    #[error("Cannot delete: other records still refer to what would be deleted")]
    ReferredTo,
    /// A name with a leading underscore.
    #[error("Names with a leading underscore are reserved: \"{0}\"")]
    ReservedName(String),
    /// More than the store takes on: the limit is in the configuration.
    #[error("{0}")]
    LimitExceeded(String),
    /// The key of a request came with another request.
    #[error("The request key \"{0}\" was used for another request")]
    RequestKeyReused(String),
    /// So many requests are remembered that no other one can be.
    #[error("Too many requests are remembered: try again later, or without a request key")]
    RequestKeysFull {
        /// When the oldest of them is forgotten.
        retry_after_ms: u64,
    },
    /// The repeat of a request whose answer was too large to be remembered.
    #[error("The request was carried out before, but its answer was too large to be remembered")]
    AnswerNotKept,
    /// The repeat of a request that was refused: what it was answered then.
    #[error("{message}")]
    RefusedBefore {
        /// The code on the wire.
        code: ErrorCode,
        /// The text.
        message: String,
        /// The `details` on the wire.
        details: Option<Value>,
    },
    /// Too much unfinished work.
    #[error("The store has too much unfinished work: try again later")]
    Busy,
    /// What is asked for would be larger than an answer may be.
    #[error("The result is larger than {limit_bytes} bytes: narrow it, or read it in pages")]
    ResultTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// The disk failed; nothing is stored until the server is started anew.
    #[error(
        "The server cannot store data: {reason}. Reads go on; writes are refused until the cause is removed and the server is restarted"
    )]
    StorageUnavailable {
        /// What the disk said.
        reason: String,
    },
    /// What happened since the cursor is not known any more, or the cursor is of something else.
    #[error("The cursor is too old or of another feed: changes are known from \"{oldest}\" on. Read the bucket anew and follow from there")]
    CursorTooOld {
        /// The oldest cursor from which on everything is known.
        oldest: Cursor,
    },
    /// A closure query failed.
    #[error("{0}")]
    QueryFailed(String),
    /// The store is closed.
    #[error("The store is closed")]
    Closed,
}

impl StoreError {
    /// A malformed thing with one issue.
    #[must_use]
    pub fn invalid(what: impl Into<String>, issue: Issue) -> Self {
        Self::Invalid {
            what: what.into(),
            issues: vec![issue],
        }
    }

    /// Reads something from a JSON value that must be an object.
    pub(super) fn or_invalid<T>(
        what: &str,
        value: &Value,
        parse: impl FnOnce(&Map<String, Value>) -> Result<T, Vec<Issue>>,
    ) -> Result<T, Self> {
        let parsed = value
            .as_object()
            .map_or_else(|| Err(vec![Issue::new("", "type", "Expected an object")]), parse);
        parsed.map_err(|issues| Self::Invalid {
            what: what.to_owned(),
            issues,
        })
    }

    /// The code on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BucketNotDefined(_) | Self::BucketDoesNotExist(_) => ErrorCode::BucketNotDefined,
            Self::QueryNotDefined(_) => ErrorCode::QueryNotDefined,
            Self::BucketAlreadyExists(_)
            | Self::QueryAlreadyDefined(_)
            | Self::RecordAlreadyExists { .. }
            | Self::UniqueViolation { .. }
            | Self::ValueTaken { .. }
            | Self::HiddenValueTaken(_) => ErrorCode::AlreadyExists,
            Self::InvalidRecord { .. } | Self::Invalid { .. } | Self::LimitExceeded(_) => ErrorCode::ValidationError,
            Self::RecordNotFound { .. } => ErrorCode::NotFound,
            Self::TransactionConflict { .. }
            | Self::VersionConflict { .. }
            | Self::MissingTarget { .. }
            | Self::StillReferenced { .. }
            | Self::BucketFull { .. }
            | Self::ReferredTo
            | Self::RequestKeyReused(_) => ErrorCode::Conflict,
            Self::RequestKeysFull { .. } => ErrorCode::RateLimited,
            Self::RefusedBefore { code, .. } => *code,
            Self::ReservedName(_) | Self::NoAccessToField(_) | Self::OutsideGuard | Self::NeedsAllRecords => ErrorCode::Forbidden,
            Self::Busy | Self::ResultTooLarge { .. } => ErrorCode::Backpressure,
            Self::StorageUnavailable { .. } => ErrorCode::StorageUnavailable,
            Self::CursorTooOld { .. } => ErrorCode::CursorTooOld,
            Self::QueryFailed(_) | Self::AnswerNotKept | Self::Closed => ErrorCode::InternalError,
        }
    }

    /// The `details` on the wire, where the code has any.
    #[must_use]
    pub fn details(&self) -> Option<Value> {
        let value = |datum: &Datum| datum.to_value().unwrap_or(Value::Null);
        match self {
            Self::InvalidRecord { issues, .. } | Self::Invalid { issues, .. } => Some(json!(issues)),
            Self::RecordNotFound { bucket, key }
            | Self::RecordAlreadyExists { bucket, key }
            | Self::TransactionConflict { bucket, key, .. } => Some(json!({ "bucket": bucket, "key": value(key) })),
            Self::UniqueViolation {
                bucket,
                field,
                value: taken,
            } => Some(json!({ "bucket": bucket, "field": field, "value": value(taken) })),
            Self::ValueTaken { bucket, field } => Some(json!({ "bucket": bucket, "field": field })),
            Self::HiddenValueTaken(bucket) => Some(json!({ "bucket": bucket })),
            Self::VersionConflict {
                bucket,
                key,
                expected,
                actual,
            } => Some(json!({ "bucket": bucket, "key": value(key), "expected": expected, "actual": actual })),
            Self::MissingTarget {
                source_bucket,
                source_field,
                target_bucket,
                target_key,
            }
            | Self::StillReferenced {
                source_bucket,
                source_field,
                target_bucket,
                target_key,
                ..
            } => Some(json!({
                "sourceBucket": source_bucket,
                "sourceField": source_field,
                "targetBucket": target_bucket,
                "targetKey": value(target_key),
            })),
            Self::BucketFull { bucket } => Some(json!({ "bucket": bucket })),
            Self::CursorTooOld { oldest } => Some(json!({ "oldest": oldest.to_string() })),
            Self::RequestKeyReused(key) => Some(json!({ "requestKey": key })),
            Self::RequestKeysFull { retry_after_ms } => Some(json!({ "retryAfterMs": retry_after_ms })),
            Self::RefusedBefore { details, .. } => details.clone(),
            Self::BucketNotDefined(_)
            | Self::BucketDoesNotExist(_)
            | Self::BucketAlreadyExists(_)
            | Self::QueryNotDefined(_)
            | Self::QueryAlreadyDefined(_)
            | Self::ReservedName(_)
            | Self::NoAccessToField(_)
            | Self::OutsideGuard
            | Self::NeedsAllRecords
            | Self::ReferredTo
            | Self::LimitExceeded(_)
            | Self::Busy
            | Self::ResultTooLarge { .. }
            | Self::StorageUnavailable { .. }
            | Self::QueryFailed(_)
            | Self::AnswerNotKept
            | Self::Closed => None,
        }
    }
}
