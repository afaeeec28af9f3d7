//! The authority of a server without authentication.

use std::net::IpAddr;
use std::sync::Arc;

use super::authority::{Authority, Standing, Work};
use super::principal::{Login, Principal};
use super::rights::{Asked, Rights, Scope};
use super::secret::Secret;
use super::target::Target;
use crate::protocol::Part;
use crate::server::handlers::Failure;

/// Nobody is asked, and everybody may do everything.
pub(crate) struct Open;

impl Authority for Open {
    fn is_on(&self) -> bool {
        false
    }

    fn requires_login(&self) -> bool {
        false
    }

    fn version(&self) -> u64 {
        0
    }

    fn rights(&self, _: Option<&Arc<Principal>>) -> Arc<dyn Rights> {
        Arc::new(Everything)
    }

    fn standing(&self, _: &Login, _: u64, _: bool) -> Standing {
        Standing::Ended
    }

    fn deadline(&self, _: &Login) -> Option<u64> {
        None
    }

    fn log_in(&self, _: Secret, _: IpAddr) -> Work<Result<Login, Failure>> {
        Box::pin(async { Err(Failure::absent(Part::Auth)) })
    }

    fn log_out(&self, _: &Login) -> Work<Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}

/// The rights of those who may do everything.
pub(crate) struct Everything;

impl Rights for Everything {
    fn judge(&self, _: Asked<'_>, _: &Target<'_>) -> Result<Scope, String> {
        Ok(Scope::Everything)
    }

    fn judge_transaction(&self, _: bool) -> Result<(), String> {
        Ok(())
    }
}
