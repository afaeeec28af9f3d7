//! Reads of one bucket: on a snapshot, at once where few rows are looked at, else off the connection's task.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::answer::{Completion, Handled};
use super::encode::Encoder;
use super::failure::Failure;
use super::{Call, deny_reserved, fields, invalid};
use crate::protocol::{Datum, FieldName, Record};
use crate::server::access::Judged;
use crate::store::query::{
    Aggregate, AggregateFunction, Explanation, Filter, Page, Projection, QueryDefinition, QueryResult, Reader, ResolvedQuery, Sort,
};
use crate::store::state::{Bucket, QueryEntry, QueryKind, State};
use crate::store::{Guard, StoreError};

/// A read that looks at more rows than this would hold up everything else on its thread.
const INLINE_ROWS: usize = 5_000;

/// What is read from a bucket. All that can be refused was refused before there is one.
enum Read {
    Get(Datum),
    Where(Filter),
    FindOne(Filter),
    Count(Filter),
    First(usize, Filter),
    Last(usize, Filter),
    Page {
        limit: usize,
        after: Option<Datum>,
        filter: Filter,
    },
    Aggregate(Aggregate, Filter),
    GroupBy(Aggregate, Filter),
    Query(Box<ResolvedQuery>),
}

impl Read {
    /// How many rows will be looked at, about.
    fn cost(&self, bucket: &Bucket, reader: &Reader<'_>) -> usize {
        match self {
            Self::Get(_) => 1,
            Self::FindOne(filter) | Self::Count(filter) if filter.is_everything() => 1,
            Self::Where(filter) | Self::FindOne(filter) | Self::Count(filter) | Self::Aggregate(_, filter) | Self::GroupBy(_, filter) => {
                reader.cost(filter)
            }
            Self::First(n, filter) | Self::Last(n, filter) | Self::Page { limit: n, filter, .. } => {
                if filter.is_everything() {
                    bucket.row_count().min(*n)
                } else {
                    reader.cost(filter)
                }
            }
            Self::Query(query) => reader.query_cost(query),
        }
    }

    /// The same within a guard.
    ///
    /// # Errors
    /// Where it names a field that is not there.
    fn within(self, guard: &Guard, key: &FieldName) -> Result<Self, StoreError> {
        let narrow = |filter: Filter| guard.narrow(&filter, key);
        Ok(match self {
            Self::Get(key) => Self::Get(key),
            Self::Where(filter) => Self::Where(narrow(filter)?),
            Self::FindOne(filter) => Self::FindOne(narrow(filter)?),
            Self::Count(filter) => Self::Count(narrow(filter)?),
            Self::First(n, filter) => Self::First(n, narrow(filter)?),
            Self::Last(n, filter) => Self::Last(n, narrow(filter)?),
            Self::Page { limit, after, filter } => Self::Page {
                limit,
                after,
                filter: narrow(filter)?,
            },
            Self::Aggregate(aggregate, filter) => {
                guard.check_fields(aggregate.fields(), key)?;
                Self::Aggregate(aggregate, narrow(filter)?)
            }
            Self::GroupBy(aggregate, filter) => {
                guard.check_fields(aggregate.fields(), key)?;
                Self::GroupBy(aggregate, narrow(filter)?)
            }
            Self::Query(query) => Self::Query(Box::new(guard.bind(*query, key)?)),
        })
    }

    /// Reads, and encodes what was read.
    fn answer(&self, reader: &Reader<'_>, shown: &Shown) -> Result<Vec<u8>, StoreError> {
        let encoder = shown.encoder;
        match self {
            Self::Get(key) => shown.record(reader.get(key).filter(|record| shown.admits(record))),
            Self::Where(filter) => shown.records(&reader.select(filter)),
            Self::FindOne(filter) => shown.record(reader.find_one(filter)),
            Self::Count(filter) => Ok(encoder.count(reader.count(filter))),
            Self::First(n, filter) => shown.records(&reader.first_of(filter, *n)),
            Self::Last(n, filter) => shown.records(&reader.last_of(filter, *n)),
            Self::Page { limit, after, filter } => shown.page(&reader.paginate_of(filter, *limit, after.as_ref())),
            Self::Aggregate(aggregate, filter) => Ok(encoder.number(reader.aggregate(aggregate, filter))),
            Self::GroupBy(aggregate, filter) => encoder.json(QueryResult::Groups(reader.group_by(aggregate, filter)).to_json().as_deref()),
            // What the query shows is within the guard already.
            Self::Query(query) => match reader.run(query) {
                QueryResult::Records(found) => encoder.records(&found.iter().map(|(_, record)| record).collect::<Vec<_>>()),
                other @ (QueryResult::Number(_) | QueryResult::Groups(_)) => encoder.json(other.to_json().as_deref()),
            },
        }
    }
}

/// What a client sees of the records that were found.
struct Shown {
    encoder: Encoder,
    guard: Option<Arc<Guard>>,
    /// What leaves the fields that are there, where not all are.
    projection: Option<Projection>,
}

impl Shown {
    fn new(call: &Call<'_, '_>, bucket: &Bucket) -> Self {
        let guard = call.scope.guard();
        Self {
            encoder: call.encoder(),
            guard: guard.cloned(),
            projection: guard.and_then(|guard| guard.projection(bucket.key_field())),
        }
    }

    fn admits(&self, record: &Record) -> bool {
        self.guard.as_ref().is_none_or(|guard| guard.admits(record))
    }

    fn record(&self, record: Option<&Record>) -> Result<Vec<u8>, StoreError> {
        match (&self.projection, record) {
            (Some(projection), Some(record)) => self.encoder.record(Some(&projection.apply(record))),
            (Some(_) | None, record) => self.encoder.record(record),
        }
    }

    fn records(&self, records: &[&Record]) -> Result<Vec<u8>, StoreError> {
        let Some(projection) = &self.projection else {
            return self.encoder.records(records);
        };
        let shown: Vec<_> = records.iter().map(|record| projection.apply(record)).collect();
        self.encoder.records(&shown.iter().collect::<Vec<_>>())
    }

    fn page(&self, page: &Page<'_>) -> Result<Vec<u8>, StoreError> {
        let Some(projection) = &self.projection else {
            return self.encoder.page(page);
        };
        let shown: Vec<_> = page.records.iter().map(|record| projection.apply(record)).collect();
        self.encoder.page(&Page {
            records: shown.iter().collect(),
            has_more: page.has_more,
            next_cursor: page.next_cursor.clone(),
        })
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
    read(call, &bucket, || Ok(Read::Where(Filter::everything())))
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
    read(call, &bucket, || Ok(Read::First(n, Filter::everything())))
}

/// `store.last`.
pub(super) fn last(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let n = fields::positive(call.fields, "n")?;
    read(call, &bucket, || Ok(Read::Last(n, Filter::everything())))
}

/// `store.paginate`.
pub(super) fn paginate(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let bucket = fields::text(call.fields, "bucket")?;
    let limit = fields::positive(call.fields, "limit")?;
    let after = fields::cursor(call.fields)?;
    let filter = Filter::everything();
    read(call, &bucket, || Ok(Read::Page { limit, after, filter }))
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
    let read = match call.scope.guard() {
        None => read,
        Some(guard) => read.within(guard, bucket.key_field())?,
    };
    let (now, shown) = (call.context.store.now(), Shown::new(call, bucket));
    let reader = Reader::new(bucket, now);
    if read.cost(bucket, &reader) <= INLINE_ROWS {
        return Ok(Handled::Answer(read.answer(&reader, &shown)?));
    }
    let bucket = Arc::clone(bucket);
    Ok(off_task(call, move || read.answer(&Reader::new(&bucket, now), &shown)))
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

/// A query that a client names, where it may look at the bucket behind it, and where that is the one that was judged.
pub(super) fn open_query<'s>(call: &Call<'_, '_>, state: &'s State, name: &str) -> Result<&'s QueryEntry, Failure> {
    deny_reserved(name)?;
    let entry = state.query(name)?;
    let source = match &entry.kind {
        QueryKind::Declarative(definition) => Some(definition.bucket()),
        // The embedding program answers for what its functions show, and they may look at anything.
        QueryKind::Programmatic(_) if call.scope.guard().is_some() => return Err(StoreError::NeedsAllRecords.into()),
        QueryKind::Programmatic(_) => None,
    };
    source.map_or(Ok(()), |bucket| deny_reserved(bucket.as_str()))?;
    match call.judged {
        // A query of this name was judged that is gone.
        Judged::Query(judged) if judged.as_ref() != source => Err(StoreError::QueryNotDefined(name.into()).into()),
        Judged::Query(_) | Judged::Whatever => Ok(entry),
    }
}

/// `store.runQuery`.
pub(super) fn run_query(call: &Call<'_, '_>) -> Result<Handled, Failure> {
    let name = fields::text(call.fields, "query")?;
    let params = fields::value(call.fields, "params")?;
    let snapshot = call.context.store.snapshot();
    let query = &open_query(call, &snapshot, &name)?.kind;
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
    if call.scope.guard().is_some() {
        // What it tells counts records that are not there for everybody.
        return Err(StoreError::NeedsAllRecords.into());
    }
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
    let query = &open_query(call, &snapshot, &name)?.kind;
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
