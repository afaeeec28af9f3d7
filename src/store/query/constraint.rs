//! What a filter says about single fields: what indexes and the routing of live views can use.
//!
//! Sound, not complete: a record that passes the filter satisfies every constraint, and where the constraints are
//! exact, the other way round too.

use std::ops::{Bound, RangeBounds};

use indexmap::IndexMap;

use super::filter::{Node, Test};
use crate::protocol::{Datum, FieldName, FieldValue, Record, Text};

/// What holds for every record that passes a filter.
#[derive(Clone, Debug, Default)]
pub struct Constraints {
    fields: IndexMap<FieldName, Domain>,
    alternatives: Vec<Vec<Constraints>>,
    nothing: bool,
    residual: bool,
}

/// The values that a field may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Domain {
    /// These, ascending, each once. [`Datum::Missing`] stands for the missing field.
    Values(Vec<Datum>),
    /// All those between two bounds in the order of [`Datum`].
    Range(ValueRange),
}

/// The values between two bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueRange {
    /// Where it begins.
    pub low: Bound<Datum>,
    /// Where it ends.
    pub high: Bound<Datum>,
}

impl Constraints {
    /// Whether no record can pass the filter.
    #[must_use]
    pub fn match_nothing(&self) -> bool {
        self.nothing
    }

    /// Whether the constraints say all that the filter says.
    #[must_use]
    pub fn are_exact(&self) -> bool {
        !self.residual
    }

    /// The constrained fields, in the order in which the filter names them. All of them hold at once.
    pub fn fields(&self) -> impl Iterator<Item = (&FieldName, &Domain)> {
        self.fields.iter()
    }

    /// What a field may be, where the filter says so.
    #[must_use]
    pub fn domain(&self, field: &FieldName) -> Option<&Domain> {
        self.fields.get(field)
    }

    /// The field with the fewest possible values.
    #[must_use]
    pub fn fewest_values(&self) -> Option<(&FieldName, &[Datum])> {
        let finite = self.fields.iter().filter_map(|(field, domain)| match domain {
            Domain::Values(values) => Some((field, values.as_slice())),
            Domain::Range(_) => None,
        });
        finite.min_by_key(|(_, values)| values.len())
    }

    /// The first field that must lie in a range.
    #[must_use]
    pub fn first_range(&self) -> Option<(&FieldName, &ValueRange)> {
        self.fields.iter().find_map(|(field, domain)| match domain {
            Domain::Values(_) => None,
            Domain::Range(range) => Some((field, range)),
        })
    }

    /// For each `$or` of the filter its branches, one of which must hold. Those that match nothing are left out.
    #[must_use]
    pub fn alternatives(&self) -> &[Vec<Self>] {
        &self.alternatives
    }

    /// Whether every record that has these fields in their domains passes the filter.
    pub(super) fn say_all_by(&self, fields: &[FieldName]) -> bool {
        self.are_exact() && !self.nothing && self.alternatives.is_empty() && self.fields.keys().all(|field| fields.contains(field))
    }

    /// Whether a record satisfies all constraints.
    #[must_use]
    pub fn admit(&self, record: &Record) -> bool {
        !self.nothing
            && self.fields.iter().all(|(field, domain)| domain.contains(&record.datum(field)))
            && self
                .alternatives
                .iter()
                .all(|branches| branches.iter().any(|branch| branch.admit(record)))
    }

    pub(super) fn of(node: &Node) -> Self {
        let mut constraints = Self::default();
        constraints.narrow(node);
        constraints
    }

    fn narrow(&mut self, node: &Node) {
        match node {
            Node::All(nodes) => nodes.iter().for_each(|node| self.narrow(node)),
            Node::Any(nodes) => self.narrow_to_any(nodes.iter().map(Self::of)),
            Node::Field(field, tests) => {
                for test in tests {
                    match Domain::of(test) {
                        Some(domain) => self.restrict(field, domain),
                        None => self.residual = true,
                    }
                }
            }
        }
    }

    fn narrow_to_any(&mut self, branches: impl Iterator<Item = Self>) {
        let mut branches: Vec<_> = branches.filter(|branch| !branch.nothing).collect();
        match branches.len() {
            0 => self.nothing = true,
            1 => self.merge(branches.remove(0)),
            _ => {
                // A field that every branch ties to some values has one of all of these.
                let common: Vec<_> = union_of_values(&branches);
                let said_all = branches.iter().all(|branch| branch.is_one_field()) && !common.is_empty();
                for (field, domain) in common {
                    self.restrict(&field, domain);
                }
                if !said_all {
                    self.residual |= branches.iter().any(|branch| branch.residual);
                    self.alternatives.push(branches);
                }
            }
        }
    }

    /// Exactly one field is constrained, and nothing else is said.
    fn is_one_field(&self) -> bool {
        self.fields.len() == 1 && self.alternatives.is_empty() && !self.residual
    }

    fn merge(&mut self, other: Self) {
        for (field, domain) in other.fields {
            self.restrict(&field, domain);
        }
        self.alternatives.extend(other.alternatives);
        self.residual |= other.residual;
    }

    fn restrict(&mut self, field: &FieldName, domain: Domain) {
        let domain = match self.fields.get(field) {
            Some(known) => known.intersect(&domain),
            None => domain,
        };
        self.nothing |= domain.is_empty();
        self.fields.insert(field.clone(), domain);
    }
}

/// The fields that all of the branches tie to values, with all of these values.
fn union_of_values(branches: &[Constraints]) -> Vec<(FieldName, Domain)> {
    let Some((first, rest)) = branches.split_first() else {
        return Vec::new();
    };
    let union = |field: &FieldName, values: &[Datum]| {
        let mut all = values.to_vec();
        for branch in rest {
            match branch.fields.get(field)? {
                Domain::Values(values) => all.extend_from_slice(values),
                Domain::Range(_) => return None,
            }
        }
        Some((field.clone(), Domain::values(all)))
    };
    first
        .fields
        .iter()
        .filter_map(|(field, domain)| match domain {
            Domain::Values(values) => union(field, values),
            Domain::Range(_) => None,
        })
        .collect()
}

impl Domain {
    fn values(mut values: Vec<Datum>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self::Values(values)
    }

    /// The values that pass a test, where they are a finite set or a range.
    fn of(test: &Test) -> Option<Self> {
        match test {
            Test::OneOf(tokens) => Some(Self::values(
                tokens.iter().map(|token| FieldValue::decode(token).to_datum()).collect(),
            )),
            Test::Numbers(low, high) => Some(Self::range(
                low.map(Datum::Number),
                or(high.map(Datum::Number), Bound::Excluded(Datum::text(""))),
            )),
            Test::Texts(low, high) => Some(Self::range(
                or(low.clone().map(Datum::Text), Bound::Included(Datum::text(""))),
                or(high.clone().map(Datum::Text), Bound::Excluded(Datum::Bool(false))),
            )),
            Test::StartsWith(prefix) => {
                let end = end_of_prefix(prefix).map_or(Datum::Bool(false), Datum::Text);
                Some(Self::range(Bound::Included(Datum::text(prefix)), Bound::Excluded(end)))
            }
            Test::Present => Some(Self::range(Bound::Unbounded, Bound::Excluded(Datum::Null))),
            Test::Absent => Some(Self::Values(vec![Datum::Null, Datum::Missing])),
            Test::NoneOf(_) | Test::Contains(_) | Test::EndsWith(_) => None,
        }
    }

    fn range(low: Bound<Datum>, high: Bound<Datum>) -> Self {
        match (low, high) {
            (Bound::Included(low), Bound::Included(high)) if low == high => Self::Values(vec![low]),
            (low, high) => Self::Range(ValueRange { low, high }),
        }
    }

    /// Whether a value is one of them.
    #[must_use]
    pub fn contains(&self, value: &Datum) -> bool {
        match self {
            Self::Values(values) => values.binary_search(value).is_ok(),
            Self::Range(range) => range.contains(value),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Values(values) => values.is_empty(),
            Self::Range(range) => range.is_empty(),
        }
    }

    fn intersect(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Values(values), other) | (other, Self::Values(values)) => {
                Self::Values(values.iter().filter(|value| other.contains(value)).cloned().collect())
            }
            (Self::Range(a), Self::Range(b)) => {
                let ValueRange { low, high } = a.intersect(b);
                Self::range(low, high)
            }
        }
    }
}

impl ValueRange {
    /// Whether a value lies within.
    #[must_use]
    pub fn contains(&self, value: &Datum) -> bool {
        (self.low.as_ref(), self.high.as_ref()).contains(value)
    }

    /// Whether nothing can lie within.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match (&self.low, &self.high) {
            (Bound::Included(low), Bound::Included(high)) => low > high,
            (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => low >= high,
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        }
    }

    /// What lies within both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        // The tighter of two bounds is the one that the other range does not reach beyond.
        let low = match (&self.low, &other.low) {
            (Bound::Unbounded, low) | (low, Bound::Unbounded) => low,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => match a.cmp(b) {
                std::cmp::Ordering::Greater => &self.low,
                std::cmp::Ordering::Less => &other.low,
                std::cmp::Ordering::Equal => excluding(&self.low, &other.low),
            },
        };
        let high = match (&self.high, &other.high) {
            (Bound::Unbounded, high) | (high, Bound::Unbounded) => high,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => match a.cmp(b) {
                std::cmp::Ordering::Less => &self.high,
                std::cmp::Ordering::Greater => &other.high,
                std::cmp::Ordering::Equal => excluding(&self.high, &other.high),
            },
        };
        Self {
            low: low.clone(),
            high: high.clone(),
        }
    }
}

/// Of two bounds at one value the one that leaves the value out.
fn excluding<'a>(a: &'a Bound<Datum>, b: &'a Bound<Datum>) -> &'a Bound<Datum> {
    if matches!(a, Bound::Excluded(_)) { a } else { b }
}

fn or(bound: Bound<Datum>, instead: Bound<Datum>) -> Bound<Datum> {
    match bound {
        Bound::Unbounded => instead,
        bound @ (Bound::Included(_) | Bound::Excluded(_)) => bound,
    }
}

/// The least text behind all texts with a beginning, or nothing where these are the last texts of all.
fn end_of_prefix(prefix: &str) -> Option<Text> {
    let mut rest = prefix;
    while let Some(last) = rest.chars().next_back() {
        rest = &rest[..rest.len() - last.len_utf8()];
        if let Some(next) = next_in_utf16(last) {
            return Some(Text::new(&format!("{rest}{next}")));
        }
    }
    None
}

/// The character that follows in the order of UTF-16 code units, in which surrogate pairs stand before U+E000.
fn next_in_utf16(char: char) -> Option<char> {
    match char {
        '\u{D7FF}' => Some('\u{10000}'),
        '\u{10FFFF}' => Some('\u{E000}'),
        '\u{FFFF}' => None,
        other => char::from_u32(u32::from(other) + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::super::support::filter;
    use super::*;

    fn domain(text: &str, field: &str) -> Option<Domain> {
        filter(text).constraints().domain(&FieldName::new(field)).cloned()
    }

    fn values<const N: usize>(values: [Datum; N]) -> Option<Domain> {
        Some(Domain::Values(values.to_vec()))
    }

    fn range(low: Bound<Datum>, high: Bound<Datum>) -> Option<Domain> {
        Some(Domain::Range(ValueRange { low, high }))
    }

    #[test]
    fn each_operator_gives_its_domain() {
        use Bound::{Excluded, Included, Unbounded};
        let text = |text: &str| Datum::text(text);
        let (first_text, first_bool) = (text(""), Datum::Bool(false));
        let table = [
            (r#"{"a":1}"#, values([1.into()])),
            (r#"{"a":null}"#, values([Datum::Null])),
            (r#"{"a":{"$eq":"x"}}"#, values([text("x")])),
            (r#"{"a":{"$in":["x",2,null,2.0,[1]]}}"#, values([2.into(), text("x"), Datum::Null])),
            (r#"{"a":{"$exists":false}}"#, values([Datum::Null, Datum::Missing])),
            (r#"{"a":{"$exists":true}}"#, range(Unbounded, Excluded(Datum::Null))),
            (r#"{"a":{"$gt":1}}"#, range(Excluded(1.into()), Excluded(first_text.clone()))),
            (r#"{"a":{"$lte":1}}"#, range(Unbounded, Included(1.into()))),
            (r#"{"a":{"$lt":"x"}}"#, range(Included(first_text), Excluded(text("x")))),
            (r#"{"a":{"$gte":"x"}}"#, range(Included(text("x")), Excluded(first_bool.clone()))),
            (r#"{"a":{"$between":[1,3]}}"#, range(Included(1.into()), Included(3.into()))),
            (r#"{"a":{"$between":[3,3]}}"#, values([3.into()])),
            (r#"{"a":{"$gt":1,"$lt":9,"$gte":1}}"#, range(Excluded(1.into()), Excluded(9.into()))),
            (r#"{"a":{"$startsWith":"ab"}}"#, range(Included(text("ab")), Excluded(text("ac")))),
            (
                r#"{"a":{"$startsWith":"a😀"}}"#,
                range(Included(text("a😀")), Excluded(text("a😁"))),
            ),
            (
                "{\"a\":{\"$startsWith\":\"a\u{10FFFF}\"}}",
                range(Included(text("a\u{10FFFF}")), Excluded(text("a\u{E000}"))),
            ),
            (
                "{\"a\":{\"$startsWith\":\"a\u{FFFF}\"}}",
                range(Included(text("a\u{FFFF}")), Excluded(text("b"))),
            ),
            (
                "{\"a\":{\"$startsWith\":\"\u{FFFF}\"}}",
                range(Included(text("\u{FFFF}")), Excluded(first_bool)),
            ),
            (r#"{"a":{"$in":[1,2,3,"x"],"$gt":1}}"#, values([2.into(), 3.into()])),
            (r#"{"a":{"$neq":1}}"#, None),
            (r#"{"a":{"$contains":"x"}}"#, None),
            (r#"{"$and":[{"a":{"$gte":5}},{"a":{"$lte":5}}]}"#, values([5.into()])),
            (r#"{"$or":[{"a":1},{"a":{"$in":[2,1]},"b":1}]}"#, values([1.into(), 2.into()])),
            (r#"{"$or":[{"a":1},{"a":{"$gt":5}}]}"#, None),
            (r#"{"$or":[{"a":1},{"b":1}]}"#, None),
            (r#"{"$or":[{"a":1},{"a":[]}]}"#, values([1.into()])),
        ];
        for (text, expected) in table {
            assert_eq!(domain(text, "a"), expected, "{text}");
        }
    }

    #[test]
    fn contradictions_are_seen() {
        for text in [
            r#"{"$or":[]}"#,
            r#"{"a":[]}"#,
            r#"{"a":{"$gt":1,"$lt":1}}"#,
            r#"{"a":{"$gt":1,"$lt":"x"}}"#,
            r#"{"a":1,"$and":[{"a":2}]}"#,
        ] {
            assert!(filter(text).constraints().match_nothing(), "{text}");
        }
        assert!(!filter(r#"{"a":{"$neq":1}}"#).constraints().match_nothing());
    }

    #[test]
    fn alternatives_keep_what_can_match() {
        let filter = filter(r#"{"c":1,"$or":[{"a":1},{"b":{"$gt":2}},{"b":{}}]}"#);
        let constraints = filter.constraints();
        assert_eq!(constraints.alternatives().len(), 1);
        assert_eq!(constraints.alternatives()[0].len(), 2);
        assert!(constraints.are_exact());
    }

    #[test]
    fn the_router_gets_the_narrowest_field() {
        let filter = filter(r#"{"a":{"$in":[1,2]},"n":{"$gt":2},"b":1}"#);
        assert_eq!(
            filter.constraints().fewest_values(),
            Some((&FieldName::new("b"), [Datum::from(1)].as_slice()))
        );
        assert_eq!(filter.constraints().first_range().unwrap().0.as_str(), "n");
    }
}
