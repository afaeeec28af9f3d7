//! The tests of the whole: the store through its public handles, and the built server over real sockets and files.
//!
//! One binary, because linking is the slow part of an integration test.
#![expect(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

mod support;

mod audit;
mod cli;
mod conformance;
mod durability;
mod embedding;
mod every_operation;
mod guarded_views;
mod guards;
mod http;
mod identity_kills;
mod live_queries;
mod live_views;
mod model;
mod permission_check;
mod readme;
mod reload;
mod resuming;
mod row_rules;
mod shutdown;
mod tidy;
mod tokens;
mod vectors;
