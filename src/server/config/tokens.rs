//! Static tokens and permission rules as the file has them.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::check::{Refusal, kind_of};
use super::names::nearest;
use super::{PermissionRule, Secret, StaticToken};
use crate::server::access::TokenDigest;

/// The members of what a token stands for.
const MEMBERS: [&str; 4] = ["userId", "roles", "metadata", "expiresAt"];
/// The members of a permission rule.
const RULE_MEMBERS: [&str; 6] = ["role", "allow", "buckets", "topics", "where", "fields"];

/// Reads `{ "token": { userId, roles?, metadata?, expiresAt? } }`. Tokens are secrets: what is wrong with one is said of
/// its place among them, `[0]` for the first.
pub(super) fn checked_tokens(value: &Value) -> Result<Vec<StaticToken>, Vec<Refusal>> {
    let Some(written) = value.as_object() else {
        return Err(vec![Refusal::hidden("", "an object of users by token", value)]);
    };
    let (mut tokens, mut refusals) = (Vec::new(), Vec::new());
    for (at, (token, stands_for)) in written.iter().enumerate() {
        match checked_token(token, stands_for) {
            Ok(token) => tokens.push(token),
            Err(of_token) => refusals.extend(of_token.into_iter().map(|refusal| refusal.under(&format!("[{at}]")))),
        }
    }
    if refusals.is_empty() { Ok(tokens) } else { Err(refusals) }
}

fn checked_token(token: &str, value: &Value) -> Result<StaticToken, Vec<Refusal>> {
    let Some(members) = value.as_object() else {
        return Err(vec![Refusal::hidden("", "an object", value)]);
    };
    let mut reading = Reading {
        members,
        refusals: unknown_members(members),
    };
    let read = StaticToken {
        token: Secret::from(token),
        user_id: reading.user(),
        roles: reading.roles(),
        metadata: reading.metadata(),
        expires_at: reading.end(),
    };
    reading.refusals.extend(token_refusals(&read));
    if reading.refusals.is_empty() {
        Ok(read)
    } else {
        Err(reading.refusals)
    }
}

fn unknown_members(members: &Map<String, Value>) -> Vec<Refusal> {
    let unknown = members.keys().filter(|name| !MEMBERS.contains(&name.as_str()));
    unknown.map(|name| unknown_member(name, &MEMBERS)).collect()
}

fn unknown_member(name: &str, known: &[&str]) -> Refusal {
    let message = match nearest(name, known) {
        Some(meant) => format!("unknown key; did you mean {meant:?}?"),
        None => "unknown key".to_owned(),
    };
    Refusal {
        part: format!(".{name}"),
        message,
    }
}

/// The members of one token, and what is wrong with them.
struct Reading<'a> {
    members: &'a Map<String, Value>,
    refusals: Vec<Refusal>,
}

impl Reading<'_> {
    fn user(&mut self) -> String {
        match self.members.get("userId") {
            Some(Value::String(user)) => user.clone(),
            found => {
                let found = found.unwrap_or(&Value::Null);
                self.refusals.push(Refusal::expected(".userId", "the name of a user", found));
                // What stands for it is not looked at.
                "-".to_owned()
            }
        }
    }

    fn roles(&mut self) -> Vec<String> {
        let Some(value) = self.members.get("roles") else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            self.refusals.push(Refusal::expected(".roles", "a list of roles", value));
            return Vec::new();
        };
        let wrong = items.iter().enumerate().filter(|(_, item)| !item.is_string());
        self.refusals
            .extend(wrong.map(|(at, item)| Refusal::expected(format!(".roles[{at}]"), "the name of a role", item)));
        items.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }

    fn metadata(&mut self) -> Map<String, Value> {
        match self.members.get("metadata") {
            None => Map::new(),
            Some(Value::Object(metadata)) => metadata.clone(),
            Some(other) => {
                self.refusals.push(Refusal::expected(".metadata", "an object", other));
                Map::new()
            }
        }
    }

    fn end(&mut self) -> Option<u64> {
        let value = self.members.get("expiresAt")?;
        let end = value.as_u64();
        if end.is_none() {
            let refusal = Refusal::expected(".expiresAt", "a time in milliseconds since 1970", value);
            self.refusals.push(refusal);
        }
        end
    }
}

/// What is wrong with a token, wherever it comes from.
pub(super) fn token_refusals(token: &StaticToken) -> Vec<Refusal> {
    let refusal = |part: &str, message: &str| Refusal {
        part: part.to_owned(),
        message: message.to_owned(),
    };
    let mut refusals = Vec::new();
    if token.token.expose().is_empty() {
        refusals.push(refusal("", "expected a token, found an empty text"));
    }
    if token.user_id.is_empty() {
        refusals.push(refusal(".userId", "expected the name of a user, found an empty text"));
    }
    refusals
}

/// What is wrong with the tokens of a program.
pub(super) fn tokens_refusals(tokens: &[StaticToken]) -> Vec<Refusal> {
    let of_each = tokens.iter().enumerate().flat_map(|(at, token)| {
        let of_token = token_refusals(token).into_iter();
        of_token.map(move |refusal| refusal.under(&format!("[{at}]")))
    });
    let mut known = BTreeSet::new();
    let mut is_known = |token: &StaticToken| !known.insert(TokenDigest::of(token.token.expose()));
    let twice: Vec<_> = tokens.iter().enumerate().filter(|(_, token)| is_known(token)).collect();
    let twice = twice.into_iter().map(|(at, _)| Refusal {
        part: format!("[{at}]"),
        message: "this token stands for somebody already".to_owned(),
    });
    of_each.chain(twice).collect()
}

/// Reads permission rules.
pub(super) fn checked_permissions(value: &Value) -> Result<Vec<PermissionRule>, Vec<Refusal>> {
    let items = value
        .as_array()
        .ok_or_else(|| vec![Refusal::hidden("", "a list of permission rules", value)])?;
    let (mut rules, mut refusals) = (Vec::new(), Vec::new());
    for (at, item) in items.iter().enumerate() {
        match PermissionRule::parse(item) {
            Ok(rule) => rules.push(rule),
            Err(faults) => refusals.extend(
                faults
                    .into_iter()
                    .map(|(member, message)| rule_refusal(item, &member, message).under(&format!("[{at}]"))),
            ),
        }
    }
    if refusals.is_empty() { Ok(rules) } else { Err(refusals) }
}

fn rule_refusal(rule: &Value, member: &str, message: String) -> Refusal {
    if rule.get(member).is_some() && !RULE_MEMBERS.contains(&member) {
        return unknown_member(member, &RULE_MEMBERS);
    }
    Refusal {
        part: if member.is_empty() { String::new() } else { format!(".{member}") },
        message: if rule.is_object() {
            message
        } else {
            format!("{message}, found {}", kind_of(rule))
        },
    }
}
