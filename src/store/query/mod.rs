//! Declarative queries: filters, plans, sorting, projection, aggregates and the reads made of them.
//!
//! Pure: the time is an argument, nothing is read or written beyond the bucket given. A malformed filter or
//! definition is refused before any record is looked at, so that the outcome never depends on the content.

mod aggregate;
mod constraint;
mod definition;
mod filter;
mod page;
mod parse;
mod plan;
mod projection;
mod reader;
mod sort;
mod span;
mod walk;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod support;

pub use aggregate::{Accumulator, Aggregate, AggregateFunction, Group, GroupKey};
pub use constraint::{Constraints, Domain, ValueRange};
pub use definition::{QueryDefinition, ResolvedQuery};
pub use filter::Filter;
pub use page::Page;
pub use plan::{AccessKind, Explanation, IndexUsed, SortedBy};
pub use projection::Projection;
pub(in crate::store) use projection::holds;
pub use reader::{QueryResult, Reader};
pub use sort::{Direction, Sort, SortKey};

use crate::protocol::Issue;

/// How many fields a sort, a projection or a grouping may name.
const FIELDS_MAX: usize = 1000;
/// How many faults are told at once.
const ISSUES_MAX: usize = 100;

/// The fault of naming too many fields.
fn too_many_fields(place: &str) -> Issue {
    Issue::new(place, "size", format!("At most {FIELDS_MAX} fields may be named"))
}
