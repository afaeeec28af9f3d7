//! Results as JSON: the bytes of records are spliced in as they are, and nothing is written that would exceed
//! what an answer may be.

use serde::Serialize;

use crate::protocol::json::{write_text, write_value};
use crate::protocol::{Datum, Number, Record, message};
use crate::store::query::Page;
use crate::store::{Outcome, StoreError};

/// A data size below this needs no look at the limit, which is never that small.
const NUMBER_BYTES: usize = 24;

/// Writes results no larger than an answer may be.
#[derive(Clone, Copy, Debug)]
pub struct Encoder {
    /// The request that is answered.
    pub id: Number,
    /// The most bytes that the data of an answer may have.
    pub max_bytes: usize,
}

impl Encoder {
    /// Refuses what would be too large, before any of it is written.
    fn admit(&self, bytes: usize) -> Result<(), StoreError> {
        if bytes > self.max_bytes {
            return Err(StoreError::ResultTooLarge {
                limit_bytes: self.max_bytes,
            });
        }
        Ok(())
    }

    /// Data that is JSON already; none where there is no value to give.
    pub fn json(&self, data: Option<&[u8]>) -> Result<Vec<u8>, StoreError> {
        self.admit(data.map_or(0, <[u8]>::len))?;
        Ok(message::result(self.id, data))
    }

    /// A record, or null.
    pub fn record(&self, record: Option<&Record>) -> Result<Vec<u8>, StoreError> {
        self.json(Some(record.map_or(b"null", Record::json)))
    }

    /// A list of records.
    pub fn records(&self, records: &[&Record]) -> Result<Vec<u8>, StoreError> {
        let bytes = list_bytes(records.iter().copied());
        self.admit(bytes)?;
        Ok(message::result_with(self.id, bytes, |out| write_list(out, records.iter().copied())))
    }

    /// A list of anything, given up as soon as it is too large.
    pub fn list(&self, items: impl Iterator<Item = impl Serialize>) -> Result<Vec<u8>, StoreError> {
        let mut data = vec![b'['];
        for item in items {
            if data.len() > 1 {
                data.push(b',');
            }
            serde_json::to_writer(&mut data, &item).map_err(|error| StoreError::QueryFailed(error.to_string()))?;
            self.admit(data.len())?;
        }
        data.push(b']');
        self.json(Some(&data))
    }

    /// A page of records. The cursor is left out of an empty one.
    pub fn page(&self, page: &Page<'_>) -> Result<Vec<u8>, StoreError> {
        let bytes = list_bytes(page.records.iter().copied());
        self.admit(bytes)?;
        Ok(message::result_with(self.id, bytes + 96, |out| {
            out.extend_from_slice(b"{\"records\":");
            write_list(out, page.records.iter().copied());
            out.extend_from_slice(b",\"hasMore\":");
            out.extend_from_slice(if page.has_more { b"true" } else { b"false" });
            if let Some(cursor) = page.next_cursor.as_ref().and_then(Datum::to_value) {
                out.extend_from_slice(b",\"nextCursor\":");
                write_value(out, &cursor);
            }
            out.push(b'}');
        }))
    }

    /// A number, or null.
    #[must_use]
    pub fn number(&self, number: Option<Number>) -> Vec<u8> {
        message::result_with(self.id, NUMBER_BYTES, |out| match number {
            Some(number) => number.write(out),
            None => out.extend_from_slice(b"null"),
        })
    }

    /// A count.
    #[must_use]
    pub fn count(&self, count: usize) -> Vec<u8> {
        self.number(Some(Number::from(count as u64)))
    }

    /// `{"<word>":true}`.
    #[must_use]
    pub fn done(&self, word: &str) -> Vec<u8> {
        message::result_with(self.id, NUMBER_BYTES, |out| {
            out.push(b'{');
            write_text(out, word);
            out.extend_from_slice(b":true}");
        })
    }

    /// `{"name":"<name>","<word>":true}`.
    #[must_use]
    pub fn named(&self, name: &str, word: &str) -> Vec<u8> {
        message::result_with(self.id, NUMBER_BYTES + name.len(), |out| {
            out.extend_from_slice(b"{\"name\":");
            write_text(out, name);
            out.push(b',');
            write_text(out, word);
            out.extend_from_slice(b":true}");
        })
    }

    /// What a write did. Its records are no larger than what the request brought, so only the steps of a
    /// transaction, which may read, can be too much.
    pub fn outcome(&self, outcome: &Outcome) -> Result<Vec<u8>, StoreError> {
        let bytes = outcome_bytes(outcome);
        match outcome {
            Outcome::Steps(_) => self.admit(bytes)?,
            Outcome::Done | Outcome::Record(_) | Outcome::Records(_) | Outcome::Count(_) | Outcome::Deleted(_) => {}
        }
        Ok(message::result_with(self.id, bytes, |out| write_outcome(out, outcome)))
    }
}

/// The bytes of a list with its commas and brackets, counted without overflow.
fn list_bytes<'r>(records: impl Iterator<Item = &'r Record>) -> usize {
    records.fold(2, |sum: usize, record| sum.saturating_add(record.json().len() + 1))
}

fn write_list<'r>(out: &mut Vec<u8>, records: impl Iterator<Item = &'r Record>) {
    out.push(b'[');
    for (at, record) in records.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(record.json());
    }
    out.push(b']');
}

fn outcome_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Done | Outcome::Record(None) | Outcome::Count(_) | Outcome::Deleted(_) => NUMBER_BYTES,
        Outcome::Record(Some(record)) => record.json().len(),
        Outcome::Records(records) => list_bytes(records.iter()),
        Outcome::Steps(steps) => steps.iter().fold(16, |sum: usize, step| {
            sum.saturating_add(outcome_bytes(step)).saturating_add(NUMBER_BYTES)
        }),
    }
}

fn write_outcome(out: &mut Vec<u8>, outcome: &Outcome) {
    match outcome {
        Outcome::Done | Outcome::Record(None) => out.extend_from_slice(b"null"),
        Outcome::Record(Some(record)) => out.extend_from_slice(record.json()),
        Outcome::Records(records) => write_list(out, records.iter()),
        Outcome::Count(count) => Number::from(*count as u64).write(out),
        // Also where there was nothing to delete: clients know it so.
        Outcome::Deleted(_) => out.extend_from_slice(b"{\"deleted\":true}"),
        Outcome::Steps(steps) => write_steps(out, steps),
    }
}

fn write_steps(out: &mut Vec<u8>, steps: &[Outcome]) {
    out.extend_from_slice(b"{\"results\":[");
    for (at, step) in steps.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"index\":");
        Number::from(at as u64).write(out);
        out.extend_from_slice(b",\"data\":");
        write_outcome(out, step);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn encoder(max_bytes: usize) -> Encoder {
        Encoder {
            id: Number::Int(3),
            max_bytes,
        }
    }

    fn record(value: &Value) -> Record {
        Record::from_object(value.as_object().unwrap())
    }

    fn data(answer: &[u8]) -> Value {
        let answer: Value = serde_json::from_slice(answer).unwrap();
        assert_eq!(answer["id"], 3);
        assert_eq!(answer["type"], "result");
        answer.get("data").cloned().unwrap_or_else(|| json!("no data"))
    }

    #[test]
    fn records_are_spliced_into_the_answer_as_they_are() {
        let one = record(&json!({ "id": "a", "n": [1, { "x": null }] }));
        let two = record(&json!({ "id": "b\"" }));
        let encoder = encoder(1000);
        assert_eq!(
            encoder.record(Some(&two)).unwrap(),
            br#"{"id":3,"type":"result","data":{"id":"b\""}}"#
        );
        assert_eq!(encoder.record(None).unwrap(), br#"{"id":3,"type":"result","data":null}"#);
        assert_eq!(data(&encoder.records(&[]).unwrap()), json!([]));
        assert_eq!(
            data(&encoder.records(&[&one, &two]).unwrap()),
            json!([one.to_value(), two.to_value()])
        );
    }

    #[test]
    fn a_page_names_its_cursor_unless_it_is_empty() {
        let one = record(&json!({ "id": 1 }));
        let page = Page {
            records: vec![&one],
            has_more: true,
            next_cursor: Some(Datum::from(1)),
        };
        assert_eq!(
            data(&encoder(1000).page(&page).unwrap()),
            json!({ "records": [{ "id": 1 }], "hasMore": true, "nextCursor": 1 })
        );
        let page = Page {
            records: vec![],
            has_more: false,
            next_cursor: None,
        };
        assert_eq!(
            data(&encoder(1000).page(&page).unwrap()),
            json!({ "records": [], "hasMore": false })
        );
    }

    #[test]
    fn a_result_above_the_limit_is_refused_and_one_at_the_limit_is_not() {
        let one = record(&json!({ "id": "0123456789" }));
        let size = one.json().len();
        assert!(encoder(size).record(Some(&one)).is_ok());
        let too_large = |limit_bytes| Err(StoreError::ResultTooLarge { limit_bytes });
        assert_eq!(encoder(size - 1).record(Some(&one)), too_large(size - 1));
        assert_eq!(encoder(2 * size).records(&[&one, &one]), too_large(2 * size));
        let page = Page {
            records: vec![&one, &one],
            has_more: false,
            next_cursor: None,
        };
        assert_eq!(encoder(2 * size).page(&page), too_large(2 * size));
        let steps = Outcome::Steps(vec![Outcome::Records(vec![one.clone(), one.clone()])]);
        assert_eq!(encoder(2 * size).outcome(&steps), too_large(2 * size));
        assert!(
            encoder(2).outcome(&Outcome::Record(Some(one))).is_ok(),
            "a write that was done is never answered with an error"
        );
    }

    #[test]
    fn outcomes_have_the_shapes_that_clients_know() {
        let one = record(&json!({ "id": "a" }));
        let table = [
            (Outcome::Record(Some(one.clone())), json!({ "id": "a" })),
            (Outcome::Record(None), Value::Null),
            (
                Outcome::Records(vec![one.clone(), one.clone()]),
                json!([{ "id": "a" }, { "id": "a" }]),
            ),
            (Outcome::Count(7), json!(7)),
            (Outcome::Deleted(false), json!({ "deleted": true })),
            (
                Outcome::Steps(vec![Outcome::Count(0), Outcome::Record(None), Outcome::Records(vec![])]),
                json!({ "results": [{ "index": 0, "data": 0 }, { "index": 1, "data": null }, { "index": 2, "data": [] }] }),
            ),
        ];
        for (outcome, expected) in table {
            assert_eq!(data(&encoder(1000).outcome(&outcome).unwrap()), expected);
        }
        assert_eq!(
            data(&encoder(9).named("b\"c", "created")),
            json!({ "name": "b\"c", "created": true })
        );
        assert_eq!(data(&encoder(9).done("cleared")), json!({ "cleared": true }));
        assert_eq!(data(&encoder(9).number(None)), Value::Null);
        assert_eq!(data(&encoder(9).count(12)), json!(12));
    }

    proptest! {
        #[test]
        fn lists_of_any_records_are_json_and_their_size_is_foreseen(texts in prop::collection::vec(any::<String>(), 0..8)) {
            let records: Vec<_> = texts.iter().map(|text| record(&json!({ "t": text }))).collect();
            let records: Vec<_> = records.iter().collect();
            let answer = encoder(usize::MAX).records(&records).unwrap();
            let expected: Vec<_> = texts.iter().map(|text| json!({ "t": text })).collect();
            prop_assert_eq!(data(&answer), json!(expected));
            let foreseen = list_bytes(records.iter().copied());
            let written = data(&answer).to_string().len();
            prop_assert!(foreseen >= written && foreseen <= written + 1);
        }
    }
}
