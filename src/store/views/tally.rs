//! What is known of the numbers behind an aggregate: enough to follow changes without looking at the other records,
//! as long as that gives exactly what a fresh evaluation would give.

use crate::protocol::Number;
use crate::store::query::AggregateFunction;

/// Up to here every whole number is a double of its own, so the order of additions does not matter.
const EXACT_MAX: i128 = 1 << 53;

/// Counts, sums and extremes that follow changes.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    function: AggregateFunction,
    records: u64,
    /// Records that hold a number.
    numbers: u64,
    /// Those of them whose number is no signed 64-bit integer.
    inexact: u64,
    /// The sum of the integers, and of their magnitudes.
    total: i128,
    magnitude: i128,
    /// The least or greatest number, and how many records hold it.
    extreme: Option<(Number, u64)>,
    /// The extreme went: which is the next one is not known.
    lost_extreme: bool,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new(function: AggregateFunction) -> Self {
        Self {
            function,
            records: 0,
            numbers: 0,
            inexact: 0,
            total: 0,
            magnitude: 0,
            extreme: None,
            lost_extreme: false,
        }
    }

    /// The tally of these numbers, one for each record.
    pub(super) fn of(function: AggregateFunction, operands: impl Iterator<Item = Option<Number>>) -> Self {
        let mut tally = Self::new(function);
        for operand in operands {
            tally.add(operand);
        }
        tally
    }

    /// Takes a record with the number that it contributes, if any.
    pub(super) fn add(&mut self, operand: Option<Number>) {
        self.records += 1;
        let Some(number) = operand else { return };
        self.numbers += 1;
        self.count_in(number, 1);
        let better = |extreme: Number| match self.function {
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

    /// Forgets a record.
    pub(super) fn remove(&mut self, operand: Option<Number>) {
        self.records = self.records.saturating_sub(1);
        let Some(number) = operand else { return };
        self.numbers = self.numbers.saturating_sub(1);
        self.count_in(number, -1);
        if let Some((extreme, holders)) = &mut self.extreme
            && *extreme == number
        {
            *holders = holders.saturating_sub(1);
            self.lost_extreme |= *holders == 0;
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

    /// The aggregate, or nothing where the records themselves have to be asked.
    pub(super) fn result(&self) -> Option<Option<Number>> {
        let exact = self.inexact == 0 && self.magnitude <= EXACT_MAX;
        match self.function {
            AggregateFunction::Count => Some(Some(Number::from(self.records))),
            AggregateFunction::Sum if exact => Some(Number::from_f64(self.total as f64)),
            AggregateFunction::Avg if exact && self.numbers == 0 => Some(Some(Number::Int(0))),
            AggregateFunction::Avg if exact => Some(Number::from_f64(self.total as f64 / self.numbers as f64)),
            AggregateFunction::Sum | AggregateFunction::Avg => None,
            AggregateFunction::Min | AggregateFunction::Max if self.numbers == 0 => Some(None),
            AggregateFunction::Min | AggregateFunction::Max if self.lost_extreme => None,
            AggregateFunction::Min | AggregateFunction::Max => Some(self.extreme.map(|(number, _)| number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FUNCTIONS: [AggregateFunction; 5] = [
        AggregateFunction::Count,
        AggregateFunction::Sum,
        AggregateFunction::Avg,
        AggregateFunction::Min,
        AggregateFunction::Max,
    ];

    /// The aggregate of the numbers that are left, as a fresh evaluation has it.
    fn fresh(function: AggregateFunction, left: &[Option<Number>]) -> Option<Number> {
        let numbers: Vec<_> = left.iter().flatten().copied().collect();
        let sum = numbers.iter().fold(0.0, |sum, number| sum + number.as_f64());
        match function {
            AggregateFunction::Count => Some(Number::from(left.len() as u64)),
            AggregateFunction::Sum => Number::from_f64(sum),
            AggregateFunction::Avg if numbers.is_empty() => Some(Number::Int(0)),
            AggregateFunction::Avg => Number::from_f64(sum / numbers.len() as f64),
            AggregateFunction::Min => numbers.into_iter().min(),
            AggregateFunction::Max => numbers.into_iter().max(),
        }
    }

    fn operand() -> impl Strategy<Value = Option<Number>> {
        prop_oneof![
            1 => Just(None),
            6 => (-3..3_i64).prop_map(|int| Some(Number::Int(int))),
            1 => Just(Some(Number::Int(i64::MIN))),
            1 => Just(Some(Number::Uint(u64::MAX))),
            1 => Just(Some(Number::Float(0.1))),
        ]
    }

    proptest! {
        #[test]
        fn what_a_tally_says_is_what_a_fresh_evaluation_says(steps in prop::collection::vec((any::<bool>(), operand()), 0..30)) {
            for function in FUNCTIONS {
                let (mut tally, mut left) = (Tally::new(function), Vec::new());
                for (adds, operand) in &steps {
                    if *adds || left.is_empty() {
                        tally.add(*operand);
                        left.push(*operand);
                    } else {
                        tally.remove(left.remove(left.len() / 2));
                    }
                    if let Some(result) = tally.result() {
                        prop_assert_eq!(result, fresh(function, &left), "{:?} of {:?}", function, left);
                    }
                }
            }
        }
    }
}
