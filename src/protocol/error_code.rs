//! The one table of reply codes.

use std::fmt;

/// Every code that an error reply can carry. Released codes are never renamed or reused.
///
/// `protocol/README.md` says what a client should do about each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The message is no JSON object.
    ParseError,
    /// The envelope is malformed: no usable `type`, `id` or pong timestamp.
    InvalidRequest,
    /// No such operation, or its subsystem is not configured.
    UnknownOperation,
    /// A field, a record, a filter or a definition is malformed; `details` lists the issues where there are several.
    ValidationError,
    /// The record, subscription or other thing named is not there.
    NotFound,
    /// The key, unique value, bucket or query is there already.
    AlreadyExists,
    /// The write collides with another one, with a version or with a reference.
    Conflict,
    /// A login is needed.
    Unauthorized,
    /// The caller may not do that.
    Forbidden,
    /// Too many requests or subscriptions.
    RateLimited,
    /// The server has too much unfinished work to take this request now.
    Backpressure,
    /// A fault of the server.
    InternalError,
    /// The bucket is not defined.
    BucketNotDefined,
    /// The query is not defined.
    QueryNotDefined,
    /// The rule engine is not configured.
    RulesNotAvailable,
    /// The server cannot store anything at present: writes are refused, reads go on.
    StorageUnavailable,
    /// What happened since a cursor is not known any more.
    CursorTooOld,
    /// The session was taken away by an administrator.
    SessionRevoked,
}

impl ErrorCode {
    /// All codes, in the order of the table in `protocol/README.md`.
    pub const ALL: [Self; 18] = [
        Self::ParseError,
        Self::InvalidRequest,
        Self::UnknownOperation,
        Self::ValidationError,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::Unauthorized,
        Self::Forbidden,
        Self::RateLimited,
        Self::Backpressure,
        Self::InternalError,
        Self::BucketNotDefined,
        Self::QueryNotDefined,
        Self::RulesNotAvailable,
        Self::StorageUnavailable,
        Self::CursorTooOld,
        Self::SessionRevoked,
    ];

    /// The code of a text on the wire.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == text)
    }

    /// The text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ParseError => "PARSE_ERROR",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::UnknownOperation => "UNKNOWN_OPERATION",
            Self::ValidationError => "VALIDATION_ERROR",
            Self::NotFound => "NOT_FOUND",
            Self::AlreadyExists => "ALREADY_EXISTS",
            Self::Conflict => "CONFLICT",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::RateLimited => "RATE_LIMITED",
            Self::Backpressure => "BACKPRESSURE",
            Self::InternalError => "INTERNAL_ERROR",
            Self::BucketNotDefined => "BUCKET_NOT_DEFINED",
            Self::QueryNotDefined => "QUERY_NOT_DEFINED",
            Self::RulesNotAvailable => "RULES_NOT_AVAILABLE",
            Self::StorageUnavailable => "STORAGE_UNAVAILABLE",
            Self::CursorTooOld => "CURSOR_TOO_OLD",
            Self::SessionRevoked => "SESSION_REVOKED",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
