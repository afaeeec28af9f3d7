//! `auth.*`: logging in by token, and out.

use serde_json::{Value, json};

use super::answer::{Completion, Effect, Handled};
use super::failure::Failure;
use super::{Call, fields};
use crate::protocol::json::to_vec;
use crate::protocol::{ErrorCode, Number, Part, message};
use crate::server::access::{Login, Principal, Secret};

/// `auth.login`.
pub(super) fn login(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let (token, id) = (token(call)?, call.id);
    let working = call.access.authority().log_in(token, call.access.address());
    Ok(Handled::Alone(Box::pin(async move {
        match working.await {
            Ok(login) => Completion::with(id, Ok(described(id, &login)), Effect::LoggedIn(login)),
            Err(failure) => Completion::with(id, Err(failure.clone()), after_refusal(&failure)),
        }
    })))
}

/// A login that fails leaves the session as it was, unless the user was revoked.
fn after_refusal(failure: &Failure) -> Effect {
    if failure.code() == ErrorCode::SessionRevoked {
        Effect::LoggedOut
    } else {
        Effect::Nothing
    }
}

/// `auth.refresh`: another token of the same user takes the place of the one that the connection came by.
pub(super) fn refresh(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let (token, id) = (token(call)?, call.id);
    let user = call.access.principal().ok_or_else(Failure::unauthenticated)?.user_id.clone();
    let working = call.access.authority().log_in(token, call.access.address());
    Ok(Handled::Alone(Box::pin(async move {
        match working.await {
            Ok(login) if login.principal.user_id == user => Completion::with(id, Ok(described(id, &login)), Effect::LoggedIn(login)),
            Ok(_) => Completion::new(id, Err(Failure::forbidden("The token belongs to another user"))),
            Err(failure) => Completion::new(id, Err(failure)),
        }
    })))
}

/// `auth.logout`: succeeds also where nobody is logged in.
pub(super) fn logout(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    require_auth(call)?;
    let id = call.id;
    let answer = json!({ "loggedOut": true });
    let ending = call.access.login().map(|login| call.access.authority().log_out(login));
    Ok(Handled::Alone(Box::pin(async move {
        let ended = match ending {
            Some(ending) => ending.await,
            None => Ok(()),
        };
        let outcome = ended.map(|()| encoded(id, &answer));
        Completion::with(id, outcome, Effect::LoggedOut)
    })))
}

/// `auth.whoami`.
pub(super) fn whoami(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    require_auth(call)?;
    match call.access.principal() {
        None => call.json(&json!({ "authenticated": false })),
        Some(principal) => call.json(&who(principal)),
    }
}

/// Who is logged in, as they are told.
pub(super) fn who(principal: &Principal) -> Value {
    json!({
        "authenticated": true,
        "userId": principal.user_id,
        "roles": principal.roles,
        "expiresAt": principal.expires_at,
    })
}

fn token(call: &Call<'_, '_>) -> Result<Secret, Failure> {
    require_auth(call)?;
    fields::text(call.fields, "token").map(|token| Secret::from(token.into_owned()))
}

fn require_auth(call: &Call<'_, '_>) -> Result<(), Failure> {
    if call.access.authority().is_on() {
        Ok(())
    } else {
        Err(Failure::absent(Part::Auth))
    }
}

fn described(id: Number, login: &Login) -> Vec<u8> {
    let principal = &login.principal;
    encoded(
        id,
        &json!({ "userId": principal.user_id, "roles": principal.roles, "expiresAt": principal.expires_at }),
    )
}

/// A result of any shape.
pub(super) fn encoded(id: Number, data: &Value) -> Vec<u8> {
    let json = to_vec(data);
    message::result_with(id, json.len(), |out| out.extend_from_slice(&json))
}
