//! Which views a changed record can touch: found by the record's values, not by asking every view.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Bound, RangeBounds};

use super::ViewId;
use super::live_view::{LiveView, Plan};
use crate::protocol::{BucketName, Datum, FieldName, Record};
use crate::store::query::ValueRange;
use crate::store::state::Change;

/// Where a view was put, so that it can be taken out again.
#[derive(Clone, Debug)]
enum Route {
    /// The filter pins a field to these values.
    Values(BucketName, FieldName, Vec<Datum>),
    /// The filter pins a field to a range.
    Range(BucketName, FieldName, ValueRange),
    /// A closure read this key.
    Key(BucketName, Datum),
    /// Every change of the bucket concerns it.
    Whole(BucketName),
}

/// The index from changes to views.
#[derive(Debug, Default)]
pub(super) struct Routing {
    buckets: HashMap<BucketName, BucketRoutes>,
    routes: HashMap<ViewId, Vec<Route>>,
}

#[derive(Debug, Default)]
struct BucketRoutes {
    values: HashMap<FieldName, HashMap<Datum, Vec<ViewId>>>,
    ranges: HashMap<FieldName, Ranges>,
    keys: HashMap<Datum, Vec<ViewId>>,
    whole: Vec<ViewId>,
}

/// Ranges of one field, ordered by where they begin: those that begin behind a value are never looked at.
#[derive(Debug, Default)]
struct Ranges {
    by_start: BTreeMap<Option<Datum>, Vec<(ViewId, ValueRange)>>,
}

impl Routing {
    /// Takes a view in.
    pub(super) fn add(&mut self, id: ViewId, view: &LiveView) {
        let routes = routes_of(view);
        for route in &routes {
            self.insert(id, route);
        }
        self.routes.insert(id, routes);
    }

    /// Takes a view out.
    pub(super) fn remove(&mut self, id: ViewId) {
        for route in self.routes.remove(&id).unwrap_or_default() {
            self.take_out(id, &route);
        }
    }

    fn insert(&mut self, id: ViewId, route: &Route) {
        match route {
            Route::Values(bucket, field, values) => {
                let by_value = self
                    .buckets
                    .entry(bucket.clone())
                    .or_default()
                    .values
                    .entry(field.clone())
                    .or_default();
                for value in values {
                    by_value.entry(value.clone()).or_default().push(id);
                }
            }
            Route::Range(bucket, field, range) => {
                let ranges = self
                    .buckets
                    .entry(bucket.clone())
                    .or_default()
                    .ranges
                    .entry(field.clone())
                    .or_default();
                ranges.by_start.entry(start_of(&range.low)).or_default().push((id, range.clone()));
            }
            Route::Key(bucket, key) => self
                .buckets
                .entry(bucket.clone())
                .or_default()
                .keys
                .entry(key.clone())
                .or_default()
                .push(id),
            Route::Whole(bucket) => self.buckets.entry(bucket.clone()).or_default().whole.push(id),
        }
    }

    fn take_out(&mut self, id: ViewId, route: &Route) {
        let (Route::Values(bucket, ..) | Route::Range(bucket, ..) | Route::Key(bucket, _) | Route::Whole(bucket)) = route;
        let Some(routes) = self.buckets.get_mut(bucket) else { return };
        match route {
            Route::Values(_, field, values) => {
                if let Some(by_value) = routes.values.get_mut(field) {
                    for value in values {
                        forget(by_value, value, id);
                    }
                    if by_value.is_empty() {
                        routes.values.remove(field);
                    }
                }
            }
            Route::Range(_, field, range) => {
                if let Some(ranges) = routes.ranges.get_mut(field) {
                    let start = start_of(&range.low);
                    if let Some(entries) = ranges.by_start.get_mut(&start) {
                        entries.retain(|(other, _)| *other != id);
                        if entries.is_empty() {
                            ranges.by_start.remove(&start);
                        }
                    }
                    if ranges.by_start.is_empty() {
                        routes.ranges.remove(field);
                    }
                }
            }
            Route::Key(_, key) => forget(&mut routes.keys, key, id),
            Route::Whole(_) => routes.whole.retain(|other| *other != id),
        }
        if routes.values.is_empty() && routes.ranges.is_empty() && routes.keys.is_empty() && routes.whole.is_empty() {
            self.buckets.remove(bucket);
        }
    }

    /// Whether any view looks at a bucket.
    pub(super) fn concerns(&self, bucket: &str) -> bool {
        self.buckets.contains_key(bucket)
    }

    /// The views that a change can touch.
    pub(super) fn touched(&self, bucket: &str, key: &FieldName, change: &Change, touched: &mut HashSet<ViewId>) {
        let Some(routes) = self.buckets.get(bucket) else { return };
        touched.extend(&routes.whole);
        for record in [&change.old, &change.new].into_iter().flatten() {
            routes.touched_by(record, key, touched);
        }
    }
}

impl BucketRoutes {
    fn touched_by(&self, record: &Record, key: &FieldName, touched: &mut HashSet<ViewId>) {
        for (field, by_value) in &self.values {
            touched.extend(by_value.get(&record.datum(field)).into_iter().flatten());
        }
        for (field, ranges) in &self.ranges {
            ranges.touched_by(&record.datum(field), touched);
        }
        if !self.keys.is_empty() {
            touched.extend(self.keys.get(&record.datum(key)).into_iter().flatten());
        }
    }
}

impl Ranges {
    fn touched_by(&self, value: &Datum, touched: &mut HashSet<ViewId>) {
        let before = self.by_start.range(..=Some(value.clone()));
        for (id, range) in before.flat_map(|(_, entries)| entries) {
            if (range.low.as_ref(), range.high.as_ref()).contains(value) {
                touched.insert(*id);
            }
        }
    }
}

fn start_of(low: &Bound<Datum>) -> Option<Datum> {
    match low {
        Bound::Included(low) | Bound::Excluded(low) => Some(low.clone()),
        Bound::Unbounded => None,
    }
}

fn forget(map: &mut HashMap<Datum, Vec<ViewId>>, value: &Datum, id: ViewId) {
    if let Some(ids) = map.get_mut(value) {
        ids.retain(|other| *other != id);
        if ids.is_empty() {
            map.remove(value);
        }
    }
}

/// A finite set of values is the narrowest route, a range the next; what has neither hears of every change.
fn routes_of(view: &LiveView) -> Vec<Route> {
    match view.plan() {
        Plan::Query(query) => {
            let constraints = query.filter.constraints();
            let bucket = query.bucket.clone();
            if constraints.match_nothing() {
                return Vec::new();
            }
            if let Some((field, values)) = constraints.fewest_values() {
                return vec![Route::Values(bucket, field.clone(), values.to_vec())];
            }
            if let Some((field, range)) = constraints.first_range() {
                return vec![Route::Range(bucket, field.clone(), range.clone())];
            }
            vec![Route::Whole(bucket)]
        }
        Plan::Closure(..) => {
            let dependencies = view.dependencies();
            let whole = dependencies.buckets.iter().cloned().map(Route::Whole);
            // Reading a whole bucket covers its keys.
            let keys = dependencies
                .keys
                .iter()
                .filter(|(bucket, _)| !dependencies.buckets.contains(bucket));
            whole
                .chain(keys.map(|(bucket, key)| Route::Key(bucket.clone(), key.clone())))
                .collect()
        }
    }
}
