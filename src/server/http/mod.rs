//! The HTTP side of the listener: it upgrades to WebSocket, makes tokens, and tells everybody else at once that there is
//! nothing else here.
//!
//! An upgrade may bring a token along, which is looked at before the upgrade is answered. Tokens may stand in the query
//! of a request: nothing here writes a request's target anywhere.

mod credentials;
mod handshake;
mod minting;
mod upgrade;

pub(crate) use handshake::{Doorkeepers, Exchange, shake_hands};
pub(crate) use upgrade::Endpoint;
