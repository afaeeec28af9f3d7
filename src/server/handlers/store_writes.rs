//! Writes of records: each becomes one operation of the store and is answered when it is durable.

use serde_json::{Map, Value};

use super::answer::{Handled, Success};
use super::failure::Failure;
use super::fields::{self, LowestVersion};
use super::{Call, client_bucket};
use crate::protocol::BucketName;
use crate::store::Operation;
use crate::store::query::Filter;

/// `store.insert`.
pub(super) fn insert(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let record = fields::record(call.fields, "data")?;
    let bucket = client_bucket(&bucket)?;
    call.submit(Operation::Insert { bucket, record }, Success::Outcome)
}

/// `store.insertMany`.
pub(super) fn insert_many(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let records = fields::records(call.fields, "data", call.context.max_bulk_records)?;
    let bucket = client_bucket(&bucket)?;
    call.submit(Operation::InsertMany { bucket, records }, Success::Outcome)
}

/// `store.update`.
pub(super) fn update(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let key = fields::key(call.fields)?;
    let changes = fields::record(call.fields, "data")?;
    let expect_version = fields::expected_version(call.fields, LowestVersion::One)?;
    let bucket = client_bucket(&bucket)?;
    let operation = Operation::Update {
        bucket,
        key,
        changes,
        expect_version,
    };
    call.submit(operation, Success::Outcome)
}

/// `store.updateMany`.
pub(super) fn update_many(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let filter = fields::object(call.fields, "filter")?;
    let changes = fields::record(call.fields, "data")?;
    let (bucket, filter) = bucket_and_filter(call, &bucket, &filter)?;
    call.submit(Operation::UpdateMany { bucket, filter, changes }, Success::Outcome)
}

/// `store.upsert`.
pub(super) fn upsert(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let record = fields::record(call.fields, "data")?;
    let expect_version = fields::expected_version(call.fields, LowestVersion::Zero)?;
    let bucket = client_bucket(&bucket)?;
    let operation = Operation::Upsert {
        bucket,
        record,
        expect_version,
    };
    call.submit(operation, Success::Outcome)
}

/// `store.delete`.
pub(super) fn delete(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let key = fields::key(call.fields)?;
    let expect_version = fields::expected_version(call.fields, LowestVersion::One)?;
    let bucket = client_bucket(&bucket)?;
    let operation = Operation::Delete {
        bucket,
        key,
        expect_version,
    };
    call.submit(operation, Success::Outcome)
}

/// `store.deleteMany`.
pub(super) fn delete_many(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let filter = fields::object(call.fields, "filter")?;
    let (bucket, filter) = bucket_and_filter(call, &bucket, &filter)?;
    call.submit(Operation::DeleteMany { bucket, filter }, Success::Outcome)
}

/// `store.clear`.
pub(super) fn clear(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = client_bucket(&fields::text(call.fields, "bucket")?)?;
    call.submit(Operation::Clear { bucket }, Success::Prepared(call.encoder().done("cleared")))
}

/// The store looks for the bucket when its turn comes. Only a filter that cannot be handed over is answered here,
/// and then a missing bucket is the first thing to complain of.
fn bucket_and_filter(call: &Call<'_, '_>, bucket: &str, filter: &Map<String, Value>) -> Result<(BucketName, Filter), Failure> {
    let name = client_bucket(bucket)?;
    match call.context.request_limits.filter(filter) {
        Ok(filter) => Ok((name, filter)),
        Err(failure) => {
            call.context.store.snapshot().bucket(bucket)?;
            Err(failure)
        }
    }
}
