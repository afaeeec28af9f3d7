//! An aggregate that follows changes without looking at the other records, as long as that gives exactly what a
//! fresh evaluation would give.

use crate::protocol::{Number, Record};
use crate::store::query::{Aggregate, AggregateFunction, Reader, ResolvedQuery};
use crate::store::state::Change;

/// Up to here every whole number is a double of its own, so the order of additions does not matter.
const EXACT_MAX: i128 = 1 << 53;

/// What is known of the values behind an aggregate.
#[derive(Debug, Default)]
pub(super) struct NumberView {
    /// Records that match.
    records: u64,
    /// Those of them that hold a number.
    numbers: u64,
    /// Those of them whose number is no signed 64-bit integer.
    inexact: u64,
    /// The sum of the integers, and of their magnitudes.
    total: i128,
    magnitude: i128,
    /// The least or greatest number, and how many records hold it.
    extreme: Option<(Number, u64)>,
    result: Option<Number>,
}

/// What a change did to an aggregate, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum NumberEffect {
    /// Nothing.
    None,
    /// What is known was brought up to date: the result follows from it.
    Known,
    /// What is known does not give the result: all records have to be looked at.
    Unknown,
}

impl NumberView {
    /// Looks at all records.
    pub(super) fn new(query: &ResolvedQuery, aggregate: &Aggregate, reader: &Reader<'_>) -> Self {
        let mut view = Self::default();
        let records = reader.select(&query.filter);
        view.result = aggregate.over(records.iter().copied());
        for record in records {
            view.add(aggregate, value_of(aggregate, record));
        }
        view
    }

    /// The aggregate as it is now.
    pub(super) fn result(&self) -> Option<Number> {
        self.result
    }

    /// Follows one row from one version to the next.
    pub(super) fn follow(&mut self, query: &ResolvedQuery, aggregate: &Aggregate, change: &Change) -> NumberEffect {
        let matching = |record: &Option<Record>| {
            record
                .as_ref()
                .filter(|record| query.filter.matches(record))
                .map(|record| value_of(aggregate, record))
        };
        let (old, new) = (matching(&change.old), matching(&change.new));
        if old == new {
            return NumberEffect::None;
        }
        let mut known = true;
        if let Some(value) = old {
            known &= self.remove(value);
        }
        if let Some(value) = new {
            self.add(aggregate, value);
        }
        let known = match aggregate.function {
            AggregateFunction::Count => true,
            AggregateFunction::Sum | AggregateFunction::Avg => self.inexact == 0 && self.magnitude <= EXACT_MAX,
            AggregateFunction::Min | AggregateFunction::Max => known,
        };
        if known { NumberEffect::Known } else { NumberEffect::Unknown }
    }

    /// Works out the result from what is known. True where it is another one.
    pub(super) fn settle(&mut self, aggregate: &Aggregate) -> bool {
        let total = self.total as f64;
        let result = match aggregate.function {
            AggregateFunction::Count => Some(Number::from(self.records)),
            AggregateFunction::Sum => Number::from_f64(total),
            AggregateFunction::Avg if self.numbers == 0 => Some(Number::Int(0)),
            AggregateFunction::Avg => Number::from_f64(total / self.numbers as f64),
            AggregateFunction::Min | AggregateFunction::Max => self.extreme.map(|(number, _)| number),
        };
        let changed = result != self.result;
        self.result = result;
        changed
    }

    fn add(&mut self, aggregate: &Aggregate, value: Option<Number>) {
        self.records += 1;
        let Some(number) = value else { return };
        self.numbers += 1;
        self.count_in(number, 1);
        let better = |extreme: Number| match aggregate.function {
            AggregateFunction::Min => number < extreme,
            AggregateFunction::Max => number > extreme,
            AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg => false,
        };
        match &mut self.extreme {
            Some((extreme, holders)) if *extreme == number => *holders += 1,
            Some((extreme, _)) if !better(*extreme) => {}
            extreme => *extreme = Some((number, 1)),
        }
    }

    /// Forgets a value; false where the extreme went with it.
    fn remove(&mut self, value: Option<Number>) -> bool {
        self.records = self.records.saturating_sub(1);
        let Some(number) = value else { return true };
        self.numbers = self.numbers.saturating_sub(1);
        self.count_in(number, -1);
        match &mut self.extreme {
            Some((extreme, holders)) if *extreme == number => {
                *holders = holders.saturating_sub(1);
                *holders > 0
            }
            _ => true,
        }
    }

    fn count_in(&mut self, number: Number, sign: i128) {
        match number {
            Number::Int(int) => {
                self.total += sign * i128::from(int);
                self.magnitude += sign * i128::from(int).abs();
            }
            Number::Uint(_) | Number::Float(_) if sign > 0 => self.inexact += 1,
            Number::Uint(_) | Number::Float(_) => self.inexact = self.inexact.saturating_sub(1),
        }
    }
}

/// The number that a record contributes, where it has one.
fn value_of(aggregate: &Aggregate, record: &Record) -> Option<Number> {
    use crate::protocol::FieldValue;
    match record.value(aggregate.field.as_ref()?) {
        FieldValue::Number(number) => Some(number),
        FieldValue::Missing
        | FieldValue::Null
        | FieldValue::Bool(_)
        | FieldValue::Text(_)
        | FieldValue::Array(_)
        | FieldValue::Object(_) => None,
    }
}
