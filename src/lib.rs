//! A reactive data store served over WebSocket.

pub mod protocol;
pub mod store;
