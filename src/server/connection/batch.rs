//! Batches: many requests in one message. Taking one apart, without touching what is in it.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::protocol::{Envelope, ErrorCode, Fields, Number, Request, message};
use crate::server::statistics::Ticket;

/// The requests of a batch that are not begun.
pub(super) struct Batch {
    /// Tells it from the other batches of its connection.
    pub(super) serial: u64,
    /// When it was read: so were all of its requests.
    pub(super) ticket: Ticket,
    /// The whole message.
    text: Utf8Bytes,
    /// Where the requests stand in it.
    requests: std::vec::IntoIter<Range<usize>>,
}

impl Batch {
    /// Takes a batch apart: `request` was read from `text`.
    ///
    /// # Errors
    /// The complete error answer to the whole of it; then none of its requests is carried out.
    pub(super) fn open(ticket: Ticket, text: &Utf8Bytes, request: &Request<'_>, serial: u64, requests_max: usize) -> Result<Self, Vec<u8>> {
        let refuse = |problem: &str| message::error(request.id(), ErrorCode::ValidationError, problem, None);
        let list = request.fields().get("requests").filter(|list| list.starts_with('['));
        let list = list.ok_or_else(|| refuse("Missing or invalid \"requests\": expected array"))?;
        let requests =
            items(list, requests_max).ok_or_else(|| refuse(&format!("Too many \"requests\": at most {requests_max} in one batch")))?;
        // The list is a part of the text.
        let offset = list.as_ptr() as usize - text.as_str().as_ptr() as usize;
        let requests: Vec<_> = requests.into_iter().map(|item| item.start + offset..item.end + offset).collect();
        Ok(Self {
            serial,
            ticket,
            text: text.clone(),
            requests: requests.into_iter(),
        })
    }

    /// The next request.
    pub(super) fn first(&self) -> Option<&str> {
        self.requests.as_slice().first().map(|place| &self.text[place.clone()])
    }

    /// Goes on to the request behind the next one.
    pub(super) fn advance(&mut self) {
        self.requests.next();
    }
}

/// Where the items of a JSON list stand in its text; none where there are more than `max`.
fn items(list: &str, max: usize) -> Option<Vec<Range<usize>>> {
    let mut deserializer = serde_json::Deserializer::from_str(list);
    deserializer.deserialize_seq(Items { list, max }).ok()
}

struct Items<'a> {
    list: &'a str,
    max: usize,
}

impl<'a> Visitor<'a> for Items<'a> {
    type Value = Vec<Range<usize>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} items", self.max)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut places = Vec::new();
        while let Some(item) = items.next_element::<&'a RawValue>()? {
            if places.len() == self.max {
                return Err(serde::de::Error::invalid_length(places.len() + 1, &self));
            }
            let start = item.get().as_ptr() as usize - self.list.as_ptr() as usize;
            places.push(start..start + item.get().len());
        }
        Ok(places)
    }
}

/// Reads a request of a batch.
///
/// # Errors
/// The complete error answer.
pub(super) fn read_request(text: &str) -> Result<Request<'_>, Vec<u8>> {
    match Envelope::parse(text)? {
        Envelope::Request(request) => Ok(request),
        Envelope::Pong { .. } => {
            let fields = Fields::parse(text).unwrap_or_default();
            let id = fields.get("id").and_then(|id| Number::parse(id.as_bytes()));
            let problem = "A pong cannot be part of a batch";
            Err(message::error(
                id.unwrap_or(Number::Int(0)),
                ErrorCode::InvalidRequest,
                problem,
                None,
            ))
        }
    }
}

/// The answer to a request of a batch that is not carried out because the answer is too large already.
pub(super) fn refuse_beyond(id: Number, bytes_max: usize) -> Vec<u8> {
    let problem = format!("Not carried out: the answers before it are larger than {bytes_max} bytes together");
    message::error(id, ErrorCode::Backpressure, &problem, None)
}

/// The answer to a request of a batch that is not carried out because the connection closes.
pub(super) fn refuse_at_close(id: Number) -> Vec<u8> {
    message::error(id, ErrorCode::Backpressure, "Not carried out: the connection is being closed", None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(text: &str, max: usize) -> Result<Vec<String>, String> {
        let text = Utf8Bytes::from(text);
        let Ok(Envelope::Request(request)) = Envelope::parse(&text) else {
            panic!("no request: {text}")
        };
        let mut batch = Batch::open(Ticket::now(), &text, &request, 1, max).map_err(|answer| String::from_utf8(answer).expect("JSON"))?;
        let mut requests = Vec::new();
        while let Some(request) = batch.first() {
            requests.push(request.to_owned());
            batch.advance();
        }
        Ok(requests)
    }

    #[test]
    fn requests_are_found_as_they_were_written() {
        let text = "{\"id\":1,\"type\":\"batch\",\"requests\": [ {\"id\" : 2} ,7, \"a,]\" ,[ [ ] ],{}] }";
        assert_eq!(
            open(text, 5),
            Ok(["{\"id\" : 2}", "7", "\"a,]\"", "[ [ ] ]", "{}"].map(str::to_owned).to_vec())
        );
        assert_eq!(open(r#"{"id":1,"type":"batch","requests":[]}"#, 5), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_of_requests_is_refused_as_a_whole() {
        for requests in ["", r#","requests":null"#, r#","requests":{}"#, r#","requests":"[]""#] {
            let refused = open(&format!(r#"{{"id":4,"type":"batch"{requests}}}"#), 5);
            let expected =
                r#"{"id":4,"type":"error","code":"VALIDATION_ERROR","message":"Missing or invalid \"requests\": expected array"}"#;
            assert_eq!(refused, Err(expected.to_owned()), "{requests}");
        }
    }

    #[test]
    fn a_batch_of_exactly_the_limit_is_taken_and_one_more_request_is_too_many() {
        assert_eq!(
            open(r#"{"id":1,"type":"batch","requests":[1,2]}"#, 2).map(|requests| requests.len()),
            Ok(2)
        );
        let refused = open(r#"{"id":1,"type":"batch","requests":[1,2,3]}"#, 2).expect_err("too many");
        assert!(
            refused.contains("VALIDATION_ERROR") && refused.contains("at most 2 in one batch"),
            "{refused}"
        );
    }
}
