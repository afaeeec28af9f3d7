//! Why a request is not carried out, as the client is told.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use crate::protocol::{ErrorCode, Number, Part, message, unknown_operation};
use crate::store::StoreError;

/// A refused or failed request: a code, a text and, for some codes, details.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    code: ErrorCode,
    message: Cow<'static, str>,
    details: Option<Value>,
    /// What is recorded in the place of the message, where that quotes data.
    recorded: Option<Box<str>>,
}

impl Failure {
    /// A failure without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            details: None,
            recorded: None,
        }
    }

    /// A field that is missing or malformed.
    #[must_use]
    pub fn validation(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::ValidationError, message)
    }

    /// A field whose JSON text is no value: a lone surrogate, a number beyond all doubles.
    #[must_use]
    pub fn unreadable() -> Self {
        Self::new(ErrorCode::ParseError, "Invalid JSON")
    }

    /// A fault of the server that says nothing of its cause; the cause goes to the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(ErrorCode::InternalError, "Internal server error")
    }

    /// A request whose `type` names nothing.
    #[must_use]
    pub fn unknown_operation(name: &str) -> Self {
        Self::new(ErrorCode::UnknownOperation, unknown_operation(name))
    }

    /// A request for a part of the server that is not configured.
    #[must_use]
    pub fn absent(part: Part) -> Self {
        let (code, message) = part.absent();
        Self::new(code, message)
    }

    /// A request that needs a login.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(ErrorCode::Unauthorized, "Authentication required")
    }

    /// Somebody without the right to do something.
    #[must_use]
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::Forbidden, message)
    }

    /// A request beyond a quota that allows another one after so long.
    #[must_use]
    pub fn rate_limited(wait: Duration) -> Self {
        // Rounded up: who waits so long must not be refused again for a part of a millisecond.
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self {
            code: ErrorCode::RateLimited,
            message: format!("Rate limit exceeded. Retry after {millis}ms").into(),
            details: Some(json!({ "retryAfterMs": millis })),
            recorded: None,
        }
    }

    /// The code on the wire.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// What the client is told.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What is written down of it: what the client is told, but for the data in it.
    #[must_use]
    pub fn recorded(&self) -> &str {
        self.recorded.as_deref().unwrap_or(&self.message)
    }

    /// The same failure with details.
    #[must_use]
    pub fn with_details(self, details: Value) -> Self {
        Self {
            details: Some(details),
            ..self
        }
    }

    /// The error answer. Where details are not to be shown, `retryAfterMs` still is: clients cannot do without.
    #[must_use]
    pub fn answer(&self, id: Number, expose_details: bool) -> Vec<u8> {
        let details = if expose_details {
            self.details.clone()
        } else {
            let retry = self.details.as_ref().and_then(|details| details.get("retryAfterMs"));
            retry.map(|after| json!({ "retryAfterMs": after }))
        };
        message::error(id, self.code, &self.message, details.as_ref())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self {
            code: error.code(),
            message: error.to_string().into(),
            details: error.details(),
            recorded: without_data(&error),
        }
    }
}

/// What may be written down of an error whose text quotes values of a record, or what else a request has brought. Names
/// and keys of records may.
fn without_data(error: &StoreError) -> Option<Box<str>> {
    if let StoreError::UniqueViolation { bucket, field, .. } = error {
        return Some(format!("Unique constraint violation in bucket \"{bucket}\": field \"{field}\"").into());
    }
    if let StoreError::RequestKeyReused(_) = error {
        return Some("The request key was used for another request".into());
    }
    if let StoreError::RefusedBefore { code, .. } = error {
        return Some(format!("Refused before: {code}").into());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Issue;

    fn answer(failure: &Failure, expose_details: bool) -> Value {
        serde_json::from_slice(&failure.answer(Number::Int(7), expose_details)).unwrap()
    }

    #[test]
    fn details_are_shown_only_where_that_is_allowed() {
        let failure = Failure::from(StoreError::invalid(
            "filter",
            Issue::new("n", "operator", "Unknown operator \"$ne\""),
        ));
        let details = json!([{ "field": "n", "message": "Unknown operator \"$ne\"", "code": "operator" }]);
        assert_eq!(answer(&failure, true)["details"], details);
        assert_eq!(answer(&failure, false).get("details"), None);
        assert_eq!(answer(&failure, false)["message"], "Invalid filter: n: Unknown operator \"$ne\"");
    }

    #[test]
    fn the_time_to_wait_is_always_shown() {
        let mut failure = Failure::new(ErrorCode::RateLimited, "Rate limit exceeded");
        failure.details = Some(json!({ "retryAfterMs": 250, "secret": 1 }));
        assert_eq!(answer(&failure, false)["details"], json!({ "retryAfterMs": 250 }));
    }
}
