//! The one function that changes the state.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use super::bucket::{BucketId, RowId};
use super::catalog::{QueryKind, State};
use super::definition::BucketDefinition;
use super::draft::{CommitEnd, Draft, Effects};
use super::guarded::{as_told, narrowed, run_step};
use super::requests;
use super::write::{Scope, check_named};
use crate::protocol::{BucketName, Datum, Issue, QueryName, Record};
use crate::store::StoreError;
use crate::store::command::{Command, Operation, Outcome};
use crate::store::guard::Guard;
use crate::store::query::{Filter, Reader};

/// Applies one command: all of it or, with an error, none. The same commands give the same state. A command whose
/// request was answered before gets that answer.
///
/// # Errors
/// What the operation runs into: see [`StoreError`].
pub fn apply(state: &mut State, command: &Command, effects: &mut Effects) -> Result<Outcome, StoreError> {
    state.advance_to(command.now);
    let (before, requests) = (state.seq(), effects.requests.len());
    let outcome = requests::once(state, command, effects, |state, effects| carry_out(state, command, effects));
    if state.seq() == before && effects.requests.len() != requests {
        // Whatever goes to disk moves the order on: with it the clock may have, and records may have ended.
        state.commit();
    }
    if state.seq() != before {
        effects.commits.push(CommitEnd {
            seq: state.seq(),
            now: state.now(),
            changes: effects.changes.len(),
        });
    }
    outcome
}

fn carry_out(state: &mut State, command: &Command, effects: &mut Effects) -> Result<Outcome, StoreError> {
    match &command.operation {
        Operation::DefineBucket { name, definition } => define_bucket(state, name, definition, effects),
        Operation::UpdateBucket { name, updates } => update_bucket(state, name, updates, effects),
        Operation::DropBucket { name } => drop_bucket(state, name, command, effects),
        Operation::DefineQuery { name, definition } => define_query(state, name, QueryKind::Declarative(Arc::clone(definition)), effects),
        Operation::DefineClosure { name, closure } => define_query(state, name, QueryKind::Programmatic(closure.clone()), effects),
        Operation::UndefineQuery { name } => undefine_query(state, name, effects),
        Operation::Clear { bucket } if !is_referred_to(state, bucket) => empty_bucket(state, bucket, effects),
        Operation::Insert { .. }
        | Operation::InsertMany { .. }
        | Operation::Update { .. }
        | Operation::Upsert { .. }
        | Operation::Delete { .. }
        | Operation::UpdateMany { .. }
        | Operation::DeleteMany { .. }
        | Operation::Clear { .. }
        | Operation::Guarded { .. }
        | Operation::Transaction { .. }
        | Operation::Expire => write_records(state, command, effects),
    }
}

/// Runs a command that changes records, checks the constraints on the state at its end, and keeps or undoes it.
fn write_records(state: &mut State, command: &Command, effects: &mut Effects) -> Result<Outcome, StoreError> {
    let mut draft = Draft::new(state, command);
    let outcome = run(&mut draft, &command.operation, None).and_then(|outcome| match settle(&mut draft) {
        Ok(()) => Ok(outcome),
        Err(error) => Err(as_told(error, &command.operation, draft.state)),
    });
    match outcome {
        Ok(outcome) => {
            let changes = draft.keep();
            if !changes.is_empty() {
                state.commit();
                effects.changes.extend(changes);
            }
            Ok(outcome)
        }
        Err(error) => {
            draft.rollback();
            Err(error)
        }
    }
}

/// Brings the state at the end of a command to what it has to satisfy.
fn settle(draft: &mut Draft<'_>) -> Result<(), StoreError> {
    draft.settle_references(0)?;
    // A record that is about to make room still holds its unique values: a clash pushes nobody out.
    draft.check_unique()?;
    evict(draft)
}

fn run(draft: &mut Draft<'_>, operation: &Operation, guard: Option<&Guard>) -> Result<Outcome, StoreError> {
    match operation {
        Operation::Insert { bucket, record } => draft.insert(bucket, record, Scope::Single, guard).map(stored),
        Operation::InsertMany { bucket, records } => insert_many(draft, bucket, records, guard),
        Operation::Update {
            bucket,
            key,
            changes,
            expect_version,
        } => draft.update(bucket, key, changes, *expect_version, guard).map(stored),
        Operation::Upsert {
            bucket,
            record,
            expect_version,
        } => draft.upsert(bucket, record, *expect_version, guard).map(stored),
        Operation::Delete {
            bucket,
            key,
            expect_version,
        } => draft.delete(bucket, key, *expect_version, guard).map(Outcome::Deleted),
        Operation::UpdateMany { bucket, filter, changes } => update_many(draft, bucket, filter, changes, guard),
        Operation::DeleteMany { bucket, filter } => delete_many(draft, bucket, filter, guard),
        Operation::Guarded { guard: inner, operation } if guard.is_none() => run(draft, operation, Some(inner)),
        // What is left concerns all records of a bucket, or more than one bucket.
        Operation::Guarded { .. }
        | Operation::Clear { .. }
        | Operation::Transaction { .. }
        | Operation::Expire
        | Operation::DefineBucket { .. }
        | Operation::UpdateBucket { .. }
        | Operation::DropBucket { .. }
        | Operation::DefineQuery { .. }
        | Operation::DefineClosure { .. }
        | Operation::UndefineQuery { .. }
            if guard.is_some() =>
        {
            Err(StoreError::NeedsAllRecords)
        }
        Operation::Clear { bucket } => delete_many(draft, bucket, &Filter::everything(), None).map(|_| Outcome::Done),
        Operation::Transaction { steps } => steps
            .iter()
            .map(|step| run_step(draft, step))
            .collect::<Result<_, _>>()
            .map(Outcome::Steps),
        Operation::Expire => Ok(expire(draft)),
        // Definitions never come here: `apply` has taken them.
        Operation::Guarded { .. }
        | Operation::DefineBucket { .. }
        | Operation::UpdateBucket { .. }
        | Operation::DropBucket { .. }
        | Operation::DefineQuery { .. }
        | Operation::DefineClosure { .. }
        | Operation::UndefineQuery { .. } => Ok(Outcome::Done),
    }
}

fn stored(record: Record) -> Outcome {
    Outcome::Record(Some(record))
}

fn insert_many(draft: &mut Draft<'_>, bucket: &BucketName, records: &[Record], guard: Option<&Guard>) -> Result<Outcome, StoreError> {
    draft.bucket(bucket)?;
    let insert = |(at, record)| {
        draft
            .insert(bucket, record, Scope::Single, guard)
            .map_err(|error| at_index(error, at))
    };
    records
        .iter()
        .enumerate()
        .map(insert)
        .collect::<Result<_, _>>()
        .map(Outcome::Records)
}

/// Says in which record of a list the issues are.
fn at_index(error: StoreError, at: usize) -> StoreError {
    let StoreError::InvalidRecord { bucket, issues } = error else {
        return error;
    };
    let in_list = |issue: Issue| Issue {
        field: format!("[{at}].{}", issue.field),
        ..issue
    };
    StoreError::InvalidRecord {
        bucket,
        issues: issues.into_iter().map(in_list).collect(),
    }
}

fn update_many(
    draft: &mut Draft<'_>,
    bucket: &BucketName,
    filter: &Filter,
    changes: &Record,
    guard: Option<&Guard>,
) -> Result<Outcome, StoreError> {
    check_named(guard, changes, draft.bucket(bucket)?.definition())?;
    let rows = matching(draft, bucket, filter, guard)?;
    for (row, record) in &rows {
        draft.update_row(bucket, *row, record, changes, guard)?;
    }
    Ok(Outcome::Count(rows.len()))
}

fn delete_many(draft: &mut Draft<'_>, bucket: &BucketName, filter: &Filter, guard: Option<&Guard>) -> Result<Outcome, StoreError> {
    let id = draft.bucket(bucket)?.id();
    let rows = matching(draft, bucket, filter, guard)?;
    let count = rows.len();
    for (row, record) in rows {
        draft.put(id, row, Some(record), None);
    }
    Ok(Outcome::Count(count))
}

fn matching(draft: &Draft<'_>, bucket: &BucketName, filter: &Filter, guard: Option<&Guard>) -> Result<Vec<(RowId, Record)>, StoreError> {
    let bucket = draft.bucket(bucket)?;
    let filter = narrowed(guard, filter, bucket.key_field())?;
    Ok(Reader::new(bucket, draft.now)
        .select_rows(&filter)
        .into_iter()
        .map(|(row, record)| (row, record.clone()))
        .collect())
}

/// Removes what has had its time. A record that something live still refers to stays where it is, unseen.
fn expire(draft: &mut Draft<'_>) -> Outcome {
    let due: Vec<_> = draft
        .state
        .buckets()
        .map(|(_, bucket)| (bucket.id(), bucket.expired_rows(draft.now)))
        .collect();
    let mut removed = 0;
    for (bucket, rows) in due {
        removed += rows
            .into_iter()
            .filter(|row| draft.try_remove(bucket, *row, &HashSet::new()))
            .count();
    }
    Outcome::Count(removed)
}

/// Rows that are looked at to make room in a full bucket. Behind so many that are still referred to, it is full.
const EVICTION_CANDIDATES_MAX: usize = 1_000;

/// Brings every bucket that grew back to its `maxSize`: the oldest go, but never the newest, none that is still
/// referred to, and none whose end would change what this command has written.
fn evict(draft: &mut Draft<'_>) -> Result<(), StoreError> {
    let mut grown: Vec<BucketId> = Vec::new();
    for change in draft.changes().iter().filter(|change| change.old.is_none()) {
        let capped = draft
            .state
            .bucket_by_id(change.bucket)
            .is_some_and(|content| content.definition().max_size().is_some());
        if capped && !grown.contains(&change.bucket) {
            grown.push(change.bucket);
        }
    }
    if grown.is_empty() {
        return Ok(());
    }
    let written: HashSet<_> = draft.changes().iter().map(|change| (change.bucket, change.row)).collect();
    grown.into_iter().try_for_each(|bucket| evict_from(draft, bucket, &written))
}

fn evict_from(draft: &mut Draft<'_>, bucket: BucketId, written: &HashSet<(BucketId, RowId)>) -> Result<(), StoreError> {
    let size = |draft: &Draft<'_>| draft.state.bucket_by_id(bucket).map_or(0, |content| content.row_count());
    let Some(max) = draft.state.bucket_by_id(bucket).and_then(|content| content.definition().max_size()) else {
        return Ok(());
    };
    let mut after = Bound::Unbounded;
    let mut refused = 0;
    while size(draft) > max {
        let Some(content) = draft.state.bucket_by_id(bucket) else {
            return Ok(());
        };
        // The last row is the newest: it is what the others make room for.
        let candidates: Vec<_> = content.rows((after, Bound::Unbounded)).map(|(row, _)| row).take(2).collect();
        let ([oldest, _], true) = (&*candidates, refused < EVICTION_CANDIDATES_MAX) else {
            return Err(StoreError::BucketFull {
                bucket: draft.state.name_of(bucket),
            });
        };
        refused += usize::from(!draft.try_remove(bucket, *oldest, written));
        after = Bound::Excluded(*oldest);
    }
    Ok(())
}

fn define_bucket(
    state: &mut State,
    name: &BucketName,
    definition: &Arc<BucketDefinition>,
    effects: &mut Effects,
) -> Result<Outcome, StoreError> {
    if state.bucket_id(name.as_str()).is_some() {
        return Err(StoreError::BucketAlreadyExists(name.clone()));
    }
    check_identities(state)?;
    state.add_bucket(name.clone(), Arc::clone(definition));
    state.commit();
    effects.catalog_changed = true;
    effects.redefined.push(name.clone());
    Ok(Outcome::Done)
}

fn update_bucket(
    state: &mut State,
    name: &BucketName,
    updates: &serde_json::Map<String, serde_json::Value>,
    effects: &mut Effects,
) -> Result<Outcome, StoreError> {
    let bucket = state.bucket(name.as_str())?;
    let updated = bucket.definition().updated(updates);
    let definition = updated.map_err(|issues| StoreError::Invalid {
        what: format!("update of bucket \"{name}\""),
        issues,
    })?;
    let redefined = bucket.redefined(Arc::new(definition));
    if let Some((index, key)) = redefined.first_duplicate(state.now()) {
        let names: Vec<_> = index.fields().iter().map(|field| field.as_str()).collect();
        let value = key.values().first().cloned().unwrap_or(Datum::Null);
        return Err(StoreError::UniqueViolation {
            bucket: name.clone(),
            field: names.join(","),
            value,
        });
    }
    state.put_bucket(redefined);
    state.commit();
    effects.catalog_changed = true;
    effects.redefined.push(name.clone());
    Ok(Outcome::Done)
}

fn drop_bucket(state: &mut State, name: &BucketName, command: &Command, effects: &mut Effects) -> Result<Outcome, StoreError> {
    if state.bucket_id(name.as_str()).is_none() {
        return Err(StoreError::BucketDoesNotExist(name.clone()));
    }
    if is_referred_to(state, name) {
        // References are followed, or forbid the drop, as if every record were deleted by itself.
        let operation = Operation::Clear { bucket: name.clone() };
        write_records(
            state,
            &Command {
                now: command.now,
                seed: command.seed,
                limits: command.limits,
                request: None,
                operation,
            },
            effects,
        )?;
    }
    if let Some(id) = state.remove_bucket(name) {
        effects.dropped.push((name.clone(), id));
    }
    state.commit();
    effects.catalog_changed = true;
    Ok(Outcome::Done)
}

/// Empties a bucket that nobody refers to: the records go as a whole, in constant time.
fn empty_bucket(state: &mut State, name: &BucketName, effects: &mut Effects) -> Result<Outcome, StoreError> {
    let bucket = state.bucket(name.as_str())?;
    let old = bucket.id();
    if bucket.row_count() == 0 {
        return Ok(Outcome::Done);
    }
    check_identities(state)?;
    if let Some(new) = state.replace_bucket(name) {
        effects.emptied.push((name.clone(), old, new));
    }
    state.commit();
    effects.catalog_changed = true;
    Ok(Outcome::Done)
}

/// Identities are never given out twice, so they can run out: after four thousand million buckets and clears.
fn check_identities(state: &State) -> Result<(), StoreError> {
    if state.next_bucket() == u32::MAX {
        return Err(StoreError::LimitExceeded("There are no more identities for buckets".to_owned()));
    }
    Ok(())
}

/// Whether another bucket refers to this one. References within a bucket go with its records.
fn is_referred_to(state: &State, name: &BucketName) -> bool {
    let id = state.bucket_id(name.as_str());
    state.referrers(name.as_str()).iter().any(|referrer| Some(referrer.source) != id)
}

fn define_query(state: &mut State, name: &QueryName, kind: QueryKind, effects: &mut Effects) -> Result<Outcome, StoreError> {
    if let QueryKind::Declarative(definition) = &kind {
        state.bucket(definition.bucket().as_str())?;
    }
    if state.query(name.as_str()).is_ok() {
        return Err(StoreError::QueryAlreadyDefined(name.clone()));
    }
    state.add_query(name.clone(), kind);
    state.commit();
    effects.catalog_changed = true;
    Ok(Outcome::Done)
}

fn undefine_query(state: &mut State, name: &QueryName, effects: &mut Effects) -> Result<Outcome, StoreError> {
    if !state.remove_query(name) {
        return Err(StoreError::QueryNotDefined(name.clone()));
    }
    state.commit();
    effects.catalog_changed = true;
    effects.undefined.push(name.clone());
    Ok(Outcome::Done)
}
