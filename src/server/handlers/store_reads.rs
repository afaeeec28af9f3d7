//! Reads of one bucket: on a snapshot, at once where few rows are looked at, else off the connection's task.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::answer::{Completion, Handled};
use super::encode::Encoder;
use super::failure::Failure;
use super::{Call, deny_reserved, fields, invalid};
use crate::protocol::{Datum, FieldName};
use crate::store::StoreError;
use crate::store::query::{Aggregate, AggregateFunction, Explanation, Filter, QueryDefinition, QueryResult, Reader, ResolvedQuery, Sort};
use crate::store::state::{Bucket, QueryEntry, QueryKind, State};

/// A read that looks at more rows than this would hold up everything else on its thread.
const INLINE_ROWS: usize = 5_000;

/// What is read from a bucket. All that can be refused was refused before there is one.
enum Read {
    Get(Datum),
    All,
    Where(Filter),
    FindOne(Filter),
    Count(Filter),
    First(usize),
    Last(usize),
    Page { limit: usize, after: Option<Datum> },
    Aggregate(Aggregate, Filter),
    GroupBy(Aggregate, Filter),
    Query(Box<ResolvedQuery>),
}

impl Read {
    /// How many rows will be looked at, about.
    fn cost(&self, bucket: &Bucket, reader: &Reader<'_>) -> usize {
        match self {
            Self::Get(_) => 1,
            Self::All => bucket.row_count(),
            Self::FindOne(filter) | Self::Count(filter) if filter.is_everything() => 1,
            Self::Where(filter) | Self::FindOne(filter) | Self::Count(filter) | Self::Aggregate(_, filter) | Self::GroupBy(_, filter) => {
                reader.cost(filter)
            }
            Self::First(n) | Self::Last(n) | Self::Page { limit: n, .. } => bucket.row_count().min(*n),
            Self::Query(query) => reader.query_cost(query),
        }
    }

    /// Reads, and encodes what was read.
    fn answer(&self, reader: &Reader<'_>, encoder: Encoder) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Get(key) => encoder.record(reader.get(key)),
            Self::All => encoder.records(&reader.all()),
            Self::Where(filter) => encoder.records(&reader.select(filter)),
            Self::FindOne(filter) => encoder.record(reader.find_one(filter)),
            Self::Count(filter) => Ok(encoder.count(reader.count(filter))),
            Self::First(n) => encoder.records(&reader.first(*n)),
            Self::Last(n) => encoder.records(&reader.last(*n)),
            Self::Page { limit, after } => encoder.page(&reader.paginate(*limit, after.as_ref())),
            Self::Aggregate(aggregate, filter) => Ok(encoder.number(reader.aggregate(aggregate, filter))),
            Self::GroupBy(aggregate, filter) => encoder.json(QueryResult::Groups(reader.group_by(aggregate, filter)).to_json().as_deref()),
            Self::Query(query) => match reader.run(query) {
                QueryResult::Records(found) => encoder.records(&found.iter().map(|(_, record)| record).collect::<Vec<_>>()),
                other @ (QueryResult::Number(_) | QueryResult::Groups(_)) => encoder.json(other.to_json().as_deref()),
            },
        }
    }
}

/// `store.get`.
pub(super) fn get(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let key = fields::key(call.fields)?;
    read(call, &bucket, || Ok(Read::Get(key)))
}

/// `store.all`.
pub(super) fn all(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    read(call, &bucket, || Ok(Read::All))
}

/// `store.where`.
pub(super) fn select(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let filter = fields::object(call.fields, "filter")?;
    read(call, &bucket, || parse_filter(call, Some(&filter)).map(Read::Where))
}

/// `store.findOne`.
pub(super) fn find_one(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let filter = fields::object(call.fields, "filter")?;
    read(call, &bucket, || parse_filter(call, Some(&filter)).map(Read::FindOne))
}

/// `store.count`.
pub(super) fn count(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let filter = fields::optional_object(call.fields, "filter")?;
    read(call, &bucket, || parse_filter(call, filter.as_ref()).map(Read::Count))
}

/// `store.first`.
pub(super) fn first(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let n = fields::positive(call.fields, "n")?;
    read(call, &bucket, || Ok(Read::First(n)))
}

/// `store.last`.
pub(super) fn last(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let n = fields::positive(call.fields, "n")?;
    read(call, &bucket, || Ok(Read::Last(n)))
}

/// `store.paginate`.
pub(super) fn paginate(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let limit = fields::positive(call.fields, "limit")?;
    let after = fields::cursor(call.fields)?;
    read(call, &bucket, || Ok(Read::Page { limit, after }))
}

/// `store.sum`, `store.avg`, `store.min`, `store.max`.
pub(super) fn aggregate(call: &Call<'_, '_>, function: AggregateFunction) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let field = fields::text(call.fields, "field")?;
    let filter = fields::optional_object(call.fields, "filter")?;
    let aggregate = Aggregate {
        function,
        field: Some(FieldName::new(&field)),
        group_by: Vec::new(),
    };
    read(call, &bucket, || {
        Ok(Read::Aggregate(aggregate, parse_filter(call, filter.as_ref())?))
    })
}

/// `store.groupBy`.
pub(super) fn group_by(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let group_by = fields::texts(call.fields, "field")?;
    let aggregate = fields::object(call.fields, "aggregate")?;
    let filter = fields::optional_object(call.fields, "filter")?;
    read(call, &bucket, || {
        Ok(Read::GroupBy(
            parse_aggregate(aggregate, group_by)?,
            parse_filter(call, filter.as_ref())?,
        ))
    })
}

/// An aggregate as a client sends it, by groups.
fn parse_aggregate(aggregate: Map<String, Value>, group_by: Vec<String>) -> Result<Aggregate, Failure> {
    let parsed = Aggregate::parse(&Value::Object(aggregate), "aggregate");
    let grouped = parsed.and_then(|aggregate| aggregate.grouped_by(&Value::from(group_by), "field"));
    grouped.map_err(|issues| invalid("aggregate", issues))
}

fn parse_filter(call: &Call<'_, '_>, filter: Option<&Map<String, Value>>) -> Result<Filter, Failure> {
    filter.map_or_else(|| Ok(Filter::everything()), |filter| call.context.request_limits.filter(filter))
}

/// Reads from a bucket that a client names; `what` is asked only when the bucket is there.
fn read(call: &Call<'_, '_>, bucket: &str, what: impl FnOnce() -> Result<Read, Failure>) -> Result<Handled, Failure> {
    deny_reserved(bucket)?;
    let snapshot = call.context.store.snapshot();
    let bucket = snapshot.bucket(bucket)?;
    carry_out(call, bucket, what()?)
}

/// Reads at once, or takes a large read to a thread of its own.
fn carry_out(call: &Call<'_, '_>, bucket: &Arc<Bucket>, read: Read) -> Result<Handled, Failure> {
    let (now, encoder) = (call.context.store.now(), call.encoder());
    let reader = Reader::new(bucket, now);
    if read.cost(bucket, &reader) <= INLINE_ROWS {
        return Ok(Handled::Answer(read.answer(&reader, encoder)?));
    }
    let bucket = Arc::clone(bucket);
    Ok(off_task(call, move || read.answer(&Reader::new(&bucket, now), encoder)))
}

/// Does long work on a thread that may block; only so much at once, so that clients cannot take all memory and
/// all cores together.
pub(super) fn off_task(call: &Call<'_, '_>, work: impl FnOnce() -> Result<Vec<u8>, StoreError> + Send + 'static) -> Handled {
    let (context, id) = (Arc::clone(call.context), call.id);
    Handled::Alone(Box::pin(async move {
        let answer = with_permit(&context.long_reads, work).await;
        Completion::new(id, answer)
    }))
}

async fn with_permit(
    permits: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<Vec<u8>, StoreError> + Send + 'static,
) -> Result<Vec<u8>, Failure> {
    let Ok(permit) = Arc::clone(permits).acquire_owned().await else {
        return Err(StoreError::Closed.into());
    };
    // The permit goes along: work that nobody waits for any more still counts until it is over.
    let work = tokio::task::spawn_blocking(move || {
        let answer = work();
        drop(permit);
        answer
    });
    match work.await {
        Ok(answer) => Ok(answer?),
        Err(error) => {
            tracing::error!(%error, "a read failed");
            Err(Failure::internal())
        }
    }
}

/// A query that a client names, where it may look at the bucket behind it.
pub(super) fn open_query<'s>(state: &'s State, name: &str) -> Result<&'s QueryEntry, Failure> {
    deny_reserved(name)?;
    let entry = state.query(name)?;
    match &entry.kind {
        QueryKind::Declarative(definition) => deny_reserved(definition.bucket().as_str())?,
        // The embedding program answers for what its functions show.
        QueryKind::Programmatic(_) => {}
    }
    Ok(entry)
}

/// `store.runQuery`.
pub(super) fn run_query(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = fields::text(call.fields, "query")?;
    let params = fields::value(call.fields, "params")?;
    let snapshot = call.context.store.snapshot();
    let query = &open_query(&snapshot, &name)?.kind;
    call.context.request_limits.check_params(query, &params)?;
    match query {
        QueryKind::Declarative(definition) => {
            let bucket = snapshot.bucket(definition.bucket().as_str())?;
            let query = resolve(&name, definition, &params)?;
            carry_out(call, bucket, Read::Query(Box::new(query)))
        }
        // What a function of the embedding program costs is not known.
        QueryKind::Programmatic(_) => {
            let (snapshot, name) = (snapshot.clone(), name.into_owned());
            let (now, encoder) = (call.context.store.now(), call.encoder());
            Ok(off_task(call, move || {
                encoder.json(snapshot.run_query(&name, &params, now)?.as_deref())
            }))
        }
    }
}

/// Parameters that are no object hold none; a query that needs none does not mind.
fn resolve(name: &str, definition: &QueryDefinition, params: &Value) -> Result<ResolvedQuery, Failure> {
    let none = Map::new();
    let resolved = definition.resolve(params.as_object().unwrap_or(&none));
    resolved.map_err(|issues| invalid(format!("parameters of query \"{name}\""), issues))
}

/// `store.explain`: of a query with its parameters, or of a filter, a sort and a limit on a bucket.
pub(super) fn explain(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    if fields::present(call.fields.get("query")).is_some() {
        explain_query(call)
    } else {
        explain_filter(call)
    }
}

fn explain_query(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = fields::text(call.fields, "query")?;
    let params = fields::value(call.fields, "params")?;
    let snapshot = call.context.store.snapshot();
    let query = &open_query(&snapshot, &name)?.kind;
    call.context.request_limits.check_params(query, &params)?;
    let QueryKind::Declarative(definition) = query else {
        // What a function reads shows only when it runs.
        return call.json(&Explained {
            plan: None,
            live_view: LiveView::Reevaluated,
        });
    };
    let bucket = snapshot.bucket(definition.bucket().as_str())?;
    let query = resolve(&name, definition, &params)?;
    let window = query.limit.map(|limit| query.offset.saturating_add(limit));
    let (sort, limit) = match query.aggregate {
        Some(_) => (Sort::default(), None),
        None => (query.sort, window),
    };
    let plan = Reader::new(bucket, call.context.store.now()).explain(&query.filter, &sort, limit);
    call.json(&Explained {
        plan: Some(plan),
        live_view: LiveView::Maintained,
    })
}

fn explain_filter(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let filter = fields::optional_object(call.fields, "filter")?;
    let sort = fields::optional_object(call.fields, "sort")?;
    let limit = fields::optional_positive(call.fields, "limit")?;
    deny_reserved(&bucket)?;
    let snapshot = call.context.store.snapshot();
    let bucket = snapshot.bucket(&bucket)?;
    let filter = parse_filter(call, filter.as_ref())?;
    let sort = match sort {
        Some(sort) => Sort::parse(&Value::Object(sort), "sort").map_err(|issues| invalid("sort", issues))?,
        None => Sort::default(),
    };
    let plan = Reader::new(bucket, call.context.store.now()).explain(&filter, &sort, limit);
    call.json(&Explained {
        plan: Some(plan),
        live_view: LiveView::Maintained,
    })
}

/// What `store.explain` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    #[serde(flatten)]
    plan: Option<Explanation>,
    live_view: LiveView,
}

/// How a subscription would follow changes.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum LiveView {
    /// Row by row, or value by value.
    Maintained,
    /// Evaluated anew after each commit that touches what it reads.
    Reevaluated,
}
