//! Pages through a bucket.

use crate::protocol::{Datum, Record};

/// One page, and how to go on.
#[derive(Clone, Debug, Default)]
pub struct Page<'a> {
    /// The records of the page.
    pub records: Vec<&'a Record>,
    /// Whether there are records behind this page.
    pub has_more: bool,
    /// The key of the last record; there on the last page too, absent where the page is empty.
    pub next_cursor: Option<Datum>,
}
