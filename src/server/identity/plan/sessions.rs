//! Sessions: how they begin, how they go on, how they end.

use std::sync::Arc;

use serde_json::json;

use super::{Circumstances, Effect, Plan, end_sessions};
use crate::protocol::ErrorCode;
use crate::server::access::TokenDigest;
use crate::server::handlers::Failure;
use crate::server::identity::directory::Directory;
use crate::server::identity::names::{SUPERADMIN, VIRTUAL_SUPERADMIN};
use crate::server::identity::order::{NewSession, Proof};
use crate::server::identity::tables::{Table, members};
use crate::server::identity::tokens::write_digest;

/// The most sessions that are forgotten at a time.
const PURGED_AT_ONCE: usize = 1_000;
/// How long a session whose time is over is kept: who comes by it is told that it has expired.
const KEPT_MS: u64 = 60_000;

pub(super) fn open(
    directory: &Directory,
    by: &Arc<str>,
    session: &NewSession,
    proof: &Proof,
    circumstances: Circumstances<'_>,
) -> Result<Plan, Failure> {
    // What was found right may have changed while it was looked at.
    let user = directory.user(by).filter(|user| user.is_enabled && user.password == proof.hash);
    let user = user.ok_or_else(|| Failure::new(ErrorCode::Unauthorized, "Invalid credentials"))?;
    let mut plan = begin(directory, by, session, circumstances);
    let mut changes = members(json!({}));
    if let Some(hash) = &proof.rehashed {
        changes.insert("passwordHash".to_owned(), json!(hash.expose()));
    }
    if directory.holds_named(by, SUPERADMIN) && !user.has_proven_password {
        changes.insert("hasProvenPassword".to_owned(), json!(true));
    }
    if !changes.is_empty() {
        plan.step(Table::Users.update(&user.id, &changes));
    }
    Ok(plan)
}

pub(super) fn open_bootstrap(directory: &Directory, session: &NewSession, circumstances: Circumstances<'_>) -> Result<Plan, Failure> {
    if !circumstances.keeps_bootstrap_secret && !is_bootstrap_open(directory) {
        return Err(Failure::forbidden(
            "The admin secret counts for nothing any more: a superadmin has logged in with a password",
        ));
    }
    Ok(begin(directory, &VIRTUAL_SUPERADMIN.into(), session, circumstances))
}

/// Whether nobody who could do the same has logged in with a password yet.
fn is_bootstrap_open(directory: &Directory) -> bool {
    !directory.superadmins().any(|user| user.has_proven_password)
}

/// A session begins; those whose time is over make room, then the oldest.
fn begin(directory: &Directory, user: &Arc<str>, session: &NewSession, circumstances: Circumstances<'_>) -> Plan {
    let mut plan = Plan::default();
    let Circumstances { now, session_idle_ms, .. } = circumstances;
    let (over, live): (Vec<_>, Vec<_>) = directory
        .sessions_of(user)
        .into_iter()
        .partition(|session| session.has_expired(now, session_idle_ms));
    for session in over {
        plan.step(Table::Sessions.delete(&session.id));
    }
    let too_many = (live.len() + 1).saturating_sub(circumstances.max_sessions_per_user);
    for session in live.into_iter().take(too_many) {
        plan.step(Table::Sessions.delete(&session.id));
        plan.changes_rights = true;
        plan.effects.push(Effect::RecheckToken(Arc::clone(user), session.token));
    }
    plan.step(Table::Sessions.insert(&members(json!({
        "id": &*session.id,
        "userId": &**user,
        "tokenHash": write_digest(&session.token),
        "loggedInAt": now,
        "expiresAt": now.saturating_add(circumstances.session_ttl_ms),
        "ip": session.address,
    }))));
    plan
}

pub(super) fn rotate(
    directory: &Directory,
    by: &Arc<str>,
    session: &Arc<str>,
    old: TokenDigest,
    new: TokenDigest,
    circumstances: Circumstances<'_>,
) -> Result<Plan, Failure> {
    require_held(directory, by, session, old, circumstances)?;
    if &**by != VIRTUAL_SUPERADMIN && !directory.user(by).is_some_and(|user| user.is_enabled) {
        return Err(Failure::new(ErrorCode::Unauthorized, "User not found or disabled"));
    }
    let mut plan = Plan::default();
    plan.step(Table::Sessions.update(session, &members(json!({ "tokenHash": write_digest(&new) }))));
    plan.former_token = Some((Arc::clone(session), old));
    plan.changes_rights = true;
    Ok(plan)
}

/// Whether a session of a user goes on, and is still known by a token.
///
/// # Errors
/// Where it is not.
pub(super) fn require_held(
    directory: &Directory,
    user: &str,
    session: &str,
    token: TokenDigest,
    circumstances: Circumstances<'_>,
) -> Result<(), Failure> {
    let is_held = directory.session(session).is_some_and(|stored| {
        *stored.user == *user && stored.token == token && !stored.has_expired(circumstances.now, circumstances.session_idle_ms)
    });
    if is_held {
        Ok(())
    } else {
        Err(Failure::new(ErrorCode::Unauthorized, "Invalid or expired session"))
    }
}

pub(super) fn close(directory: &Directory, session: &str) -> Plan {
    let mut plan = Plan::default();
    if let Some(session) = directory.session(session) {
        plan.step(Table::Sessions.delete(&session.id));
        plan.effects.push(Effect::RecheckToken(Arc::clone(&session.user), session.token));
        plan.changes_rights = true;
    }
    plan
}

pub(super) fn close_all(directory: &Directory, user: &Arc<str>) -> Plan {
    let mut plan = Plan::default();
    end_sessions(directory, user, &mut plan);
    plan.revoke(user, None);
    plan
}

pub(super) fn purge(directory: &Directory, circumstances: Circumstances<'_>) -> Plan {
    let mut plan = Plan::default();
    let long_ago = circumstances.now.saturating_sub(KEPT_MS);
    let over = directory
        .sessions()
        .filter(|session| session.has_expired(long_ago, circumstances.session_idle_ms));
    for session in over.take(PURGED_AT_ONCE) {
        plan.step(Table::Sessions.delete(&session.id));
    }
    plan
}
