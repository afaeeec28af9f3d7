//! The store: buckets, queries, transactions, durable. Knows no socket, envelope or session.

mod command;
mod error;
pub mod query;
pub mod state;

pub use command::{Action, Command, Operation, Outcome, Step};
pub use error::StoreError;
