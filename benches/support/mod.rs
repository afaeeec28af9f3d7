//! What the programs that press a whole server have in common: the built server as a process, a client, and what a
//! client makes of the pushes it gets.

pub mod connection;
pub mod dice;
pub mod follow;
pub mod message;
pub mod server;
pub mod view;
