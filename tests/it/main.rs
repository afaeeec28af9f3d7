//! The tests of the whole: the store through its public handles.
//!
//! One binary, because linking is the slow part of an integration test.
#![expect(clippy::unwrap_used, reason = "a test that unwraps says where it failed")]

mod live_views;
mod model;
