//! What decides who somebody is and what they may do.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::principal::{Login, Principal};
use super::rights::Rights;
use super::secret::Secret;
use super::tokens::mint::Signer;
use crate::server::handlers::Failure;
use crate::server::identity::Identity;

/// Something that is on its way.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a login stands.
#[derive(Clone, Debug)]
pub(crate) enum Standing {
    /// It holds; the principal as it is by now.
    Holds(Arc<Principal>),
    /// Its time is over.
    Expired,
    /// It was ended: by a logout elsewhere, or by whoever may.
    Ended,
}

/// What decides who somebody is and what they may do.
///
/// Everything but logging in and out is asked often, must not block, and answers from memory.
pub(crate) trait Authority: Send + Sync + 'static {
    /// Whether logins are known at all. Where not, everybody may do everything.
    fn is_on(&self) -> bool {
        true
    }

    /// Whether nothing but logging in can be done without a login.
    fn requires_login(&self) -> bool;

    /// Rises whenever anybody's rights, or the standing of anybody's login, may have changed otherwise than by time.
    fn version(&self) -> u64;

    /// What somebody may do; `None` is whoever is not logged in.
    fn rights(&self, principal: Option<&Arc<Principal>>) -> Arc<dyn Rights>;

    /// How a login stands. `used` tells whether it is asked because of a request, which keeps idle sessions alive.
    fn standing(&self, login: &Login, now_ms: u64, used: bool) -> Standing;

    /// When a login has to be looked at again, in milliseconds since 1970, because its time may be over then.
    fn deadline(&self, login: &Login) -> Option<u64>;

    /// Logs in with a token. The failure is what the client is told.
    fn log_in(&self, token: Secret, address: IpAddr) -> Work<Result<Login, Failure>>;

    /// Users and roles of our own, where that is what it knows.
    fn identity(&self) -> Option<&Arc<Identity>> {
        None
    }

    /// Ends what a login stands on, where that is ours to end: a stored session. When it is done, it is durable.
    fn log_out(&self, login: &Login) -> Work<Result<(), Failure>>;

    /// What tokens can be made with that this authority will take; none where it makes none.
    fn signer(&self) -> Option<Arc<Signer>> {
        None
    }
}
