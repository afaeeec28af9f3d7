//! Buckets and queries: defining, describing and removing them, and the statistics.

use std::sync::Arc;

use super::answer::{Handled, Success};
use super::failure::Failure;
use super::identity::{Fate, owned};
use super::{Call, client_bucket, deny_reserved, fields, invalid};
use crate::protocol::json::{write_object, write_text};
use crate::protocol::{self, BucketName, Number, QueryName, message};
use crate::server::access::{Access, Scope};
use crate::server::identity::{Resource, ResourceKind};
use crate::store::long_work::in_place;
use crate::store::query::QueryDefinition;
use crate::store::state::{BucketDefinition, QueryEntry, QueryKind, State};
use crate::store::{Operation, Seen, StoreError};

/// `store.buckets`.
pub(super) fn buckets(call: &Call<'_, '_>) -> Handled {
    let snapshot = call.context.store.snapshot();
    let sight = Sight::new(call);
    let visible: Vec<_> = snapshot.bucket_names().filter(|name| sight.of(name).is_some()).collect();
    let bytes = visible.iter().map(|name| name.as_str().len() + 3).sum::<usize>();
    Handled::Answer(message::result_with(call.id, 32 + bytes, |out| {
        out.extend_from_slice(b"{\"count\":");
        Number::from(visible.len() as u64).write(out);
        out.extend_from_slice(b",\"names\":[");
        for (at, name) in visible.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_text(out, name.as_str());
        }
        out.extend_from_slice(b"]}");
    }))
}

/// `store.stats`.
pub(super) fn stats(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let stats = call.context.store.stats().without_reserved();
    let sight = Sight::new(call);
    if sight.is_of_everything(&stats.buckets.names) {
        return call.json(&stats);
    }
    let snapshot = call.context.store.snapshot();
    // Who else follows a bucket that is there in part would tell of the rest.
    let queries = snapshot.queries().filter_map(|(name, entry)| match sight.of_query(name, entry)? {
        Scope::Everything => Some(entry.active_subscriptions()),
        Scope::Guarded(_) => Some(0),
    });
    let seen = |name: &BucketName| match sight.of(name) {
        None => Seen::Nothing,
        Some(Scope::Guarded(_)) => Seen::Name,
        Some(Scope::Everything) => Seen::Counts,
    };
    call.json(&stats.seen(seen, queries))
}

/// What whoever asks may see of what is told of all buckets.
struct Sight<'c> {
    access: &'c Access,
    operation: protocol::Operation,
    /// Nothing is kept from anybody but what is the server's own.
    is_free: bool,
    shows_functions: bool,
}

impl<'c> Sight<'c> {
    fn new(call: &Call<'c, '_>) -> Self {
        let is_free = !call.access.authority().is_on();
        Self {
            access: call.access,
            operation: call.operation,
            is_free,
            shows_functions: is_free || call.access.shows_functions(call.operation),
        }
    }

    /// How much of a bucket is to be seen, if it is at all.
    fn of(&self, bucket: &BucketName) -> Option<Scope> {
        if bucket.is_reserved() {
            return None;
        }
        if self.is_free {
            return Some(Scope::Everything);
        }
        self.access.shows(self.operation, bucket.as_str())
    }

    /// How much of the bucket behind a query, if the query is to be seen at all.
    fn of_query(&self, name: &QueryName, entry: &QueryEntry) -> Option<Scope> {
        if name.is_reserved() {
            return None;
        }
        match source(entry) {
            Some(bucket) => self.of(bucket),
            None => self.shows_functions.then_some(Scope::Everything),
        }
    }

    fn is_of_everything(&self, buckets: &[BucketName]) -> bool {
        self.is_free || (self.shows_functions && buckets.iter().all(|name| self.of(name) == Some(Scope::Everything)))
    }
}

/// `store.defineBucket`.
pub(super) fn define_bucket(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = fields::text(call.fields, "name")?;
    call.context.request_limits.check_name(&name)?;
    let config = fields::object(call.fields, "config")?;
    let name = client_bucket(&name)?;
    if call.context.store.snapshot().bucket(name.as_str()).is_ok() {
        return Err(StoreError::BucketAlreadyExists(name).into());
    }
    // Patterns are compiled here, and that may take a while.
    let parsed = in_place(|| BucketDefinition::parse(&config));
    let definition = parsed.map_err(|issues| invalid(format!("definition of bucket \"{name}\""), issues))?;
    for reference in definition.references() {
        admit_reference(call, &name, reference.target.as_str())?;
    }
    let success = call.encoder().named(name.as_str(), "created");
    let resource = Resource::new(ResourceKind::Bucket, name.as_str());
    let definition = Arc::new(definition);
    owned(call, Fate::Defined, resource, Operation::DefineBucket { name, definition }, success)
}

/// Whether a field of a bucket may refer to another bucket. Whoever writes the field learns what keys there are, and can
/// keep records from being removed: so whoever defines it must be allowed to read all of that bucket.
fn admit_reference(call: &Call<'_, '_>, from: &BucketName, to: &str) -> Result<(), Failure> {
    deny_reserved(to)?;
    if to == from.as_str() {
        return Ok(());
    }
    match call.access.admit_step(protocol::Operation::StoreGet, to)? {
        Scope::Everything => Ok(()),
        Scope::Guarded(_) => Err(StoreError::NeedsAllRecords.into()),
    }
}

/// `store.updateBucket`.
pub(super) fn update_bucket(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = fields::text(call.fields, "name")?;
    let updates = fields::object(call.fields, "updates")?;
    let name = client_bucket(&name)?;
    let added = updates.get("addFields").and_then(serde_json::Value::as_object);
    for bucket in added.into_iter().flatten().filter_map(|(_, field)| field.get("ref")?.as_str()) {
        admit_reference(call, &name, bucket)?;
    }
    let success = Success::Prepared(call.encoder().named(name.as_str(), "updated"));
    call.submit(Operation::UpdateBucket { name, updates }, success)
}

/// `store.dropBucket`.
pub(super) fn drop_bucket(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = client_bucket(&fields::text(call.fields, "name")?)?;
    let success = call.encoder().named(name.as_str(), "dropped");
    let resource = Resource::new(ResourceKind::Bucket, name.as_str());
    owned(call, Fate::Removed, resource, Operation::DropBucket { name }, success)
}

/// `store.getBucketSchema`.
pub(super) fn get_bucket_schema(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = client_bucket(&fields::text(call.fields, "name")?)?;
    let snapshot = call.context.store.snapshot();
    let Ok(bucket) = snapshot.bucket(name.as_str()) else {
        return Err(StoreError::BucketDoesNotExist(name).into());
    };
    Ok(Handled::Answer(message::result_with(call.id, 512, |out| {
        out.extend_from_slice(b"{\"name\":");
        write_text(out, name.as_str());
        out.extend_from_slice(b",\"config\":");
        write_object(out, bucket.definition().config());
        out.push(b'}');
    })))
}

/// `store.defineQuery`.
pub(super) fn define_query(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = fields::text(call.fields, "name")?;
    call.context.request_limits.check_name(&name)?;
    let config = fields::object(call.fields, "config")?;
    deny_reserved(&name)?;
    let name = QueryName::from(&*name);
    let snapshot = call.context.store.snapshot();
    // Without a bucket the definition is malformed, and its issues say so.
    if let Some(bucket) = config
        .get("bucket")
        .and_then(serde_json::Value::as_str)
        .filter(|bucket| !bucket.is_empty())
    {
        deny_reserved(bucket)?;
        snapshot.bucket(bucket)?;
    }
    if snapshot.query(name.as_str()).is_ok() {
        return Err(StoreError::QueryAlreadyDefined(name).into());
    }
    if let Some(filter) = config.get("filter").and_then(serde_json::Value::as_object) {
        call.context.request_limits.check_filter(filter)?;
    }
    let definition = QueryDefinition::parse(&config).map_err(|issues| invalid(format!("definition of query \"{name}\""), issues))?;
    let success = call.encoder().named(name.as_str(), "defined");
    let resource = Resource::new(ResourceKind::Query, name.as_str());
    let definition = Arc::new(definition);
    owned(call, Fate::Defined, resource, Operation::DefineQuery { name, definition }, success)
}

/// `store.undefineQuery`.
pub(super) fn undefine_query(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = fields::text(call.fields, "name")?;
    deny_reserved(&name)?;
    let name = QueryName::from(&*name);
    let success = call.encoder().named(name.as_str(), "undefined");
    let resource = Resource::new(ResourceKind::Query, name.as_str());
    owned(call, Fate::Removed, resource, Operation::UndefineQuery { name }, success)
}

/// `store.listQueries`.
pub(super) fn list_queries(call: &Call<'_, '_>) -> Handled {
    let snapshot = call.context.store.snapshot();
    let sight = Sight::new(call);
    let visible = snapshot
        .queries()
        .filter_map(|(name, entry)| Some((name, entry, sight.of_query(name, entry)?)));
    Handled::Answer(message::result_with(call.id, 512, |out| {
        out.extend_from_slice(b"{\"queries\":[");
        for (at, (name, entry, scope)) in visible.enumerate() {
            if at > 0 {
                out.push(b',');
            }
            write_query(out, name, entry, names_only_what_is_there(entry, &scope, &snapshot));
        }
        out.extend_from_slice(b"]}");
    }))
}

/// Whether a query may be shown as it is defined: one that names fields which are not there cannot be used either.
fn names_only_what_is_there(entry: &QueryEntry, scope: &Scope, state: &State) -> bool {
    let (QueryKind::Declarative(definition), Some(guard)) = (&entry.kind, scope.guard()) else {
        return true;
    };
    state
        .bucket(definition.bucket().as_str())
        .is_ok_and(|bucket| definition.find_field(|field| !guard.shows(field, bucket.key_field())).is_none())
}

/// The bucket behind a query, as far as it is known.
fn source(entry: &QueryEntry) -> Option<&BucketName> {
    match &entry.kind {
        QueryKind::Declarative(definition) => Some(definition.bucket()),
        QueryKind::Programmatic(_) => None,
    }
}

fn write_query(out: &mut Vec<u8>, name: &QueryName, entry: &QueryEntry, with_config: bool) {
    let (kind, config) = match &entry.kind {
        QueryKind::Declarative(definition) => ("declarative", with_config.then(|| definition.config())),
        QueryKind::Programmatic(_) => ("programmatic", None),
    };
    out.extend_from_slice(b"{\"name\":");
    write_text(out, name.as_str());
    out.extend_from_slice(b",\"type\":");
    write_text(out, kind);
    out.extend_from_slice(b",\"activeSubscriptions\":");
    Number::from(entry.active_subscriptions() as u64).write(out);
    if let Some(config) = config {
        out.extend_from_slice(b",\"config\":");
        write_object(out, config);
    }
    out.push(b'}');
}
