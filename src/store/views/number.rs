//! An aggregate that follows changes.

use super::tally::Tally;
use crate::protocol::{Number, Record};
use crate::store::query::{Aggregate, Reader, ResolvedQuery};
use crate::store::state::Change;

/// A live aggregate over the records that match.
#[derive(Debug)]
pub(super) struct NumberView {
    aggregate: Aggregate,
    tally: Tally,
    result: Option<Number>,
}

impl NumberView {
    /// Looks at all records.
    pub(super) fn new(query: &ResolvedQuery, aggregate: &Aggregate, reader: &Reader<'_>) -> Self {
        let records = reader.select(&query.filter);
        let tally = Tally::of(aggregate.function, records.iter().map(|record| aggregate.operand(record)));
        Self {
            result: aggregate.over(records.into_iter()),
            aggregate: aggregate.clone(),
            tally,
        }
    }

    /// The aggregate as it is now.
    pub(super) fn result(&self) -> Option<Number> {
        self.result
    }

    /// Follows one row from one version to the next. True where the aggregate may be another one.
    pub(super) fn follow(&mut self, query: &ResolvedQuery, change: &Change) -> bool {
        let operand = |record: &Option<Record>| {
            record
                .as_ref()
                .filter(|record| query.filter.matches(record))
                .map(|record| self.aggregate.operand(record))
        };
        let (old, new) = (operand(&change.old), operand(&change.new));
        if old == new {
            return false;
        }
        if let Some(operand) = old {
            self.tally.remove(operand);
        }
        if let Some(operand) = new {
            self.tally.add(operand);
        }
        true
    }

    /// Works the result out. False where the records themselves have to be asked.
    pub(super) fn settle(&mut self) -> bool {
        let Some(result) = self.tally.result() else { return false };
        self.result = result;
        true
    }
}
