//! What the tests share: the server as a process, a client, and the matchers of the protocol vectors.

mod client;
pub mod matcher;
mod recorder;
mod server;

pub use client::{Ended, OpenError, TestClient};
pub use recorder::{Recorder, told};
pub use server::{Site, TestServer};
