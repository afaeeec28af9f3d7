//! Logging in by name and password, and out.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Asking;
use super::input;
use crate::protocol::Number;
use crate::server::handlers::answer::{Completion, Effect, Handled};
use crate::server::handlers::auth::{self, encoded};
use crate::server::handlers::failure::Failure;
use crate::server::identity::{Issued, VIRTUAL_SUPERADMIN, check_length};

/// `identity.login`.
pub(in crate::server::handlers) fn login(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let name = input::text(asking.call.fields, "username")?;
    let password = input::secret(asking.call.fields, "password")?;
    check_length(password.expose())?;
    let (identity, id, arrival) = (Arc::clone(asking.identity), asking.call.id, asking.arrival());
    Ok(Handled::Alone(Box::pin(async move {
        logged_in(id, identity.log_in(&name, password, arrival).await)
    })))
}

/// `identity.loginWithSecret`.
pub(in crate::server::handlers) fn login_with_secret(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let secret = input::secret(asking.call.fields, "secret")?;
    let (identity, id, arrival) = (Arc::clone(asking.identity), asking.call.id, asking.arrival());
    Ok(Handled::Alone(Box::pin(async move {
        logged_in(id, identity.log_in_with_secret(secret, arrival).await)
    })))
}

/// `identity.refreshSession`.
pub(in crate::server::handlers) fn refresh_session(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let login = asking.login()?.clone();
    let (identity, id, arrival) = (Arc::clone(asking.identity), asking.call.id, asking.arrival());
    Ok(Handled::Alone(Box::pin(async move {
        logged_in(id, identity.rotate(&login, arrival).await)
    })))
}

/// `identity.logout`.
pub(in crate::server::handlers) fn logout(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.login()?;
    auth::logout(asking.call)
}

/// `identity.whoami`.
pub(in crate::server::handlers) fn whoami(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.call.json(&auth::who(&asking.login()?.principal))
}

fn logged_in(id: Number, outcome: Result<Issued, Failure>) -> Completion {
    match outcome {
        Ok(issued) => Completion::with(id, Ok(encoded(id, &described(&issued))), Effect::LoggedIn(issued.login)),
        Err(failure) => Completion::new(id, Err(failure)),
    }
}

fn described(issued: &Issued) -> Value {
    let principal = &issued.login.principal;
    let mut user = json!({ "id": principal.user_id });
    match issued.directory.user(&principal.user_id) {
        Some(stored) => {
            user["username"] = json!(stored.name);
            if let Some(display_name) = &stored.display_name {
                user["displayName"] = json!(display_name);
            }
        }
        None => user["username"] = json!(VIRTUAL_SUPERADMIN),
    }
    user["roles"] = json!(principal.roles);
    json!({ "token": issued.token.expose(), "expiresAt": issued.expires_at, "user": user })
}
