//! Queries: filters, plans, evaluation.

#[derive(Clone, Debug)]
pub struct Filter;
#[derive(Clone, Debug)]
pub struct QueryDefinition;
