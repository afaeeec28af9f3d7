//! The contract with clients. Two halves: the vocabulary (values, records, codes), which every layer uses, and
//! the envelope (requests, messages, operations), which only the server sees.
//!
//! Nothing here knows a store, a socket or a session.

mod close_code;
mod codec;
mod cursor;
mod datum;
mod error_code;
mod ids;
mod issue;
pub mod json;
pub mod message;
mod number;
mod operation;
mod record;
mod request;

pub use close_code::CloseCode;
pub use codec::{Envelope, MAX_DEPTH, decode_text};
pub use cursor::{Cursor, CursorScope, NotACursor};
pub use datum::{Datum, Text, compare_utf16, utf16_length};
pub use error_code::ErrorCode;
pub use ids::{BucketName, ConnectionId, QueryName, SubscriptionId};
pub use issue::{Issue, join_issues};
pub use number::Number;
pub use operation::{Operation, Order, Part, Tier, Touches, known_operations, tier_of_absent, unknown_operation};
pub use record::{FieldName, FieldValue, Record, RecordBuilder};
pub use request::{Fields, Request};
