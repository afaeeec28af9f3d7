//! Users, roles, rights and sessions of our own.
//!
//! They are kept in guarded buckets of the store ([`tables`]), and in memory as one immutable value, the
//! [`Directory`], which every question is answered from. All that changes is an
//! [`Order`]: the one task in [`keeper`] has it planned ([`plan`], which is pure), commits the plan as one
//! transaction, and lets the directory follow before the answer goes out.
//!
//! What a password is worth is found out before, in [`passwords`], and how often somebody may try, by [`limiter`].

mod authority;
mod bootstrap;
mod directory;
mod keeper;
mod limiter;
mod logins;
mod names;
mod order;
mod passwords;
mod plan;
mod rights;
mod seed;
mod tables;
mod tokens;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub(crate) use self::authority::IdentityAuthority;
pub(crate) use self::directory::{Directory, PERMISSIONS_MAX, Resource, ResourceKind, Role, Subject, User, parse_right};
pub(crate) use self::keeper::Carried;
pub(crate) use self::logins::{Arrival, Issued};
pub(crate) use self::names::{ADMIN, SUPERADMIN, VIRTUAL_SUPERADMIN, check_user_name, no_such_user};
pub(crate) use self::order::{AclAddress, Change, NewRole, NewUser, Order, Profile, Setting};
pub(crate) use self::passwords::{check_length, check_new};
pub(crate) use self::plan::{Caller, may_manage};
pub(crate) use self::tokens::{new_id, new_incarnation};

use self::keeper::{Clock, Placed, Shared};
use self::limiter::LoginLimiter;
use self::passwords::Passwords;
use super::StartError;
use super::access::Presence;
use super::config::AuthConfig;
use super::handlers::Failure;
use crate::protocol::ErrorCode;
use crate::store::Store;

/// How many changes may wait to be carried out.
const ORDERS_MAX: usize = 1_024;

/// Users, roles, rights and sessions of our own. When it is dropped, its task ends.
pub(crate) struct Identity {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Placed>,
    passwords: Passwords,
    limiter: LoginLimiter,
}

/// Makes the buckets and roles that must be there, reads what is stored, and starts. None where the configuration knows
/// no users of our own.
///
/// # Errors
/// Where the store cannot be used, or nobody could ever log in.
pub(crate) async fn start(config: &AuthConfig, store: &Store, presence: &Arc<Presence>) -> Result<Option<IdentityAuthority>, StartError> {
    let clock: Clock = Arc::new(super::wall_clock_ms);
    let Some(identity) = Identity::start(config, store, presence, clock).await? else {
        return Ok(None);
    };
    Ok(Some(IdentityAuthority::new(identity)))
}

impl Identity {
    async fn start(config: &AuthConfig, store: &Store, presence: &Arc<Presence>, clock: Clock) -> Result<Option<Arc<Self>>, StartError> {
        let Some(built_in) = &config.built_in else { return Ok(None) };
        bootstrap::define_tables(store).await?;
        bootstrap::put_under_their_keys(store).await?;
        let directory = bootstrap::load(store, clock())?;
        if built_in.admin_secret.is_none() && !directory.superadmins().any(|user| passwords::is_sound(&user.password)) {
            return Err(StartError::NobodyCanLogIn);
        }
        let shared = Arc::new(Shared::new(directory, store.clone(), Arc::clone(presence), built_in.clone(), clock));
        bootstrap::seed(&shared).await?;
        bootstrap::remove_leftovers(&shared).await?;
        let passwords = Passwords::new(built_in.argon2).map_err(|failure| bootstrap::internal(&failure))?;
        let (orders, placed) = mpsc::channel(ORDERS_MAX);
        tokio::spawn(keeper::keep(Arc::clone(&shared), placed));
        Ok(Some(Arc::new(Self {
            shared,
            orders,
            passwords,
            limiter: LoginLimiter::new(built_in.login_rate_limit),
        })))
    }

    /// All that is known now.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.shared.directory.load_full()
    }

    /// Has a change made. When it is done, it is durable and in force.
    ///
    /// # Errors
    /// What whoever wants it is told.
    pub(crate) async fn carry_out(&self, order: Order) -> Result<Carried, Failure> {
        let (reply, outcome) = oneshot::channel();
        match self.orders.try_send(Placed { order, reply }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return Err(Failure::new(
                    ErrorCode::Backpressure,
                    "Too many changes of users and rights are waiting",
                ));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(Failure::internal()),
        }
        outcome.await.unwrap_or_else(|_| Err(Failure::internal()))
    }

    /// Whether a change would be made as things are, before anything is done for it that takes time.
    ///
    /// # Errors
    /// What whoever wants it is told.
    pub(crate) fn check(&self, order: &Order) -> Result<(), Failure> {
        self.shared.plan(order).map(drop)
    }

    /// The least number of characters of a password.
    pub(crate) fn password_min_length(&self) -> usize {
        self.shared.config.password_min_length
    }

    fn idle_ms(&self) -> u64 {
        super::millis(self.shared.config.session_idle)
    }
}
