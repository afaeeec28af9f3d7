//! Who may do what.
//!
//! An [`Authority`] knows who a token belongs to and what somebody may do: there is one for servers that ask nobody
//! ([`Open`]), one for tokens that others have issued, and one for users of our own.
//! Each connection holds an [`Access`]: who is logged in on it, and the [`Rights`] that follow from that. Rights are
//! worked out when they may have changed, which one number tells, and asked before everything that is done.
//!
//! Rights are asked about a [`Target`]: what a request really touches, read from the one field that its operation uses.

mod asking;
mod authority;
mod connection;
#[cfg(test)]
mod connection_tests;
mod deadlines;
mod open;
mod permissions;
mod presence;
mod principal;
mod rights;
mod secret;
mod target;
pub(crate) mod tokens;

pub use self::permissions::{DefaultPermission, PermissionCheck, PermissionRule, PermissionsConfig};
pub use self::principal::Principal;
pub use self::secret::Secret;
pub use self::tokens::KeyFault;

pub(crate) use self::asking::Allowed;
pub(crate) use self::authority::{Authority, Standing, Work};
pub(crate) use self::connection::{Access, Change, Followed, Judgement};
pub(crate) use self::deadlines::Deadlines;
pub(crate) use self::open::Open;
#[cfg(test)]
pub(crate) use self::permissions::Permissions;
pub(crate) use self::permissions::{Allowance, Grant, Leftover, best};
pub(crate) use self::presence::{Place, Presence};
pub(crate) use self::principal::{Login, TokenDigest};
pub(crate) use self::rights::{Asked, Rights, Scope};
#[cfg(test)]
pub(crate) use self::target::STEPS;
pub(crate) use self::target::{Judged, Target, query_target};
pub(crate) use self::tokens::{Revocations, TokenAuthority, check_keys};
