//! A reactive data store served over WebSocket.

pub mod cli;
pub mod protocol;
pub mod server;
pub mod store;
