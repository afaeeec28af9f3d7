//! Permissions: what roles allow.
//!
//! A [`Grant`] says what is allowed, where, and with how much of it. For somebody who is logged in it becomes an
//! [`Allowance`], in which the session's own values stand. The rules of the configuration are grants to roles
//! ([`Permissions`]); so are the permissions that roles of our own users hold.

mod grant;
mod leftovers;
mod pattern;
mod places;
mod policy;
mod slips;
mod template;

#[cfg(test)]
pub(crate) use self::policy::rule;
pub use self::policy::{DefaultPermission, PermissionCheck, PermissionRule, Permissions, PermissionsConfig};

pub(crate) use self::grant::{Allowance, Grant, best};
pub(crate) use self::leftovers::Leftover;
