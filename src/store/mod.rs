//! The store: schema-validated buckets, live queries and transactions, kept on disk.
//!
//! It works without a server. It knows no socket, envelope or session.
//!
//! ```
//! use noex_server::store::{BucketDefinition, FieldSpec, Store};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Debug, PartialEq, Serialize, Deserialize)]
//! struct User { id: String, name: String }
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::builder().in_memory().open().await?;
//! let definition = BucketDefinition::builder("id")
//!     .field("id", FieldSpec::string())
//!     .field("name", FieldSpec::string().required())
//!     .build()?;
//! store.define_bucket("users", definition).await?;
//!
//! let users = store.bucket("users");
//! users.insert(&User { id: "ada".into(), name: "Ada".into() }).await?;
//! let ada: User = users.get("ada")?.ok_or("no such user")?.parse()?;
//! assert_eq!(ada.name, "Ada");
//! # store.close().await?;
//! # Ok(())
//! # }
//! ```

mod builder;
mod closure;
mod command;
mod commit_group;
mod disk;
pub mod durability;
mod error;
mod events;
#[cfg(test)]
mod fault_tests;
mod feeds;
mod fingerprint;
mod guard;
#[cfg(test)]
mod guard_tests;
mod handle;
mod history;
mod inbox;
pub(crate) mod long_work;
pub mod query;
#[cfg(test)]
mod restart_tests;
mod shared;
pub mod state;
mod stats;
mod store_actor;
mod subscription;
mod transaction;
mod views;
mod visible;

pub use builder::{Clock, OpenError, StoreBuilder, StoreLimits};
pub use closure::{BucketView, ClosureQuery, QueryContext};
pub use command::{Action, Command, CommandLimits, Operation, Outcome, Step};
pub use error::StoreError;
pub use events::{Event, EventKind, Events, Heard, topic_matches};
pub use feeds::ChangeSet;
pub use guard::Guard;
pub use handle::{BucketHandle, Commit, Snapshot, Store};
pub use history::HistoryLimits;
pub use state::{BucketDefinition, FieldSpec, RequestKey, RequestLimits, Timestamp};
pub use stats::{MaintenanceStats, PartialStats, Seen, StoreStats, ViewStats};
pub use subscription::{Followed, Following, LiveQuery, SubscribeOptions, Subscribed, Subscribing, Subscription, WatchError};
pub use transaction::Transaction;
pub use views::{Delta, EndReason, Sink, Update, ViewResult};
