//! The HTTP side of the listener: it upgrades to WebSocket, and tells everybody else at once that there is nothing
//! else here.

mod handshake;
mod upgrade;

pub(crate) use handshake::{Doorkeepers, shake_hands};
pub(crate) use upgrade::Endpoint;
