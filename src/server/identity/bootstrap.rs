//! The start: the guarded buckets and the roles that must be there are made, what is stored is read, and what a crash
//! has left over is removed.

use std::collections::HashSet;

use serde_json::Value;

use super::directory::Directory;
use super::keeper::{Shared, incarnation_of};
use super::plan::{Plan, left_over, role_record};
use super::seed::system_roles;
use super::tables::Table;
use super::tokens;
use crate::server::StartError;
use crate::server::handlers::Failure;
use crate::store::query::Filter;
use crate::store::{Action, Operation, Step, Store, StoreError};

/// Defines the buckets that are not there.
///
/// # Errors
/// Where the store does not allow it.
pub(super) async fn define_tables(store: &Store) -> Result<(), StartError> {
    for table in Table::ALL {
        if store.snapshot().bucket(table.name()).is_ok() {
            continue;
        }
        let defined = match table.definition() {
            Ok(definition) => store.define_bucket(table.name(), definition).await,
            Err(error) => Err(error),
        };
        defined.map_err(|error| stored(table, error))?;
    }
    Ok(())
}

/// The most records that are changed at a time.
const CHANGED_AT_ONCE: usize = 1_000;

/// What is unique by its key is found, and removed, by it. Records that somebody else has put into the store are put under
/// the keys that they would have; of several that say who may what on the same, the first one counts.
///
/// # Errors
/// Where the store does not allow it.
pub(super) async fn put_under_their_keys(store: &Store) -> Result<(), StartError> {
    for table in Table::ALL {
        let mut moves = moves(store, table).map_err(|error| stored(table, error))?;
        while !moves.is_empty() {
            let rest = moves.split_off(moves.len().min(CHANGED_AT_ONCE));
            let steps = moves.into_iter().flatten().collect();
            let moved = store.run(Operation::Transaction { steps }).await;
            moved.map_err(|error| stored(table, error))?;
            moves = rest;
        }
    }
    Ok(())
}

/// What has to be done for each record that is under another key than its own.
fn moves(store: &Store, table: Table) -> Result<Vec<Vec<Step>>, StoreError> {
    let mut moves = Vec::new();
    let mut taken = HashSet::new();
    let bucket = store.bucket(table.name());
    for record in bucket.select(&Filter::everything())? {
        let Ok(Value::Object(mut members)) = record.parse() else { continue };
        let (Some(key), Some(own)) = (
            members.get("id").and_then(Value::as_str).map(str::to_owned),
            table.own_key(&members),
        ) else {
            continue;
        };
        if key == own {
            continue;
        }
        let mut steps = vec![table.delete(&key)];
        if bucket.get(own.as_str())?.is_none() && taken.insert(own.clone()) {
            members.retain(|name, _| !name.starts_with('_'));
            members.insert("id".to_owned(), Value::String(own));
            steps.push(table.insert(&members));
        }
        moves.push(steps);
    }
    Ok(moves)
}

/// Reads all that is stored.
///
/// # Errors
/// Where one of the buckets is not there.
pub(super) fn load(store: &Store, now: u64) -> Result<Directory, StartError> {
    let mut directory = Directory::default();
    for table in Table::ALL {
        let records = store.bucket(table.name()).select(&Filter::everything());
        for record in records.map_err(|error| stored(table, error))? {
            if let Err(error) = directory.put(table, &record, now) {
                tracing::error!(
                    bucket = table.name(),
                    problem = error.0,
                    "a stored record makes no sense and counts for nothing"
                );
            }
        }
    }
    Ok(directory)
}

/// Makes the roles of the system that are not there.
///
/// # Errors
/// Where they cannot be stored.
pub(super) async fn seed(shared: &Shared) -> Result<(), StartError> {
    let directory = shared.directory.load_full();
    let mut plan = Plan::default();
    for (name, description, permissions) in system_roles() {
        if directory.role_named(name).is_none() {
            let id = tokens::new_id().map_err(|failure| internal(&failure))?;
            let permissions = permissions.as_array().cloned().unwrap_or_default();
            plan.steps
                .push(Table::Roles.insert(&role_record(&id, name, Some(description), true, &permissions)));
        }
    }
    plan.changes_rights = true;
    shared.perform(plan).await.map(drop).map_err(|failure| internal(&failure))
}

/// Rights outlive their bucket where a crash comes between its removal and theirs, or where it is removed while nobody
/// looks after them. They must not hold for another bucket of that name, also where that is there by now. Rights that were
/// granted beforehand, on what was never there, stay.
///
/// # Errors
/// Where they cannot be removed.
pub(super) async fn remove_leftovers(shared: &Shared) -> Result<(), StartError> {
    let incarnation_of = |resource: &_| incarnation_of(&shared.store, resource);
    let mut steps = left_over(&shared.directory.load(), &incarnation_of);
    for step in &steps {
        if let Action::Delete { key, .. } = &step.action {
            tracing::warn!(bucket = %step.bucket, %key, "a right was left over on what is not there any more; it is removed");
        }
    }
    while !steps.is_empty() {
        let rest = steps.split_off(steps.len().min(CHANGED_AT_ONCE));
        let plan = Plan {
            steps,
            changes_rights: true,
            ..Plan::default()
        };
        shared.perform(plan).await.map_err(|failure| internal(&failure))?;
        steps = rest;
    }
    Ok(())
}

fn stored(table: Table, error: StoreError) -> StartError {
    tracing::error!(bucket = table.name(), %error, "a bucket of users and rights cannot be used");
    StartError::Storage(error.into())
}

pub(super) fn internal(failure: &Failure) -> StartError {
    StartError::Internal(failure.message().to_owned().into())
}
