//! What a guard means for writes and for the reads of a transaction: who is bound by one finds only records that pass
//! it, writes only such, and hears nothing of others.

use super::catalog::State;
use super::definition::BucketDefinition;
use super::draft::Draft;
use super::write::{Scope, check_version};
use crate::protocol::{BucketName, FieldName, Issue, Record};
use crate::store::command::{Action, Outcome, Step};
use crate::store::guard::Guard;
use crate::store::query::{Filter, Reader};
use crate::store::{Operation, StoreError};

/// The record as whoever is bound sees it.
pub(super) fn shown(guard: Option<&Guard>, record: Record, key: &FieldName) -> Record {
    match guard {
        None => record,
        Some(guard) => guard.shown(&record, key),
    }
}

/// The filter together with that of a guard.
pub(super) fn narrowed(guard: Option<&Guard>, filter: &Filter, key: &FieldName) -> Result<Filter, StoreError> {
    match guard {
        None => Ok(filter.clone()),
        Some(guard) => guard.narrow(filter, key),
    }
}

/// Whether a record is there for whoever is bound.
pub(super) fn admits(guard: Option<&Guard>, record: &Record) -> bool {
    guard.is_none_or(|guard| guard.admits(record))
}

/// Checks a record as it would be stored: against the guard, then against the schema.
///
/// # Errors
/// [`StoreError::OutsideGuard`], or [`StoreError::InvalidRecord`] as far as it may be told.
pub(super) fn check_stored(
    guard: Option<&Guard>,
    definition: &BucketDefinition,
    bucket: &BucketName,
    record: &Record,
) -> Result<(), StoreError> {
    if !admits(guard, record) {
        return Err(StoreError::OutsideGuard);
    }
    let issues = definition.schema().validate(record);
    if issues.is_empty() {
        return Ok(());
    }
    Err(StoreError::InvalidRecord {
        bucket: bucket.clone(),
        issues: match guard {
            Some(guard) if guard.fields().is_some() => tellable(guard, definition, issues),
            Some(_) | None => issues,
        },
    })
}

/// What may be told of the faults of a record of which not all fields are there. Checks of the embedding program see
/// the whole record, and may say anything of it.
fn tellable(guard: &Guard, definition: &BucketDefinition, issues: Vec<Issue>) -> Vec<Issue> {
    let (mut told, count) = (Vec::new(), issues.len());
    told.extend(
        issues
            .into_iter()
            .filter(|issue| issue.code != "custom" && is_shown_at(guard, definition, &issue.field)),
    );
    if told.len() < count {
        told.push(hidden_issue());
    }
    told
}

/// Whether the field of the schema in which an issue lies is there. Names may hold dots, so that a place may stand for
/// several: then all of them have to be.
fn is_shown_at(guard: &Guard, definition: &BucketDefinition, place: &str) -> bool {
    let holds = |field: &&FieldName| {
        let rest = place.strip_prefix(field.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    let fields = definition.schema().fields().iter().map(|field| &field.name);
    let mut meant = fields.filter(holds).peekable();
    meant.peek().is_some() && meant.all(|field| guard.shows(field, definition.key()))
}

fn hidden_issue() -> Issue {
    Issue::new("", "hidden", "Fields that you have no access to would not be valid")
}

/// Whether an operation is bound by a guard, or a part of it is.
fn is_guarded(operation: &Operation) -> bool {
    operation.guards().next().is_some()
}

/// Whether a field of a bucket is there for whoever asks for an operation: in every part of it that concerns the bucket.
fn shows(operation: &Operation, bucket: &BucketName, field: &str, key: &FieldName) -> bool {
    let field = FieldName::new(field);
    let Operation::Transaction { steps } = operation else {
        // Anything else concerns one bucket.
        return operation.guards().all(|(_, guard)| guard.shows(&field, key));
    };
    let mut of_bucket = steps.iter().filter(|step| step.bucket == *bucket).peekable();
    let shows = |step: &Step| step.guard.as_ref().is_none_or(|guard| guard.shows(&field, key));
    of_bucket.peek().is_some() && of_bucket.all(shows)
}

/// What somebody is told, who may be bound by a guard, of what came about at the end of a command: there it is not known
/// any more whose records are concerned, so nothing is told that may come from one, and no field is named that they have
/// no access to. Such a one has its value by default, or had it before.
pub(super) fn as_told(error: StoreError, operation: &Operation, state: &State) -> StoreError {
    if !is_guarded(operation) {
        return error;
    }
    let key = |bucket: &BucketName| state.bucket(bucket.as_str()).ok().map(|content| content.key_field().clone());
    let shown = |bucket: &BucketName, field: &str| key(bucket).is_some_and(|key| shows(operation, bucket, field, &key));
    match error {
        StoreError::UniqueViolation { bucket, field, .. } => {
            let named: Vec<_> = field.split(',').filter(|field| shown(&bucket, field)).collect();
            if named.is_empty() {
                return StoreError::HiddenValueTaken(bucket);
            }
            let field = named.join(",");
            StoreError::ValueTaken { bucket, field }
        }
        StoreError::MissingTarget {
            source_bucket,
            source_field,
            ..
        } if !shown(&source_bucket, &source_field) => StoreError::InvalidRecord {
            bucket: source_bucket,
            issues: vec![hidden_issue()],
        },
        // What refers to a deleted record may not be valid without it.
        StoreError::StillReferenced { .. } | StoreError::InvalidRecord { .. } => StoreError::ReferredTo,
        // These name what was given, or nothing of any record.
        told @ (StoreError::BucketNotDefined(_)
        | StoreError::BucketDoesNotExist(_)
        | StoreError::BucketAlreadyExists(_)
        | StoreError::QueryNotDefined(_)
        | StoreError::QueryAlreadyDefined(_)
        | StoreError::Invalid { .. }
        | StoreError::RecordNotFound { .. }
        | StoreError::RecordAlreadyExists { .. }
        | StoreError::TransactionConflict { .. }
        | StoreError::VersionConflict { .. }
        | StoreError::MissingTarget { .. }
        | StoreError::BucketFull { .. }
        | StoreError::NoAccessToField(_)
        | StoreError::OutsideGuard
        | StoreError::NeedsAllRecords
        | StoreError::ValueTaken { .. }
        | StoreError::HiddenValueTaken(_)
        | StoreError::ReferredTo
        | StoreError::ReservedName(_)
        | StoreError::LimitExceeded(_)
        | StoreError::RequestKeyReused(_)
        | StoreError::RequestKeysFull { .. }
        | StoreError::AnswerNotKept
        | StoreError::RefusedBefore { .. }
        | StoreError::Busy
        | StoreError::ResultTooLarge { .. }
        | StoreError::StorageUnavailable { .. }
        | StoreError::CursorTooOld { .. }
        | StoreError::QueryFailed(_)
        | StoreError::Closed) => told,
    }
}

/// Carries out one step of a transaction.
pub(super) fn run_step(draft: &mut Draft<'_>, step: &Step) -> Result<Outcome, StoreError> {
    let (bucket, guard) = (&step.bucket, step.guard.as_deref());
    let stored = |record| Outcome::Record(Some(record));
    match &step.action {
        Action::Get { key, expect_version } => {
            let content = draft.bucket(bucket)?;
            let visible = Reader::new(content, draft.now).get(key).filter(|record| admits(guard, record));
            check_version(bucket, key, visible, *expect_version)?;
            let record = visible.map(|record| shown(guard, record.clone(), content.key_field()));
            draft.charge_read(&record)?;
            Ok(Outcome::Record(record))
        }
        Action::Insert { record } => draft.insert(bucket, record, Scope::Transaction, guard).map(stored),
        Action::Update {
            key,
            changes,
            expect_version,
        } => draft.update(bucket, key, changes, *expect_version, guard).map(stored),
        Action::Delete { key, expect_version } => draft.delete(bucket, key, *expect_version, guard).map(Outcome::Deleted),
        Action::Where { filter } => {
            let found = search(draft, bucket, filter, guard, |reader, filter| {
                reader.select(filter).into_iter().cloned().collect()
            })?;
            Ok(Outcome::Records(found))
        }
        Action::FindOne { filter } => {
            let found = search(draft, bucket, filter, guard, |reader, filter| {
                reader.find_one(filter).cloned().into_iter().collect()
            })?;
            Ok(Outcome::Record(found.into_iter().next()))
        }
        Action::Count { filter } => {
            let filter = narrowed(guard, filter, draft.bucket(bucket)?.key_field())?;
            draft.charge_rows(Reader::new(draft.bucket(bucket)?, draft.now).cost(&filter))?;
            Ok(Outcome::Count(Reader::new(draft.bucket(bucket)?, draft.now).count(&filter)))
        }
    }
}

/// The records that a read finds, and what is to be seen of them.
fn search(
    draft: &mut Draft<'_>,
    bucket: &BucketName,
    filter: &Filter,
    guard: Option<&Guard>,
    read: impl FnOnce(&Reader<'_>, &Filter) -> Vec<Record>,
) -> Result<Vec<Record>, StoreError> {
    let filter = narrowed(guard, filter, draft.bucket(bucket)?.key_field())?;
    draft.charge_rows(Reader::new(draft.bucket(bucket)?, draft.now).cost(&filter))?;
    let content = draft.bucket(bucket)?;
    let mut found = read(&Reader::new(content, draft.now), &filter);
    if let Some(projection) = guard.and_then(|guard| guard.projection(content.key_field())) {
        for record in &mut found {
            *record = projection.apply(record);
        }
    }
    draft.charge_read(&found)?;
    Ok(found)
}
